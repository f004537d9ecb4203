"""A synthetic GPU world: a machine's GPUs and switches under a vendor of its own, and everything that vouches for them.

Reports, certificates, manifests and revocation answers have the real form and verify with the real verifier under
:meth:`SyntheticGpus.roots`, so every check of production runs. Each vendor makes new roots.
:class:`~appliance.lab.gpu_world_attack.GpuAttack` says what is wrong.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Literal, get_args

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.lab.errors import LabError
from appliance.lab.gpu_world_attack import ChainFault, DeviceFault, GpuAttack, Mode, ReportFault
from appliance.lab.gpu_world_ocsp import asked_for
from appliance.lab.gpu_world_pki import GB100, GH100, LS10, Chip, Device, new_key, pem
from appliance.lab.gpu_world_report import (
    GPU_MEASUREMENTS,
    SWITCH_MEASUREMENTS,
    Board,
    Report,
    SwitchBoard,
    measured_values,
)
from appliance.lab.gpu_world_vendor import GpuVendor
from attestation.errors import CollectionError
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.roots import GpuRoots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.lab.gpu_world_ocsp import Subject

Architecture = Literal["hopper", "blackwell"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
DRIVER = "550.90.07"
VBIOS = "96.00.9F.00.01"
SWITCH_BIOS = "96.10.6D.00.01"
_MODE_INDEX = 9
"""Which measurement, as manifests count, covers the confidential-computing mode: with developer tools it is another."""

MAX_LINKED_GPUS = 8
"""How many GPUs a switch's report names."""

_OWN_INDEX = 41
"""An index that no manifest names and that differs from device to device."""


class SyntheticGpus:
    """The GPUs and switches of one machine: a :class:`attestation.evidence.DeviceCollector`.

    Args:
        count: How many GPUs.
        attack: What is wrong with them.
        driver: Version of the driver.
        vbios: Version of the VBIOS, five bytes in hexadecimal with dots.
        switches: How many NVSwitches; with any, the GPUs say that they are linked (protected PCIe).
        switch_bios: Version of the switches' firmware.
        architecture: ``hopper`` or ``blackwell``.
        clock: Unix time.
        vendor: Who made them; a new vendor by default.

    Raises:
        LabError: An attack's target is not in the machine, or the architecture is unknown.
    """

    def __init__(
        self,
        count: int = 1,
        *,
        attack: GpuAttack | None = None,
        driver: str = DRIVER,
        vbios: str = VBIOS,
        switches: int = 0,
        switch_bios: str = SWITCH_BIOS,
        architecture: Architecture = "hopper",
        clock: Callable[[], float] = time.time,
        vendor: GpuVendor | None = None,
    ) -> None:
        self.attack = attack or GpuAttack()
        if architecture not in ARCHITECTURES or not 0 <= self.attack.target < max(count + switches, 1):
            raise LabError(
                f"{count} GPUs of {architecture} and {switches} switches with an attack on number "
                f"{self.attack.target}: expected one of {', '.join(ARCHITECTURES)} and a target below the count"
            )
        self.vendor = vendor or GpuVendor(clock)
        self._clock = clock
        self._forger: GpuVendor | None = None
        self._architecture = architecture
        chip = GB100 if architecture == "blackwell" else GH100
        made = [self._make(chip if index < count else LS10, index) for index in range(count + switches)]
        self._gpus, self._switches = made[:count], made[count:]
        self._switch_bios = switch_bios
        links = () if self.attack.unlinked else tuple(switch.pdi for switch in self._switches)
        self._board = Board(driver, vbios, blackwell=chip is GB100, switches=links)
        self._strangers = [self._stranger(chip) for _ in range(self.attack.extra)]
        self._answering = list(made)
        if made and (other := self._other(made)) is not None:
            self._answering[self.attack.target] = other

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        """Evidence of every device: GPUs first, then switches.

        Raises:
            CollectionError: The driver gives none, because confidential computing is off.
        """
        attack, count = self.attack, len(self._gpus)
        if attack.mode is Mode.OFF:
            raise CollectionError(
                "the GPU is not in confidential-computing mode: its driver gives no evidence",
                hint="switch confidential computing on from the host and reset the GPU",
            )
        switches = self._answering[count:]
        shown = [
            *self._answering[: count - attack.missing],
            *self._strangers,
            *switches[: len(switches) - attack.missing_switches],
        ]
        return [self._evidence(device, nonces(index)) for index, device in enumerate(shown)]

    def gpu_evidence(self, index: int, nonce: bytes) -> bytes:
        """What GPU ``index`` answers to 32 bytes, encoded."""
        return self._evidence(self._answering[index], nonce)

    def roots(self) -> GpuRoots:
        """What a verifier has to trust to take this world's devices."""
        return GpuRoots(device=(self.vendor.device_root,), rim=(self.vendor.rim_root,))

    def rims(self) -> dict[str, bytes]:
        """The manifests that the vendor publishes for these devices, by name."""
        return self.vendor.rims(self._board, self._switch_bios if self._switches else None, self.attack)

    def ocsp(self) -> dict[bytes, bytes]:
        """Revocation answers for every certificate, DER, by SHA-256 of the certificate."""
        answers = {subject.fingerprint: self.vendor.answer(subject, self.attack) for subject in self._subjects()}
        return {fingerprint: answer for fingerprint, answer in answers.items() if answer is not None}

    def rim(self, rim_id: str) -> bytes | None:
        """One manifest, as the vendor's service looks it up; ``None`` if there is none."""
        return self.rims().get(rim_id)

    def answer_ocsp(self, request: bytes) -> bytes | None:
        """What the vendor's revocation service answers to a request, both DER; ``None`` to one about anything else.

        It knows every device of the vendor's, also other machines'.

        Raises:
            ValueError: Not a request.
        """
        everything = self.vendor.subjects(self.vendor.devices, self.attack, self._target)
        subject, nonce = asked_for(request, everything)
        return None if subject is None else self.vendor.answer(subject, self.attack, nonce)

    @property
    def device_ids(self) -> tuple[bytes, ...]:
        """SHA-256 of each GPU's and then each switch's boot ROM key: what an allow-list names; 32 bytes each."""
        return tuple(_device_id(device) for device in (*self._gpus, *self._switches))

    @property
    def _target(self) -> Device | None:
        """The device that answers at the attacked place."""
        return self._answering[self.attack.target] if self._answering else None

    def _make(self, chip: Chip, index: int) -> Device:
        hit = index == self.attack.target
        return self.vendor.make(
            chip,
            _firmware(chip),
            names_firmware=not (hit and self.attack.report is ReportFault.UNNAMED_FWID),
            signing_key=new_key() if hit and self.attack.chain is ChainFault.OTHER_ISSUER else None,
        )

    def _stranger(self, chip: Chip) -> Device:
        """A genuine device of another machine."""
        return self.vendor.make(chip, _firmware(chip))

    def _other(self, made: Sequence[Device]) -> Device | None:
        """Which device answers in the target's place, if another does."""
        chip = made[self.attack.target].chip
        if self.attack.chain is ChainFault.OTHER_ROOT:
            self._forger = GpuVendor(self._clock)
            return self._forger.make(chip, _firmware(chip))
        if self.attack.device is DeviceFault.RELAYED:
            return self._stranger(chip)
        if self.attack.device is DeviceFault.DUPLICATED:
            alike = [device for device in made if device.chip is chip]
            return alike[(alike.index(made[self.attack.target]) + 1) % len(alike)]
        return None

    def _evidence(self, device: Device, nonce: bytes) -> bytes:
        """What a device answers."""
        hit = device is self._target
        switch = device.chip is LS10
        measured, fields = self._said_by_switch(device) if switch else self._said_by_gpu(device)
        report = Report(nonce, measured, fields, self.attack.report if hit else ReportFault.NONE)
        return DeviceEvidence(
            kind="switch" if switch else "gpu",
            architecture="ls10" if switch else self._architecture,
            report=report.signed(device.key),
            chain=self._spoiled_chain(device) if hit else pem(self.vendor.chain(device)),
        ).encode()

    def _said_by_gpu(self, device: Device) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """Measurements and opaque fields of a GPU."""
        values = self.vendor.driver_values(self._board.driver) | self.vendor.vbios_values(self._board)
        wrong = {_MODE_INDEX} if self.attack.mode is Mode.DEVTOOLS else set()
        more = {_OWN_INDEX: hashlib.sha384(device.pdi).digest()} | self._mismatched(device, wrong)
        measured = measured_values(values, GPU_MEASUREMENTS, more)
        return measured, self._board.fields(device, measured)

    def _said_by_switch(self, device: Device) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """Measurements and opaque fields of a switch."""
        more = self._mismatched(device, set())
        measured = measured_values(self.vendor.switch_values(self._switch_bios), SWITCH_MEASUREMENTS, more)
        position = self._switches.index(device) if device in self._switches else 0
        gpus = tuple(gpu.pdi for gpu in self._gpus[:MAX_LINKED_GPUS])
        board = SwitchBoard(self._switch_bios, gpus, position, locked=not self.attack.unlocked)
        return measured, board.fields(device, measured)

    def _mismatched(self, device: Device, wrong: set[int]) -> dict[int, bytes]:
        """Values that a device measures instead of the published ones."""
        indices = wrong | set(self.attack.mismatched if device is self._target else ())
        return {index: hashlib.sha384(b"something else" + os.urandom(8)).digest() for index in indices}

    def _spoiled_chain(self, device: Device) -> bytes:
        """The target's certificates as its driver hands them out."""
        fault = self.attack.chain
        chain = (self._forger or self.vendor).chain(device)
        if fault is ChainFault.NO_PROVISIONER:
            return pem((*chain[:2], *chain[3:]))
        if fault is ChainFault.TOO_LONG:
            return pem((*chain[:2], *chain[2:3] * 20, *chain[3:]))
        return pem(chain)

    def _subjects(self) -> list[Subject]:
        """The certificates of this machine's devices and of the vendor's manifests."""
        devices = (*self._gpus, *self._switches, *self._answering, *self._strangers)
        return self.vendor.subjects(devices, self.attack, self._target)


def _firmware(chip: Chip) -> bytes:
    """SHA-384 of the firmware that holds attestation keys in this world, 48 bytes."""
    return hashlib.sha384(f"chrysalis simulated {chip.name} firmware".encode()).digest()


def _device_id(device: Device) -> bytes:
    key = device.rom.key.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
