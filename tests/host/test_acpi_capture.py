"""Captured ACPI tables are those that a booted machine's firmware measured: the proof, and what is refused."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.host import acpi_capture
from appliance.host.acpi_cache import AcpiCache, CaptureKey
from appliance.host.errors import HostError, LaunchError, MachineError
from appliance.host.machine import QEMU
from appliance.host.programs import find_program
from attestation.evidence import parse_bundle
from attestation.tpm.evidence import parse_evidence
from measurements import acpi_file, shape_library
from measurements.eventlog import parse_tcg2
from measurements.shape import Qemu, Shape

if TYPE_CHECKING:
    from measurements.acpi_file import Captured

BUNDLE = Path(__file__).parents[1] / "tpm" / "data" / "guest.bundle"
TPM_LOG_BYTES = 64 * 1024
"""What QEMU reserves for a TPM's log (``hw/acpi/tpm.h``); firmware measures it, empty, as every blob of the loader."""


def shape(**changes: object) -> Shape:
    values: dict[str, object] = {
        "name": "demonstration",
        "platform": "tpm",
        "vcpus": 2,
        "memory_mib": 3072,
        "qemu": Qemu(version="7.2"),
        "tpm": True,
    }
    return Shape.model_validate(values | changes)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Something that says it is QEMU 7.2.22 and ends at once."""
    path = tmp_path / "qemu-system-x86_64"
    path.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "QEMU emulator version 7.2.22 (Debian 1)" && exit\necho no\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def firmware(tmp_path: Path) -> tuple[Path, Path]:
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"code")
    variables.write_bytes(b"variables")
    return code, variables


def key(program: Path, firmware: Path, given: Shape) -> CaptureKey:
    digests = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (program, firmware))
    return CaptureKey("7.2.22", *digests, acpi_file.table_inputs(given), acpi_capture.command_of(given))


def measured_by_firmware() -> list[bytes]:
    """Digests of "ACPI DATA" in register 1, from a booted machine's log: loader, root pointer, TPM log area, tables."""
    logs = parse_evidence(parse_bundle(BUNDLE.read_bytes()).quote).logs
    assert logs is not None
    log = parse_tcg2(logs.firmware)
    return [event.digests["sha256"] for event in log.events if event.register == 1 and event.data == b"ACPI DATA"]


def to_be_measured(captured: Captured) -> list[bytes]:
    """The same digests, from captured tables."""
    blobs = (captured.tables.loader, captured.tables.rsdp, bytes(TPM_LOG_BYTES), captured.tables.tables)
    return [hashlib.sha256(blob).digest() for blob in blobs]


def test_the_librarys_tables_are_what_a_booted_machine_measured() -> None:
    """That machine had 2 processors and 3 GiB: of what moves tables, memory from 2 GiB on is nothing."""
    alike = [shape_library.captured(f"tpm-2c-{gib}g-disk") for gib in (2, 4)]
    other = shape_library.captured("tpm-1c-2g-disk")
    assert [found and to_be_measured(found) for found in alike] == [measured_by_firmware()] * 2
    assert other is not None
    assert to_be_measured(other)[3] != measured_by_firmware()[3]  # the control: a processor less


@pytest.mark.vm
@pytest.mark.slow
def test_captured_tables_are_what_a_booted_machine_measured(built_image: Path, tmp_path: Path) -> None:
    """The capture knows shape and firmware; the log is of the demonstration's machine, booted on another day."""
    try:
        acpi_capture.require_version(shape(), find_program(QEMU))
    except MachineError as error:
        pytest.skip(f"the log is of a machine of QEMU 7.2: {error.message}")
    cache = AcpiCache(tmp_path / "cache")
    paths = (built_image / "OVMF_CODE.fd", built_image / "OVMF_VARS.fd")
    found = acpi_capture.capture(shape(), firmware=paths, cache=cache)
    assert measured_by_firmware() == to_be_measured(found)
    assert found == acpi_capture.capture(shape(), firmware=paths, cache=cache)  # from the cache


def test_another_version_is_refused_with_both(program: Path, firmware: tuple[Path, Path]) -> None:
    for version in ("10.0", "7.2.21", "7.1"):
        with pytest.raises(MachineError, match=rf"is QEMU 7\.2\.22, shape demonstration names {version}"):
            acpi_capture.capture(shape(qemu=Qemu(version=version)), firmware=firmware, qemu=program)
    for version in ("7.2", "7.2.22"):  # the control: as far as the shape names it
        assert acpi_capture.require_version(shape(qemu=Qemu(version=version)), program) == "7.2.22"


def test_gpus_need_a_qemu_that_takes_a_stand_in(program: Path, firmware: tuple[Path, Path]) -> None:
    with pytest.raises(MachineError, match=r"takes no stand-in.*QEMU 10\.1"):
        acpi_capture.capture(shape(gpus=1), firmware=firmware, qemu=program)


def test_another_firmware_is_refused_with_both(program: Path, firmware: tuple[Path, Path], tmp_path: Path) -> None:
    digest = hashlib.sha256(b"code").hexdigest()
    other = shape(firmware={"name": "OVMF", "sha256": "a" * 64})
    with pytest.raises(MachineError, match=rf"{digest}.*a{{64}}"):
        acpi_capture.capture(other, firmware=firmware, qemu=program)
    named = shape(firmware={"name": "OVMF", "sha256": digest}, tpm=False)
    with pytest.raises(LaunchError, match="QEMU ended"):  # the control: this one is started
        acpi_capture.capture(named, firmware=firmware, qemu=program, cache=AcpiCache(tmp_path / "cache"))


def test_a_clouds_machine_cannot_be_captured(program: Path, firmware: tuple[Path, Path]) -> None:
    with pytest.raises(MachineError, match="cloud"):
        acpi_capture.capture(shape_library.shape("gcp-a3-highgpu-1g"), firmware=firmware, qemu=program)


def test_a_program_that_ends_is_said_with_its_words(program: Path, firmware: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="QEMU ended; QEMU said: no"):
        acpi_capture.capture(shape(tpm=False), firmware=firmware, qemu=program, cache=AcpiCache(tmp_path / "cache"))


def test_a_program_without_a_version_is_refused(firmware: tuple[Path, Path]) -> None:
    with pytest.raises(HostError, match="expected a version"):
        acpi_capture.capture(shape(), firmware=firmware, qemu=Path("/bin/true"))


def test_code_alone_is_refused_where_the_machine_has_two_files(
    program: Path, firmware: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(MachineError, match="code and variables"):
        acpi_capture.capture(
            shape(tpm=False), firmware=(firmware[0], None), qemu=program, cache=AcpiCache(tmp_path / "cache")
        )


def kept() -> Captured:
    """A capture of the library's, as if it were of the machine above."""
    found = shape_library.captured("tpm-1c-2g-disk")
    assert found is not None
    return found


def test_a_kept_capture_starts_nothing(program: Path, firmware: tuple[Path, Path], tmp_path: Path) -> None:
    cache, given = AcpiCache(tmp_path / "cache"), shape(tpm=False)
    where = key(program, firmware[0], given)
    facts = {"qemu": "7.2.22", "qemu_sha256": where.qemu_sha256, "firmware_sha256": where.firmware_sha256}
    cache.keep(where, kept().model_copy(update={**facts, "inputs": where.inputs, "command": where.command}))
    found = acpi_capture.capture(given, firmware=firmware, qemu=program, cache=cache)
    assert found.tables == kept().tables
    assert found.shape == "demonstration"  # whoever asked first
    (path,) = (tmp_path / "cache").iterdir()
    for damage in (b"", path.read_bytes()[:-1], path.read_bytes().replace(b"7.2.22", b"7.2.21")):
        path.write_bytes(damage)
        with pytest.raises(LaunchError, match="QEMU ended"):  # not believed: QEMU is started
            acpi_capture.capture(given, firmware=firmware, qemu=program, cache=cache)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    where = CaptureKey("7.2.22", "1" * 64, "2" * 64, "3" * 64, ("qemu",))
    cache = AcpiCache(tmp_path / "file")
    cache.keep(where, kept())
    assert cache.find(where) is None


def test_everything_that_decides_tables_is_in_the_key() -> None:
    names = {
        CaptureKey(*values).name
        for values in (
            ("7.2.22", "1" * 64, "2" * 64, "3" * 64, ("qemu",)),
            ("7.2.23", "1" * 64, "2" * 64, "3" * 64, ("qemu",)),
            ("7.2.22", "0" * 64, "2" * 64, "3" * 64, ("qemu",)),
            ("7.2.22", "1" * 64, "0" * 64, "3" * 64, ("qemu",)),
            ("7.2.22", "1" * 64, "2" * 64, "0" * 64, ("qemu",)),
            ("7.2.22", "1" * 64, "2" * 64, "3" * 64, ("qemu", "-S")),
        )
    }
    assert len(names) == 6
