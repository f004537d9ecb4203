"""Processes that outlive the command that started them: known by identity, watched and ended without mistaking others.

A process id alone may belong to somebody else a minute later. What is written down is the id with the time it was
started (proc(5), ``/proc/PID/stat`` field 22, clock ticks since boot) and the boot it belongs to; signals go through a
pidfd (pidfd_open(2)) that was opened before the identity was compared.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.host.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = {"Z", "X"}
"""States of a process that has ended: not waited for yet, and dead."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot of this host."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a process that runs now.

        Raises:
            LaunchError: There is none of this number.
        """
        found = _stat(pid)
        if found is None:
            raise LaunchError(f"process {pid} has ended")
        return cls(pid, found[1], _boot())

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        found = _stat(self.pid)
        return found is not None and found[0] not in _ENDED and self.boot == _boot() and found[1] == self.started

    def send(self, number: signal.Signals) -> bool:
        """Signal this very process; False where it has ended."""
        with self._opened() as descriptor:
            if descriptor is None:
                return False
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return False
            return True

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False when it still runs after ``seconds``."""
        with self._opened() as descriptor:
            if descriptor is None:
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(seconds * 1000))

    def end(self, seconds: float) -> None:
        """SIGTERM, then SIGKILL after ``seconds``."""
        if self.send(signal.SIGTERM) and not self.wait(seconds):
            self.send(signal.SIGKILL)
            self.wait(seconds)

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            yield None
            return
        try:
            yield descriptor if self.alive else None
        finally:
            os.close(descriptor)


def spawn(command: Sequence[str], *, directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its words in a file; it does not end with this process.

    Raises:
        LaunchError: It cannot be started.
    """
    with log.open("ab") as handle:
        try:
            return subprocess.Popen(  # noqa: S603 - commands of this room, each printed before it runs
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            raise LaunchError(f"{command[0]}: {error.strerror}") from None


def keep(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    """The identity of a process just started. Should it end before this one does, it is waited for (no zombie)."""
    identity = ProcessIdentity.of(process.pid)
    threading.Thread(target=process.wait, name=f"waits for {process.pid}", daemon=True).start()
    return identity


def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time of a process; None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command is in parentheses and may hold anything; the state (field 3) follows the last one.
    fields = text.rpartition(") ")[2].split()
    return fields[0], int(fields[19])
