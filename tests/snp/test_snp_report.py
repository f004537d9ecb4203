"""The parser of reports: every field where the firmware ABI has it, and nothing but reports."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snp_support import REPORT_DATA, world

from attestation.errors import EvidenceError
from attestation.snp import Product, Tcb, parse_report
from attestation.snp.report import REPORT_SIZE, SIGNED_SIZE, FirmwareVersion, SigningKey
from attestation.snp.tcb import LAYOUTS, product_of_cpu, product_of_name

RESERVED = {
    2: [(0x4C, 0x50), (0x188, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x330, 0x4A0)],
    3: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x330, 0x4A0)],
    4: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x1F8, 0x2A0), (0x330, 0x4A0)],
    5: [(0x4C, 0x50), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0), (0x330, 0x4A0)],
}


def numbered(version: int) -> bytearray:
    """A report whose every byte says where it stands, but for what is reserved or has to be right."""
    content = bytearray((offset * 7 + 3) % 251 + 1 for offset in range(REPORT_SIZE))
    for start, end in RESERVED[version]:
        content[start:end] = bytes(end - start)
    struct.pack_into("<I", content, 0, version)
    struct.pack_into("<I", content, 0x34, 1)
    struct.pack_into("<I", content, 0x48, 0b00111)
    return content


@pytest.mark.parametrize("version", RESERVED)
def test_every_field_is_where_the_abi_has_it(version: int) -> None:
    data = bytes(numbered(version))
    report = parse_report(data)
    little = lambda start, end: int.from_bytes(data[start:end], "little")  # noqa: E731 - a word for the table below
    expected: dict[str, Any] = {
        "version": version,
        "guest_svn": little(4, 8),
        "family_id": data[0x10:0x20],
        "image_id": data[0x20:0x30],
        "vmpl": little(0x30, 0x34),
        "current_tcb": data[0x38:0x40],
        "author_key_enabled": True,
        "mask_chip_key": True,
        "signing_key": SigningKey.VLEK,
        "report_data": data[0x50:0x90],
        "measurement": data[0x90:0xC0],
        "host_data": data[0xC0:0xE0],
        "id_key_digest": data[0xE0:0x110],
        "author_key_digest": data[0x110:0x140],
        "report_id": data[0x140:0x160],
        "report_id_ma": data[0x160:0x180],
        "reported_tcb": data[0x180:0x188],
        "cpuid": tuple(data[0x188:0x18B]) if version > 2 else None,
        "chip_id": data[0x1A0:0x1E0],
        "committed_tcb": data[0x1E0:0x1E8],
        "current_version": FirmwareVersion(data[0x1EA], data[0x1E9], data[0x1E8]),
        "committed_version": FirmwareVersion(data[0x1EE], data[0x1ED], data[0x1EC]),
        "launch_tcb": data[0x1F0:0x1F8],
        "launch_mitigations": little(0x1F8, 0x200) if version > 4 else None,
        "current_mitigations": little(0x200, 0x208) if version > 4 else None,
        "signature": (little(0x2A0, 0x2E8), little(0x2E8, 0x330)),
        "signed": data[:SIGNED_SIZE],
    }
    assert {name: getattr(report, name) for name in expected} == expected
    assert report.policy.raw == little(8, 16)
    assert report.policy.abi == (data[9], data[8])
    assert report.platform_info.raw == little(0x40, 0x48)


@pytest.mark.parametrize("version", RESERVED)
def test_each_reserved_byte_has_to_be_zero(version: int) -> None:
    data = numbered(version)
    parse_report(bytes(data))
    for start, end in RESERVED[version]:
        for offset in {start, (start + end) // 2, end - 1}:
            altered = bytearray(data)
            altered[offset] = 0x80
            with pytest.raises(EvidenceError, match="reserved bytes"):
                parse_report(bytes(altered))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, 1, "version 1, expected 2 to 5"),
        (0, 6, "version 6, expected 2 to 5"),
        (0x34, 0, "algorithm 0"),
        (0x34, 2, "algorithm 2"),
        (0x48, 2 << 2, "signing key 2"),
        (0x48, 6 << 2, "signing key 6"),
        (0x48, 1 << 5, "reserved bits"),
        (0x48, 1 << 31, "reserved bits"),
    ],
)
def test_what_cannot_be_understood_is_refused(offset: int, value: int, words: str) -> None:
    data = numbered(3)
    struct.pack_into("<I", data, offset, value)
    with pytest.raises(EvidenceError, match=words):
        parse_report(bytes(data))


@pytest.mark.parametrize("size", [0, 1, SIGNED_SIZE, REPORT_SIZE - 1, REPORT_SIZE + 1, 4000])
def test_a_report_has_one_length(size: int) -> None:
    with pytest.raises(EvidenceError, match=f"of {size} bytes, expected 1184"):
        parse_report((bytes(numbered(3)) + bytes(4000))[:size])


@given(st.binary(max_size=1300))
def test_any_bytes_are_a_report_or_refused(data: bytes) -> None:
    try:
        parse_report(data)
    except EvidenceError:
        return
    assert len(data) == REPORT_SIZE


@given(st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE), st.sampled_from(sorted(RESERVED)))
def test_what_is_signed_and_the_signature_are_all_of_it(content: bytes, version: int) -> None:
    """Every byte of a report that is read stands in the signed part or in the signature: none is ignored."""
    data = bytearray(content)
    for start, end in RESERVED[version]:
        data[start:end] = bytes(end - start)
    struct.pack_into("<I", data, 0, version)
    struct.pack_into("<I", data, 0x34, 1)
    struct.pack_into("<I", data, 0x48, 0)
    report = parse_report(bytes(data))
    r, s = (number.to_bytes(72, "little") for number in report.signature)
    assert report.signed + r + s + bytes(368) == bytes(data)


@pytest.mark.parametrize("product", list(Product))
@given(raw=st.binary(min_size=8, max_size=8))
def test_patch_levels_are_the_bytes_of_the_products_layout(product: Product, raw: bytes) -> None:
    tcb = Tcb(product, raw)
    places = {name: index for index, name in enumerate(LAYOUTS[product])}
    assert tcb.levels == {name: raw[places[name]] for name in tcb.levels}
    assert ("fmc" in tcb.levels) == (product is Product.TURIN)
    named = dict(zip(LAYOUTS[product], raw, strict=True))
    assert Tcb.of(product, **named) == tcb
    assert tcb.below(tcb.levels) == {}
    assert set(tcb.below({name: level + 1 for name, level in tcb.levels.items()})) == set(tcb.levels)


def test_the_layouts_are_amds() -> None:
    milan = Tcb.of(Product.MILAN, bootloader=3, snp=8, microcode=115)
    assert milan.raw.hex() == "0300000000000873"  # of virtee/sev's report
    assert Tcb.of(Product.TURIN, fmc=1, bootloader=2, tee=3, snp=4, microcode=5).raw.hex() == "0102030400000005"
    with pytest.raises(EvidenceError, match="no patch levels"):
        Tcb.of(Product.GENOA, fmc=1)
    with pytest.raises(EvidenceError, match="not bytes"):
        Tcb.of(Product.GENOA, snp=256)
    with pytest.raises(EvidenceError, match="7 bytes"):
        Tcb(Product.GENOA, bytes(7))
    assert milan.below({"fmc": 1}) == {"fmc": 0}


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),  # Bergamo, Siena
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x1A, 0x50, None),
        (0x19, 0x20, None),
        (0x17, 0x31, None),
    ],
)
def test_products_by_processor(family: int, model: int, product: Product | None) -> None:
    assert product_of_cpu(family, model) is product


def test_products_by_name() -> None:
    assert product_of_name("Milan-B0") is Product.MILAN
    assert product_of_name("Turin") is Product.TURIN
    assert product_of_name("Rome-B0") is None
    assert product_of_name("") is None


@pytest.mark.parametrize("version", RESERVED)
def test_the_worlds_reports_are_read(version: int) -> None:
    report = parse_report(world(version=version).report(REPORT_DATA))
    assert (report.version, report.report_data) == (version, REPORT_DATA)
    assert (report.product is None) == (version == 2)
