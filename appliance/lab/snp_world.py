"""A synthetic SEV-SNP world: roots of its own, a machine under them, its evidence and its collateral.

Reports have the real layout and verify with the real verifier under :attr:`SyntheticSnp.root_der`, so every check of
production runs. :class:`~appliance.lab.snp_machine.SnpAttack` says what is wrong. Release policies trust none of it.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.lab.snp_machine import LEVELS, OLD_LEVELS, Firmware, SnpAttack, SnpMachine
from appliance.lab.snp_pki import SnpPki
from attestation.errors import EvidenceError
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.snp.roots import root_key_id
from attestation.snp.tcb import Product, Tcb
from attestation.snp.vek import HARDWARE_ID_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SnpAttack", "SnpMachine", "SnpPki", "SyntheticSnp"]
_DAY = dt.timedelta(days=1)
_QUERY = {"fmcSPL": "fmc", "blSPL": "bootloader", "teeSPL": "tee", "snpSPL": "snp", "ucodeSPL": "microcode"}


class SyntheticSnp:
    """A world with one machine; it is a platform, too, whose evidence bundles can carry.

    Args:
        attack: What is wrong with it.
        machine: What it is.
        pki: AMD's keys for its product, to share between worlds; made by default.
        clock: Unix time.

    Attributes:
        attack: What is wrong with it.
        machine: What it is.
        pki: AMD's keys.
        chip_id: 64 bytes.
        tcb: The patch level that its key is certified for.
    """

    name = "snp"

    def __init__(
        self,
        attack: SnpAttack | None = None,
        *,
        machine: SnpMachine | None = None,
        pki: SnpPki | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.attack = attack or SnpAttack()
        self.machine = machine or SnpMachine()
        product = self.machine.product
        self.pki = pki or SnpPki(product, clock())
        self._clock = clock
        self._stranger: SnpPki | None = None
        self._keys: dict[tuple[bytes, bytes], ec.EllipticCurvePrivateKey] = {}
        size = HARDWARE_ID_SIZES[product]
        self.chip_id = os.urandom(size).ljust(64, b"\0")
        self._other_chip = os.urandom(size).ljust(64, b"\0")
        self.tcb = Tcb.of(product, **(OLD_LEVELS if self.attack.outdated_tcb else LEVELS)[product])
        self._firmware = Firmware(machine=self.machine, attack=self.attack, chip_id=self.chip_id, tcb=self.tcb)

    @property
    def root_der(self) -> bytes:
        """The root certificate of this world."""
        return self.pki.ark.der

    @property
    def roots(self) -> frozenset[bytes]:
        """What a policy trusts to take this world's machine."""
        return frozenset({root_key_id(self.root_der)})

    def report(self, report_data: bytes) -> bytes:
        """A signed report over 64 bytes."""
        return self._firmware.report(report_data, self._key(self.chip_id, self.tcb))

    def evidence(self, report_data: bytes) -> bytes:
        """Encoded :class:`attestation.snp.evidence.SnpEvidence` over 64 bytes, with what the host keeps."""
        certificates = {}
        if self.machine.host_certificates:
            shown = self._collateral()
            certificates = {self._leaf_name: shown.vek, "ask": shown.ask, "ark": shown.ark}
        return SnpEvidence(self.report(report_data), certificates).encode()

    async def collect(self, report_data: bytes) -> bytes:
        """As :meth:`evidence`: a platform's way to ask."""
        return self.evidence(report_data)

    def collateral(self) -> bytes:
        """Encoded :class:`attestation.snp.collateral.SnpCollateral` of the machine."""
        return self._collateral().encode()

    def kds(self, path: str) -> bytes | None:
        """Answer as AMD's key distribution service does (57230, section 4).

        Args:
            path: With its query: ``/vcek/v1/Genoa/cert_chain``, ``/vcek/v1/Genoa/crl``,
                ``/vcek/v1/Genoa/<chip id>?blSPL=…``; for clouds' keys ``/vlek/v1/…`` with ``cert?blSPL=…``.

        Returns:
            PEM of a chain, DER of anything else; ``None`` for what AMD would answer with 404.
        """
        path, _, query = path.partition("?")
        parts = path.split("/")
        if len(parts) != 5 or parts[1] not in {"vcek", "vlek"} or parts[2:4] != ["v1", str(self.machine.product)]:
            return None
        vlek, name = parts[1] == "vlek", parts[4]
        if name == "cert_chain":
            pki = self._shown_pki
            issuer = pki.asvk if vlek else pki.ask
            return (self._foreign.ask if self.attack.foreign_issuer else issuer).pem + pki.ark.pem
        if name == "crl":
            return self._crl()
        tcb = _requested_tcb(self.machine.product, query)
        shown = self._other_chip if self.attack.other_chip_certificate else self.chip_id
        size = HARDWARE_ID_SIZES[self.machine.product]
        if (
            tcb is None
            or name != ("cert" if vlek else self.chip_id[:size].hex())
            or vlek != bool(self.machine.provider)
        ):
            return None
        return self._endorsement(shown, tcb)

    def _collateral(self) -> SnpCollateral:
        attack, pki = self.attack, self._shown_pki
        issuer = pki.asvk if self.machine.provider else pki.ask
        return SnpCollateral(
            vek=self._endorsement(self._other_chip if attack.other_chip_certificate else self.chip_id, self.tcb),
            ask=(self._foreign.ask if attack.foreign_issuer else issuer).der,
            ark=pki.ark.der,
            crl=self._crl(),
        )

    @property
    def _leaf_name(self) -> str:
        return "vlek" if self.machine.provider else "vcek"

    @property
    def _foreign(self) -> SnpPki:
        if self._stranger is None:
            self._stranger = SnpPki(self.machine.product, self._clock())
        return self._stranger

    @property
    def _shown_pki(self) -> SnpPki:
        return self._foreign if self.attack.foreign_chain else self.pki

    def _key(self, chip: bytes, tcb: Tcb) -> ec.EllipticCurvePrivateKey:
        """The key that a chip derives for a patch level: another for each."""
        known = self._keys.get((chip, tcb.raw))
        if known is None:
            known = self._keys[chip, tcb.raw] = ec.generate_private_key(ec.SECP384R1())
        return known

    def _endorsement(self, chip: bytes, tcb: Tcb) -> bytes:
        pki, machine = self._shown_pki, self.machine
        begin, end = pki.valid
        if self.attack.expired_certificate:
            end = dt.datetime.fromtimestamp(self._clock(), dt.UTC) - _DAY
        key = self._key(chip, tcb).public_key()
        if machine.provider:
            return pki.asvk.endorse(key, tcb, (begin, end), provider=machine.provider)
        return pki.ask.endorse(key, tcb, (begin, end), hardware_id=chip[: HARDWARE_ID_SIZES[machine.product]])

    def _crl(self) -> bytes | None:
        attack = self.attack
        if attack.missing_crl:
            return None
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC).replace(microsecond=0)
        shift = (40 if attack.future_crl else 0) - (400 if attack.stale_crl else 0)
        dates = (now + (shift - 30) * _DAY, now + (shift + 335) * _DAY)
        pki = self._shown_pki
        issuer = pki.asvk if self.machine.provider else pki.ask
        revoked = [issuer.certificate.serial_number] if attack.revoked_issuer else []
        return (self._foreign if attack.forged_crl else pki).ark.revocation_list(revoked, dates)


def _requested_tcb(product: Product, query: str) -> Tcb | None:
    """The patch level that a query asks for, ``None`` if it asks for none there is."""
    try:
        return Tcb.of(product, **{_QUERY[name]: int(value) for name, value in parse_qsl(query)})
    except (KeyError, ValueError, EvidenceError):
        return None
