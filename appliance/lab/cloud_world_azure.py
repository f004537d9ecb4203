"""An Azure of our own: a synthetic processor with a paravisor over it that holds a vTPM and speaks for its key.

The processor, and what can be wrong with its report, is :class:`appliance.lab.snp_world.SyntheticSnp`'s. What can be
wrong above it is one field of :class:`AzureAttack` each; with none of them set the evidence is an honest machine's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.lab.errors import LabError
from appliance.lab.paper_tpm import PaperTpm
from appliance.lab.snp_world import SnpMachine, SyntheticSnp
from attestation.azure.evidence import AzureEvidence
from attestation.azure.hcl import HARDWARE_SIZE, TD_REPORT_SIZE
from attestation.azure.references import MICROSOFT_ID_KEYS
from attestation.azure.runtime import KEY_NAME, USER_DATA_SIZE
from attestation.snp.collateral import SnpCollateral
from attestation.snp.evidence import SnpEvidence
from attestation.tpm.evidence import qualifying_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.lab.paper_tpm import Booted
    from attestation.tpm.evidence import TpmEvidence

PARAVISOR = SnpMachine(
    measurement=hashlib.sha384(b"chrysalis simulated paravisor").digest(), id_key_digest=min(MICROSOFT_ID_KEYS)
)
"""What the processor reports of a healthy machine here."""

_SNP, _TDX = 2, 4
_UNASKED = bytes(USER_DATA_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAttack:
    """What is wrong with the evidence; one field an attack.

    Attributes:
        runtime_altered: The runtime data was changed after the processor's report was made: it allows a console.
        key_swapped: It was changed to name the attacker's key, which signed the quote.
        other_vtpm: The quote is another machine's vTPM's, shown with this one's key.
        key_of_another: Key and quote are another machine's vTPM's; the report is this one's.
        report_of_another: The processor's report is another machine's, of the same kind and on the same chip.
        unrestricted_key: The key signs whatever it is given.
        replayed: The vTPM's quote was made for another question.
        stale_report: The processor's report was made for another question.
        register_altered: A register is shown with another value than was quoted.
        log_altered: The log leaves an event out.
        tdx: The machine is one of Azure's under TDX.
        tpm_disabled: The host's settings say that there is no vTPM.
    """

    runtime_altered: bool = False
    key_swapped: bool = False
    other_vtpm: bool = False
    key_of_another: bool = False
    report_of_another: bool = False
    unrestricted_key: bool = False
    replayed: bool = False
    stale_report: bool = False
    register_altered: bool = False
    log_altered: bool = False
    tdx: bool = False
    tpm_disabled: bool = False


class AzureWorld:
    """One machine; it is a platform, too, whose evidence bundles can carry.

    Args:
        booted: What it booted.
        snp: The processor under it; a healthy one with roots of its own by default.
        attack: What is wrong.
        key: Attestation key of a TPM elsewhere that the paravisor speaks for, instead of the one on paper.

    Attributes:
        snp: The processor.
        vtpm: The paravisor's vTPM.
    """

    name = "azure"

    def __init__(
        self,
        booted: Booted,
        snp: SyntheticSnp | None = None,
        *,
        attack: AzureAttack | None = None,
        key: rsa.RSAPublicKey | None = None,
    ) -> None:
        self._attack = attack or AzureAttack()
        self._booted = booted
        self.snp = snp or SyntheticSnp(machine=PARAVISOR)
        self.vtpm = PaperTpm(booted.logs, restricted=not self._attack.unrestricted_key)
        self._key = key or self.vtpm.key

    @property
    def roots(self) -> frozenset[bytes]:
        """Key ids that a policy has to trust to take this machine."""
        return self.snp.roots

    @property
    def certificates(self) -> Mapping[str, bytes]:
        """What Azure keeps for the machine, DER by name; no revocation list is among it."""
        found = SnpCollateral.parse(self.snp.collateral())
        return {"vcek": found.vek, "ask": found.ask, "ark": found.ark}

    @property
    def certification(self) -> bytes:
        """As Azure's metadata service answers: certificates as PEM in JSON."""
        found = SnpCollateral.parse(self.snp.collateral())
        answer = {"vcekCert": _pem(found.vek), "certificateChain": _pem(found.ask) + _pem(found.ark), "tcbm": "0"}
        return json.dumps(answer).encode()

    def evidence(self, report_data: bytes, *, fresh: bool = True) -> bytes:
        """What the machine shows for 64 bytes of report data; without ``fresh`` the form for certificates."""
        attack = self._attack
        user_data = _UNASKED if attack.stale_report or not fresh else report_data
        signing = self._other() if attack.other_vtpm or attack.key_of_another or attack.key_swapped else self.vtpm
        asked = bytes(64) if attack.replayed else report_data
        tpm = signing.evidence(qualifying_data(asked), (), with_logs=fresh)
        report = self.report(user_data, signing.key if attack.key_swapped else None)
        return AzureEvidence(report=report, tpm=self._spoiled(tpm), certificates=self.certificates).encode()

    async def collect(self, report_data: bytes) -> bytes:
        """As :meth:`evidence` for certificates: a platform's way to ask."""
        return self.evidence(report_data, fresh=False)

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """As :meth:`evidence`: a platform's way to ask."""
        return self.evidence(report_data)

    def report(self, user_data: bytes, shown: object = None) -> bytes:
        """The paravisor's report, without the zeros behind it.

        Args:
            user_data: What the guest had put in, 64 bytes.
            shown: A key that the runtime data names instead of the one that the processor's report speaks for.
        """
        attack = self._attack
        claims = self._claims(user_data)
        runtime = _json(claims)
        if attack.tdx:
            return wrapped(_td_report(_bound(runtime)), runtime, _TDX)
        spoken_of = _json({**claims, "keys": [_jwk(self._other().key)]}) if attack.report_of_another else runtime
        hardware = SnpEvidence.parse(self.snp.evidence(_bound(spoken_of))).report
        if attack.runtime_altered:
            claims["vm-configuration"]["console-enabled"] = True
        if shown is not None:
            claims["keys"] = [_jwk(shown)]
        return wrapped(hardware, _json(claims), _SNP)

    def _claims(self, user_data: bytes) -> dict[str, Any]:
        settings = {
            "console-enabled": False,
            "secure-boot": True,
            "tpm-enabled": not self._attack.tpm_disabled,
            "tpm-persisted": False,
            "vmUniqueId": "D270E56B-0000-0000-0000-000000000000",
        }
        keys = [_jwk(self._key)]
        return {"keys": keys, "vm-configuration": settings, "user-data": user_data.hex().upper()}

    def _spoiled(self, tpm: TpmEvidence) -> TpmEvidence:
        if self._attack.other_vtpm:
            return replace(tpm, key=self.vtpm.public)
        if self._attack.register_altered:
            shown = bytearray(tpm.registers[4])
            shown[0] ^= 1
            return replace(tpm, registers=(*tpm.registers[:4], bytes(shown), *tpm.registers[5:]))
        if self._attack.log_altered and tpm.logs is not None:
            return replace(tpm, logs=replace(tpm.logs, system=()))
        return tpm

    def _other(self) -> PaperTpm:
        return PaperTpm(self._booted.logs)


def wrapped(hardware: bytes, runtime: bytes, kind: int) -> bytes:
    """The paravisor's report around a hardware report (:mod:`attestation.azure.hcl`)."""
    size = 20 + len(runtime)
    head = struct.pack("<4sIIII12x", b"HCLA", 2, 32 + HARDWARE_SIZE + size, 2, 0)
    data = struct.pack("<5I", size, 1, kind, 1, len(runtime))
    return head + hardware.ljust(HARDWARE_SIZE, b"\0") + data + runtime


def _bound(runtime: bytes) -> bytes:
    return hashlib.sha256(runtime).digest() + bytes(32)


def _td_report(report_data: bytes) -> bytes:
    """A TD report of Azure's kind: its TDs lack SEPT_VE_DISABLE."""
    return (bytes((0x81,)).ljust(128, b"\0") + report_data).ljust(TD_REPORT_SIZE, b"\0")


def _jwk(key: object) -> dict[str, Any]:
    if not isinstance(key, rsa.RSAPublicKey):
        raise LabError("paravisors have RSA keys")
    numbers = key.public_numbers()
    return {"kid": KEY_NAME, "key_ops": ["sign"], "kty": "RSA", "e": _base64(numbers.e), "n": _base64(numbers.n)}


def _base64(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _json(claims: dict[str, Any]) -> bytes:
    return json.dumps(claims, separators=(",", ":")).encode()


def _pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode("ascii")
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
