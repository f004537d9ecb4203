"""Directories that are there whole or not at all, made by one process at a time.

A directory is built aside under a name with ``.building``, gets its marker file last, and is renamed into place.
Whoever finds the final name with its marker may use it without a lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

MARKER = "chrysalis.json"
_POLL_S = 0.5


def read_marker(directory: Path) -> dict[str, Any] | None:
    """The marker of a finished directory, or None when there is none that can be read."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


@asynccontextmanager
async def exclusive(final: Path, *, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold the lock of one directory; another process that holds it is waited for (``on_wait`` is called once).

    The lock is the kernel's (``flock``): it goes when its holder dies, however it dies.
    """
    descriptor = os.open(final.with_name(f".{final.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    on_wait()
                    waited = True
                await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def staged(final: Path, marker: Callable[[Path], Mapping[str, Any]]) -> AsyncIterator[Path]:
    """Give an empty directory beside ``final``; when the body ends well, mark it and rename it into place.

    The caller holds :func:`exclusive`, so whatever an earlier builder left aside is dead and is removed.

    Args:
        final: The name under which the finished directory is found.
        marker: Called with the built directory; gives what its marker file says.
    """
    staging = final.with_name(f"{final.name}.building")
    await asyncio.to_thread(_remove, staging)
    staging.mkdir(mode=0o700)
    try:
        yield staging
        content = json.dumps(dict(marker(staging)), indent=2, sort_keys=True) + "\n"
        (staging / MARKER).write_text(content, encoding="utf-8")
        await asyncio.to_thread(_remove, final)
        staging.rename(final)
    except BaseException:
        await asyncio.to_thread(_remove, staging)
        raise


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
