"""The files that a machine is made of, written before its launch: firmware variables, configuration, state."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

from appliance.boot.volume import pack
from appliance.host.errors import HostError, MachineError
from appliance.host.machine import FILES, Configuration
from appliance.image.gpt import SECTOR, STATE_LABEL, encode_head, encode_tail, new_table, with_partition

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.host.machine import Machine

MIB = 1 << 20


def require_artefacts(machine: Machine) -> None:
    """Look for every file that the machine is started from.

    Raises:
        MachineError: One is missing; all that are missing are named.
    """
    wanted = [machine.image / machine.disk]
    if machine.protection == "none":
        wanted += [machine.image / "OVMF_CODE.fd", machine.image / "OVMF_VARS.fd"]
    else:
        wanted.append(machine.image / ("OVMF.amdsev.fd" if machine.protection == "snp" else "OVMF.fd"))
    if machine.boot == "direct":
        wanted.append(machine.image / "chrysalis.efi")
    if machine.model is not None:
        wanted.append(machine.model)
    missing = [str(path) for path in wanted if not path.exists()]
    if missing:
        raise MachineError(f"not there: {', '.join(missing)}", hint="chrysalis image build makes an image's directory")


def write_files(machine: Machine) -> None:
    """Write what is the machine's own. Firmware variables are fresh at every launch, so nothing is left in them.

    Raises:
        HostError: A file cannot be written.
        ApplianceError: The configuration does not fit its volume (``appliance.boot.errors``).
    """
    directory = machine.directory
    try:
        console = directory / FILES.console
        if console.exists():
            console.replace(console.with_suffix(".log.1"))
        (directory / FILES.qemu_log).unlink(missing_ok=True)
        if machine.protection == "none":
            shutil.copyfile(machine.image / "OVMF_VARS.fd", directory / FILES.variables)
        if machine.configuration is not None:
            _write_configuration(directory / FILES.configuration, machine.configuration)
        if machine.state_mib is not None:
            make_state(directory / FILES.state, machine.state_mib)
    except OSError as error:
        raise HostError(f"{error.filename or directory}: {error.strerror}") from None


def make_state(path: Path, mib: int) -> None:
    """A sparse disk with one partition of ``mib`` MiB, labelled as the guest looks for it; an existing one is kept.

    Raises:
        MachineError: There is one of another size: it may hold something.
    """
    sectors = (mib + 2) * MIB // SECTOR  # 1 MiB of alignment before the partition, 1 MiB for the backup table
    if path.exists():
        if path.stat().st_size != sectors * SECTOR:
            raise MachineError(
                f"{path} has {path.stat().st_size // MIB - 2} MiB, {mib} MiB are asked for",
                hint="launch with its present size, or move the file away: it holds what the guest kept",
            )
        return
    table = with_partition(new_table(sectors, uuid.uuid4()), mib * MIB, STATE_LABEL, uuid.uuid4())
    new = path.with_suffix(".new")
    with new.open("wb") as handle:
        handle.truncate(sectors * SECTOR)
        handle.write(encode_head(table))
        tail = encode_tail(table)
        handle.seek(sectors * SECTOR - len(tail))
        handle.write(tail)
    new.replace(path)


def _write_configuration(path: Path, configuration: Configuration) -> None:
    """The volume may hold the gas key: only its owner reads it."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(pack(configuration.members()))
