"""What a volume's data will be, before any of it is written: segments of bytes and of files at fixed offsets.

The two writers of file systems (:mod:`~appliance.model.erofs`, :mod:`~appliance.model.cocoon_tar`) only plan; copying
and hashing (:mod:`~appliance.model.stream`) are the same for both. What no segment covers is zero.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.model.formats import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that goes into a volume.

    Attributes:
        name: Its path in the volume: parts joined by "/".
        source: Where it is now.
        size: Its bytes.
    """

    name: str
    source: Path
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` bytes at ``offset``: ``content`` itself, or the file ``content`` from its beginning."""

    offset: int
    length: int
    content: bytes | Path


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one segment that lies in a range: ``at`` is relative to the range, ``start`` to the segment."""

    at: int
    start: int
    length: int
    content: bytes | Path


@dataclass(frozen=True, slots=True)
class Layout:
    """All of a volume's data.

    Attributes:
        segments: By offset, not overlapping.
        size: Bytes of the data; a whole number of blocks.
    """

    segments: tuple[Segment, ...]
    size: int
    _starts: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, segments: Sequence[Segment], size: int) -> Layout:
        """A layout from segments in order.

        Raises:
            ValueError: They overlap or leave the data, or the size is no whole number of blocks.
        """
        end = 0
        for segment in segments:
            if segment.offset < end:
                raise ValueError(f"segment at {segment.offset} begins before {end}, where the last one ends")
            end = segment.offset + segment.length
        if end > size or size % BLOCK:
            raise ValueError(f"segments end at {end} of {size} bytes")
        return cls(tuple(segments), size, tuple(segment.offset for segment in segments))

    @property
    def blocks(self) -> int:
        """Data blocks."""
        return self.size // BLOCK

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """What lies in a range."""
        for index in range(max(0, bisect_right(self._starts, offset) - 1), len(self.segments)):
            segment = self.segments[index]
            if segment.offset >= offset + length:
                return
            begin = max(offset, segment.offset)
            end = min(offset + length, segment.offset + segment.length)
            if begin >= end:
                continue
            start = begin - segment.offset
            if isinstance(segment.content, bytes):
                yield Piece(begin - offset, 0, end - begin, segment.content[start : start + end - begin])
            else:
                yield Piece(begin - offset, start, end - begin, segment.content)
