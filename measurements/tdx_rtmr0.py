"""RTMR0 of a TDX machine: its firmware's settings, its memory, its ACPI tables and boot options.

Events in order, for firmware of 2024.02 to 2025.02: the list of memory, the volume of variables, five settings of
secure boot, a separator, the ACPI loader and every file that it allocates, the boot order and its options; until
2024.08 a second separator. Where secure boot is enforced, also the key that admitted the image. Firmware from 2025.05
on measures QEMU's settings and SMBIOS, too, which are no artefact: then the register is not predicted.

Sources: EDK II ``OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c`` (first two), ``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c``
(settings, separators, boot variables), ``OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c`` (ACPI). Which register holds what:
UEFI 2.10, section 38.4.1 (a TPM's registers 1 and 7).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from measurements import acpi_measured, secure_boot, td_hob, tdvf
from measurements.boot_options import boot_variables
from measurements.errors import ArtefactError, MeasurementError
from measurements.prediction import PredictedEvent
from measurements.tdvf import SectionKind
from measurements.variable_store import parse_store

if TYPE_CHECKING:
    from measurements.acpi import AcpiTables
    from measurements.prediction import Input
    from measurements.shape import Boot
    from measurements.tdvf import Tdvf
    from measurements.tdx_firmware import Build, Layout
    from measurements.variable_store import VariableStore

SEPARATOR: Final = bytes(4)
_ACPI: Final[tuple[Input, ...]] = ("devices", "vcpus", "memory", "machine", "qemu", "acpi")
"""What moves ACPI tables, most usual first."""


def event(content: bytes, name: str, source: str, *inputs: Input) -> PredictedEvent:
    """The event whose digest is that of its contents."""
    return PredictedEvent(hashlib.sha384(content).digest(), name, source, inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What RTMR0 depends on.

    Attributes:
        firmware: The file.
        parsed: Its TDX metadata.
        layout: The order in which it measures.
        build: What is in it.
        memory: Size of the machine's memory, in bytes.
        acpi: What QEMU hands over for the machine.
        boot: Kind of boot.
        started: What firmware loads first, image or kernel; None where it is not at hand. It matters only where secure
            boot is enforced.
    """

    firmware: bytes
    parsed: Tdvf
    layout: Layout
    build: Build
    memory: int
    acpi: AcpiTables
    boot: Boot
    started: bytes | None = None


def variables(firmware: bytes, parsed: Tdvf) -> VariableStore:
    """The variables that a machine starts with.

    Raises:
        ArtefactError: Not one volume of variables, or one that is none.
    """
    return parse_store(tdvf.content(firmware, parsed.only(SectionKind.CFV)))


def enforced(store: VariableStore, build: Build) -> bool:
    """Whether firmware starts only what is signed."""
    return build.secure_boot and store.secure_boot


def events(machine: Machine) -> tuple[PredictedEvent, ...]:
    """Events of RTMR0.

    Raises:
        ArtefactError: Firmware or tables are not what they have to be, or an image is missing or not signed where
            secure boot is enforced.
        MeasurementError: Something is measured that no artefact decides.
    """
    if machine.layout.settings_measured:
        raise MeasurementError(
            "firmware of 2025.05 or later measures QEMU's SMBIOS tables and settings here, which are no artefact"
        )
    store = variables(machine.firmware, machine.parsed)
    if store.booted:
        raise ArtefactError(
            "firmware with the boot options of a machine that ran before: it keeps them and adds to them",
            hint="take the file as it was built",
        )
    options = tuple(
        event(item.data, item.name, f"value of the variable {item.variable}", *item.inputs)
        for item in boot_variables(machine.boot, machine.build.programs)
    )
    ready = options if machine.layout.separator_in_rtmr1 else (*options, separator())
    admitted = _admitted(machine, store)
    return (
        *_found(machine),
        *(
            event(
                content, f"variable {name}", f"name and value of the variable {name}", "firmware variables", "firmware"
            )
            for name, content in secure_boot.policy_contents(store, known=machine.build.secure_boot)
        ),
        separator(),
        *(
            event(content, name, f"QEMU's file {file}, filling included", *_ACPI)
            for name, file, content in acpi_measured.contents(machine.acpi)
        ),
        # QEMU's image is loaded before firmware is ready to boot, a disk's after.
        *((*admitted, *ready) if machine.boot == "direct" else (*ready, *admitted)),
    )


def separator() -> PredictedEvent:
    """The end of a phase."""
    return event(SEPARATOR, "separator", "four zero bytes")


def _found(machine: Machine) -> tuple[PredictedEvent, ...]:
    """What firmware's first code finds."""
    return (
        event(
            td_hob.td_hob(machine.parsed.sections, machine.memory),
            "TD HOB",
            "the list of memory that QEMU writes for firmware: sections of the TDX metadata, size of memory",
            *("memory", "firmware"),
        ),
        event(
            tdvf.content(machine.firmware, machine.parsed.only(SectionKind.CFV)),
            "firmware volume CFV",
            "the firmware file's section of variables, as it stands",
            *("firmware", "firmware variables"),
        ),
    )


def _admitted(machine: Machine, store: VariableStore) -> tuple[PredictedEvent, ...]:
    """Under secure boot: whom firmware trusts for what it starts."""
    if not enforced(store, machine.build):
        return ()
    if machine.started is None:
        raise ArtefactError("no image given, and firmware that enforces secure boot measures who vouches for it")
    content = secure_boot.authority_content(store, machine.started)
    source = "the entry of db that the image's signature leads to"
    return (event(content, "authority db", source, "firmware variables", "image"),)
