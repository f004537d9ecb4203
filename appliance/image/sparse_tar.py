"""A tar archive with one sparse file in the old GNU form, as Google Cloud's image import takes it. Pure.

Layout: GNU tar manual, "Old GNU Format", and tar.h (``struct oldgnu_header``, ``struct sparse_header``): type ``S``,
four pieces of the map in the header, 21 in each block that follows while the one before says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 512
GRAIN = 4096
"""Pieces of zeros are looked for in blocks of this size, by content, whatever the file system stores."""
RECORD = 20 * BLOCK
_IN_HEADER = 4
_IN_BLOCK = 21
_PIECE_BYTES = 24


def header(name: str, size: int, pieces: Sequence[tuple[int, int]], mtime: int) -> bytes:
    """Header and map of a sparse file; its data follows, the pieces one after the other, each whole blocks.

    Args:
        name: The file's name, up to 99 ASCII characters.
        size: Its length, holes included.
        pieces: Offset and length of what is not zero, in order, in multiples of :data:`GRAIN`.
        mtime: Its time, Unix seconds.
    """
    # A file that ends in a hole, or is one, has an empty piece at its end: readers take the length from it.
    last = pieces[-1][0] + pieces[-1][1] if pieces else 0
    entries = [*pieces, *(((size, 0),) if last < size else ())]
    stored = sum(length for _, length in pieces)
    head = bytearray(BLOCK)
    head[0 : len(name)] = name.encode("ascii")
    head[100:108], head[108:116], head[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    head[124:136], head[136:148] = number(stored), number(mtime)
    head[148:156] = b" " * 8
    head[156:157] = b"S"
    head[257:265] = b"ustar  \0"
    head[265:269], head[297:301] = b"root", b"root"
    for index, entry in enumerate(entries[:_IN_HEADER]):
        head[386 + index * _PIECE_BYTES : 386 + (index + 1) * _PIECE_BYTES] = _piece(entry)
    rest = entries[_IN_HEADER:]
    head[482] = bool(rest)
    head[483:495] = number(size)
    head[148:156] = b"%06o\0 " % sum(head)
    out = bytes(head)
    while rest:
        part, rest = rest[:_IN_BLOCK], rest[_IN_BLOCK:]
        block = b"".join(_piece(entry) for entry in part).ljust(_IN_BLOCK * _PIECE_BYTES, b"\0")
        out += (block + bytes([bool(rest)])).ljust(BLOCK, b"\0")
    return out


def end(written: int) -> bytes:
    """Two empty blocks, and zeros up to a whole record."""
    return bytes(2 * BLOCK + -(written + 2 * BLOCK) % RECORD)


def number(value: int) -> bytes:
    """A 12-byte number: octal, or in base 256 where octal is too short (GNU tar manual, "Extensions")."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")


def _piece(entry: tuple[int, int]) -> bytes:
    return number(entry[0]) + number(entry[1])
