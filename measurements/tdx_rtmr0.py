"""RTMR0 of a TDX machine: its firmware's settings, its memory, its ACPI tables and boot options.

Events in order, for firmware of 2024.02 to 2025.02: the list of memory, the volume of variables, five settings of
secure boot, a separator, the ACPI loader and every file that it allocates, the boot order and its options; until
2024.08 a second separator. Later firmware also measures QEMU's settings and SMBIOS, which are no artefact: then the
register is not predicted.

Sources: EDK II ``OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c`` (first two), ``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c``
(settings, separators, boot variables), ``OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c`` (ACPI). Which register holds what:
UEFI 2.10, section 38.4.1 (a TPM's registers 1 and 7).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from measurements import acpi as tables
from measurements import efi_variables, td_hob, tdvf
from measurements.errors import MeasurementError
from measurements.prediction import PredictedEvent
from measurements.tdvf import SectionKind
from measurements.variable_store import parse_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from measurements.acpi import AcpiTables
    from measurements.boot_options import BootVariable
    from measurements.prediction import Input
    from measurements.tdx_firmware import Build, Layout

SEPARATOR: Final = bytes(4)
ACPI_INPUTS: Final[tuple[Input, ...]] = ("devices", "vcpus", "memory", "machine", "qemu", "acpi")
"""What moves ACPI tables, most usual first."""
_FILES: Final[Mapping[str, str]] = {tables.RSDP_FILE: "ACPI root pointer", tables.TABLES_FILE: "ACPI tables"}


def event(content: bytes, name: str, source: str, *inputs: Input) -> PredictedEvent:
    """The event whose digest is that of its contents."""
    return PredictedEvent(hashlib.sha384(content).digest(), name, source, inputs)


def events(
    firmware: bytes,
    parsed: tdvf.Tdvf,
    *,
    layout: Layout,
    build: Build,
    memory: int,
    acpi: AcpiTables,
    boot: Sequence[BootVariable],
) -> tuple[PredictedEvent, ...]:
    """Events of RTMR0.

    Args:
        firmware: The file.
        parsed: Its TDX metadata.
        layout: The order in which it measures.
        build: What is in it.
        memory: Size of the machine's memory, in bytes.
        acpi: What QEMU hands over for the machine.
        boot: Variables of the boot manager, in the order of measuring.

    Raises:
        ArtefactError: Firmware or tables are not what they have to be.
        MeasurementError: Something is measured that no artefact decides.
    """
    if layout.settings_measured:
        raise MeasurementError(
            "firmware of 2025.05 or later measures QEMU's SMBIOS tables and settings here, which are no artefact"
        )
    variables = tdvf.content(firmware, parsed.only(SectionKind.CFV))
    second = () if layout.separator_in_rtmr1 else (separator(),)
    return (
        event(
            td_hob.td_hob(parsed.sections, memory),
            "TD HOB",
            "the list of memory that QEMU writes for firmware: sections of the TDX metadata, size of memory",
            *("memory", "firmware"),
        ),
        event(
            variables,
            "firmware volume CFV",
            "the firmware file's section of variables, as it stands",
            *("firmware", "firmware variables"),
        ),
        *_settings(variables, build),
        separator(),
        *acpi_events(acpi),
        *_boot_variables(boot),
        *second,
    )


def separator() -> PredictedEvent:
    """The end of a phase."""
    return event(SEPARATOR, "separator", "four zero bytes")


def acpi_events(acpi: AcpiTables) -> tuple[PredictedEvent, ...]:
    """The loader, then every file that it allocates.

    Raises:
        ArtefactError: The loader is no list of commands.
        MeasurementError: It allocates a file that is not at hand.
    """
    contents = {tables.RSDP_FILE: acpi.rsdp, tables.TABLES_FILE: acpi.tables}
    files = tables.allocated(acpi.loader)
    unknown = [name for name in files if name not in contents]
    if unknown or set(files) != set(contents) or len(files) != len(contents):
        raise MeasurementError(
            f"ACPI loader that allocates {', '.join(files)[:200] or 'nothing'}, expected {', '.join(contents)}",
            hint="a device such as a TPM adds a file of its own, which is measured too: leave it out of the machine",
        )
    return (
        event(acpi.loader, "ACPI table loader", "QEMU's file etc/table-loader, filling included", *ACPI_INPUTS),
        *(event(contents[name], _FILES[name], f"QEMU's file {name}, filling included", *ACPI_INPUTS) for name in files),
    )


def _settings(variables: bytes, build: Build) -> tuple[PredictedEvent, ...]:
    store = parse_store(variables)
    if build.secure_boot and store.secure_boot:
        raise MeasurementError(
            "firmware enforces secure boot: which key admitted the image is measured here too, and is not predicted"
        )
    return tuple(
        event(content, f"variable {name}", f"name and value of the variable {name}", "firmware variables", "firmware")
        for name, content in efi_variables.secure_boot_events(store, known=build.secure_boot)
    )


def _boot_variables(boot: Sequence[BootVariable]) -> tuple[PredictedEvent, ...]:
    return tuple(
        event(item.data, item.name, f"value of the variable {item.variable}", "boot", "devices", "firmware")
        for item in boot
    )
