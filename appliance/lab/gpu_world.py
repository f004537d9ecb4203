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
from appliance.lab.gpu_world_pki import GB100, GH100, LS10, Chip, Device, new_key, pem
from appliance.lab.gpu_world_report import (
    GPU_MEASUREMENTS,
    SWITCH_MEASUREMENTS,
    Board,
    Report,
    SwitchBoard,
    measured_values,
)
from appliance.lab.gpu_world_vendor import GpuVendor, asked_for
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
        if architecture not in ARCHITECTURES or not 0 <= self.attack.target < max(count, 1):
            raise LabError(
                f"{count} GPUs of {architecture} with an attack on number {self.attack.target}: "
                f"expected one of {', '.join(ARCHITECTURES)} and a target below the count"
            )
        self.vendor = vendor or GpuVendor(clock)
        self._architecture = architecture
        self._chip = GB100 if architecture == "blackwell" else GH100
        self._firmware = _firmware(self._chip)
        self._gpus = [self._make(index) for index in range(count)]
        self._switch_firmware = _firmware(LS10)
        self._switches = [self.vendor.make(LS10, self._switch_firmware) for _ in range(switches)]
        self._switch_bios = switch_bios if switches else None
        links = tuple(switch.pdi for switch in self._switches)
        self._board = Board(driver, vbios, blackwell=architecture == "blackwell", switches=links)
        self._strangers = [self.vendor.make(self._chip, self._firmware) for _ in range(self.attack.extra)]
        if self.attack.device is DeviceFault.RELAYED:
            self._strangers.append(self.vendor.make(self._chip, self._firmware))
        self._forger = GpuVendor(clock) if self.attack.chain is ChainFault.OTHER_ROOT else None
        self._forged = self._forger.make(self._chip, self._firmware) if self._forger else None

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        """Evidence of every device: GPUs first, then switches.

        Raises:
            CollectionError: The driver gives none, because confidential computing is off.
        """
        if self.attack.mode is Mode.OFF:
            raise CollectionError(
                "the GPU is not in confidential-computing mode: its driver gives no evidence",
                hint="switch confidential computing on from the host and reset the GPU",
            )
        gpus = len(self._gpus) - self.attack.missing + self.attack.extra
        switches = len(self._switches) - self.attack.missing_switches
        found = [self.gpu_evidence(index, nonces(index)) for index in range(gpus)]
        return found + [self.switch_evidence(index, nonces(gpus + index)) for index in range(switches)]

    def gpu_evidence(self, index: int, nonce: bytes) -> bytes:
        """What GPU ``index`` answers to 32 bytes, encoded."""
        attack = self.attack
        hit = index == attack.target
        device = self._answering(index)
        report = Report(nonce, *self._said(device), attack.report if hit else ReportFault.NONE)
        chain = self._chain(device) if hit else pem(self.vendor.chain(self._chip, device))
        return DeviceEvidence(
            kind="gpu", architecture=self._architecture, report=report.signed(device.key), chain=chain
        ).encode()

    def switch_evidence(self, index: int, nonce: bytes) -> bytes:
        """What switch ``index`` answers to 32 bytes, encoded."""
        device = self._switches[index]
        values = self.vendor.switch_values(self._switch_bios or "")
        measured = measured_values(values, SWITCH_MEASUREMENTS, {})
        board = SwitchBoard(self._switch_bios or "", tuple(gpu.pdi for gpu in self._gpus[:8]), index)
        report = Report(nonce, measured, board.fields(device, measured)).signed(device.key)
        chain = pem(self.vendor.chain(LS10, device))
        return DeviceEvidence(kind="switch", architecture="ls10", report=report, chain=chain).encode()

    def roots(self) -> GpuRoots:
        """What a verifier has to trust to take this world's devices."""
        return GpuRoots(device=(self.vendor.device_root,), rim=(self.vendor.rim_root,))

    def rims(self) -> dict[str, bytes]:
        """The manifests that the vendor publishes for these devices, by name."""
        return self.vendor.rims(self._board, self._switch_bios, self.attack)

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
        everything = self.vendor.subjects(self.vendor.devices, self.attack, self._target())
        subject, nonce = asked_for(request, everything)
        return None if subject is None else self.vendor.answer(subject, self.attack, nonce)

    @property
    def device_ids(self) -> tuple[bytes, ...]:
        """SHA-256 of each GPU's and then each switch's boot ROM key: what an allow-list names; 32 bytes each."""
        return tuple(_device_id(device) for device in (*self._gpus, *self._switches))

    def _make(self, index: int) -> Device:
        hit = index == self.attack.target
        return self.vendor.make(
            self._chip,
            self._firmware,
            names_firmware=not (hit and self.attack.report is ReportFault.UNNAMED_FWID),
            signing_key=new_key() if hit and self.attack.chain is ChainFault.OTHER_ISSUER else None,
        )

    def _answering(self, index: int) -> Device:
        """Which device answers at an index."""
        attack = self.attack
        if index >= len(self._gpus):
            return self._strangers[index - len(self._gpus)]
        if index != attack.target:
            return self._gpus[index]
        if attack.device is DeviceFault.RELAYED:
            return self._strangers[-1]
        if attack.device is DeviceFault.DUPLICATED:
            return self._gpus[(index + 1) % len(self._gpus)]
        return self._forged or self._gpus[index]

    def _said(self, device: Device) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """Measurements and opaque fields of a GPU."""
        values = self.vendor.driver_values(self._board.driver) | self.vendor.vbios_values(self._board)
        more = {_OWN_INDEX: hashlib.sha384(device.pdi).digest()}
        wrong = set(self.attack.mismatched if device is self._answering(self.attack.target) else ())
        if self.attack.mode is Mode.DEVTOOLS:
            wrong.add(_MODE_INDEX)
        more |= {index: hashlib.sha384(b"something else" + os.urandom(8)).digest() for index in wrong}
        measured = measured_values(values, GPU_MEASUREMENTS, more)
        return measured, self._board.fields(device, measured)

    def _chain(self, device: Device) -> bytes:
        """The target's certificates as its driver hands them out."""
        fault = self.attack.chain
        chain = (self._forger or self.vendor).chain(self._chip, device)
        if fault is ChainFault.NO_PROVISIONER:
            return pem((*chain[:2], *chain[3:]))
        if fault is ChainFault.TOO_LONG:
            return pem((*chain[:2], *chain[2:3] * 20, *chain[3:]))
        return pem(chain)

    def _target(self) -> Device | None:
        return self._answering(self.attack.target) if self._gpus else None

    def _subjects(self) -> list[Subject]:
        """The certificates of this machine's devices and of the vendor's manifests."""
        gpus = [device for device in (*self._gpus, *self._strangers, self._forged) if device is not None]
        devices = dict.fromkeys(gpus, self._chip) | dict.fromkeys(self._switches, LS10)
        return self.vendor.subjects(devices, self.attack, self._target())


def _firmware(chip: Chip) -> bytes:
    """SHA-384 of the firmware that holds attestation keys in this world, 48 bytes."""
    return hashlib.sha384(f"chrysalis simulated {chip.name} firmware".encode()).digest()


def _device_id(device: Device) -> bytes:
    key = device.rom.key.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
