"""ACPI tables: root pointer and loader as QEMU makes them, and files that are none of QEMU's.

The tests that start QEMU read the three files from its configuration device before its first instruction.
Samples: fortanix/tdx-measure ``tests/fixtures`` (three sets of tables).
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu_support import Qemu, with_qemu

from measurements import acpi, acpi_measured
from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE = 0x2000
NUMA = ("-object", "memory-backend-ram,id=memory,size=1G", "-numa", "node,memdev=memory")


def table(signature: bytes, content: bytes) -> bytes:
    """A table with QEMU's header and no checksum."""
    return (
        signature
        + struct.pack("<IBB6s8sI4sI", 36 + len(content), 1, 0, b"BOCHS ", b"BXPC    ", 1, b"BXPC", 1)
        + content
    )


def tables(parts: Mapping[bytes, bytes] | None = None, *, size: int = SIZE) -> bytes:
    """A file of tables; the RSDT points to no more than it has to."""
    contents = {
        b"FACS": b"FACS" + struct.pack("<I", 64) + bytes(56),
        b"DSDT": table(b"DSDT", b"\x10" * 100),
        b"FACP": table(b"FACP", bytes(208)),
        b"APIC": table(b"APIC", b"\0" * 20),
        b"RSDT": table(b"RSDT", bytes(8)),
        **(parts or {}),
    }
    return b"".join(contents.values()).ljust(size, b"\0")


def test_tables_are_listed_in_their_order() -> None:
    found = acpi.tables_of(tables())
    assert [(item.signature, item.offset, item.length) for item in found] == [
        ("FACS", 0, 64),
        ("DSDT", 64, 136),
        ("FACP", 200, 244),
        ("APIC", 444, 56),
        ("RSDT", 500, 44),
    ]


def test_the_loader_s_commands_follow_the_tables() -> None:
    made = acpi.derive(tables())
    assert made.rsdp == b"RSD PTR \0BOCHS \0" + struct.pack("<I", 500)
    assert acpi_measured.fetched(made.loader) == (acpi.RSDP_FILE, acpi.TABLES_FILE)
    assert len(made.loader) == acpi.LOADER_SIZE
    commands = [made.loader[place : place + 128] for place in range(0, len(made.loader), 128)]
    kinds = [int.from_bytes(command[:4], "little") for command in commands]
    assert kinds[:13] == [1, 1, 3, 2, 2, 2, 3, 3, 2, 2, 3, 2, 3]
    assert not any(kinds[13:])
    places = [struct.unpack_from("<I", command, 116)[0] for command in commands[:13] if command[0] == 2]
    assert places == [200 + 36, 200 + 40, 200 + 140, 500 + 36, 500 + 40, 16]


@with_qemu
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-machine", "q35,smm=off", "-smp", "2", "-m", "2G"), id="usual"),
        pytest.param(("-machine", "q35,hpet=off", "-smp", "5", "-m", "4G", "-device", "virtio-rng-pci"), id="no hpet"),
        pytest.param(("-machine", "pc-q35-6.2", "-m", "1G", *NUMA), id="older, numa"),
        pytest.param(("-machine", "pc", "-m", "1G"), id="pc"),
    ],
)
def test_what_is_derived_is_what_qemu_hands_over(arguments: tuple[str, ...]) -> None:
    with Qemu(*arguments) as machine:
        files = [machine.file(name) for name in (acpi.TABLES_FILE, acpi.RSDP_FILE, "etc/table-loader")]
    assert acpi.derive(files[0]) == acpi.AcpiTables(*files)


@pytest.mark.parametrize("name", ["canonical-defaults", "q35-with-hpet", "runtime-capture"])
def test_sampled_tables_are_read(name: str, shared: Path) -> None:
    content = (shared / "samples/fortanix__tdx-measure/tests/fixtures" / name / "acpi_tables.bin").read_bytes()
    signatures = [item.signature for item in acpi.tables_of(content)]
    assert signatures[:3] == ["FACS", "DSDT", "FACP"]
    assert signatures[-1] == "RSDT"
    assert ("HPET" in signatures) is (name != "canonical-defaults")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(SIZE), id="zeros"),
        pytest.param(tables() + b"\1", id="something behind the last"),
        pytest.param(tables({b"APIC": table(b"ap!c", b"")}), id="no signature"),
        pytest.param(tables({b"APIC": b"APIC" + struct.pack("<I", 35) + bytes(28)}), id="shorter than its header"),
        pytest.param(tables({b"RSDT": b"RSDT" + struct.pack("<I", SIZE) + bytes(28)}), id="beyond the end"),
        pytest.param(b"".join(table(b"SSDT", b"") for _ in range(acpi.MAX_TABLES + 1)), id="too many"),
        pytest.param(bytes(acpi.MAX_TABLES_SIZE + 1), id="too long"),
    ],
)
def test_what_is_no_file_of_tables_is_refused(content: bytes) -> None:
    assert acpi.tables_of(tables())
    with pytest.raises(ArtefactError):
        acpi.tables_of(content)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({b"RSDT": b""}, "0 tables RSDT"),
        ({b"DSDT": b""}, "0 tables DSDT"),
        ({b"SSDT": table(b"FACP", bytes(208))}, "2 tables FACP"),
        ({b"FACP": table(b"FACP", bytes(7))}, "FADT of 43 bytes"),
        ({b"RSDT": table(b"RSDT", bytes(7))}, "RSDT of 43 bytes"),
    ],
)
def test_tables_without_what_the_loader_links_are_refused(parts: dict[bytes, bytes], message: str) -> None:
    acpi.derive(tables({b"SSDT": table(b"SSDT", bytes(208))}))
    with pytest.raises(ArtefactError, match=message):
        acpi.derive(tables(parts))


@given(data=st.data())
def test_any_change_is_read_or_refused(data: st.DataObject) -> None:
    changed = bytearray(tables(size=600))
    for _ in range(data.draw(st.integers(min_value=1, max_value=6))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = acpi.derive(bytes(changed))
    except ArtefactError:
        return
    assert made.tables == bytes(changed)
    found = acpi.tables_of(bytes(changed))
    assert sum(item.length for item in found) <= len(changed)
    assert acpi_measured.fetched(made.loader) == (acpi.RSDP_FILE, acpi.TABLES_FILE)


@given(st.binary(max_size=1024))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ArtefactError):
        acpi.tables_of(content)
