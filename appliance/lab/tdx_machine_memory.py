"""What a machine monitor and a TDX module make of a firmware file before its guest runs: memory, and MRTD.

In: the file as the monitor loads it. Out: its sections, the handoff list that describes the memory, and MRTD. Nothing
of ``measurements`` is used: the descriptor is found by the identifier that stands before it, the module's calls are
written out as the bytes that it hashes, and memory is divided as QEMU divides it, range by range.

Sources: Intel TDX Virtual Firmware Design Guide 1.01, section 11 (descriptor); Intel TDX Module ABI, TDH.MEM.PAGE.ADD
and TDH.MR.EXTEND (what each absorbs); QEMU ``hw/i386/pc_q35.c`` (where memory ends below 4 GiB),
``target/i386/kvm/tdx.c`` (``tdx_accept_ram_range``) and ``hw/i386/tdvf-hob.c``.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTOR = uuid.UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae").bytes_le
BOOT_VOLUME, CONFIGURATION_VOLUME, HANDOFF, TEMPORARY = 0, 1, 2, 3
EXTENDED = 1
PAGE = 4096
CHUNK = 256
GIB = 1 << 30
_ADDED, _UNACCEPTED = 0, 7
"""Kinds of memory in the handoff list: there from the start, and still to be accepted by the guest."""

_HEAD = struct.Struct("<4sIII")
_SECTION = struct.Struct("<IIQQII")


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the firmware as its descriptor has it; numbers are bytes.

    Attributes:
        kind: What it is for.
        address: Where it lies in the guest's memory.
        size: Length there.
        content: What the file holds for it, shorter than ``size`` where the rest is zero.
        extended: Whether its content goes into MRTD.
    """

    kind: int
    address: int
    size: int
    content: bytes
    extended: bool


def sections(firmware: bytes) -> tuple[Section, ...]:
    """The sections of a firmware file in the descriptor's order.

    Raises:
        LabError: The file has no descriptor, or several.
    """
    if firmware.count(DESCRIPTOR) != 1:
        raise LabError(f"a firmware with {firmware.count(DESCRIPTOR)} TDX descriptors, expected one")
    at = firmware.index(DESCRIPTOR) + len(DESCRIPTOR)
    magic, _, version, count = _HEAD.unpack_from(firmware, at)
    if magic != b"TDVF" or version != 1:
        raise LabError(f"a TDX descriptor {magic!r} of version {version}, expected TDVF of version 1")
    found = []
    for index in range(count):
        offset, raw, address, size, kind, attributes = _SECTION.unpack_from(
            firmware, at + _HEAD.size + index * _SECTION.size
        )
        content = firmware[offset : offset + raw]
        found.append(Section(kind, address, size, content, bool(attributes & EXTENDED)))
    return tuple(found)


def mrtd(firmware: bytes, *, two_passes: bool = False) -> bytes:
    """MRTD of a machine that is built from a firmware file; 48 bytes.

    Args:
        firmware: The file.
        two_passes: Whether the monitor adds all pages of a section before it measures the first of them.
    """
    state = hashlib.sha384()
    for section in sections(firmware):
        pages = range(0, section.size, PAGE)
        if two_passes:
            state.update(b"".join(_add(section, page) for page in pages))
            for page in pages:
                state.update(b"".join(_extend(section, page)))
        else:
            for page in pages:
                state.update(_add(section, page) + b"".join(_extend(section, page)))
    return state.digest()


def _add(section: Section, page: int) -> bytes:
    """What TDH.MEM.PAGE.ADD absorbs: its name, the page's address, zeros up to 128 bytes."""
    return b"MEM.PAGE.ADD\0\0\0\0" + (section.address + page).to_bytes(8, "little") + bytes(104)


def _extend(section: Section, page: int) -> Iterator[bytes]:
    """What TDH.MR.EXTEND absorbs for each piece of a page: name and address in 128 bytes, then the piece."""
    if not section.extended:
        return
    for piece in range(page, page + PAGE, CHUNK):
        yield b"MR.EXTEND\0\0\0\0\0\0\0" + (section.address + piece).to_bytes(8, "little") + bytes(104)
        yield section.content[piece : piece + CHUNK].ljust(CHUNK, b"\0")


def low_memory(memory: int) -> int:
    """How much of a machine's memory lies below 4 GiB, in bytes."""
    return min(memory, 2 * GIB if memory >= 0xB0000000 else 0xB0000000)


def memory_map(memory: int, parts: Sequence[Section]) -> list[tuple[int, int, int]]:
    """Memory as the monitor tells it: kind, address and length of each range, by address; all in bytes.

    A range begins as unaccepted. Each section that is there from the start is cut out of the range that holds it.
    """
    low = low_memory(memory)
    ranges = [[_UNACCEPTED, 0, low]]
    if memory > low:
        ranges.append([_UNACCEPTED, 4 * GIB, memory - low])
    for section in parts:
        if section.kind not in {HANDOFF, TEMPORARY}:
            continue
        begin, end = section.address, section.address + section.size
        held = next((item for item in ranges if item[1] <= begin and end <= item[1] + item[2]), None)
        if held is None or held[0] != _UNACCEPTED:
            raise LabError(f"a section from {begin:#x} to {end:#x} that no free memory holds")
        before, after = held[1], held[1] + held[2]
        held[:] = [_ADDED, begin, section.size]
        if begin > before:
            ranges.append([_UNACCEPTED, before, begin - before])
        if after > end:
            ranges.append([_UNACCEPTED, end, after - end])
    return sorted(((kind, address, size) for kind, address, size in ranges), key=lambda item: item[1])


def handoff_list(memory: int, parts: Sequence[Section]) -> bytes:
    """The handoff list that the monitor writes and firmware measures, without the entry that ends it.

    Args:
        memory: Of the machine, in bytes.
        parts: The firmware's sections.
    """
    place = next((section for section in parts if section.kind == HANDOFF), None)
    if place is None:
        raise LabError("a firmware without a place for the handoff list")
    resources = b"".join(
        struct.pack("<HHI", 3, 48, 0) + bytes(16) + struct.pack("<IIQQ", kind, 7, address, size)
        for kind, address, size in memory_map(memory, parts)
    )
    end = place.address + 56 + len(resources) + 8
    return struct.pack("<HHIIIQQQQQ", 1, 56, 0, 9, 0, 0, 0, 0, 0, end) + resources
