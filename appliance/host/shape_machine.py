"""The machine that a shape describes: launch, capture and prediction agree because one command makes all three.

In: a checked shape (:mod:`measurements.shape`) and this host's files. Out: a :class:`~appliance.host.machine.Machine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.host.errors import MachineError
from appliance.host.machine import STATUS_PORT, Configuration, Forward, Machine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.host.machine import Accelerator, Protection
    from measurements.shape import Shape

DISKS = ("image", "config", "model", "state")
"""Disks of this project's machines in their order."""
STAND_IN_STATE_MIB = 16
_NOTHING = "# a machine that stands in is told nothing\n"


def machine_of(
    shape: Shape,
    *,
    directory: Path,
    image: Path,
    name: str = "shape",
    accel: Accelerator = "auto",
    configuration: Configuration | None = None,
    config_digest: bytes = b"",
    model: Path | None = None,
    state_mib: int | None = None,
    gpus: Sequence[str] = (),
    forwards: tuple[Forward, ...] = (Forward(STATUS_PORT),),
) -> Machine:
    """The machine to launch.

    Args:
        shape: What it has to be.
        directory: Its own files.
        image: Directory of the release's artefacts.
        name: Of the machine.
        accel: As :class:`~appliance.host.machine.Machine` has it.
        configuration: Where the shape has the disk ``config``.
        config_digest: 32 bytes; where the shape is protected.
        model: The model volume, where the shape has the disk ``model``.
        state_mib: Size of the state volume, where the shape has the disk ``state``.
        gpus: PCI addresses of as many GPUs as the shape has.
        forwards: Ports that lead into the guest.

    Raises:
        MachineError: The shape is no machine of this project, or what it has is not given, or given and not in it.
    """
    given = {"config": configuration is not None, "model": model is not None, "state": state_mib is not None}
    for disk, there in given.items():
        if there != (disk in shape.disks):
            raise MachineError(
                f"shape {shape.name} has {'the' if disk in shape.disks else 'no'} disk {disk!r}, "
                f"and {'one' if there else 'none'} is given",
                hint="every device moves what is measured: give what the shape has, or take the shape that fits",
            )
    if len(gpus) != shape.gpus:
        raise MachineError(f"shape {shape.name} has {shape.gpus} GPUs, {len(gpus)} are given")
    return _machine(
        shape,
        name=name,
        directory=directory,
        image=image,
        accel=accel,
        configuration=configuration,
        config_digest=config_digest,
        model=model,
        state_mib=state_mib,
        gpus=tuple(gpus),
        forwards=forwards,
    )


def stand_in_of(shape: Shape, *, directory: Path, image: Path, disk: Path) -> Machine:
    """The machine that stands in for a shape while its ACPI tables are captured: emulated, with nothing on its disks.

    Args:
        shape: What it stands in for.
        directory: Its own files.
        image: Directory with the firmware under the names that a launch expects.
        disk: A file that every read-only disk shows.

    Raises:
        MachineError: The shape is no machine of this project.
    """
    return _machine(
        shape,
        name="stand-in",
        directory=directory,
        image=image,
        disk=str(disk),
        accel="tcg",
        configuration=Configuration(_NOTHING, _NOTHING, _NOTHING) if "config" in shape.disks else None,
        model=disk if "model" in shape.disks else None,
        state_mib=STAND_IN_STATE_MIB if "state" in shape.disks else None,
        gpus=("stand-in",) * shape.gpus,
        forwards=(),
        restrict=True,
        stands_in=True,
    )


def _machine(shape: Shape, **rest: object) -> Machine:
    if shape.qemu is None:
        raise MachineError(
            f"shape {shape.name} is a machine of {shape.platform}: nobody outside can start it",
            hint="its firmware and tables are the cloud's own",
        )
    ordered = tuple(disk for disk in DISKS if disk in shape.disks)
    if shape.disks != ordered or "image" not in shape.disks:
        raise MachineError(
            f"shape {shape.name} has the disks {', '.join(shape.disks)}, expected image first and the order of "
            f"{', '.join(DISKS)}"
        )
    protection: Protection = "none" if shape.platform == "tpm" else shape.platform  # type: ignore[assignment]  # no cloud
    return Machine(
        cpus=shape.vcpus,
        memory_mib=shape.memory_mib,
        boot=shape.boot,
        tpm=shape.tpm,
        protection=protection,
        cpu=shape.cpu,
        machine_type=shape.qemu.machine,
        machine_options=shape.qemu.options,
        network=shape.network,
        devices=shape.devices,
        **rest,  # type: ignore[arg-type]  # as the two functions above give it
    )
