"""Read back what was written, from the medium: past the page cache where the file system allows it (``O_DIRECT``)."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CHUNK_BYTES = 4 << 20
ALIGNMENT = 4096
"""What O_DIRECT asks for at most on the disks there are (open(2))."""


class ReadBackError(ImageError):
    """The medium does not hold what was written to it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A range that was written: where, how much, and the SHA-256 of it."""

    what: str
    offset: int
    length: int
    sha256: bytes

    @classmethod
    def of(cls, what: str, offset: int, data: bytes) -> Written:
        """A range that holds ``data``."""
        return cls(what, offset, len(data), hashlib.sha256(data).digest())


def read_back(path: Path, written: Sequence[Written], report: Callable[[str, int, int], None]) -> bool:
    """Compare ranges of a device or file with what was written.

    Args:
        path: The device or file; its caches have been dropped.
        written: The ranges.
        report: Told the step in words, bytes done, and bytes in all.

    Returns:
        Whether it was read past the page cache.

    Raises:
        ReadBackError: A range holds something else; it is named.
    """
    total, done = sum(item.length for item in written), 0
    descriptor, direct = _open(path)
    try:
        with mmap.mmap(-1, CHUNK_BYTES) as buffer:
            for item in written:
                digest = hashlib.sha256()
                position, end = item.offset, item.offset + item.length
                while position < end:
                    start = position - position % ALIGNMENT
                    got = os.preadv(descriptor, [buffer], start)
                    length = min(start + got, end) - position
                    if length <= 0:
                        raise ReadBackError(f"{path} ends at byte {start + got}, inside {item.what}")
                    digest.update(buffer[position - start : position - start + length])
                    position += length
                    done += length
                    report("reading back", done, total)
                if digest.digest() != item.sha256:
                    raise ReadBackError(
                        f"{path} does not hold what was written: {item.what}, {item.length} bytes at {item.offset}",
                        hint="the medium is failing, or lies about its size; use another",
                    )
    finally:
        os.close(descriptor)
    return direct


def _open(path: Path) -> tuple[int, bool]:
    """Open past the page cache; some file systems cannot (tmpfs), there the cache was dropped before."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise ReadBackError(f"{path}: {error.strerror}") from None
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
