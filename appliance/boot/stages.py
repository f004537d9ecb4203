"""The stages of a guest's start: one table that the console, the status port and the dashboard show.

Each stage has a record, a small JSON file of its own under ``/run/chrysalis/stages``, replaced as a whole, so that a
reader sees an old record or a new one. The boot writes the first eight and makes the others, which the worker's user
then writes. A record's states and the ways between them are pure; files and console are a thin shell around them.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import structlog

from appliance.errors import StageError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

log = structlog.get_logger(__name__)

StageState = Literal["pending", "running", "done", "failed", "skipped"]

BOOT_STAGES: Final = ("configuration", "clock", "platform", "posture", "keys", "collateral", "gpu", "model")
WORKER_STAGES: Final = ("engine", "self-check", "evidence", "chain", "links")
STAGES: Final = (*BOOT_STAGES, *WORKER_STAGES)

MAX_RECORD_BYTES: Final = 16384
MAX_TEXT: Final = 2000
MAX_CONSOLE_TEXT: Final = 400
_STATES: Final = frozenset(get_args(StageState))
_NEXT: Final[Mapping[StageState, frozenset[StageState]]] = {
    "pending": frozenset({"running", "skipped"}),
    "running": frozenset({"running", "done", "failed", "skipped"}),
    # A worker that was started again goes through its stages again.
    "done": frozenset({"running", "failed"}),
    "failed": frozenset({"running"}),
    "skipped": frozenset({"running"}),
}
_NOT_SHOWN: Final = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff]+")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage as it stands.

    Attributes:
        name: One of :data:`STAGES`.
        state: pending, running, done, failed or skipped.
        since: Unix time of the last change of state; 0 while pending.
        seconds: How long it ran, once it ended.
        reason: Why it failed or was skipped, or what a running one waits for.
        hint: What can be done about it.
    """

    name: str
    state: StageState = "pending"
    since: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    hint: str = ""

    def to(self, state: StageState, now: float, *, reason: str = "", hint: str = "") -> StageRecord:
        """The record after a change.

        Raises:
            StageError: That state does not follow this one.
        """
        if state not in _NEXT[self.state]:
            raise StageError(f"stage {self.name} cannot become {state} after {self.state}")
        if state == self.state:
            return replace(self, reason=reason[:MAX_TEXT], hint=hint[:MAX_TEXT])
        ran = max(0.0, now - self.since) if self.state == "running" else 0.0
        return StageRecord(self.name, state, now, round(ran, 3), reason[:MAX_TEXT], hint[:MAX_TEXT])

    def to_json(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> StageRecord:
        """Read a record back.

        Raises:
            StageError: Not a record: too long, fields missing, unknown or of another type.
        """
        try:
            value = json.loads(data) if len(data) <= MAX_RECORD_BYTES else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or set(value) != set(cls.__slots__):
            raise StageError(f"{len(data)} bytes are not a stage record")
        texts = (value["name"], value["reason"], value["hint"])
        numbers = (value["since"], value["seconds"])
        if (
            value["name"] not in STAGES
            or value["state"] not in _STATES
            or not all(isinstance(text, str) for text in texts)
            or not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        ):
            raise StageError("a stage record has a name, a state or a value that is none")
        return cls(**value)

    def console_line(self) -> str:
        """What the console shows of a change: printable, bounded, one line."""
        text = f"chrysalis: stage {self.name} {self.state}"
        if self.state == "done":
            text += f" {self.seconds:.1f} s"
        said = self.reason if not self.hint or not self.reason else f"{self.reason} ({self.hint})"
        said = _NOT_SHOWN.sub(" ", said)
        return f"{text} {said}"[:MAX_CONSOLE_TEXT].rstrip()


class StageTable:
    """The stages that one process writes.

    Args:
        directory: Where the records are; it exists.
        names: The stages of this writer, which begin as pending.
        announce: Told of each change, for the console.
        clock: Unix time.
    """

    def __init__(
        self,
        directory: Path,
        names: tuple[str, ...],
        *,
        announce: Callable[[StageRecord], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._announce = announce
        self._clock = clock
        self._records = {name: StageRecord(name) for name in names}
        for record in self._records.values():
            self._write(record)

    def __getitem__(self, name: str) -> StageRecord:
        return self._records[name]

    def __iter__(self) -> Iterator[StageRecord]:
        return iter(self._records.values())

    def begin(self, name: str, reason: str = "") -> None:
        """A stage runs, or runs still and waits for something."""
        self._change(name, "running", reason)

    def done(self, name: str) -> None:
        """A stage ended well."""
        self._change(name, "done")

    def fail(self, name: str, reason: str, hint: str = "") -> None:
        """A stage ended otherwise."""
        log.error("stage failed", stage=name, reason=reason, hint=hint)
        self._change(name, "failed", reason, hint)

    def skip(self, name: str, reason: str) -> None:
        """A stage has nothing to do here, or cannot begin."""
        self._change(name, "skipped", reason)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around the work of a stage. What it raises is noted and goes on to the caller."""
        self.begin(name)
        try:
            yield
        except ChrysalisError as error:
            self.fail(name, error.message, error.hint)
            raise
        except BaseException as error:
            # Of an unforeseen error only the kind: its text may hold anything.
            self.fail(name, type(error).__name__, "a fault of this image: please report it")
            raise
        if self._records[name].state == "running":
            self.done(name)

    def _change(self, name: str, state: StageState, reason: str = "", hint: str = "") -> None:
        before = self._records[name]
        record = before.to(state, self._clock(), reason=reason, hint=hint)
        if record == before:
            return
        self._records[name] = record
        self._write(record)
        self._announce(record)

    def _write(self, record: StageRecord) -> None:
        write_atomically(self._directory / f"{record.name}.json", record.to_json(), 0o644)


def write_atomically(path: Path, data: bytes, mode: int, *, owner: tuple[int, int] | None = None) -> None:
    """Replace a file as a whole; it never exists with another mode or owner than these."""
    waiting = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        waiting.unlink()
    descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
        file.write(data)
    waiting.replace(path)


def read_stages(directory: Path) -> tuple[StageRecord, ...]:
    """All stages in order, whoever wrote them; one that has no readable record is pending."""
    return tuple(_read(directory / f"{name}.json", name) for name in STAGES)


def _read(path: Path, name: str) -> StageRecord:
    try:
        with path.open("rb") as file:
            record = StageRecord.from_json(file.read(MAX_RECORD_BYTES + 1))
    except (OSError, StageError):
        return StageRecord(name)
    return record if record.name == name else StageRecord(name)


def failed(records: tuple[StageRecord, ...]) -> StageRecord | None:
    """The first stage that failed."""
    return next((record for record in records if record.state == "failed"), None)
