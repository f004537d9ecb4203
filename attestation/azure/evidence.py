"""Evidence of an Azure machine: one canonical CBOR map; values in, bytes out, and back. Nothing here is verified."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attestation import cbor
from attestation.azure.hcl import MAX_REPORT
from attestation.errors import EvidenceError
from attestation.fields import Fields
from attestation.snp.evidence import LIMITS
from attestation.tpm.evidence import MAX_EVIDENCE, TpmEvidence, parse_evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
KIND = "azure"
_FIELDS = frozenset({"kind", "version", "report", "certificates", "tpm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """What an Azure machine shows.

    Attributes:
        report: The paravisor's report (:mod:`attestation.azure.hcl`), without the zeros behind it.
        tpm: The vTPM's quote; its chain is empty, since the report vouches for the key.
        certificates: AMD's certificates that Azure keeps for the machine, DER by names of
            :data:`attestation.snp.evidence.LIMITS`; may be empty.
    """

    report: bytes
    tpm: TpmEvidence
    certificates: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode(
            {
                "kind": KIND,
                "version": VERSION,
                "report": self.report,
                "certificates": dict(self.certificates),
                "tpm": self.tpm.encode(),
            }
        )


def parse_azure(data: bytes) -> AzureEvidence:
    """Read evidence.

    Raises:
        EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
    """
    fields = Fields(cbor.decode(data, max_length=MAX_EVIDENCE), _FIELDS, "Azure evidence")
    if fields["kind"] != KIND or fields.number("version", 2**16) != VERSION:
        raise EvidenceError(f"Azure evidence of version {fields['version']}, expected {VERSION}")
    return AzureEvidence(
        report=fields.data("report", MAX_REPORT),
        tpm=parse_evidence(fields.data("tpm", MAX_EVIDENCE)),
        certificates=_certificates(fields["certificates"]),
    )


def _certificates(value: Any) -> Mapping[str, bytes]:
    if not isinstance(value, dict) or not LIMITS.keys() >= value.keys():
        raise EvidenceError(f"Azure evidence with certificates that are not a map of {sorted(LIMITS)}")
    for name, item in value.items():
        if not isinstance(item, bytes) or not 0 < len(item) <= LIMITS[name]:
            raise EvidenceError(f"Azure evidence with a certificate {name} that is not 1 to {LIMITS[name]} bytes")
    return value
