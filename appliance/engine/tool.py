"""Run one tool to its end: its lines are watched, a bounded tail is kept, nothing survives a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL_LINES = 60
_LINE_LIMIT = 1 << 20  # pip names a whole set of packages on one line


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a tool ended: its exit status and its last lines."""

    status: int
    tail: tuple[str, ...]

    @property
    def text(self) -> str:
        """The last lines as one text."""
        return "\n".join(self.tail)


async def spawn(argv: Sequence[str], **options: Any) -> asyncio.subprocess.Process:
    """Start ``argv`` as the leader of a session of its own.

    ``asyncio`` ends a process whose start was cancelled, but not what that process has started; this ends the group.

    Args:
        argv: Program and arguments.
        options: Passed on to :func:`asyncio.create_subprocess_exec`.

    Raises:
        OSError: It cannot be run.
    """
    starting = asyncio.create_task(asyncio.create_subprocess_exec(*argv, start_new_session=True, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting})
        if starting.exception() is None:
            kill_group(starting.result())
            await starting.result().wait()
        raise


def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill whatever is left of the group that :func:`spawn` made; nothing left is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def run_tool(
    argv: Sequence[str | Path],
    *,
    on_line: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> ToolResult:
    """Run ``argv`` in a process group of its own, standard input closed, both outputs read as one.

    Args:
        argv: Program and arguments; no shell.
        on_line: Called with each line of output.
        environment: Variables to add to this process's own.
        cwd: Where it runs.

    Returns:
        Its exit status and last 60 lines. On cancellation its whole group is killed first.
    """
    process = await spawn(
        [*map(str, argv)],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        limit=_LINE_LIMIT,
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    assert process.stdout is not None  # noqa: S101 -- asked for as a pipe above; narrows the type
    try:
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:  # a line beyond the limit: asyncio drops what it had of it
                continue
            if not raw:
                break
            line = raw.decode(errors="replace").rstrip()
            tail.append(line)
            on_line(line)
        status = await process.wait()
    finally:
        if process.returncode is None:
            kill_group(process)
            await process.wait()
    return ToolResult(status, tuple(tail))
