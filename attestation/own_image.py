"""The identity that evidence of this machine's own will have, read off it before anybody has verified it.

A workload statement names the image that the evidence measures. Whoever makes one needs that value first; a verifier
computes it again from what it has verified, and refuses a statement that names another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation import claims
from attestation.readers import form_of
from attestation.tdx import parse_quote
from attestation.tpm import references
from attestation.tpm.evidence import REGISTERS, TpmEvidence, parse_evidence

if TYPE_CHECKING:
    from collections.abc import Mapping


def own_image(evidence: bytes) -> bytes:
    """The image hash that a verifier will find, if the evidence is genuine; 32 bytes.

    Args:
        evidence: What this machine's platform collected.

    Raises:
        EvidenceError: The evidence cannot be read.
    """
    match form_of(evidence):
        case "tdx":
            return claims.image_hash(parse_quote(evidence).report.measurements)
        case "tpm":
            return references.image_hash(_registers(parse_evidence(evidence)))
        case "snp":
            return _snp(evidence)
        case "azure":
            return _azure(evidence)
        case "gcp":
            return _gcp(evidence)


def _snp(evidence: bytes) -> bytes:
    from attestation.snp.evidence import SnpEvidence  # noqa: PLC0415 - another machine loads none of it
    from attestation.snp.reader import PLATFORM  # noqa: PLC0415 - as above
    from attestation.snp.report import parse_report  # noqa: PLC0415 - as above

    report = parse_report(SnpEvidence.parse(evidence).report)
    values = {"measurement": report.measurement, "host_data": report.host_data}
    return claims.platform_image_hash(PLATFORM, values)


def _azure(evidence: bytes) -> bytes:
    from attestation.azure import references as azure  # noqa: PLC0415 - as above
    from attestation.azure.evidence import parse_azure  # noqa: PLC0415 - as above
    from attestation.azure.hcl import parse_hcl  # noqa: PLC0415 - as above
    from attestation.snp.report import parse_report  # noqa: PLC0415 - as above

    shown = parse_azure(evidence)
    measurement = parse_report(parse_hcl(shown.report).hardware).measurement
    return azure.image_hash(measurement, _registers(shown.tpm))


def _gcp(evidence: bytes) -> bytes:
    from attestation.gcp import references as gcp  # noqa: PLC0415 - as above
    from attestation.gcp.evidence import parse_gcp  # noqa: PLC0415 - as above

    shown = parse_gcp(evidence)
    tdx = None if shown.tdx is None else claims.image_hash(parse_quote(shown.tdx).report.measurements)
    return gcp.image_hash(_registers(shown.tpm), tdx)


def _registers(evidence: TpmEvidence) -> Mapping[int, bytes]:
    return dict(zip(REGISTERS, evidence.registers, strict=True))
