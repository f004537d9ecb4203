"""MRTD: known firmware files by two ways that share no code, a file and the quote of a machine that it started.

Known values of Debian's files: the project's specification of attestation, section 3. Ubuntu's file: Debian package
``ovmf`` 2025.02-3ubuntu2 of plucky; quote: TelegramMessenger/cocoon ``tee/test/quote.dat``; the same value stands in
fortanix/tdx-measure ``tests/fixtures/runtime-capture/expected.json``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

import pytest
import tdvf_support as made
from hypothesis import given
from hypothesis import strategies as st

from attestation.tdx import parse_quote, without_padding
from measurements import mrtd, tdvf

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import SampleTable

KNOWN = {
    "Debian trixie": (
        made.TRIXIE,
        "bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11",
        "456f07902150d008bb913c3e1e84e9297f735a6c83cd2a957a1f0a8bbedb06df188e3837ae48d32c73d473d097dc0db2",
    ),
    "Debian bookworm": (
        made.BOOKWORM,
        "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47",
        "acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b33db3b32e6924cba830a724eed443f7e1",
    ),
    "Debian forky": (
        made.FORKY,
        "a7a1f751abc454f9cbab198ca8d2edb2821935df525c74182b5e776cb0929e8c59aefecce725b0d08a5e9d3d3183bd08",
        "b90b236113eb4c0d4df4ef590568c14e6028a3a31d7e8ac63dee9845df5008d3ebf82d4f5974e933798f65d7a279b9a9",
    ),
    "Ubuntu plucky": (
        made.UBUNTU,
        "7357a10d2e2724dffe68813e3cc4cfcde6814d749f2fb62e3953e54f6e0b50a219786afe2cd478f684b52c61837e1114",
        "7ce4cec5729d95652108c1dfe381a3ccb6a6a9061920f0479a3e4c7c806cf51d2438958def083084880f2bf4dd2e14eb",
    ),
}
ORDERS: dict[Literal[1, 2], mrtd.PageOrder] = {1: "single pass", 2: "two passes"}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("passes", [1, 2])
def test_known_firmware(name: str, passes: Literal[1, 2]) -> None:
    sha256, *values = KNOWN[name]
    content = made.found(sha256)
    assert mrtd.mrtd(content, tdvf.parse(content), ORDERS[passes]).hex() == values[passes - 1]
    assert made.independent_mrtd(content, passes=passes).hex() == values[passes - 1]


def test_the_quote_of_a_real_machine_holds_what_its_firmware_file_gives(
    shared: Path, sample_table: SampleTable
) -> None:
    quote = shared / "samples" / "TelegramMessenger__cocoon" / "tee" / "test" / "quote.dat"
    seen = parse_quote(without_padding(quote.read_bytes())).report.mr_td
    content = made.found(made.UBUNTU)
    value = mrtd.mrtd(content, tdvf.parse(content), "single pass")
    sample_table("quote.dat", "TelegramMessenger/cocoon", f"MRTD {value.hex()[:16]}", f"MRTD {seen.hex()[:16]}")
    assert seen == value
    fixture = shared / "samples" / "fortanix__tdx-measure" / "tests" / "fixtures" / "runtime-capture" / "expected.json"
    assert json.loads(fixture.read_text())["mrtd"] == value.hex()


SECTIONS = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=3),
        st.integers(min_value=0, max_value=3),
        st.binary(min_size=1, max_size=3 * 4096),
    ),
    min_size=1,
    max_size=4,
)


@given(sections=SECTIONS)
def test_both_ways_agree_on_any_sections(sections: list[tuple[int, int, bytes]]) -> None:
    content, entries, address = b"", [], 0x10000
    for pages, attributes, data in sections:
        kept = data[: pages * 4096]
        entries.append((len(content), len(kept), address, pages * 4096, made.BFV, attributes))
        content += kept
        address += (pages + 1) * 4096
    descriptor = made.metadata(entries)
    whole = made.firmware(variables=content.ljust(-(-len(content) // 4096) * 4096, b"\0"), descriptor=descriptor)
    parsed = tdvf.parse(whole)
    for passes, order in ORDERS.items():
        assert mrtd.mrtd(whole, parsed, order) == made.independent_mrtd(whole, passes=passes)


def test_what_is_measured_is_the_code_and_the_layout_not_the_variables() -> None:
    content = made.firmware()
    parsed = tdvf.parse(content)
    before = mrtd.mrtd(content, parsed, "single pass")
    code, variables = (parsed.only(kind) for kind in (tdvf.SectionKind.BFV, tdvf.SectionKind.CFV))
    for section, moved in ((code, True), (variables, False)):
        changed = bytearray(content)
        changed[section.offset + 0x100] ^= 1
        assert (mrtd.mrtd(bytes(changed), parsed, "single pass") != before) is moved
    larger = made.firmware(memory=(*made.MEMORY_SECTIONS, (made.TEMPORARY, 0x830000, 0x1000)))
    assert mrtd.mrtd(larger, tdvf.parse(larger), "single pass") != before
    assert mrtd.mrtd(content, parsed, "two passes") != before


@pytest.mark.parametrize(
    ("version", "order"), [((8, 2, 2), "two passes"), ((9, 0), "single pass"), ((11, 1), "single pass")]
)
def test_the_order_follows_the_version_of_qemu(version: tuple[int, ...], order: str) -> None:
    assert mrtd.page_order(version) == order
