"""The library of shapes: every one is whole, named for what it is, and its captured tables are its machine's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from appliance.image.wheel import contents
from measurements import acpi_file, shape_library
from measurements.shape import ShapeError, parse_shape

ROOT = Path(__file__).resolve().parents[2]
NAMES = shape_library.names()
SHAPES = [shape_library.shape(name) for name in NAMES]
STARTED = [s.name for s in SHAPES if s.qemu is not None and s.firmware is not None and s.firmware.sha256 is not None]


def parts(tables: bytes) -> dict[str, bytes]:
    """Each table by its name; FACS, the first one, has a header of its own with the length in the same place."""
    found: dict[str, bytes] = {}
    at = 0
    while tables[at : at + 4].strip(b"\0"):
        name = tables[at : at + 4].decode("ascii")
        (length,) = struct.unpack_from("<I", tables, at + 4)
        assert name not in found
        assert 36 <= length <= len(tables) - at
        found[name] = tables[at : at + length]
        at += length
    return found


def window(dsdt: bytes) -> int:
    """Where the 64-bit window of the root bus begins (ACPI 6.5, section 6.4.3.5.1: QWord address space descriptor)."""
    at = dsdt.index(b"\x8a\x2b\x00\x00")
    (start,) = struct.unpack_from("<Q", dsdt, at + 14)
    return int(start)


def test_the_usual_machines_are_there() -> None:
    shapes = [shape_library.shape(name) for name in NAMES]
    assert {(s.vcpus, s.memory_mib, s.boot) for s in shapes if s.platform == "tpm"} == {
        (cpus, mib, boot) for cpus in (1, 2) for mib in (2048, 4096) for boot in ("disk", "direct")
    }
    for platform in ("tdx", "snp"):
        assert {s.gpus for s in shapes if s.platform == platform} == {0, 1, 2, 4, 8}
    assert {s.platform for s in shapes} == {"tpm", "tdx", "snp", "gcp", "azure"}


@pytest.mark.parametrize("text", ["vcpus = " + "9" * 5000, "a = " + "[" * 8000], ids=["digits", "nesting"])
def test_what_a_toml_reader_trips_over_is_refused(text: str) -> None:
    with pytest.raises(ShapeError, match="not TOML"):
        parse_shape(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_is_called_what_it_is(name: str) -> None:
    shape = shape_library.shape(name)
    assert shape.name == name
    if shape.qemu is not None:
        gpus = f"-{shape.gpus}h100" if shape.gpus else ""
        assert name == f"{shape.platform}-{shape.vcpus}c-{shape.memory_mib // 1024}g{gpus}-{shape.boot}"
        assert shape.firmware is not None
        # Debian's build of this firmware maps no window of a GPU: whoever builds another one names its digest.
        assert (shape.firmware.sha256 is None) == (shape.platform == "snp" and shape.gpus > 0)


@pytest.mark.parametrize("name", STARTED)
def test_captured_tables_are_the_machines(name: str) -> None:
    shape, captured = shape_library.shape(name), shape_library.captured(name)
    assert captured is not None
    assert shape.qemu is not None
    assert shape.firmware is not None
    assert captured.inputs == acpi_file.table_inputs(shape)
    assert captured.qemu.startswith(f"{shape.qemu.version}.")
    assert captured.firmware_sha256 == shape.firmware.sha256
    command = list(captured.command)
    assert command[command.index("-smp") + 1] == str(shape.vcpus)
    assert command[command.index("-m") + 1] == f"{shape.memory_mib}M"
    assert sum(word.startswith("pcie-root-port") for word in command) == shape.gpus
    assert not any(word.startswith("/") and word != "/dev/null" for word in command)
    found = parts(captured.tables.tables)
    assert {"FACS", "DSDT", "FACP", "APIC", "MCFG", "RSDT"} <= set(found)
    assert ("TPM2" in found) == shape.tpm
    assert ("HPET" in found) == (shape.platform != "tdx")
    assert captured.tables.rsdp.startswith(b"RSD PTR ")
    assert b"etc/acpi/tables" in captured.tables.loader
    assert shape_library.acpi(name) == captured.tables


def test_the_tools_carry_the_library_and_the_guest_does_not() -> None:
    """A table captured anew must not move the image's measurement."""
    found = contents(ROOT)
    kept = {path.relative_to(ROOT) for path in (ROOT / "measurements" / "shapes").iterdir()}
    assert {path.suffix for path in kept} == {".toml", ".acpi"}
    assert kept <= {Path(name) for name in found["tools"]}
    modules = {Path("measurements") / name for name in ("acpi_file.py", "shape_library.py", "snp.py")}
    assert not (kept | modules) & {Path(name) for name in found["guest"]}


def test_the_way_to_boot_moves_no_table() -> None:
    assert shape_library.acpi("tdx-8c-32g-disk") == shape_library.acpi("tdx-8c-32g-direct")
    assert shape_library.acpi("tdx-8c-32g-disk") != shape_library.acpi("snp-8c-32g-direct")


def test_a_live_tds_tables_are_those_of_emulation(shared: Path) -> None:
    """fortanix tdx-measure, tests/fixtures/runtime-capture: read inside a TD of 8 processors, with devices of its own.

    So only the tables of devices (DSDT, and RSDT which points past it) and an HPET that we leave out may differ. The
    window says that its firmware used 46 address bits.
    """
    live = parts((shared / "samples/fortanix__tdx-measure/tests/fixtures/runtime-capture/acpi_tables.bin").read_bytes())
    kept = shape_library.acpi("tdx-8c-32g-disk")
    assert kept is not None
    ours = parts(kept.tables)
    assert set(live) - set(ours) == {"HPET"}
    assert {name for name in ours if ours[name] != live[name]} == {"DSDT", "RSDT"}
    assert window(ours["DSDT"]) == window(live["DSDT"]) == 56 << 40


def test_a_machine_whose_firmware_is_not_public_has_no_captured_tables() -> None:
    assert shape_library.acpi("gcp-a3-highgpu-1g") is None
    assert shape_library.acpi("snp-24c-192g-1h100-direct") is None


@pytest.mark.parametrize("name", ["tdx-7c-1g-disk", "../shapes/tpm-1c-2g-disk", "", "tpm-1c-2g", "x" * 999])
def test_a_shape_that_is_not_there_is_said_so(name: str) -> None:
    with pytest.raises(ShapeError, match=r"there are .*tpm-1c-2g-disk|there are tdx-"):
        shape_library.shape(name)
