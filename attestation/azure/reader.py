"""Reading Azure's evidence: bytes and roots in, verified claims out, with the checks that belong to it.

Four links are verified here: AMD's chain to the processor's report; the report's data is the hash of the runtime data;
the runtime data names the key; the key, which can sign nothing but the TPM's own statements, signed the quote of the
registers that are shown. What paravisor, machine and registers have to be is the rules' business
(:mod:`attestation.azure.rules`).

A machine under TDX is recognised and refused. Azure's TDs lack SEPT_VE_DISABLE, so a host may take pages from under
the guest and hand it other ones; whether its paravisor defends against that is for a policy that knows paravisors of
TDX, which does not exist yet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.azure import references
from attestation.azure.evidence import parse_azure
from attestation.azure.hcl import parse_hcl
from attestation.azure.runtime import parse_runtime
from attestation.errors import EvidenceError
from attestation.snp import reader as snp
from attestation.snp.evidence import SnpEvidence
from attestation.tdx import TdAttribute, attribute_names
from attestation.tpm.chain import Chain
from attestation.tpm.reader import examine
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.azure.hcl import HclReport
    from attestation.azure.runtime import RuntimeData
    from attestation.snp.reader import SnpClaims
    from attestation.tpm.reader import TpmClaims

_TD_REPORT_DATA = 128
_TD_ATTRIBUTES = 512
_WHY_BOUND = "it ties the vTPM's key to the paravisor that the processor measured"


@dataclass(frozen=True, slots=True)
class AzureClaims:
    """What verified evidence says.

    Attributes:
        runtime: What the paravisor says of itself.
        snp: What the processor says of the paravisor.
        tpm: What the vTPM says of what was booted.
    """

    runtime: RuntimeData
    snp: SnpClaims
    tpm: TpmClaims

    @property
    def image_hash(self) -> bytes:
        """Identity of paravisor, image and configuration, 32 bytes."""
        return references.image_hash(self.snp.report.measurement, self.tpm.registers)

    @property
    def report_data_seen(self) -> bytes:
        """What the vTPM's quote was asked for, 32 bytes (:func:`attestation.tpm.evidence.qualifying_data`)."""
        return self.tpm.extra

    @property
    def machine(self) -> bytes:
        """The chip's identifier, 64 bytes; empty where the host masks it."""
        return self.snp.machine

    @property
    def root_key_id(self) -> bytes:
        """SHA-384 of the public key of AMD's root, 48 bytes."""
        return self.snp.root_key_id

    @property
    def expires_at(self) -> float:
        """Unix time at which the first certificate or the revocation list expires."""
        return self.snp.expires_at


def read(
    data: bytes, collateral: bytes | None, roots: frozenset[bytes], now: float
) -> tuple[AzureClaims | None, tuple[Check, ...]]:
    """Verify evidence under the given roots.

    Args:
        data: The evidence.
        collateral: :class:`attestation.snp.collateral.SnpCollateral`, encoded; without it the certificates in the
            evidence are used, if there are enough of them.
        roots: Key ids of AMD's roots, or those of a run; 48 bytes each (:mod:`attestation.snp.roots`).
        now: Unix time.

    Returns:
        Claims, ``None`` unless every check passed, and the checks.
    """
    try:
        evidence = parse_azure(data)
        report = parse_hcl(evidence.report)
        runtime = parse_runtime(report.runtime)
    except EvidenceError as error:
        return None, (Check("azure evidence", False, error.message, "evidence of an Azure machine", error.hint),)
    if report.kind == "tdx":
        return None, (_bound(report, report.hardware[_TD_REPORT_DATA : _TD_REPORT_DATA + 64]), _no_tdx(report))
    shown = SnpEvidence(report.hardware, evidence.certificates).encode()
    found, checks = snp.read(shown, collateral, roots, now)
    if found is None:
        return None, checks
    checks = (*checks, _bound(report, found.report.report_data))
    vouched = Chain(runtime.key, found.machine, found.root_key_id, found.expires_at)
    quoted, more = examine(evidence.tpm, vouched, source="runtime data")
    checks = (*checks, *more)
    if quoted is None or not all(check.passed for check in checks):
        return None, checks
    return AzureClaims(runtime, found, quoted), checks


def _bound(report: HclReport, seen: bytes) -> Check:
    return Check(
        "runtime data",
        seen == report.bound,
        seen.hex(),
        report.bound.hex(),
        "the runtime data was altered, or belongs to another report",
        why=_WHY_BOUND,
    )


def _no_tdx(report: HclReport) -> Check:
    """The check that refuses a TD, with what its report says; nobody signed that report for strangers."""
    (raw,) = struct.unpack_from("<Q", report.hardware, _TD_ATTRIBUTES)
    names = ", ".join(attribute_names(raw.to_bytes(8, "little"))) or "no bit set"
    lacking = not raw >> TdAttribute.SEPT_VE_DISABLE & 1
    return Check(
        "paravisor hardware",
        False,
        f"TDX, td_attributes: {names}",
        "SEV-SNP",
        f"Azure's TDs {'lack SEPT_VE_DISABLE' if lacking else 'have a paravisor that no policy here knows'}: "
        "refused until a policy for paravisors of TDX exists; use a machine with AMD's processor",
        why="without SEPT_VE_DISABLE a host may take away a page of the guest's memory and have it read as another",
    )
