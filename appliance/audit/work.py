"""The work directory of an audit: what was done is kept, so that an audit that was killed goes on where it was.

::

    audit.lock          held while an audit runs here
    log                 what the programs said
    steps/<name>.json   a finished step and the key of what it was done on
    checkout/           the commit, checked out
    rebuilt/            what was built from it
    report/             the report

A step counts as done only for the same key (a digest of everything that it depends on). Files are written beside their
place, flushed to the disk and renamed, so a machine that loses power has either the old file or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.audit.errors import AuditError
from appliance.audit.outcome import Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_STEP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class WorkDirectory:
    """A work directory.

    Attributes:
        path: Where it is.
    """

    path: Path

    @property
    def log(self) -> Path:
        """What the programs said."""
        return self.path / "log"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make it and keep others out while the block runs; the lock goes with the process, however it ends.

        Raises:
            AuditError: Another audit runs here, or it cannot be made.
        """
        try:
            (self.path / "steps").mkdir(parents=True, exist_ok=True)
            handle = (self.path / "audit.lock").open("wb")
        except OSError as error:
            raise AuditError(f"{self.path}: {error.strerror}", hint="name another directory with --work") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise AuditError(
                    f"another audit runs in {self.path}", hint="wait for it, or name another directory with --work"
                ) from None
            yield

    def load(self, name: str, key: str) -> Step | None:
        """A step that was finished for this key; None where it was not, or what is kept cannot be read."""
        try:
            with self._place(name).open("rb") as file:
                data = file.read(MAX_STEP_BYTES + 1)
            kept = json.loads(data) if len(data) <= MAX_STEP_BYTES else None
            if not isinstance(kept, dict) or kept.get("key") != key:
                return None
            return Step.from_value(kept.get("step"))
        except (OSError, ValueError, RecursionError, AuditError):
            return None

    def keep(self, step: Step, key: str) -> None:
        """Keep a finished step."""
        write_whole(self._place(step.name), json.dumps({"key": key, "step": step.to_value()}, indent=1).encode())

    def forget(self, name: str) -> None:
        """Forget a step: it will be done again."""
        self._place(name).unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        return self.path / "steps" / f"{name}.json"


def key_of(*values: Any) -> str:
    """The key of a step: SHA-256 of everything that it depends on, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks finds the old one or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
