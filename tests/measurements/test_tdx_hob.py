"""The list of memory: ranges that fill the machine's memory exactly, and machines that cannot hold a firmware."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import tdvf_support as made
from hypothesis import given
from hypothesis import strategies as st

from measurements import td_hob, tdvf
from measurements.errors import MeasurementError

if TYPE_CHECKING:
    from measurements.tdvf import Section

GIB = 2**30
SECTIONS = tdvf.parse(made.firmware()).sections


def ranges(content: bytes) -> list[tuple[int, int, int]]:
    """Kind, start and end of every range, read by their places alone."""
    assert (len(content) - 56) % 48 == 0
    found = []
    for place in range(56, len(content), 48):
        assert content[place : place + 24] == bytes.fromhex("0300300000000000") + bytes(16)
        kind, attributes, start, length = struct.unpack_from("<IIQQ", content, place + 24)
        assert attributes == 7
        found.append((kind, start, start + length))
    return found


def test_a_machine_with_the_usual_firmware() -> None:
    content = td_hob.td_hob(SECTIONS, 2 * GIB)
    assert content[:48] == bytes.fromhex("0100380000000000 09000000") + bytes(36)
    assert int.from_bytes(content[48:56], "little") == 0x809000 + len(content) + 8
    assert ranges(content) == [
        (7, 0, 0x800000),
        (0, 0x800000, 0x806000),
        (7, 0x806000, 0x809000),
        (0, 0x809000, 0x80B000),
        (0, 0x80B000, 0x80D000),
        (7, 0x80D000, 0x811000),
        (0, 0x811000, 0x820000),
        (7, 0x820000, 2 * GIB),
    ]


@pytest.mark.parametrize(
    ("memory", "last"),
    [
        (0xAFF00000, [(7, 0x820000, 0xAFF00000)]),
        (0xB0000000, [(7, 0x820000, 2 * GIB), (7, 4 * GIB, 0x130000000)]),
        (64 * GIB, [(7, 0x820000, 2 * GIB), (7, 4 * GIB, 66 * GIB)]),
    ],
)
def test_memory_is_split_below_4_gib(memory: int, last: list[tuple[int, int, int]]) -> None:
    assert ranges(td_hob.td_hob(SECTIONS, memory))[7:] == last


def section(kind: int, address: int, size: int) -> Section:
    """A section without contents."""
    return tdvf.Section(tdvf.SectionKind(kind), 0, 0, address, size, 0)


@given(
    pieces=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=8),
    memory=st.integers(min_value=512, max_value=2**14).map(lambda mib: mib * 2**20),
)
def test_ranges_fill_the_memory(pieces: list[tuple[int, int]], memory: int) -> None:
    taken, place = [section(made.TD_HOB, 0, 0x2000)], 0x2000
    for gap, size in pieces:
        taken.append(section(made.TEMPORARY, place + gap * 4096, size * 4096))
        place = taken[-1].end
    found = ranges(td_hob.td_hob(reversed(taken), memory))
    assert [start for _, start, _ in found] == sorted(start for _, start, _ in found)
    low = [item for item in found if item[1] < 4 * GIB]
    assert low[0][1] == 0
    assert all(before[2] == after[1] for before, after in pairwise(low))
    assert sum(end - start for _, start, end in found) == memory
    assert [item[1:] for item in found if item[0] == 0] == [(item.address, item.end) for item in taken]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([section(made.TEMPORARY, 0x1000, 0x1000)], "0 places"),
        ([section(made.TD_HOB, 0x1000, 0x1000), section(made.TD_HOB, 0x3000, 0x1000)], "2 places"),
        ([section(made.TD_HOB, 0x1000, 0x1000), section(made.TEMPORARY, 0x1000, 0x1000)], "takes memory"),
        ([section(made.TD_HOB, 0x1000, 0x1000), section(made.TEMPORARY, 0x1FFFF000, 0x2000)], "takes memory"),
        (
            [section(made.TD_HOB, 0, 0x1000), *(section(made.TEMPORARY, 0x2000 * n, 0x1000) for n in range(1, 45))],
            "room for 4096",
        ),
    ],
)
def test_what_no_machine_has_is_refused(sections: list[Section], message: str) -> None:
    assert td_hob.td_hob([section(made.TD_HOB, 0x1000, 0x1000)], GIB // 2)
    with pytest.raises(MeasurementError, match=message):
        td_hob.td_hob(sections, GIB // 2)
