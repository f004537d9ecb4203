"""Firmware volumes inside an OVMF build: a firmware file in, the two volumes as its first code unpacks them out.

OVMF keeps the code of both later phases compressed. Its first code (SEC) unpacks it into memory as two volumes, PEI and
DXE, and the PEI phase measures both as they stand there. Nothing is run here; a volume is bytes and a list of files.

Layout: UEFI Platform Initialization 1.8, volume 3, sections 3.2.1 (volume header), 3.2.2 (extended header), 3.2.3
(files), 3.2.4 (sections); EDK II ``OvmfPkg/OvmfPkgX64.fdf`` (what is inside what), ``OvmfPkg/Sec/SecMain.c``
(DecompressMemFvs). All integers are little-endian.
"""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FIRMWARE = 32 * 1024**2
"""Longest firmware file that is read, in bytes; OVMF's have 2 to 16 MiB."""

MAX_UNPACKED = 64 * 1024**2
"""Most bytes that a compressed section may grow to; OVMF's grow to 16 MiB."""

MAX_FILES = 1024
"""Files in one volume, and sections in one file, that are looked at."""

LZMA_SECTION = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
"""``gLzmaCustomDecompressGuid``: a section that holds an LZMA stream with its 13-byte header."""

FILE_SYSTEMS = frozenset({UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3"), UUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")})
"""Volumes that hold files: ``EFI_FIRMWARE_FILE_SYSTEM2_GUID`` and ``…3_GUID``."""

VOLUME_IMAGE = 0x0B  # EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE
PEI_CORE = 0x04
SECTION_GUIDED = 0x02
SECTION_PE32 = 0x10
SECTION_NAME = 0x15
SECTION_VOLUME = 0x17

_VOLUME = struct.Struct("<16s16sQ4sIHHHBB")
_EXTENDED = struct.Struct("<16sI")
_FILE = struct.Struct("<16sHBB3sB")
_LARGE_FILE = struct.Struct("<Q")
_SECTION = struct.Struct("<3sB")
_LARGE_SECTION = struct.Struct("<I")
_GUIDED = struct.Struct("<16sHH")
_LZMA_HEADER = struct.Struct("<BIQ")
_LZMA_MEMORY = 128 * 1024**2
_LARGE = 0x01  # FFS_ATTRIB_LARGE_FILE
_LARGE_SECTION_SIZE = 0xFFFFFF
_FILL_FILE = 0xF0  # EFI_FV_FILETYPE_FFS_PAD


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a file.

    Attributes:
        kind: Section type.
        offset: Where its content begins, in bytes from the volume's start.
        content: Without the section's header.
    """

    kind: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume.

    Attributes:
        name: Its GUID.
        kind: File type.
        sections: Those at its top; what stands inside a compressed one is not opened.
    """

    name: UUID
    kind: int
    sections: tuple[Section, ...]

    @property
    def title(self) -> str | None:
        """Its name for people, where it has one."""
        for section in self.sections:
            if section.kind == SECTION_NAME:
                return section.content.decode("utf-16-le", "replace").partition("\0")[0]
        return None


@dataclass(frozen=True, slots=True)
class Volume:
    """A firmware volume.

    Attributes:
        content: The whole volume, header and filling included.
        name: Its GUID from the extended header; None without one.
        files: In order, fillings left out.
    """

    content: bytes
    name: UUID | None
    files: tuple[File, ...]

    def file(self, name: UUID) -> File | None:
        """The file of that GUID."""
        return next((item for item in self.files if item.name == name), None)


@dataclass(frozen=True, slots=True)
class UnpackedFirmware:
    """What SEC unpacks.

    Attributes:
        pei: The volume of the phase that finds memory and measures.
        dxe: The volume of everything after it.
    """

    pei: Volume
    dxe: Volume


def unpack(firmware: bytes) -> UnpackedFirmware:
    """The two volumes as SEC writes them to memory.

    Args:
        firmware: ``OVMF.fd`` or ``OVMF_CODE.fd``.

    Raises:
        ArtefactError: No volume with a compressed image of two volumes in it, or one that breaks its bounds.
    """
    if len(firmware) > MAX_FIRMWARE:
        raise ArtefactError(f"firmware of {len(firmware)} bytes, at most {MAX_FIRMWARE} are read")
    for volume in tuple(_top_volumes(firmware)):  # all are read, so that a file that is cut off is not taken
        for file in volume.files:
            packed = [section for section in file.sections if section.kind == SECTION_GUIDED]
            if file.kind == VOLUME_IMAGE and packed:
                return _inside(packed[0].content)
    raise ArtefactError(
        f"firmware of {len(firmware)} bytes without a compressed image of its later phases",
        hint="expected OVMF.fd or OVMF_CODE.fd as OVMF's build makes them",
    )


def parse_volume(data: bytes, offset: int = 0) -> Volume:
    """Read one volume of files.

    Args:
        data: Holds it.
        offset: Where it begins, in bytes.

    Raises:
        ArtefactError: No volume header there, another file system, or a length that does not fit.
    """
    length, header_size, extended = _header(data, offset)
    content = data[offset : offset + length]
    kind = UUID(bytes_le=content[16:32])
    if kind not in FILE_SYSTEMS:
        raise ArtefactError(f"firmware volume at {offset:#x} of file system {kind}, which is not read")
    start, name = header_size, None
    if extended:
        if not header_size <= extended <= length - _EXTENDED.size:
            raise ArtefactError(f"firmware volume of {length} bytes with an extended header at {extended}")
        raw, size = _EXTENDED.unpack_from(content, extended)
        start, name = extended + size, UUID(bytes_le=raw)
        if size < _EXTENDED.size or start > length:
            raise ArtefactError(f"firmware volume with an extended header of {size} bytes")
    return Volume(content, name, tuple(_files(content, start)))


def _header(data: bytes, offset: int) -> tuple[int, int, int]:
    """Length, length of the header and place of the extended one, in bytes; checked to fit."""
    if offset + _VOLUME.size > len(data):
        raise ArtefactError(f"{len(data)} bytes end inside a firmware volume's header at {offset:#x}")
    _, _, length, signature, _, header_size, _, extended, _, _ = _VOLUME.unpack_from(data, offset)
    if signature != b"_FVH":
        raise ArtefactError(f"no firmware volume at {offset:#x}")
    if not _VOLUME.size <= header_size <= length <= len(data) - offset:
        raise ArtefactError(f"firmware volume at {offset:#x} of {length} bytes, header {header_size}")
    return length, header_size, extended


def _top_volumes(firmware: bytes) -> Iterator[Volume]:
    """The volumes that a firmware file is made of, one behind the other; those without files are passed over."""
    offset = 0
    while offset < len(firmware):
        length, _, _ = _header(firmware, offset)
        if UUID(bytes_le=firmware[offset + 16 : offset + 32]) in FILE_SYSTEMS:
            yield parse_volume(firmware, offset)
        offset += length


def _files(volume: bytes, offset: int) -> Iterator[File]:
    for _ in range(MAX_FILES):
        offset = -(-offset // 8) * 8
        head = volume[offset : offset + _FILE.size]
        if len(head) < _FILE.size or head == b"\xff" * _FILE.size:
            return
        raw, _, kind, attributes, size24, _ = _FILE.unpack(head)
        start, size = offset + _FILE.size, int.from_bytes(size24, "little")
        if attributes & _LARGE:
            if start + _LARGE_FILE.size > len(volume):
                raise ArtefactError(f"firmware volume ends inside a file's header at {offset:#x}")
            (size,) = _LARGE_FILE.unpack_from(volume, start)
            start += _LARGE_FILE.size
        end = offset + size
        if not start <= end <= len(volume):
            raise ArtefactError(f"firmware file at {offset:#x} of {size} bytes in a volume of {len(volume)}")
        if kind != _FILL_FILE:
            name = UUID(bytes_le=raw)
            # Of other kinds (raw files, for example) nothing is looked at inside.
            sections = tuple(_sections(volume, start, end)) if 0x02 <= kind <= 0x0F else ()
            yield File(name, kind, sections)
        offset = end
    raise ArtefactError(f"firmware volume with more than {MAX_FILES} files")


def _sections(data: bytes, offset: int, end: int) -> Iterator[Section]:
    for _ in range(MAX_FILES):
        offset = -(-offset // 4) * 4
        if offset + _SECTION.size > end:
            return
        size24, kind = _SECTION.unpack_from(data, offset)
        start, size = offset + _SECTION.size, int.from_bytes(size24, "little")
        if size == _LARGE_SECTION_SIZE:
            if start + _LARGE_SECTION.size > end:
                raise ArtefactError(f"firmware file ends inside a section's header at {offset:#x}")
            (size,) = _LARGE_SECTION.unpack_from(data, start)
            start += _LARGE_SECTION.size
        if not start <= offset + size <= end:
            raise ArtefactError(f"firmware section at {offset:#x} of {size} bytes in a file that ends at {end:#x}")
        yield Section(kind, start, data[start : offset + size])
        offset += size
    raise ArtefactError(f"firmware file with more than {MAX_FILES} sections")


def _inside(guided: bytes) -> UnpackedFirmware:
    """The volumes in the content of a GUIDed section."""
    if len(guided) < _GUIDED.size:
        raise ArtefactError(f"compressed firmware section of {len(guided)} bytes")
    raw, data_offset, _ = _GUIDED.unpack_from(guided)
    kind = UUID(bytes_le=raw)
    if kind != LZMA_SECTION:
        raise ArtefactError(f"firmware packed by {kind}, expected LZMA ({LZMA_SECTION})")
    start = data_offset - _SECTION.size  # counted from the section's header
    if len(guided) > _LARGE_SECTION_SIZE - _SECTION.size:
        start -= _LARGE_SECTION.size
    if start < _GUIDED.size or start > len(guided):
        raise ArtefactError(f"compressed firmware section whose data begin at {data_offset}")
    content = _unpacked(guided[start:])
    found = [section for section in _sections(content, 0, len(content)) if section.kind == SECTION_VOLUME]
    if len(found) != 2:
        raise ArtefactError(f"firmware that unpacks to {len(found)} volumes, expected two (PEI and DXE)")
    return UnpackedFirmware(*(parse_volume(section.content) for section in found))


def _unpacked(stream: bytes) -> bytes:
    """An LZMA stream of a stated length; neither its header nor its content can make it grow beyond the bound."""
    if len(stream) < _LZMA_HEADER.size:
        raise ArtefactError(f"LZMA stream of {len(stream)} bytes")
    _, _, stated = _LZMA_HEADER.unpack_from(stream)
    if stated > MAX_UNPACKED:
        raise ArtefactError(f"firmware that says to unpack to {stated} bytes, at most {MAX_UNPACKED} are unpacked")
    try:
        machine = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)
        content = machine.decompress(stream, stated + 1)
    except (lzma.LZMAError, MemoryError, EOFError) as error:
        raise ArtefactError(f"firmware's LZMA stream cannot be unpacked: {error}") from None
    if len(content) != stated or not machine.eof or machine.unused_data:
        raise ArtefactError(
            f"firmware's LZMA stream of {len(stream)} bytes unpacks to {len(content)}, it states {stated}; "
            f"{len(machine.unused_data)} bytes follow it"
        )
    return content
