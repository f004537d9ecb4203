"""What is known about a launched machine, kept in its directory: ``vm.json``. Later commands act on it alone."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from appliance.config import home
from appliance.host.errors import HostError, LaunchError, MachineError
from appliance.host.kept import ProcessIdentity
from appliance.host.machine import FILES, require_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_RECORD_BYTES = 1 << 20


class Kept(BaseModel):
    """A process that was started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, identity: ProcessIdentity) -> Kept:
        """Write down an identity."""
        return cls(pid=identity.pid, started=identity.started, boot=identity.boot)

    @property
    def identity(self) -> ProcessIdentity:
        """The identity that was written down."""
        return ProcessIdentity(self.pid, self.started, self.boot)


class Record(BaseModel):
    """A launched machine.

    Attributes:
        name: Its name.
        image: Directory of its image.
        manifest: SHA-256 of the image's manifest, hex; empty where it has none.
        boot: How it was booted.
        accel: What runs it.
        accel_reason: Why that.
        protection: What protects it from the host.
        launched: Unix time of the launch.
        forwards: Host's loopback port by guest port.
        commands: The commands that were run, as a shell takes them.
        qemu: QEMU.
        swtpm: Its TPM, if it has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    image: str
    manifest: str
    boot: str
    accel: str
    accel_reason: str
    protection: str
    launched: float
    forwards: dict[int, int]
    commands: tuple[str, ...]
    qemu: Kept
    swtpm: Kept | None


def machine_directory(name: str) -> Path:
    """Where a machine's files are: ``<home>/vm/<name>``.

    Raises:
        MachineError: It is no name.
    """
    return home() / "vm" / require_name(name)


def write_record(directory: Path, record: Record) -> None:
    """Replace the record as a whole."""
    path = directory / FILES.record
    new = path.with_suffix(".new")
    new.write_text(json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    new.replace(path)


def read_record(directory: Path) -> Record:
    """What was launched in a directory.

    Raises:
        LaunchError: Nothing was.
        HostError: The record cannot be read.
    """
    path = directory / FILES.record
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_RECORD_BYTES + 1)
    except FileNotFoundError:
        known = ", ".join(names(directory.parent)) or "none"
        raise LaunchError(
            f"no machine {directory.name} was launched here; known: {known}", hint="chrysalis vm launch NAME …"
        ) from None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None
    try:
        return Record.model_validate_json(data)
    except ValidationError:
        raise HostError(f"{path} is not a machine's record", hint="was it written by another version?") from None


def names(parent: Path | None = None) -> tuple[str, ...]:
    """Machines that were launched, by name."""
    folder = parent if parent is not None else home() / "vm"
    return tuple(sorted(path.parent.name for path in folder.glob(f"*/{FILES.record}")))


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a machine's directory (made, mode 0700): one command at a time launches or stops it.

    Raises:
        LaunchError: Another command holds it.
        MachineError: It cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"{directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError(
                f"another command is launching or stopping {directory.name}", hint="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)
