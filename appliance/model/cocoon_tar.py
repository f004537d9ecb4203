r"""A plan for the reference's model file: the tar that its ``build-model`` makes, byte for byte, without that program.

In: files. Out: a :class:`~appliance.model.layout.Layout`. Source: protocol specification, section 7.6; the bytes are
GNU tar's for ``--sort=name --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime
--clamp-mtime --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go+u,go-w -C DIRECTORY .``, of files that their
owner may write and nobody runs (0644, directories 0755), which is what a download makes.

Layout: for each entry, depth first by name and the directory itself first, a 512-byte ``ustar`` header and the content
padded to 512; before it a pax header (type ``x``) where the path is longer than 100 bytes or not ASCII, or the size
does not fit eleven octal digits. Two zero records, zeros up to 10,240, then 1 to 4096 zeros up to a multiple of 4096.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from appliance.model.formats import BLOCK
from appliance.model.layout import Layout, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from appliance.model.layout import SourceFile

_RECORD: Final = 512
_ARCHIVE: Final = 20 * _RECORD  # GNU tar's default blocking factor
_NAME: Final = 100
_MAX_OCTAL: Final = 8**11 - 1
# name, mode, uid, gid, size, mtime, checksum, type, link name, magic and version, user, group, device, prefix
_HEADER: Final = struct.Struct("<100s8s8s8s12s12s8sc100s8s32s32s16s155s12x")
_CHECKSUM: Final = slice(148, 156)
_NUMBERS: Final = b"0000000\0"


def plan(files: Sequence[SourceFile]) -> Layout:
    """The tar of these files."""
    segments: list[Segment] = []
    position = 0
    for name, file in _entries(files):
        size = 0 if file is None else file.size
        head = _head(name, size, is_directory=file is None)
        segments.append(Segment(position, len(head), head))
        position += len(head)
        if file is not None and size:
            segments.append(Segment(position, size, file.source))
            position += _up(size, _RECORD)
    end = _up(position + 2 * _RECORD, _ARCHIVE)
    return Layout.of(segments, end + BLOCK - end % BLOCK)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _entries(files: Sequence[SourceFile]) -> Iterator[tuple[bytes, SourceFile | None]]:
    """Every directory (its name ends in "/") and file, in the order of GNU tar's ``--sort=name``."""
    named: dict[tuple[bytes, ...], SourceFile | None] = {(): None}
    for file in files:
        parts = tuple(file.name.encode().split(b"/"))
        named |= {parts[:depth]: None for depth in range(1, len(parts))}
        named[parts] = file
    for parts in sorted(named):
        kept = named[parts]
        yield b"/".join((b".", *parts)) + (b"/" if kept is None else b""), kept


def _head(name: bytes, size: int, *, is_directory: bool) -> bytes:
    """All headers of one entry."""
    records = b""
    if len(name) > _NAME or not name.isascii():
        records += _pax(b"path", name)
    if size > _MAX_OCTAL:
        records += _pax(b"size", b"%d" % size)
    mode, kind = (0o755, b"5") if is_directory else (0o644, b"0")
    own = _ustar(name, mode, 0 if size > _MAX_OCTAL else size, kind)
    if not records:
        return own
    parent, _, last = name.rstrip(b"/").rpartition(b"/")
    before = _ustar(parent + b"/PaxHeaders/" + last, 0o644, len(records), b"x")
    return before + records.ljust(_up(len(records), _RECORD), b"\0") + own


def _pax(key: bytes, value: bytes) -> bytes:
    """A record: length, key, value and a newline; the length counts itself (POSIX pax, "pax Extended Header")."""
    rest = len(b" =\n") + len(key) + len(value)
    length = rest
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(name: bytes, mode: int, size: int, kind: bytes) -> bytes:
    device = bytes(16) if kind == b"x" else _NUMBERS * 2
    fields = (b"%07o\0" % mode, _NUMBERS, _NUMBERS, b"%011o\0" % size, b"%011o\0" % 0, b" " * 8)
    header = bytearray(_HEADER.pack(name[:_NAME], *fields, kind, b"", b"ustar\x0000", b"", b"", device, b""))
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)
