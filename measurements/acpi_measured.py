"""What firmware measures of the ACPI tables that a machine monitor hands it, into register 1 of a TPM and RTMR0.

Firmware follows a list of commands (``etc/table-loader``): it measures the list, then each file that the list has it
fetch, in that order and before anything is linked. One of the files is empty space for the TPM's own log.

Sources: EDK II ``OvmfPkg/AcpiPlatformDxe/QemuFwCfgAcpi.c`` (InstallQemuFwCfgTables, ProcessCmdAllocate); QEMU
``hw/acpi/bios-linker-loader.c`` (the list's entries, 128 bytes each), ``hw/i386/acpi-build.c`` (64 KiB for the log).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from measurements.errors import ArtefactError
from measurements.prediction import PredictedEvent

if TYPE_CHECKING:
    from measurements.acpi import AcpiTables
    from measurements.prediction import Input

MAX_COMMANDS = 1024
TPM_LOG_SIZE = 64 * 1024
"""``TPM_LOG_AREA_MINIMUM_SIZE``: bytes of the space for the TPM's log."""

_COMMAND = struct.Struct("<I56s68x")
_ALLOCATE = 1
_ALWAYS = frozenset({"etc/acpi/tables", "etc/acpi/rsdp"})
_INPUTS: tuple[Input, ...] = ("acpi", "qemu", "machine", "vcpus", "memory", "devices")


def fetched(loader: bytes) -> tuple[str, ...]:
    """The files that a list of commands has firmware fetch, in order.

    Raises:
        ArtefactError: Not whole entries, too many, or a name that is not text.
    """
    if len(loader) % _COMMAND.size or len(loader) > MAX_COMMANDS * _COMMAND.size:
        raise ArtefactError(f"ACPI table loader of {len(loader)} bytes, expected entries of {_COMMAND.size}")
    names = []
    for kind, name in _COMMAND.iter_unpack(loader):
        if kind == _ALLOCATE:
            text, end, _ = name.partition(b"\0")
            if not end or not text.isascii() or not text.decode().isprintable():
                raise ArtefactError("ACPI table loader with a file name that is not one")
            names.append(text.decode())
    return tuple(names)


def contents(acpi: AcpiTables) -> tuple[tuple[str, str, bytes], ...]:
    """What is measured, in order: name for people, file, content.

    Raises:
        ArtefactError: The list has firmware fetch a file whose content is not known here, one file twice, or not the
            tables and their root pointer.
    """
    known = {
        "etc/acpi/tables": ("ACPI tables", acpi.tables),
        "etc/acpi/rsdp": ("ACPI root pointer", acpi.rsdp),
        "etc/tpm/log": ("space for the TPM's log", bytes(TPM_LOG_SIZE)),
    }
    found = [("ACPI table loader", "etc/table-loader", acpi.loader)]
    files = fetched(acpi.loader)
    for file in files:
        if file not in known:
            raise ArtefactError(
                f"ACPI tables that come with {file}, whose content is not known",
                hint="a device of the machine brings it: leave that out of the shape, or leave this register out",
            )
        found.append((known[file][0], file, known[file][1]))
    if len(set(files)) != len(files) or not _ALWAYS.issubset(files):
        raise ArtefactError(
            f"ACPI table loader that fetches {', '.join(files[:8]) or 'nothing'}, "
            f"expected {' and '.join(sorted(_ALWAYS))} once each"
        )
    return tuple(found)


def events(acpi: AcpiTables) -> tuple[PredictedEvent, ...]:
    """The events of register 1 that are ACPI's; errors as :func:`contents`."""
    return tuple(
        PredictedEvent(
            hashlib.sha256(content).digest(),
            name,
            f"the monitor's file {file}",
            _INPUTS if file != "etc/tpm/log" else (),
        )
        for name, file, content in contents(acpi)
    )
