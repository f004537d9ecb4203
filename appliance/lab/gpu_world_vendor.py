"""The vendor of a synthetic GPU world: who certifies devices, who publishes manifests, who answers about revocation.

Machines of one vendor are genuine to each other's verifiers, as the GPUs of two owners are, so that an attack can
bring a good GPU from elsewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from typing import TYPE_CHECKING

from appliance.lab.gpu_world_attack import GpuAttack, RimFault
from appliance.lab.gpu_world_ocsp import Responder, Subject
from appliance.lab.gpu_world_pki import GB100, GH100, LS10, Authority, Chip, Device, Valid, der, make_device, name
from appliance.lab.gpu_world_publisher import Publisher
from appliance.lab.gpu_world_report import SWITCH_MEASUREMENTS
from appliance.lab.gpu_world_rim import (
    DRIVER_ALTERNATIVES,
    SWITCH_ALTERNATIVES,
    VBIOS_ALTERNATIVES,
    Manifest,
    Signer,
    golden,
    switch_rim_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from appliance.lab.gpu_world_report import Board

FACTORY = dt.datetime(2020, 10, 17, tzinfo=dt.UTC)


class GpuVendor:
    """Roots and authorities of one vendor; a new one has new keys.

    Args:
        clock: Unix time.

    Attributes:
        devices: Every device that it made, for whichever machine.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        root = name("NVIDIA Device Identity CA", organisation="NVIDIA", country=None)
        self._root = Authority(root, Valid(FACTORY))
        self._identities: dict[str, Authority] = {}
        self._provisioners: dict[str, Authority] = {}
        self._responder = Responder()
        self._publisher = Publisher(FACTORY, self._now, self._responder, self._device_signer)
        self.devices: list[Device] = []

    @property
    def device_root(self) -> bytes:
        """Root of devices, DER."""
        return der(self._root.certificate)

    @property
    def rim_root(self) -> bytes:
        """Root of manifests, DER."""
        return self._publisher.root

    def make(
        self,
        chip: Chip,
        fwid: bytes,
        *,
        names_firmware: bool = True,
        signing_key: EllipticCurvePrivateKey | None = None,
    ) -> Device:
        """Make a device in the factory; see :func:`~appliance.lab.gpu_world_pki.make_device`."""
        device = make_device(
            chip,
            self._provisioner(chip),
            Valid(FACTORY),
            fwid,
            names_firmware=names_firmware,
            signing_key=signing_key,
        )
        self.devices.append(device)
        return device

    def chain(self, device: Device) -> tuple[x509.Certificate, ...]:
        """A device's certificates from the leaf to the root."""
        issuers = (self._provisioner(device.chip), self._identity(device.chip), self._root)
        return (device.leaf, device.rom.certificate, *(issuer.certificate for issuer in issuers))

    def driver_values(self, version: str) -> dict[int, tuple[bytes, ...]]:
        """Golden values of a driver."""
        return golden("driver", version, DRIVER_ALTERNATIVES)

    def vbios_values(self, board: Board) -> dict[int, tuple[bytes, ...]]:
        """Golden values of a VBIOS on a kind of board."""
        return golden("vbios", f"{board.project} {board.vbios}", VBIOS_ALTERNATIVES)

    def switch_values(self, bios: str) -> dict[int, tuple[bytes, ...]]:
        """Golden values of a switch's firmware."""
        return golden("switch", bios, SWITCH_ALTERNATIVES)

    def rims(self, board: Board, switch_bios: str | None, attack: GpuAttack) -> dict[str, bytes]:
        """Manifests for one kind of board and, if there is one, a switch; what is missing is not in it."""
        driver, vbios = self.driver_values(board.driver), self.vbios_values(board)
        chip = GB100.name if board.blackwell else GH100.name
        prefix = f"NV_GPU_CC_DRIVER_{chip}" if board.blackwell else f"NV_GPU_DRIVER_{chip}"
        vbios_id = f"NV_GPU_VBIOS_{board.project}_{board.project_sku}_{board.chip_sku}_{board.vbios.replace('.', '')}"
        wanted = [
            ("driver", Manifest(f"{prefix}_{board.driver}", chip, board.driver, driver), vbios),
            ("vbios", Manifest(vbios_id, chip, board.vbios, vbios), driver),
        ]
        if switch_bios:
            rim_id, product = switch_rim_id(switch_bios), LS10.name.replace("_", "")
            values = self.switch_values(switch_bios)
            manifest = Manifest(rim_id, product, switch_bios, values, "NVSwitch", SWITCH_MEASUREMENTS)
            wanted.append(("vbios", manifest, driver))
        return {
            manifest.rim_id: self._publisher.publish(role, manifest, attack.rim_fault(role), others)
            for role, manifest, others in wanted
            if attack.rim_fault(role) is not RimFault.MISSING
        }

    def subjects(self, devices: Iterable[Device], attack: GpuAttack, target: Device | None) -> list[Subject]:
        """Every certificate of these devices and of the manifests whose revocation can be asked for.

        Args:
            devices: The devices.
            attack: Decides who signs manifests.
            target: Whose own certificate an attack calls ``device``.
        """
        found = self._publisher.subjects(attack)
        for device in devices:
            identity, provisioner = self._identity(device.chip), self._provisioner(device.chip)
            found += [
                Subject(device.rom.certificate, provisioner, "device" if device is target else ""),
                Subject(provisioner.certificate, identity, "provisioner"),
                Subject(identity.certificate, self._root, "identity"),
            ]
        return list({subject.fingerprint: subject for subject in found}.values())

    def answer(self, subject: Subject, attack: GpuAttack, nonce: bytes | None = None) -> bytes | None:
        """What the revocation service says of a certificate, DER; ``None`` if nothing.

        Args:
            subject: The certificate.
            attack: What is wrong.
            nonce: The asker's, which the answer repeats.
        """
        others = (other for other in self._publisher.subjects(attack) if other.fingerprint != subject.fingerprint)
        return self._responder.answer(subject, self._now(), attack.ocsp_fault(subject.role), next(others), nonce)

    def _device_signer(self) -> tuple[Signer, Subject]:
        """A device's attestation key where a signer of manifests should be."""
        device = self.make(GH100, hashlib.sha384(b"chrysalis simulated firmware that signs manifests").digest())
        return Signer(device.key, self.chain(device)), Subject(device.rom.certificate, self._provisioner(GH100), "")

    def _identity(self, chip: Chip) -> Authority:
        """Who certifies the provisioners of a generation: GPUs and switches of one have the same."""
        generation = "GB100" if chip is GB100 else "GH100"
        if generation not in self._identities:
            subject = name(f"NVIDIA {generation} Identity", country=None)
            self._identities[generation] = Authority(subject, Valid(FACTORY), self._root)
        return self._identities[generation]

    def _provisioner(self, chip: Chip) -> Authority:
        """Who certifies the boot ROMs of a kind of chip."""
        if chip.name not in self._provisioners:
            number = "00000" if chip is GB100 else "1"
            subject = name(f"NVIDIA {chip.name} Provisioner ICA {number}")
            self._provisioners[chip.name] = Authority(subject, Valid(FACTORY), self._identity(chip))
        return self._provisioners[chip.name]

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC).replace(microsecond=0)
