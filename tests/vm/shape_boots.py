"""Machines of a few shapes: booted until they show evidence of themselves, and what a file-reader predicts of them.

The two halves never meet here: :func:`predicted` is given files and a shape, :func:`booted` a machine.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tomli_w
from machine_texts import HOST, MEASURED, OWNER

from appliance.config import MeasuredConfig
from appliance.host import launch
from appliance.host.acpi_capture import capture
from appliance.host.errors import LaunchError, NotReadyError
from appliance.host.machine import FILES, QEMU, STATUS_PORT, Configuration
from appliance.host.programs import find_program, qemu_release
from appliance.host.shape_machine import machine_of
from appliance.lab.demo_guest import HOST_FROM_GUEST
from attestation import remote
from attestation.errors import HandshakeError
from measurements import tpm_machine
from measurements.artefacts import Artefacts
from measurements.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.lab.tpm_world import TpmWorld
    from attestation.remote import Fetched
    from measurements.prediction import Prediction

TOGETHER = 2
"""Machines that run at a time: as many as processors that the tests may count on."""
START_S = 900.0
POLL_S = 2.0
STARTS = 3
TABLE_BYTES = 64 * 512
"""A partition table's first copy is in these bytes of a disk."""
FAULT = re.compile(r"RIP: 0010:|Kernel panic - not syncing: IO-APIC \+ timer doesn't work")
"""What an emulated kernel says that faulted or whose timer came too late: no more than a busy machine makes of it."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a machine is told: a measured configuration, or a text that it has to refuse."""

    accepted: bool

    @property
    def digest(self) -> bytes | None:
        """Digest of the measured configuration; None where none is accepted."""
        return MeasuredConfig.model_validate(MEASURED).digest() if self.accepted else None

    def texts(self, authority: int) -> Configuration:
        """The configuration volume's texts; ``authority`` is the port of who certifies the TPM's key."""
        host = HOST | {"attestation_ca": f"http://{HOST_FROM_GUEST}:{authority}"}
        measured = tomli_w.dumps(MEASURED) if self.accepted else "nothing = true\n"
        return Configuration(measured=measured, owner=tomli_w.dumps(OWNER), host=tomli_w.dumps(host))


def shape(boot: str, vcpus: int, memory_mib: int) -> Shape:
    """The shape of a machine under the QEMU that is installed."""
    return Shape.model_validate(
        {
            "name": f"{boot}-{vcpus}-{memory_mib}",
            "platform": "tpm",
            "boot": boot,
            "vcpus": vcpus,
            "memory_mib": memory_mib,
            "disks": ("image", "config"),
            "tpm": True,
            "qemu": {"version": qemu_release(str(find_program(QEMU)))},
        }
    )


def predicted(image: Path, wanted: Shape, told: Told) -> Prediction:
    """What the files of a release say that a machine of this shape will measure."""
    code, variables = image / "OVMF_CODE.fd", image / "OVMF_VARS.fd"
    with (image / "chrysalis.raw").open("rb") as disk:
        table = disk.read(TABLE_BYTES)
    artefacts = Artefacts(
        firmware_code=code.read_bytes(),
        firmware_variables=variables.read_bytes(),
        image=(image / "chrysalis.efi").read_bytes(),
        disk=table,
        acpi=capture(wanted, firmware=(code, variables)).tables,
        measured_config=told.digest,
    )
    # A machine whose configuration is refused measures what one without a configuration does.
    kept = wanted if told.accepted else wanted.model_copy(update={"disks": ("image",)})
    return tpm_machine.predict(artefacts, kept)


async def booted(image: Path, home: Path, machines: Sequence[tuple[Shape, Told]], world: TpmWorld) -> list[Fetched]:
    """Boot machines, a few at a time; of each the evidence that it shows. They have ended when this returns."""
    turn = asyncio.Semaphore(TOGETHER)

    async def one(wanted: Shape, told: Told, authority: int) -> Fetched:
        directory = home / wanted.name
        directory.mkdir()
        world.prepare_swtpm(directory / FILES.tpm_state)  # one after the other: they share the authority's files
        machine = machine_of(
            wanted,
            directory=directory,
            image=image,
            name=wanted.name,
            accel="tcg",
            configuration=told.texts(authority),
        )
        async with turn:
            for left in reversed(range(STARTS)):
                vm = await launch.start(machine)
                try:
                    return await _evidence(vm)
                except LaunchError:
                    if not left or FAULT.search(vm.console.read_text(errors="replace")) is None:
                        raise
                finally:
                    await vm.stop(0)
        raise AssertionError(wanted.name)

    async with world.serve() as authority:
        return await asyncio.gather(*(one(wanted, told, authority) for wanted, told in machines))


async def _evidence(vm: launch.RunningVm) -> Fetched:
    """Fresh evidence, as soon as the status port gives it; nothing behind that moves a register."""
    endpoint = remote.Endpoint("127.0.0.1", vm.forwards[STATUS_PORT])
    limit = time.monotonic() + START_S
    while True:
        alive = vm.alive
        try:
            return await asyncio.to_thread(remote.fetch, endpoint, secrets.token_bytes(32))
        except HandshakeError as error:
            if not alive:
                raise LaunchError(f"{vm.name} ended; it said:\n{vm.tail()}") from None
            if time.monotonic() > limit:
                raise NotReadyError(f"no evidence: {error}; {vm.name} said:\n{vm.tail()}") from None
        await asyncio.sleep(POLL_S)
