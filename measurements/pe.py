"""PE images as firmware reads them: bytes in, header fields and sections out. Layout only; nothing is hashed here.

Layout: Microsoft, "PE Format" (COFF file header, optional header, section table). All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from measurements.errors import ArtefactError

MAX_IMAGE = 2 * 1024**3
"""Longest image that is read, in bytes."""

MAX_SECTIONS = 96
"""Sections in one image (PE Format, "COFF File Header": the Windows loader's limit)."""

_PE_OFFSET = 0x3C
_SIGNATURE = b"PE\0\0"
_COFF = struct.Struct("<HHIIIHH")
_SECTION = struct.Struct("<8sIIII16x")
_CHECKSUM = 64  # in the optional header
_HEADERS_SIZE = 60
_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # PE32, PE32+: where the data directories begin
_CERTIFICATES = 4  # index of the certificate table's directory
_DIRECTORY = struct.Struct("<II")
_U32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Section:
    """One entry of the section table; numbers are bytes.

    Attributes:
        name: Without its padding.
        virtual_size: Length in memory.
        virtual_address: Where it is loaded, relative to the image's base.
        raw_size: Length in the file.
        raw_offset: Where it begins in the file.
    """

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int


@dataclass(frozen=True, slots=True)
class PeImage:
    """Where things are in an image; offsets are in bytes from its start.

    Attributes:
        checksum: Offset of the four bytes of the checksum.
        headers_size: Length of all headers.
        certificate_entry: Offset of the certificate table's directory entry, ``None`` without one.
        certificate_offset: Offset of the certificate table, 0 without one.
        certificate_size: Its length, 0 without one.
        sections: In the order of the table.
    """

    checksum: int
    headers_size: int
    certificate_entry: int | None
    certificate_offset: int
    certificate_size: int
    sections: tuple[Section, ...]


def parse(pe: bytes) -> PeImage:
    """Read the headers of an image.

    Raises:
        ArtefactError: Not a PE image, or one whose headers, sections or certificates reach beyond its end.
    """
    if len(pe) > MAX_IMAGE:
        raise ArtefactError(f"image of {len(pe)} bytes, at most {MAX_IMAGE} are read")
    if len(pe) < _PE_OFFSET + 4 or pe[:2] != b"MZ":
        raise ArtefactError(f"{len(pe)} bytes that are not a PE image", hint="an .efi file or a bzImage kernel is one")
    (start,) = _U32.unpack_from(pe, _PE_OFFSET)
    optional = start + len(_SIGNATURE) + _COFF.size
    if optional + 2 > len(pe) or pe[start : start + 4] != _SIGNATURE:
        raise ArtefactError(f"image of {len(pe)} bytes without a PE header at {start:#x}")
    _, count, _, _, _, optional_size, _ = _COFF.unpack_from(pe, start + 4)
    if count > MAX_SECTIONS:
        raise ArtefactError(f"image with {count} sections, at most {MAX_SECTIONS} are read")
    magic = int.from_bytes(pe[optional : optional + 2], "little")
    table = optional + optional_size
    end = table + count * _SECTION.size
    if magic not in _DIRECTORIES or optional_size < _DIRECTORIES[magic]:
        raise ArtefactError(f"image with an optional header of kind {magic:#x} and {optional_size} bytes")
    if end > len(pe):
        raise ArtefactError(f"image of {len(pe)} bytes whose section table ends at {end}")
    (headers_size,) = _U32.unpack_from(pe, optional + _HEADERS_SIZE)
    if not end <= headers_size <= len(pe):
        raise ArtefactError(f"image of {len(pe)} bytes with headers of {headers_size} bytes, section table to {end}")
    entry, where, size = _certificates(pe, optional, optional_size, _DIRECTORIES[magic])
    sections = tuple(_section(pe, table + i * _SECTION.size) for i in range(count))
    return PeImage(optional + _CHECKSUM, headers_size, entry, where, size, sections)


def _certificates(pe: bytes, optional: int, optional_size: int, directories: int) -> tuple[int | None, int, int]:
    (number,) = _U32.unpack_from(pe, optional + directories - 4)
    if number <= _CERTIFICATES:
        return None, 0, 0
    entry = directories + _CERTIFICATES * _DIRECTORY.size
    if entry + _DIRECTORY.size > optional_size:
        raise ArtefactError(f"image with {number} data directories in an optional header of {optional_size} bytes")
    where, size = _DIRECTORY.unpack_from(pe, optional + entry)
    if size and where + size != len(pe):
        raise ArtefactError(
            f"image of {len(pe)} bytes with certificates from {where} to {where + size}, expected at its end",
            hint="what stands behind the certificates would be signed by nobody",
        )
    return optional + entry, where if size else 0, size


def _section(pe: bytes, offset: int) -> Section:
    name, virtual_size, address, raw_size, raw_offset = _SECTION.unpack_from(pe, offset)
    if raw_size and raw_offset + raw_size > len(pe):
        raise ArtefactError(f"image of {len(pe)} bytes with a section from {raw_offset} to {raw_offset + raw_size}")
    text = name.rstrip(b"\0").decode("ascii", "backslashreplace")
    return Section(text, virtual_size, address, raw_size, raw_offset)
