"""Firmware of a TDX machine as its monitor reads it: a file in, its table of GUIDs and the sections to be loaded out.

Layout: TDVF Design Guide 1.01 (Intel 733585), section 11, "Trust Domain Virtual Firmware Metadata"; the table of GUIDs
that leads there is EDK II's ``OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm``: it ends 32 bytes before the file does and
is read backwards, each entry being its data, its length with these 18 bytes (u16) and its GUID. All integers are
little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FIRMWARE = 64 * 1024**2
"""Longest firmware file that is read, in bytes; usual ones have 2 to 4 MiB."""

MAX_SECTIONS = 64
MAX_MEMORY = 256 * 1024**2
"""Most memory that all sections together may take, in bytes: each page of it costs a hash."""

MAX_ADDRESS = 2**48
PAGE = 4096
TABLE = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
"""Ends the table."""
METADATA = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
"""Entry that says where the TDX metadata are: a u32, counted from the file's end."""

EXTENDED = 1
"""Attribute bit of a section whose contents are measured (``MR.EXTEND``)."""
ADDED_LATER = 2
"""Attribute bit of a section whose pages are not added before the machine starts (``PAGE.AUG``)."""

_BEHIND_TABLE = 32
_ENTRY_END = struct.Struct("<H16s")
_DESCRIPTOR = struct.Struct("<4sIII")
_SECTION = struct.Struct("<IIQQII")
_U32 = struct.Struct("<I")


class SectionKind(IntEnum):
    """What a section is for (design guide, table 11-4)."""

    BFV = 0
    """Boot firmware volume: the code."""
    CFV = 1
    """Configuration firmware volume: the variables."""
    TD_HOB = 2
    """Where the monitor says what memory there is."""
    TEMPORARY = 3
    PERMANENT = 4
    PAYLOAD = 5
    PAYLOAD_PARAMETER = 6


_WITH_DATA = frozenset({SectionKind.BFV, SectionKind.CFV, SectionKind.PAYLOAD})


@dataclass(frozen=True, slots=True)
class Section:
    """One piece of memory that the monitor makes before the machine starts; numbers are bytes.

    Attributes:
        kind: What it is for.
        offset: Where its contents begin in the file.
        raw_size: How much of it is in the file; the rest is zeros.
        address: Where it lies in the guest's memory.
        size: Its length there.
        attributes: :data:`EXTENDED`, :data:`ADDED_LATER`.
    """

    kind: SectionKind
    offset: int
    raw_size: int
    address: int
    size: int
    attributes: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Tdvf:
    """A firmware's TDX metadata.

    Attributes:
        descriptor: The metadata as they stand in the file.
        sections: In the order of the metadata.
    """

    descriptor: bytes
    sections: tuple[Section, ...]

    def only(self, kind: SectionKind) -> Section:
        """The one section of a kind.

        Raises:
            ArtefactError: There is none, or more than one.
        """
        found = [section for section in self.sections if section.kind is kind]
        if len(found) != 1:
            raise ArtefactError(f"firmware with {len(found)} sections of kind {kind.name}, expected one")
        return found[0]


def guid_table(firmware: bytes) -> Mapping[UUID, bytes]:
    """Entries of the table near a firmware's end.

    Returns:
        Data by GUID.

    Raises:
        ArtefactError: No such table, or one whose entries do not fill it exactly, or that names a GUID twice.
    """
    if len(firmware) > MAX_FIRMWARE:
        raise ArtefactError(f"firmware of {len(firmware)} bytes, at most {MAX_FIRMWARE} are read")
    place = len(firmware) - _BEHIND_TABLE - _ENTRY_END.size
    if place < 0:
        raise ArtefactError(f"firmware of {len(firmware)} bytes", hint="expected a file such as OVMF.fd")
    length, guid = _ENTRY_END.unpack_from(firmware, place)
    if guid != TABLE.bytes_le:
        raise ArtefactError(
            "firmware without a table of GUIDs 32 bytes before its end",
            hint="expected a file with its reset vector, such as OVMF.fd or OVMF_CODE.fd",
        )
    start = place + _ENTRY_END.size - length
    if length < _ENTRY_END.size or start < 0:
        raise ArtefactError(f"firmware of {len(firmware)} bytes with a table of {length} bytes before its end")
    entries: dict[UUID, bytes] = {}
    while place > start:
        if place - _ENTRY_END.size < start:
            raise ArtefactError(f"firmware's table of GUIDs has {place - start} bytes that are no entry")
        size, guid = _ENTRY_END.unpack_from(firmware, place - _ENTRY_END.size)
        if not _ENTRY_END.size <= size <= place - start:
            raise ArtefactError(f"firmware's table of GUIDs has an entry of {size} bytes, {place - start} are left")
        name = UUID(bytes_le=guid)
        if name in entries:
            raise ArtefactError(f"firmware's table of GUIDs names {name} twice")
        entries[name] = firmware[place - size : place - _ENTRY_END.size]
        place -= size
    return entries


def parse(firmware: bytes) -> Tdvf:
    """Read the TDX metadata of a firmware file.

    Raises:
        ArtefactError: The file has none, or they break their layout: a section beyond the file, off page boundaries,
            of an unknown kind, over another one, or with contents where there are none.
    """
    entry = guid_table(firmware).get(METADATA)
    if entry is None:
        raise ArtefactError(
            "firmware without TDX metadata", hint="not built for TDX: use a file such as OVMF.fd or OVMF.inteltdx.fd"
        )
    if len(entry) != _U32.size:
        raise ArtefactError(f"firmware whose TDX metadata are pointed to by {len(entry)} bytes, expected {_U32.size}")
    place = len(firmware) - _U32.unpack(entry)[0]
    if not 0 <= place <= len(firmware) - _DESCRIPTOR.size:
        raise ArtefactError(f"firmware of {len(firmware)} bytes with TDX metadata at {place}")
    signature, length, version, count = _DESCRIPTOR.unpack_from(firmware, place)
    if signature != b"TDVF" or version != 1:
        raise ArtefactError(f"TDX metadata {signature!r} of version {version}, expected b'TDVF' of version 1")
    if not 0 < count <= MAX_SECTIONS or length != _DESCRIPTOR.size + count * _SECTION.size:
        raise ArtefactError(f"TDX metadata of {length} bytes for {count} sections, at most {MAX_SECTIONS} are read")
    if place + length > len(firmware):
        raise ArtefactError(f"firmware of {len(firmware)} bytes with TDX metadata from {place} to {place + length}")
    sections = tuple(
        _section(firmware, place + _DESCRIPTOR.size + number * _SECTION.size, number) for number in range(count)
    )
    _check_memory(sections)
    return Tdvf(firmware[place : place + length], sections)


def content(firmware: bytes, section: Section) -> bytes:
    """What of a section stands in the file; zeros that follow in memory are left out."""
    return firmware[section.offset : section.offset + section.raw_size]


def _section(firmware: bytes, place: int, number: int) -> Section:
    offset, raw_size, address, size, kind, attributes = _SECTION.unpack_from(firmware, place)
    where = f"section {number} of the TDX metadata"
    if kind not in SectionKind.__members__.values():
        raise ArtefactError(f"{where} is of kind {kind}, known are 0 to {max(SectionKind)}")
    if attributes & ~(EXTENDED | ADDED_LATER):
        raise ArtefactError(f"{where} has attributes {attributes:#x}, known are {EXTENDED | ADDED_LATER:#x}")
    if address % PAGE or size % PAGE or not size or address + size > MAX_ADDRESS:
        raise ArtefactError(f"{where} takes memory from {address:#x}, {size:#x} bytes, expected whole pages")
    if raw_size > size or offset + raw_size > len(firmware):
        raise ArtefactError(
            f"{where} has {raw_size} bytes from {offset} for {size} bytes of memory, the file has {len(firmware)}"
        )
    if raw_size and kind not in _WITH_DATA:
        raise ArtefactError(f"{where} is of kind {SectionKind(kind).name} and has {raw_size} bytes of contents")
    return Section(SectionKind(kind), offset, raw_size, address, size, attributes)


def _check_memory(sections: tuple[Section, ...]) -> None:
    taken = sum(section.size for section in sections)
    if taken > MAX_MEMORY:
        raise ArtefactError(f"sections of the TDX metadata take {taken} bytes of memory, at most {MAX_MEMORY} are read")
    ordered = sorted(sections, key=lambda section: section.address)
    for before, after in pairwise(ordered):
        if before.end > after.address:
            raise ArtefactError(f"sections of the TDX metadata overlap at {after.address:#x}")
