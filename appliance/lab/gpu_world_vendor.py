"""The vendor of a synthetic GPU world: who certifies devices, who signs manifests, who answers about revocation.

Machines of one vendor are genuine to each other's verifiers, as the GPUs of two owners are, so that an attack can
bring a good GPU from elsewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509 import ocsp

from appliance.lab.gpu_world_attack import GpuAttack, RimFault
from appliance.lab.gpu_world_ocsp import Responder, Subject
from appliance.lab.gpu_world_pki import (
    ENDLESS,
    GB100,
    GH100,
    LS10,
    Authority,
    Chip,
    Device,
    Valid,
    der,
    key_usage,
    make_device,
    name,
    new_key,
    ocsp_location,
)
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
    from collections.abc import Callable, Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from appliance.lab.gpu_world_report import Board

FACTORY = dt.datetime(2020, 10, 17, tzinfo=dt.UTC)
_DAY = dt.timedelta(days=1)
_SIGNER_LIFE = 730 * _DAY


class GpuVendor:
    """Roots and authorities of one vendor; a new one has new keys.

    Args:
        clock: Unix time.

    Attributes:
        devices: Every device that it made, for whichever machine.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        now = self._now()
        self._device_root = Authority(
            name("NVIDIA Device Identity CA", organisation="NVIDIA", country=None), Valid(FACTORY)
        )
        self._identities: dict[str, Authority] = {}
        self._provisioners: dict[str, Authority] = {}
        self._rim_root = Authority(
            name("NVIDIA CoRIM signing Root CA", organisation="NVIDIA"), Valid(FACTORY, now + 9000 * _DAY)
        )
        self._rim_ca = Authority(
            name("NVIDIA Reference Value GH100 CA"), Valid(now - 900 * _DAY, now + 2500 * _DAY), self._rim_root
        )
        self._rim_issuer = Authority(
            name("NVIDIA Reference Value L3 GH100 002"),
            Valid(now - 600 * _DAY, now + 700 * _DAY),
            self._rim_ca,
            path_length=0,
        )
        self._signers: dict[tuple[str, RimFault], tuple[Signer, Subject]] = {}
        self._responder = Responder()
        self.devices: list[Device] = []

    @property
    def device_root(self) -> bytes:
        """Root of devices, DER."""
        return der(self._device_root.certificate)

    @property
    def rim_root(self) -> bytes:
        """Root of manifests, DER."""
        return der(self._rim_root.certificate)

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
        issuers = (self._provisioner(device.chip), self._identity(device.chip), self._device_root)
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
        chip = (GB100 if board.blackwell else GH100).name
        prefix = f"NV_GPU_CC_DRIVER_{chip}" if board.blackwell else f"NV_GPU_DRIVER_{chip}"
        vbios_id = f"NV_GPU_VBIOS_{board.project}_{board.project_sku}_{board.chip_sku}_{board.vbios.replace('.', '')}"
        wanted = [
            ("driver", Manifest(f"{prefix}_{board.driver}", chip, board.driver, self.driver_values(board.driver))),
            ("vbios", Manifest(vbios_id, chip, board.vbios, self.vbios_values(board))),
        ]
        if switch_bios:
            rim_id, product = switch_rim_id(switch_bios), LS10.name.replace("_", "")
            values = self.switch_values(switch_bios)
            wanted.append(("vbios", Manifest(rim_id, product, switch_bios, values, "NVSwitch", SWITCH_MEASUREMENTS)))
        found = {}
        for role, manifest in wanted:
            fault = attack.rim_fault(role)
            values = self.vbios_values(board) if role == "driver" else self.driver_values(board.driver)
            if fault is not RimFault.MISSING:
                found[manifest.rim_id] = self._manifest(role, manifest, fault, values)
        return found

    def subjects(self, devices: Iterable[Device], attack: GpuAttack, target: Device | None) -> list[Subject]:
        """Every certificate of these devices and of the manifests whose revocation can be asked for.

        Args:
            devices: The devices.
            attack: Decides who signs manifests.
            target: Whose own certificate an attack calls ``device``.
        """
        found = [
            Subject(self._rim_ca.certificate, self._rim_root, "rim-ca"),
            Subject(self._rim_issuer.certificate, self._rim_ca, "rim-issuer"),
        ]
        found += [
            self._signer(role, attack.rim if role == attack.rim_of else RimFault.NONE)[1]
            for role in ("driver", "vbios")
        ]
        for device in devices:
            identity, provisioner = self._identity(device.chip), self._provisioner(device.chip)
            role = "device" if device is target else ""
            found += [
                Subject(device.rom.certificate, provisioner, role),
                Subject(provisioner.certificate, identity, "provisioner"),
                Subject(identity.certificate, self._device_root, "identity"),
            ]
        return list({subject.fingerprint: subject for subject in found}.values())

    def answer(self, subject: Subject, attack: GpuAttack, nonce: bytes | None = None) -> bytes | None:
        """What the revocation service says of a certificate, DER; ``None`` if nothing.

        Args:
            subject: The certificate.
            attack: What is wrong.
            nonce: The asker's, which the answer repeats.
        """
        fault = attack.ocsp_fault(subject.role)
        other = Subject(self._rim_ca.certificate, self._rim_root, "")
        if subject.role == "rim-ca":
            other = Subject(self._rim_issuer.certificate, self._rim_ca, "")
        return self._responder.answer(subject, self._now(), fault, other, nonce)

    def _manifest(
        self, role: str, manifest: Manifest, fault: RimFault, others: Mapping[int, tuple[bytes, ...]]
    ) -> bytes:
        """A signed manifest; ``others`` are the golden values of the other manifest that a device needs."""
        signer = self._signer(role, fault)[0]
        if fault is RimFault.CONFLICTING:
            index = min(others.keys() - manifest.values.keys())
            manifest = replace(manifest, values={**manifest.values, index: others[index]})
        if fault is RimFault.OTHER_VERSION:
            digits = manifest.version[:-1] + ("0" if manifest.version[-1] != "0" else "1")
            manifest = replace(manifest, version=digits)
        if fault is RimFault.OTHER_CHIP:
            manifest = replace(manifest, chip="GB100")
        return manifest.signed(signer, fault)

    def _signer(self, role: str, fault: RimFault) -> tuple[Signer, Subject]:
        """Who signs the manifests of a role: made when first needed; a fault of the signer makes another."""
        kind = fault if fault in _SIGNER_FAULTS else RimFault.NONE
        if (role, kind) not in self._signers:
            self._signers[role, kind] = self._make_signer(role, kind)
        return self._signers[role, kind]

    def _make_signer(self, role: str, fault: RimFault) -> tuple[Signer, Subject]:
        issuers = (self._rim_issuer, self._rim_ca, self._rim_root)
        if fault is RimFault.FORGED:
            root = Authority(self._rim_root.subject, self._rim_root.valid)
            ca = Authority(self._rim_ca.subject, self._rim_ca.valid, root)
            issuers = (Authority(self._rim_issuer.subject, self._rim_issuer.valid, ca, path_length=0), ca, root)
        if fault is RimFault.NOT_A_SIGNER:
            device = self.make(GH100, hashlib.sha384(b"firmware").digest())
            chain = self.chain(device)
            return Signer(device.key, chain), Subject(device.rom.certificate, self._provisioner(GH100), role)
        if fault is RimFault.SIGNED_BY_RESPONDER:
            delegate, key = self._responder.delegate(self._rim_issuer, self._now())
            chain = (delegate, *(issuer.certificate for issuer in issuers))
            return Signer(key, chain), Subject(delegate, self._rim_issuer, role)
        if fault is RimFault.SIGNED_BY_AUTHORITY:
            chain = tuple(issuer.certificate for issuer in issuers)
            return Signer(self._rim_issuer.key, chain), Subject(self._rim_issuer.certificate, self._rim_ca, role)
        since = self._now() - 300 * _DAY
        if fault is RimFault.EXPIRED:
            since = self._now() - _SIGNER_LIFE - _DAY
        if fault is RimFault.FUTURE:
            since = self._now() + _DAY
        key = new_key()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (key_usage(signs_certificates=False), True),
            (ocsp_location(), False),
        ]
        leaf = issuers[0].issue(name("HCC RIM L4 Signer"), key, Valid(since, since + _SIGNER_LIFE), extensions)
        chain = (leaf, *(issuer.certificate for issuer in issuers))
        return Signer(key, chain), Subject(leaf, issuers[0], role)

    def _identity(self, chip: Chip) -> Authority:
        generation = "GB100" if chip is GB100 else "GH100"
        if generation not in self._identities:
            subject = name(f"NVIDIA {generation} Identity", country=None)
            self._identities[generation] = Authority(subject, Valid(FACTORY, ENDLESS), self._device_root)
        return self._identities[generation]

    def _provisioner(self, chip: Chip) -> Authority:
        if chip.name not in self._provisioners:
            number = "00000" if chip is GB100 else "1"
            subject = name(f"NVIDIA {chip.name} Provisioner ICA {number}")
            self._provisioners[chip.name] = Authority(subject, Valid(FACTORY), self._identity(chip))
        return self._provisioners[chip.name]

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC).replace(microsecond=0)


_SIGNER_FAULTS = frozenset(
    {
        RimFault.FORGED,
        RimFault.NOT_A_SIGNER,
        RimFault.SIGNED_BY_RESPONDER,
        RimFault.SIGNED_BY_AUTHORITY,
        RimFault.EXPIRED,
        RimFault.FUTURE,
    }
)


def asked_for(request: bytes, subjects: list[Subject]) -> tuple[Subject | None, bytes | None]:
    """What a revocation request (DER) is about.

    Returns:
        The subject, ``None`` for a certificate of somebody else; and the request's nonce, if it has one.

    Raises:
        ValueError: Not a request.
    """
    asked = ocsp.load_der_ocsp_request(request)
    nonces = [item.value.nonce for item in asked.extensions if isinstance(item.value, x509.OCSPNonce)]
    nonce = nonces[0] if nonces else None
    for subject in subjects:
        wanted = (
            ocsp.OCSPRequestBuilder()
            .add_certificate(subject.certificate, subject.issuer.certificate, asked.hash_algorithm)
            .build()
        )
        if (wanted.serial_number, wanted.issuer_key_hash, wanted.issuer_name_hash) == (
            asked.serial_number,
            asked.issuer_key_hash,
            asked.issuer_name_hash,
        ):
            return subject, nonce
    return None, nonce
