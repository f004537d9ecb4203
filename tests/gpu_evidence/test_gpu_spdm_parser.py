"""The parser of SPDM reports and of evidence: genuine values, every wrong length refused, nothing else raised."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from gpu_evidence_support import HGX_NONCE, build_report, claims_of
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.gpu.claims import MultiGpu, multi_gpu_of, peers_of
from attestation.gpu.evidence import MAX_REPORT, DeviceEvidence
from attestation.gpu.rim import rim_ids, vbios_version
from attestation.gpu.spdm import Opaque, parse_report

if TYPE_CHECKING:
    from gpu_evidence_support import Samples

VBIOS = bytes.fromhex("009f009601000000")
BOARD = [
    (Opaque.DRIVER_VERSION, b"550.90.07\0"),
    (Opaque.VBIOS_VERSION, VBIOS),
    (Opaque.PROJECT, b"1010\0"),
    (Opaque.PROJECT_SKU, b"0200\0"),
    (Opaque.CHIP_SKU, b"882\0\0\0"),
]
BLOCKS = st.lists(
    st.tuples(st.integers(1, 253), st.binary(max_size=64)), min_size=1, max_size=8, unique_by=lambda b: b[0]
)
FIELDS = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=8, unique_by=lambda f: f[0])
TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)


def test_a_genuine_report_of_a_gpu(samples: Samples) -> None:
    """test_raw_gpu_attestation_report.dat (google/go-nvattest-tools)."""
    report = parse_report(samples.read("test_raw_gpu_attestation_report.dat"))
    assert sorted(report.measurements) == list(range(1, 65))
    assert {len(block.value) for block in report.measurements.values()} == {48}
    assert report.text(Opaque.DRIVER_VERSION) == "550.90.07"
    assert vbios_version(report) == "96.00.9F.00.01"
    assert rim_ids(report) == ("NV_GPU_DRIVER_GH100_550.90.07", "NV_GPU_VBIOS_1010_0200_882_96009F0001")
    assert multi_gpu_of(report) is MultiGpu.NONE
    assert peers_of(report, "gpu") == frozenset()


def test_a_genuine_report_of_a_switch(samples: Samples) -> None:
    """test_raw_switch_attestation_report.dat (google/go-nvattest-tools)."""
    report = parse_report(samples.read("test_raw_switch_attestation_report.dat"))
    assert report.nonce == HGX_NONCE
    assert sorted(report.measurements) == list(range(1, 32))
    assert rim_ids(report) == ("NV_SWITCH_BIOS_5612_0002_890_96106D0001",)
    assert len(peers_of(report, "switch")) == 8


def test_a_genuine_board_and_a_genuine_blackwell(samples: Samples) -> None:
    """test_ppcie_data.json and test_mpt_data.json (google/go-nvattest-tools)."""
    linked = claims_of(samples.hgx_gpus()[0], 0)
    assert linked.multi_gpu is MultiGpu.PROTECTED_PCIE
    assert len(linked.peers) == 4
    report = parse_report(DeviceEvidence.parse(samples.blackwells()[0]).report)
    assert multi_gpu_of(report) is MultiGpu.PASSTHROUGH
    assert rim_ids(report) == ("NV_GPU_CC_DRIVER_GB100_590.48.01", "NV_GPU_VBIOS_G525_0220_886_9700D90035")


@given(nonce=st.binary(min_size=32, max_size=32), blocks=BLOCKS, fields=FIELDS)
def test_what_is_built_is_read_back(
    nonce: bytes, blocks: list[tuple[int, bytes]], fields: list[tuple[int, bytes]]
) -> None:
    data = build_report(nonce=nonce, measurements=blocks, opaque=fields)
    report = parse_report(data)
    assert report.nonce == nonce
    assert [(index, block.value) for index, block in report.measurements.items()] == blocks
    assert list(report.opaque.items()) == fields
    assert report.signed + report.signature == data


@given(blocks=BLOCKS, fields=FIELDS, data=st.data())
def test_cut_or_lengthened_it_is_refused(
    blocks: list[tuple[int, bytes]], fields: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = build_report(measurements=blocks, opaque=fields)
    with pytest.raises(EvidenceError):
        parse_report(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(EvidenceError, match="follow the signature"):
        parse_report(whole + data.draw(st.binary(min_size=1, max_size=64)))


@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_another_byte_is_read_or_refused_and_nothing_else(place: int, value: int) -> None:
    data = bytearray(build_report(measurements=[(1, bytes(48)), (2, bytes(48))], opaque=BOARD))
    data[place % len(data)] = value
    try:
        parse_report(bytes(data))
    except EvidenceError:
        return


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for text in (data, b"\x11\xe0\x01\xff" + data, build_report()[:41] + data):
        try:
            parse_report(text)
        except EvidenceError:
            continue


GOOD = build_report(measurements=[(1, bytes(48)), (2, bytes(48))], opaque=BOARD)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends inside its request head"),
        (b"\x12" + GOOD[1:], "starts with 12e0"),
        (GOOD[:1] + b"\xe1" + GOOD[2:], "starts with 11e1"),
        (GOOD[:2] + b"\x00" + GOOD[3:], "parameters 00ff"),
        (GOOD[:3] + b"\x01" + GOOD[4:], "parameters 0101"),
        (GOOD[:38] + b"\x7f" + GOOD[39:], "SPDM error 0x00"),
        (GOOD[:38] + b"\x61" + GOOD[39:], "response starts with 1161"),
        (GOOD[:41] + b"\x03" + GOOD[42:], "ends inside its measurement block"),
        (GOOD[:41] + b"\x01" + GOOD[42:], "bytes follow 1 measurement blocks"),
        (GOOD[:41] + b"\x00\x00\x00\x00" + GOOD[-34:-2] + b"\x00\x00" + GOOD[-96:], "without measurements"),
        (GOOD[:42] + b"\xff\xff\xff" + GOOD[45:], "16777215 bytes announced"),
        (GOOD[:46] + b"\x02" + GOOD[47:], "follows specification 2"),
        (build_report(measurements=[(3, b"a"), (3, b"a")]), "index 3 comes twice"),
        (build_report(measurements=[(0, b"a")]), "index 0, expected 1 to 253"),
        (build_report(measurements=[(254, b"a")]), "index 254, expected 1 to 253"),
        (build_report(opaque=[(3, b"a"), (3, b"b")]), "field 3 comes twice"),
        (build_report(opaque=[(number, bytes(255)) for number in range(17)]), "at most 4096 are read"),
        (bytes(MAX_REPORT + 1), f"at most {MAX_REPORT} are read"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, said: str) -> None:
    parse_report(GOOD)
    with pytest.raises(EvidenceError, match=said):
        parse_report(data)


def test_a_blocks_inner_length_has_to_fit() -> None:
    block = struct.pack("<BBHBH", 1, 1, 6, 1, 4) + b"abc"
    data = GOOD[:41] + b"\x01" + len(block).to_bytes(3, "little") + block + bytes(32) + b"\0\0" + bytes(96)
    with pytest.raises(EvidenceError, match="ends inside its value of measurement 1"):
        parse_report(data)
    block = struct.pack("<BBHBH", 1, 1, 6, 1, 2) + b"abc"
    data = GOOD[:41] + b"\x01" + len(block).to_bytes(3, "little") + block + bytes(32) + b"\0\0" + bytes(96)
    with pytest.raises(EvidenceError, match="1 bytes follow measurement 1"):
        parse_report(data)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (Opaque.VBIOS_VERSION, b"\x00" * 7, "VBIOS version of 7 bytes"),
        (Opaque.DRIVER_VERSION, b"../../etc/passwd", "cannot be part of a manifest's name"),
        (Opaque.DRIVER_VERSION, b"550\n90", "expected printable ASCII"),
        (Opaque.PROJECT, b"", "cannot be part of a manifest's name"),
        (Opaque.CHIP_SKU, b"8/2", "cannot be part of a manifest's name"),
    ],
)
def test_names_of_manifests_are_made_of_harmless_text(field: Opaque, value: bytes, said: str) -> None:
    assert rim_ids(build_report(opaque=BOARD))[1] == "NV_GPU_VBIOS_1010_0200_882_96009F0001"
    changed = [(number, value if number == field else given) for number, given in BOARD]
    with pytest.raises(EvidenceError, match=said):
        rim_ids(build_report(opaque=changed))


@pytest.mark.parametrize(
    ("flag", "mode"),
    [
        (b"\0\0", MultiGpu.NONE),
        (b"\1\0", MultiGpu.PASSTHROUGH),
        (b"\2\0", MultiGpu.PROTECTED_PCIE),
        (b"\3\0", MultiGpu.UNKNOWN),
    ],
)
def test_the_feature_flag_goes_before_the_older_status(flag: bytes, mode: MultiGpu) -> None:
    older = (Opaque.PROTECTED_PCIE_STATUS, b"\xaa")
    assert multi_gpu_of(parse_report(build_report(opaque=[older]))) is MultiGpu.PROTECTED_PCIE
    assert multi_gpu_of(parse_report(build_report(opaque=[older, (Opaque.FEATURE_FLAG, flag)]))) is mode
    odd = parse_report(build_report(opaque=[(Opaque.PROTECTED_PCIE_STATUS, b"\x01")]))
    assert multi_gpu_of(odd) is MultiGpu.UNKNOWN


def test_link_partners_are_whole_identifiers() -> None:
    pdi = bytes(range(1, 9))
    linked = parse_report(build_report(opaque=[(Opaque.PDI, pdi + bytes(8) + pdi)]))
    assert peers_of(linked, "gpu") == {pdi[::-1]}
    assert peers_of(parse_report(build_report(opaque=[(Opaque.GPU_PDIS, pdi * 8 + bytes(64))])), "switch") == {pdi}
    for kind, field, size in (("gpu", Opaque.PDI, 9), ("switch", Opaque.GPU_PDIS, 63)):
        with pytest.raises(EvidenceError):
            peers_of(parse_report(build_report(opaque=[(field, bytes(size))])), kind)  # type: ignore[arg-type]  # a table


@given(
    kind=st.sampled_from(["gpu", "switch"]),
    architecture=TEXT,
    report=st.binary(min_size=1),
    chain=st.binary(min_size=1),
)
def test_evidence_is_read_back(kind: str, architecture: str, report: bytes, chain: bytes) -> None:
    shown = DeviceEvidence(kind=kind, architecture=architecture, report=report, chain=chain)  # type: ignore[arg-type]  # drawn
    data = shown.encode()
    assert DeviceEvidence.parse(data) == shown
    for wrong in (data[:-1], data + b"\0", b"", cbor.encode([1])):
        with pytest.raises(EvidenceError):
            DeviceEvidence.parse(wrong)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "tpm"}, "kind 'tpm'"),
        ({"kind": 1}, "field kind is int"),
        ({"architecture": "x" * 33}, "33 characters"),
        ({"report": b""}, "report of 0 bytes"),
        ({"report": bytes(MAX_REPORT + 1)}, "report of 16385 bytes"),
        ({"chain": "text"}, "field chain is str"),
        ({"more": 1}, "exactly"),
    ],
)
def test_evidence_out_of_bounds_is_refused(changed: dict[str, object], said: str) -> None:
    good = {"kind": "gpu", "architecture": "hopper", "report": b"r", "chain": b"c"}
    assert DeviceEvidence.parse(cbor.encode(good)).report == b"r"
    with pytest.raises(EvidenceError, match=said):
        DeviceEvidence.parse(cbor.encode(good | changed))
