"""What registers 1 and 5 hold: ACPI files, boot options, partition tables; and that they are a real machine's.

The real machine is the one of ``tests/tpm/data/guest.bundle`` (QEMU 7.2, Debian's OVMF 2025.02): its log shows the
data of these events beside their digests, so each content is compared with what firmware itself wrote down.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import ovmf_support as ovmf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.evidence import parse_bundle
from attestation.tpm.evidence import parse_evidence
from measurements import acpi_measured, boot_options, gpt_event, tpm_machine
from measurements.acpi import AcpiTables
from measurements.errors import ArtefactError
from measurements.eventlog import parse_tcg2
from measurements.firmware_volume import parse_volume
from measurements.gpt_event import gpt_data
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, variable_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measurements.eventlog import Event

BUNDLE = Path(__file__).resolve().parents[1] / "tpm/data/guest.bundle"
DXE = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
"""Name of the volume that OVMF's menu and shell are in."""


@pytest.fixture(scope="module")
def firmware_log() -> Sequence[Event]:
    logs = parse_evidence(parse_bundle(BUNDLE.read_bytes()).quote).logs
    assert logs is not None
    return parse_tcg2(logs.firmware).events


def of_type(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event.type_name == name]


def test_a_real_machines_boot_options(firmware_log: Sequence[Event]) -> None:
    logged = of_type(firmware_log, "EV_EFI_VARIABLE_BOOT")
    files = [
        ovmf.file(boot_options.MENU, 9, [ovmf.title("UiApp")]),
        ovmf.file(boot_options.SHELL, 9, [ovmf.title("Shell")]),
    ]
    made = boot_options.boot_variables("disk", parse_volume(ovmf.volume(files, name=DXE)))
    assert [event.data for event in logged] == [variable_data(GLOBAL, item.variable, item.data) for item in made]
    assert [event.digests["sha256"] for event in logged] == [hashlib.sha256(item.data).digest() for item in made]
    assert [item.variable for item in made] == ["BootOrder", "Boot0001", "Boot0000", "Boot0002"]


def test_a_real_machines_variables_of_secure_boot(firmware_log: Sequence[Event]) -> None:
    names = ((GLOBAL, "SecureBoot"), (GLOBAL, "PK"), (GLOBAL, "KEK"), (IMAGE_SECURITY, "db"), (IMAGE_SECURITY, "dbx"))
    logged = of_type(firmware_log, "EV_EFI_VARIABLE_DRIVER_CONFIG")
    assert [event.data for event in logged] == [variable_data(vendor, name, b"") for vendor, name in names]
    assert all(hashlib.sha256(event.data).digest() == event.digests["sha256"] for event in logged)


def test_a_real_machines_partition_table(firmware_log: Sequence[Event]) -> None:
    """The event's data are enough to lay the table out again; its own checksums hold over what was laid out."""
    (logged,) = of_type(firmware_log, "EV_EFI_GPT_EVENT")
    header, entries = logged.data[:92], logged.data[100:]
    table = int.from_bytes(header[72:80], "little")
    disk = (bytes(512) + header).ljust(table * 512, b"\0") + entries.ljust(128 * 128, b"\0")
    assert gpt_data(disk) == logged.data
    assert hashlib.sha256(gpt_data(disk)).digest() == logged.digests["sha256"]


def test_a_real_machines_space_for_a_log_is_empty(firmware_log: Sequence[Event]) -> None:
    tables = of_type(firmware_log, "EV_PLATFORM_CONFIG_FLAGS")
    assert len(tables) == 4
    assert tables[2].digests["sha256"] == hashlib.sha256(bytes(acpi_measured.TPM_LOG_SIZE)).digest()


def test_a_real_machines_aggregate_is_made_of_its_registers() -> None:
    logs = parse_evidence(parse_bundle(BUNDLE.read_bytes()).quote).logs
    assert logs is not None
    values = logs.replay()
    content = tpm_machine.boot_aggregate([values.get(number, bytes(32)) for number in range(10)])
    assert hashlib.sha256(bytes(32) + hashlib.sha256(content).digest()).digest() == values[10]


def test_boot_options_follow_the_build_and_the_way_of_booting() -> None:
    dxe = parse_volume(ovmf.dxe())
    direct = boot_options.boot_variables("direct", dxe)
    assert [(item.variable, item.data) for item in direct] == [
        ("BootOrder", b"\0\0"),
        ("Boot0000", boot_options.load_option(0x109, "UiApp", boot_options.file_path(UUID(int=2), boot_options.MENU))),
    ]
    without = boot_options.boot_variables("disk", parse_volume(ovmf.dxe(shell=False)))
    assert [item.variable for item in without] == ["BootOrder", "Boot0001", "Boot0000"]
    assert without[0].data == b"\1\0\0\0"
    with pytest.raises(ArtefactError, match="without its menu"):
        boot_options.boot_variables("disk", parse_volume(ovmf.volume([], name=DXE)))
    nameless = ovmf.volume([ovmf.file(boot_options.MENU, 9, [ovmf.title("UiApp")])])
    with pytest.raises(ArtefactError, match="without a name"):
        boot_options.boot_variables("direct", parse_volume(nameless))


def test_acpi_files_are_measured_in_the_order_of_the_list() -> None:
    tables, root, log = "etc/acpi/tables", "etc/acpi/rsdp", "etc/tpm/log"
    for order in ((root, log, tables), (tables, root)):
        acpi = AcpiTables(tables=b"tables", rsdp=b"root", loader=ovmf.loader(*order))
        found = acpi_measured.contents(acpi)
        assert [file for _, file, _ in found] == ["etc/table-loader", *order]
        events = acpi_measured.events(acpi)
        assert [event.digest for event in events] == [hashlib.sha256(content).digest() for *_, content in found]
        contents = {file: content for _, file, content in found}
        assert (contents[tables], contents[root], contents["etc/table-loader"]) == (b"tables", b"root", acpi.loader)
    for order in ((), (tables,), (root,), (tables, root, tables)):
        with pytest.raises(ArtefactError, match="once each"):
            acpi_measured.events(AcpiTables(tables=b"tables", rsdp=b"root", loader=ovmf.loader(*order)))
    unknown = AcpiTables(tables=b"", rsdp=b"", loader=ovmf.loader(tables, root, "etc/vmgenid_guid"))
    with pytest.raises(ArtefactError, match="etc/vmgenid_guid"):
        acpi_measured.events(unknown)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (bytes(127), "of 127 bytes"),
        (bytes(128) * (acpi_measured.MAX_COMMANDS + 1), "expected entries of 128"),
        (b"\1\0\0\0" + b"a" * 124, "not one"),
        (b"\1\0\0\0" + b"\xff\0" + bytes(122), "not one"),
        (b"\1\0\0\0" + b"a\nb\0" + bytes(120), "not one"),
    ],
)
def test_what_is_no_list_is_refused(loader: bytes, message: str) -> None:
    assert acpi_measured.fetched(ovmf.loader("a", "b")) == ("a", "b")
    with pytest.raises(ArtefactError, match=message):
        acpi_measured.fetched(loader)


def test_used_entries_of_a_partition_table_are_measured() -> None:
    first, second = b"\1" * 128, b"\2" * 128
    disk = ovmf.disk([first, bytes(128), second])
    assert gpt_data(disk) == disk[512 : 512 + 92] + (2).to_bytes(8, "little") + first + second
    assert gpt_data(ovmf.disk([]))[92:] == bytes(8)
    assert gpt_data(ovmf.disk([first], table=40))[100:] == first
    assert gpt_data(ovmf.disk([first], sector=4096), sector=4096)[100:] == first


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (b"", "without a GPT"),
        (bytes(5000), "without a GPT"),
        (ovmf.disk()[:1024], "ends at 17408"),
        (ovmf.disk()[:520] + b"\2" + ovmf.disk()[521:], "revision 0x10002"),
        (ovmf.disk()[:512] + ovmf.disk()[512:524] + b"\xff" + ovmf.disk()[525:], "header of 255 bytes|checksum"),
        (ovmf.disk()[:550] + b"!" + ovmf.disk()[551:], "GPT header with checksum"),
        (ovmf.disk()[:1100] + b"!" + ovmf.disk()[1101:], "GPT entries with checksum"),
        (ovmf.disk(count=0), "GPT with 0 entries"),
        (ovmf.disk(table=2, count=gpt_event.MAX_ENTRIES_BYTES // 128 + 1), "GPT with 8193 entries"),
    ],
)
def test_what_is_no_partition_table_is_refused(disk: bytes, message: str) -> None:
    assert gpt_data(ovmf.disk())  # the control
    with pytest.raises(ArtefactError, match=message):
        gpt_data(disk)


@given(st.integers(500, 1200), st.binary(min_size=1, max_size=8))
def test_damaged_tables_raise_the_declared_error_alone(offset: int, patch: bytes) -> None:
    good = ovmf.disk()
    with contextlib.suppress(ArtefactError):
        gpt_data(good[:offset] + patch + good[offset + len(patch) :])


@given(st.binary(max_size=384))
def test_noise_is_no_list(noise: bytes) -> None:
    with contextlib.suppress(ArtefactError):
        acpi_measured.fetched(noise)
    with contextlib.suppress(ArtefactError):
        gpt_data(bytes(512) + noise)
