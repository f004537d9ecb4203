"""The list by which a monitor tells a TDX machine's firmware what memory there is, and which firmware measures.

In: the firmware's sections and the memory's size. Out: the bytes that go into RTMR0: a hand-off block and one resource
descriptor for each range, without the end marker that follows in memory.

Layout: UEFI Platform Initialization Specification 1.8, volume 3, sections 5.3 and 5.5 (hand-off information table,
resource descriptor). What is listed: QEMU 10.1 ``hw/i386/tdvf-hob.c`` and ``target/i386/kvm/tdx.c``; where memory is
split: ``hw/i386/pc_q35.c``. What is measured: EDK II ``OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c``. All integers are
little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from measurements.errors import MeasurementError
from measurements.tdvf import SectionKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from measurements.tdvf import Section

LOW_MEMORY = 0x8000_0000
"""Where the lower part of split memory ends."""
UNSPLIT_MEMORY = 0xB000_0000
"""Memory of this size or more is split."""
HIGH_MEMORY = 2**32
"""Where the upper part of split memory begins."""

_HANDOFF = struct.Struct("<HHIIIQQQQQ")
_RESOURCE = struct.Struct("<HHI16sIIQQ")
_END_SIZE = 8
_HANDOFF_TYPE, _RESOURCE_TYPE = 1, 3
_VERSION = 9
_SYSTEM_MEMORY, _UNACCEPTED = 0, 7
_ATTRIBUTES = 7  # present, initialized, tested
_IN_MEMORY = frozenset({SectionKind.TD_HOB, SectionKind.TEMPORARY})


def below_4_gib(memory: int) -> int:
    """How much of a q35 machine's memory, in bytes, lies below 4 GiB."""
    return LOW_MEMORY if memory >= UNSPLIT_MEMORY else memory


def td_hob(sections: Iterable[Section], memory: int) -> bytes:
    """What firmware measures of the list.

    Args:
        sections: Of the firmware's TDX metadata.
        memory: Size of the machine's memory, in bytes.

    Returns:
        56 bytes and 48 for each range.

    Raises:
        MeasurementError: No section or several for the list, or a section outside the machine's memory.
    """
    taken = [section for section in sections if section.kind in _IN_MEMORY]
    homes = [section for section in taken if section.kind is SectionKind.TD_HOB]
    if len(homes) != 1:
        raise MeasurementError(f"firmware with {len(homes)} places for the list of memory, expected one")
    ranges = b"".join(
        _RESOURCE.pack(_RESOURCE_TYPE, _RESOURCE.size, 0, bytes(16), kind, _ATTRIBUTES, start, end - start)
        for kind, start, end in _ranges(taken, memory)
    )
    length = _HANDOFF.size + len(ranges)
    if length + _END_SIZE > homes[0].size:
        raise MeasurementError(f"a list of memory of {length} bytes, firmware has room for {homes[0].size}")
    end_of_list = homes[0].address + length + _END_SIZE
    return _HANDOFF.pack(_HANDOFF_TYPE, _HANDOFF.size, 0, _VERSION, 0, 0, 0, 0, 0, end_of_list) + ranges


def _ranges(taken: list[Section], memory: int) -> list[tuple[int, int, int]]:
    """Kind, start and end of every range in order: sections are there already, the rest is to be accepted."""
    low = below_4_gib(memory)
    found, place = [], 0
    for section in sorted(taken, key=lambda item: item.address):
        if section.address < place or section.end > low:
            raise MeasurementError(
                f"firmware takes memory from {section.address:#x} to {section.end:#x}, the machine has it to {low:#x}",
                hint="give the machine more memory",
            )
        if section.address > place:
            found.append((_UNACCEPTED, place, section.address))
        found.append((_SYSTEM_MEMORY, section.address, section.end))
        place = section.end
    if low > place:
        found.append((_UNACCEPTED, place, low))
    if memory > low:
        found.append((_UNACCEPTED, HIGH_MEMORY, HIGH_MEMORY + memory - low))
    return found
