"""What an auditor predicts of the machines that are booted here: from the same files, before they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import staged_boots as boots

from appliance.host.acpi_capture import capture
from appliance.host.machine import QEMU
from appliance.host.programs import find_program, qemu_release
from measurements import tpm_machine
from measurements.artefacts import Artefacts
from measurements.explanation import Candidate
from measurements.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from staged_boots import Site
    from staged_changes import Change

    from measurements.prediction import Prediction
    from measurements.shape import Boot

TABLE_SECTORS = 64 * 512
"""A partition table's first copy is in these bytes of a disk."""


def shape(boot: Boot, changed: Mapping[str, object] | None = None) -> Shape:
    """The shape of the machines that are booted here.

    Args:
        boot: How it is started.
        changed: Over the usual shape; ``machine`` is the machine type.
    """
    values: dict[str, Any] = {
        "name": "staged",
        "platform": "tpm",
        "boot": boot,
        "vcpus": boots.CPUS,
        "memory_mib": boots.MEMORY_MIB,
        "disks": ("image", "config", "model"),
        "tpm": True,
    }
    values |= changed or {}
    version = qemu_release(str(find_program(QEMU)))
    values["qemu"] = {"version": version, "machine": values.pop("machine", "q35")}
    return Shape.model_validate(values)


def predicted(site: Site, wanted: Shape) -> Prediction:
    """Registers of a machine with a site's files, in a shape. QEMU is asked for its tables, started beside no guest."""
    code, variables = site.files / "OVMF_CODE.fd", site.files / "OVMF_VARS.fd"
    with (site.files / "chrysalis.raw").open("rb") as disk:
        first = disk.read(TABLE_SECTORS)
    artefacts = Artefacts(
        firmware_code=code.read_bytes(),
        firmware_variables=variables.read_bytes(),
        image=site.uki,
        disk=first,
        acpi=capture(wanted, firmware=(code, variables)).tables,
        measured_config=boots.config_digest(site.measured),
    )
    return tpm_machine.predict(artefacts, wanted)


def candidates(site: Site, change: Change) -> tuple[Candidate, ...]:
    """The machine in the changed shape, for a change that only its shape tells: tables are all that it moves."""
    if not change.shaped or change.cause is None:
        return ()
    return (Candidate(change.name, (change.cause,), predicted(site, shape(change.boot, change.shaped))),)
