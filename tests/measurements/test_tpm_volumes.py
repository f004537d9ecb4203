"""Firmware files and the volumes in them: what is unpacked, what is found in it, and files that are no firmware."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from pathlib import Path
from uuid import UUID

import ovmf_support as ovmf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.evidence import parse_bundle
from attestation.tpm.evidence import parse_evidence
from measurements import firmware_volume, tpm_firmware
from measurements.errors import ArtefactError
from measurements.eventlog import parse_tcg2
from measurements.firmware_volume import MAX_UNPACKED, parse_volume, unpack

BUNDLE = Path(__file__).resolve().parents[1] / "tpm/data/guest.bundle"
PLACE = 2 * ovmf.TEXT_OFFSET + 16
"""Where the writer's PEI core writes to itself, in bytes from the image's start."""


def test_volumes_are_unpacked_with_their_files() -> None:
    found = unpack(ovmf.firmware())
    assert (found.pei.content, found.dxe.content) == (ovmf.pei(), ovmf.dxe())
    assert (found.pei.name, found.dxe.name) == (UUID(int=1), UUID(int=2))
    assert [file.title for file in found.dxe.files] == ["UiApp", "Shell", None]
    assert found.dxe.file(UUID(int=77)) is None
    core = found.pei.files[0]
    assert found.pei.content[core.sections[0].offset :][: len(ovmf.core())] == core.sections[0].content == ovmf.core()


def test_code_and_variables_in_one_file_are_read_like_code_alone() -> None:
    assert unpack(ovmf.store() + ovmf.firmware()) == unpack(ovmf.firmware())


def test_files_and_sections_of_more_than_16_mib_are_read() -> None:
    large = bytes(0x1000000)
    head = struct.pack("<HBB", 0, 7, 1) + bytes(3) + b"\xf8" + struct.pack("<Q", 32 + 8 + len(large))
    content = UUID(int=5).bytes_le + head + b"\xff\xff\xff\x10" + struct.pack("<I", 8 + len(large)) + large
    (file,) = parse_volume(ovmf.volume([content])).files
    assert file.sections[0].content == large


def test_the_pei_volume_holds_the_timers_port_where_its_core_writes_it() -> None:
    before = unpack(ovmf.firmware()).pei
    place = before.files[0].sections[0].offset + PLACE
    for machine, port in (("q35", 0x608), ("pc-q35-10.0", 0x608), ("pc", 0xB008), ("pc-i440fx-7.2", 0xB008)):
        after = tpm_firmware.pei_in_memory(before, machine)
        assert after[place : place + 4] == port.to_bytes(4, "little")
        assert after[:place] + bytes(4) + after[place + 4 :] == before.content
    with pytest.raises(ArtefactError, match="microvm"):
        tpm_firmware.pei_in_memory(before, "microvm")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ovmf.core(other=PLACE + 4), "1 and 1 instructions"),
        (ovmf.core(place=16), "not among its data"),
        (ovmf.core().replace(b"\xc7\x05", b"\xc7\x06"), "0 and 1 instructions"),
        (ovmf.core().replace(b"\x83\xe3\xfe", b"\x83\xe2\xfe"), "1 and 0 instructions"),
        (ovmf.core()[:PLACE] + b"\1" + ovmf.core()[PLACE + 1 :], "is set already"),
    ],
)
def test_a_core_that_writes_in_another_way_is_not_predicted(image: bytes, message: str) -> None:
    assert tpm_firmware.pei_in_memory(parse_volume(ovmf.pei(ovmf.core())), "q35")  # the control
    with pytest.raises(ArtefactError, match=message):
        tpm_firmware.pei_in_memory(parse_volume(ovmf.pei(image)), "q35")


def test_a_volume_without_a_core_or_with_smm_is_not_predicted() -> None:
    with pytest.raises(ArtefactError, match="system management mode"):
        tpm_firmware.pei_in_memory(parse_volume(ovmf.pei(smm=True)), "q35")
    with pytest.raises(ArtefactError, match="0 images of a PEI core"):
        tpm_firmware.pei_in_memory(parse_volume(ovmf.dxe()), "q35")


def test_the_version_is_what_the_build_says_of_itself() -> None:
    found = unpack(ovmf.firmware())
    wanted = (ovmf.VERSION + "\0").encode("utf-16-le")
    assert tpm_firmware.crtm_version(found, None) == tpm_firmware.crtm_version(found, ovmf.VERSION) == wanted
    with pytest.raises(ArtefactError, match=r"nowhere says it is '2026\.02'"):
        tpm_firmware.crtm_version(found, "2026.02")
    with pytest.raises(ArtefactError, match="not certain: none"):
        tpm_firmware.crtm_version(unpack(ovmf.firmware([ovmf.pei(version="unknown"), ovmf.dxe()])), None)
    both = ovmf.pei(version="2025.02\0" + "2026.02")
    with pytest.raises(ArtefactError, match=r"not certain: 2025\.02, 2026\.02"):
        tpm_firmware.crtm_version(unpack(ovmf.firmware([both, ovmf.dxe()])), None)


def test_what_a_build_measures_of_the_machine_follows_from_its_version() -> None:
    for text, more in (("2025.02-8+deb13u1", False), ("2024.11", False), ("2025.05", True), ("2026.08+ds-2", True)):
        assert tpm_firmware.measures_settings((text + "\0").encode("utf-16-le")) is more
    for text in ("unknown", "2025.1", "0.1", ""):
        with pytest.raises(ArtefactError, match="does not begin with a stable tag"):
            tpm_firmware.measures_settings((text + "\0").encode("utf-16-le"))


def test_what_a_build_knows_is_seen_in_its_files() -> None:
    plain = unpack(ovmf.firmware())
    other = unpack(ovmf.firmware([ovmf.pei(), ovmf.dxe(secure_boot=True, measures_tables=False)]))
    assert (tpm_firmware.knows_secure_boot(plain), tpm_firmware.measures_tables(plain)) == (False, True)
    assert (tpm_firmware.knows_secure_boot(other), tpm_firmware.measures_tables(other)) == (True, False)


@pytest.mark.parametrize(
    ("firmware", "message"),
    [
        (b"", "without a compressed image"),
        (ovmf.store(), "without a compressed image"),
        (ovmf.volume([]) + b"x" * 100, "no firmware volume at"),
        (ovmf.firmware()[:-1], "firmware volume at"),
        (ovmf.firmware([ovmf.pei()]), "1 volumes, expected two"),
        (ovmf.firmware(kind=UUID(int=6)), "packed by 00000000-0000-0000-0000-000000000006"),
        (ovmf.firmware(stream=b"\x5d\0\0"), "LZMA stream of 3 bytes"),
        (ovmf.firmware(stream=ovmf.packed(bytes(100), stated=2**40)), "says to unpack to 1099511627776"),
        (ovmf.firmware(stream=ovmf.packed(bytes(100), stated=MAX_UNPACKED)), "cannot be unpacked|unpacks to"),
        (ovmf.firmware(stream=ovmf.packed(bytes(1 << 24), stated=100)), "cannot be unpacked|unpacks to"),
        (ovmf.firmware(stream=ovmf.packed(bytes(100)) + b"more"), "4 bytes follow it"),
        (ovmf.firmware(stream=b"\x5d" + b"\xff" * 4 + ovmf.packed(bytes(100))[5:]), "cannot be unpacked"),
        (ovmf.firmware(stream=ovmf.packed(bytes(100))[:-8]), "cannot be unpacked|unpacks to"),
        (bytes(firmware_volume.MAX_FIRMWARE + 1), "at most"),
    ],
)
def test_what_is_no_firmware_is_refused(firmware: bytes, message: str) -> None:
    assert unpack(ovmf.firmware())  # the control
    with pytest.raises(ArtefactError, match=message):
        unpack(firmware)


def test_headers_that_do_not_fit_are_refused() -> None:
    good = ovmf.pei()
    assert parse_volume(good).files
    changes = {
        "of file system": (16, b"x" * 16),
        "no firmware volume": (40, b"_XXX"),
        "extended header at": (52, b"\xff\xff"),
        "extended header of": (72 + 16, b"\0\0\0\0"),
        "of 4294967295 bytes": (32, b"\xff\xff\xff\xff"),
        "firmware file at": (96 + 20, b"\xff\xff\xff"),
        "firmware section at": (96 + 24, b"\xff\xff\x7f"),
    }
    for message, (offset, patch) in changes.items():
        with pytest.raises(ArtefactError, match=message):
            parse_volume(good[:offset] + patch + good[offset + len(patch) :])
    many = ovmf.file(UUID(int=1), 0xF1, []) * (firmware_volume.MAX_FILES + 1)
    with pytest.raises(ArtefactError, match="more than 1024 files"):
        parse_volume(ovmf.volume([many]))


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_damaged_volumes_raise_the_declared_error_alone(offset: int, patch: bytes) -> None:
    good = ovmf.pei()
    with contextlib.suppress(ArtefactError):
        parse_volume(good[:offset] + patch + good[offset + len(patch) :])


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_firmware_raises_the_declared_error_alone(offset: int, patch: bytes) -> None:
    good = ovmf.firmware()
    with contextlib.suppress(ArtefactError):
        found = unpack(good[:offset] + patch + good[offset + len(patch) :])
        tpm_firmware.pei_in_memory(found.pei, "q35")


@given(st.binary(max_size=300))
def test_noise_is_no_firmware(noise: bytes) -> None:
    for data in (noise, ovmf.firmware(stream=noise), ovmf.volume([noise])):
        with contextlib.suppress(ArtefactError):
            unpack(data)


@pytest.mark.vm
def test_debians_build_measures_what_its_log_shows(built_image: Path) -> None:
    """OVMF 2025.02-8+deb13u1: its code file, and the digests in the log of a machine that ran it."""
    code = (built_image / "OVMF_CODE.fd").read_bytes()
    if hashlib.sha256(code).hexdigest() != "624e06de18b4fa535e90db7160d00d3d07d206422b89999bf1e27d920264e4e0":
        pytest.skip("another build of OVMF")
    found = unpack(code)
    measured = (
        tpm_firmware.crtm_version(found, None),
        tpm_firmware.pei_in_memory(found.pei, "q35"),
        found.dxe.content,
    )
    logs = parse_evidence(parse_bundle(BUNDLE.read_bytes()).quote).logs
    assert logs is not None
    events = parse_tcg2(logs.firmware).events
    logged = [event.digests["sha256"] for event in events if event.extended and event.register == 0]
    assert [hashlib.sha256(content).digest() for content in measured] == logged[:3]
