"""Reading Google's evidence: bytes and roots in, verified claims out, with the checks that belong to it.

The vTPM's half rests on Google, the TDX half on Intel; both quotes are over the same report data, which the rules check
(:mod:`attestation.gcp.rules`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attestation import claims
from attestation.errors import EvidenceError
from attestation.gcp import references
from attestation.gcp.evidence import parse_gcp
from attestation.gcp.instance import instance_of
from attestation.tpm.chain import verify_chain
from attestation.tpm.reader import examine
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.dcap import QuoteClaims
    from attestation.gcp.instance import Instance
    from attestation.readers import Reader
    from attestation.tdx import TdReport
    from attestation.tpm.reader import TpmClaims

_CHAIN = "a chain to a trusted root"


@dataclass(frozen=True, slots=True)
class GcpClaims:
    """What verified evidence says.

    Attributes:
        instance: Which instance it is, by the attestation key's certificate.
        tpm: What its vTPM says.
        report: The TD report, ``None`` of a machine that shows no TDX quote.
        tdx: What is known of the processor and its TCB; ``None`` likewise.
        expires_at: Unix time at which the first certificate or collateral expires.
    """

    instance: Instance
    tpm: TpmClaims
    report: TdReport | None
    tdx: QuoteClaims | None
    expires_at: float

    @property
    def image_hash(self) -> bytes:
        """Identity of image and configuration, 32 bytes."""
        tdx = claims.image_hash(self.report.measurements) if self.report else None
        return references.image_hash(self.tpm.registers, tdx)

    @property
    def report_data_seen(self) -> bytes:
        """What the vTPM's quote was asked for, 32 bytes (:func:`attestation.tpm.evidence.qualifying_data`)."""
        return self.tpm.extra

    @property
    def machine(self) -> bytes:
        """Identifier of the instance, 32 bytes."""
        return self.tpm.machine

    @property
    def root_key_id(self) -> bytes:
        """SHA-384 of the public key of the vTPM's root, 48 bytes."""
        return self.tpm.root_key_id


def read(
    data: bytes,
    collateral: bytes | None,
    roots: tuple[bytes, ...],
    now: float,
    *,
    tdx: Reader | None = None,
) -> tuple[GcpClaims | None, tuple[Check, ...]]:
    """Verify evidence under the given roots.

    Args:
        data: The evidence.
        collateral: Of the TDX quote, ``None`` if there is none.
        roots: Of the vTPM's attestation key: DER certificates, or key ids of 48 bytes
            (:data:`attestation.gcp.roots.GOOGLE_ROOT_KEY_IDS`).
        now: Unix time.
        tdx: Reads the TDX quote; ``None`` if no root of theirs is trusted.

    Returns:
        Claims, ``None`` unless every check passed, and the checks.
    """
    try:
        evidence = parse_gcp(data)
    except EvidenceError as error:
        return None, (_failed("google evidence", error, "evidence of a Google machine"),)
    try:
        chain = verify_chain(evidence.tpm.chain, roots, usage=None, now=now)
    except EvidenceError as error:
        return None, (_failed("attestation key certificate", error, _CHAIN),)
    certified = Check("attestation key certificate", True, f"under root {chain.root_key_id.hex()[:16]}", _CHAIN)
    try:
        instance = instance_of(evidence.tpm.chain[0])
    except EvidenceError as error:
        return None, (certified, _failed("instance", error, "a certificate that names the instance"))
    found, checks = examine(evidence.tpm, replace(chain, machine=instance.machine), source="certificate")
    checks = (certified, *checks)
    report, quoted, expires = None, None, chain.expires_at
    if evidence.tdx is not None:
        if tdx is None:
            hint = "this policy trusts no root of that kind"
            return None, (*checks, Check("quote", False, "a TDX quote", "a vTPM's quote alone", hint))
        reading = tdx.read(evidence.tdx, collateral, now)
        report, quoted, expires = reading.report, reading.claims, min(expires, reading.expires_at)
        checks = (*checks, *reading.checks)
    if found is None or not all(check.passed for check in checks):
        return None, checks
    return GcpClaims(instance, found, report, quoted, expires), checks


def _failed(name: str, error: EvidenceError, expected: str) -> Check:
    return Check(name, False, error.message, expected, error.hint)
