"""Firmware files: metadata that lead where they should, metadata that do not, and what a build measures."""

from __future__ import annotations

import hashlib
import struct
from uuid import UUID

import pytest
import tdvf_support as made
from hypothesis import given
from hypothesis import strategies as st

from measurements import tdvf, tdx_firmware
from measurements.errors import ArtefactError, MeasurementError
from measurements.tdvf import SectionKind

USUAL = made.firmware()
BASE = 2**32 - len(USUAL)
SIZE = len(USUAL) - made.VARIABLES_SIZE


def rows(**changed: tuple[int, ...]) -> bytes:
    """Metadata of the usual firmware with some sections changed or added."""
    sections = {
        "code": (made.VARIABLES_SIZE, SIZE, BASE + made.VARIABLES_SIZE, SIZE, made.BFV, made.MR_EXTEND),
        "variables": (0, made.VARIABLES_SIZE, BASE, made.VARIABLES_SIZE, made.CFV, 0),
        "list": (0, 0, 0x809000, 0x2000, made.TD_HOB, 0),
        **changed,
    }
    return made.metadata(list(sections.values()))


def test_sections_are_read_in_their_order() -> None:
    parsed = tdvf.parse(USUAL)
    kinds = [section.kind for section in parsed.sections]
    assert kinds == [SectionKind(kind) for kind in (0, 1, 3, 3, 2, 3)]
    variables = parsed.only(SectionKind.CFV)
    assert tdvf.content(USUAL, variables) == made.empty_variables()
    assert variables.end == BASE + made.VARIABLES_SIZE
    with pytest.raises(ArtefactError, match="3 sections of kind TEMPORARY"):
        parsed.only(SectionKind.TEMPORARY)
    assert parsed.descriptor in USUAL
    assert tdvf.METADATA in tdvf.guid_table(USUAL)


def test_the_empty_variables_of_tests_are_those_of_real_firmware() -> None:
    """Digest: event 2 of RTMR0 in both quotes of Dstack-TEE/dstack, and of Debian's and Ubuntu's OVMF.fd of 2025.02."""
    known = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
    assert hashlib.sha384(made.empty_variables()).hexdigest() == known


REFUSED = {
    "version": made.metadata([], version=2),
    "no section": made.metadata([]),
    "too many sections": made.metadata([(0, 0, 0x1000 * n, 0x1000, 3, 0) for n in range(tdvf.MAX_SECTIONS + 1)]),
    "length": rows()[:4] + struct.pack("<I", 15) + rows()[8:],
    "unknown kind": rows(more=(0, 0, 0x1000, 0x1000, 7, 0)),
    "unknown attribute": rows(more=(0, 0, 0x1000, 0x1000, 3, 4)),
    "address off a page": rows(more=(0, 0, 0x1001, 0x1000, 3, 0)),
    "size off a page": rows(more=(0, 0, 0x1000, 0x1001, 3, 0)),
    "no size": rows(more=(0, 0, 0x1000, 0, 3, 0)),
    "beyond all addresses": rows(more=(0, 0, 2**48 - 0x1000, 0x2000, 3, 0)),
    "contents beyond the file": rows(more=(2**31, 1, 0x1000, 0x1000, 0, 0)),
    "contents longer than memory": rows(more=(0, 0x1001, 0x1000, 0x1000, 0, 0)),
    "contents of temporary memory": rows(more=(0, 1, 0x1000, 0x1000, 3, 0)),
    "overlap": rows(more=(0, 0, 0x80A000, 0x1000, 3, 0)),
    "too much memory": rows(more=(0, 0, 0x10000000, tdvf.MAX_MEMORY, 3, 0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_break_their_layout_are_refused(name: str) -> None:
    tdvf.parse(made.firmware(descriptor=rows(more=(0, 0, 0x1000, 0x1000, 3, 0))))
    with pytest.raises(ArtefactError):
        tdvf.parse(made.firmware(descriptor=REFUSED[name]))


def table_with(data: bytes) -> bytes:
    """A file whose table of GUIDs holds exactly that."""
    footer = struct.pack("<H", len(data) + 18) + tdvf.TABLE.bytes_le
    return bytes(4096) + data + footer + bytes(32)


def entry(guid: UUID, data: bytes, *, length: int | None = None) -> bytes:
    """An entry of the table."""
    return data + struct.pack("<H", len(data) + 18 if length is None else length) + guid.bytes_le


OTHER = UUID(int=1)


def test_a_table_is_read_from_its_end() -> None:
    found = tdvf.guid_table(table_with(entry(OTHER, b"first") + entry(tdvf.METADATA, b"last")))
    assert list(found.items()) == [(tdvf.METADATA, b"last"), (OTHER, b"first")]
    assert tdvf.guid_table(table_with(b"")) == {}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(49), id="too short"),
        pytest.param(bytes(4096), id="no table"),
        pytest.param(table_with(b"loose"), id="bytes that are no entry"),
        pytest.param(table_with(entry(OTHER, b"x", length=17)), id="an entry shorter than its end"),
        pytest.param(table_with(entry(OTHER, b"x", length=40)), id="an entry longer than the table"),
        pytest.param(table_with(entry(OTHER, b"x") + entry(OTHER, b"x")), id="a GUID twice"),
        pytest.param(struct.pack("<H", 19) + tdvf.TABLE.bytes_le + bytes(32), id="a table before the file"),
        pytest.param(struct.pack("<H", 17) + tdvf.TABLE.bytes_le + bytes(32), id="a table shorter than its end"),
        pytest.param(table_with(entry(OTHER, b"x")), id="no TDX metadata"),
        pytest.param(table_with(entry(tdvf.METADATA, b"abc")), id="a pointer of three bytes"),
        pytest.param(table_with(entry(tdvf.METADATA, struct.pack("<I", 8))), id="metadata beyond the end"),
        pytest.param(table_with(entry(tdvf.METADATA, struct.pack("<I", 2**31))), id="metadata before the file"),
        pytest.param(table_with(entry(tdvf.METADATA, struct.pack("<I", 4096))), id="metadata that are none"),
        pytest.param(bytes(tdvf.MAX_FIRMWARE + 1), id="too long"),
    ],
)
def test_what_is_no_firmware_for_tdx_is_refused(content: bytes) -> None:
    with pytest.raises(ArtefactError):
        tdvf.parse(content)


@given(data=st.data())
def test_any_change_is_read_or_refused(data: st.DataObject) -> None:
    changed = bytearray(USUAL)
    end = len(changed)
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        changed[data.draw(st.integers(min_value=end - 0x200, max_value=end - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = tdvf.parse(bytes(changed))
    except ArtefactError:
        return
    for section in parsed.sections:
        assert len(tdvf.content(bytes(changed), section)) == section.raw_size <= section.size


@given(st.binary(max_size=512))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(ArtefactError):
        tdvf.parse(content)


@pytest.mark.parametrize(
    ("version", "separated", "settings"),
    [
        ("2024.02-3+tdx1.0", False, False),
        ("2024.08-4", False, False),
        ("2024.11-1", True, False),
        ("2025.02-8+deb13u1", True, False),
        ("2025.05", True, True),
        ("2026.08+ds-2", True, True),
    ],
)
def test_the_order_follows_the_version_of_the_firmware(version: str, separated: bool, settings: bool) -> None:
    assert tdx_firmware.layout(version) == tdx_firmware.Layout(separated, settings)


@pytest.mark.parametrize("version", [None, "", "2022.11-6+deb12u2", "1.16.3", "2025.2", "2025.021"])
def test_versions_whose_order_is_not_known_are_refused(version: str | None) -> None:
    with pytest.raises(MeasurementError, match="firmware"):
        tdx_firmware.layout(version)


@pytest.mark.parametrize(
    ("sha256", "secure_boot", "named_kernel"),
    [(made.TRIXIE, False, True), (made.BOOKWORM, True, False), (made.UBUNTU, False, False), (made.FORKY, True, True)],
    ids=["Debian trixie", "Debian bookworm", "Ubuntu plucky", "Debian forky"],
)
def test_what_is_in_known_builds(sha256: str, secure_boot: bool, named_kernel: bool) -> None:
    build = tdx_firmware.build(made.found(sha256))
    assert (build.secure_boot, build.named_kernel) == (secure_boot, named_kernel)
    assert build.programs is not tdx_firmware.USUAL_PROGRAMS


def test_damaged_volumes_are_not_guessed_at() -> None:
    """What a build knows would else be taken as unknown, and other registers be predicted."""
    firmware = made.found(made.BOOKWORM)
    assert tdx_firmware.build(firmware).secure_boot, "the control"
    places = [0]  # of volumes; the length of each is at byte 32 of its header
    while (place := places[-1] + int.from_bytes(firmware[places[-1] + 32 : places[-1] + 40], "little")) < len(firmware):
        places.append(place)
    assert len(places) > 2
    signed = [place + 40 for place in places]
    assert all(firmware[place : place + 4] == b"_FVH" for place in signed)
    for damaged in (*(firmware[:at] + b"_FVX" + firmware[at + 4 :] for at in signed), firmware + b"\xff" * 16):
        with pytest.raises(ArtefactError):
            tdx_firmware.build(damaged)


def test_a_file_that_nothing_unpacks_is_what_stands_in_it() -> None:
    build = tdx_firmware.build(USUAL)
    assert build == tdx_firmware.Build(secure_boot=False, named_kernel=False, programs=tdx_firmware.USUAL_PROGRAMS)
    driver = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
    assert tdx_firmware.build(made.firmware(code=driver)).secure_boot
    assert tdx_firmware.build(made.firmware(code=b"etc/boot/")).named_kernel
