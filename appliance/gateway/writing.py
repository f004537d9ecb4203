"""Writing that is seen to its end: a thread cannot be called back, so neither is the order of what it writes.

In: a blocking write. Out: its end, also when whoever waits for it is cancelled meanwhile: only then may the next one
begin, or the two would race for the file and the older state might come last.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def see_through(write: Callable[[], None]) -> None:
    """Run a blocking write in a thread; what it raises is raised, and a cancellation only when it has ended."""
    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        while not writing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((writing,))
        if not writing.cancelled():
            writing.exception()  # seen: whoever waited is told that it was cancelled
        raise
