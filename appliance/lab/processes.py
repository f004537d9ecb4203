"""The demonstration's child processes: started on the production path, watched, stopped, none left behind.

Each child is a process group of its own with its log in a file. :meth:`Processes.stop` ends them in reverse order
(SIGTERM, then SIGKILL), and :func:`survivors` counts what is left of them by their session, independently of what this
module believes it started.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiohttp

from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

PR_SET_PDEATHSIG = 1
STOP_S = 45.0
POLL_S = 0.1
TAIL_LINES = 12


@dataclass(slots=True)
class Child:
    """One running program."""

    name: str
    command: tuple[str, ...]
    log: Path
    process: asyncio.subprocess.Process

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.returncode is None

    def tail(self) -> str:
        """The last lines it wrote."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


class Processes:
    """Children of one demonstration.

    Args:
        directory: Where their logs go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self.sessions: list[int] = []

    async def __aenter__(self) -> Self:
        """Nothing is started yet."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop everything."""
        await self.stop()

    async def start(self, name: str, arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> Child:
        """Start ``python -m`` something of ours in a session of its own."""
        log = self._directory / f"{name}.log"
        command = (sys.executable, "-m", *arguments)
        with log.open("ab") as handle:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                env={**os.environ, **(env or {})},
            )
        child = Child(name, command, log, process)
        self._children.append(child)
        self.sessions.append(process.pid)
        return child

    async def stop(self) -> None:
        """Stop all children, the newest first."""
        for child in reversed(self._children):
            await stop(child)

    def fallen(self) -> Child | None:
        """A child that ended by itself, if any."""
        return next((child for child in self._children if not child.alive), None)


async def stop(child: Child, *, kill: bool = False) -> int:
    """End one child and its group; returns its exit status."""
    if child.alive:
        _signal_group(child.process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            await asyncio.wait_for(child.process.wait(), STOP_S)
        except TimeoutError:
            _signal_group(child.process.pid, signal.SIGKILL)
    return await child.process.wait()


async def until_file(child: Child, path: Path, *, timeout: float) -> None:  # noqa: ASYNC109 - named limit of the caller
    """Wait until the child has written a file.

    Raises:
        LabError: It ended or took too long; its last lines are told.
    """
    async with _limit(child, f"{path.name} was not written", timeout):
        while not path.exists():
            _still_alive(child)
            await asyncio.sleep(POLL_S)


async def until_healthy(child: Child, url: str, *, timeout: float) -> None:  # noqa: ASYNC109 - as above
    """Wait until the child's health address answers 200.

    Raises:
        LabError: It ended or took too long; its last lines are told.
    """
    async with aiohttp.ClientSession() as http, _limit(child, f"{url} did not become healthy", timeout):
        while True:
            _still_alive(child)
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_S)


def survivors(sessions: Sequence[int]) -> list[tuple[int, str]]:
    """Processes that still belong to one of the sessions, from the kernel's own table: (pid, command)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        # proc(5): the command is in parentheses and may hold anything; state and ids follow the last one.
        name, _, rest = stat.partition(" (")[2].rpartition(") ")
        fields = rest.split()
        if fields[0] != "Z" and int(fields[3]) in sessions:
            found.append((int(entry.name), name))
    return found


@asynccontextmanager
async def _limit(child: Child, what: str, seconds: float) -> AsyncIterator[None]:
    """A time limit whose error has the child's last lines."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise LabError(
            f"{child.name}: {what} within {seconds:g} s; it said:\n{child.tail()}",
            hint=f"the whole log: {child.log}",
        ) from None


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _still_alive(child: Child) -> None:
    if not child.alive:
        raise LabError(
            f"{child.name} ended with status {child.process.returncode}; it said:\n{child.tail()}",
            hint=f"the whole log: {child.log}",
        )


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
