"""Waiting for what has no event: files, other processes, another program's counters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool], *, seconds: float = 30.0, every: float = 0.02) -> None:
    """Look again and again until it holds; time out with an error."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(every)


async def until_true(condition: Callable[[], Awaitable[bool]], *, seconds: float = 60.0) -> None:
    """The same for what has to be asked."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.2)


def ended(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
