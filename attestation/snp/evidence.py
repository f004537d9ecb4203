"""What an SEV-SNP machine shows: its report, and the certificates that its host keeps for it. Nothing is verified here.

The host's certificates save a verifier the way to AMD's service; they are checked like any others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.snp.collateral import MAX_CRL, SnpCollateral
from attestation.snp.report import REPORT_SIZE, SigningKey, parse_report
from attestation.snp.vek import MAX_CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "snp"
LIMITS: Mapping[str, int] = {
    "vcek": MAX_CERTIFICATE,
    "vlek": MAX_CERTIFICATE,
    "ask": MAX_CERTIFICATE,
    "ark": MAX_CERTIFICATE,
    "crl": MAX_CRL,
}
"""Names of the certificates that a host may keep, and how long each may be."""

MAX_EVIDENCE = REPORT_SIZE + sum(LIMITS.values()) + 256
_FIELDS = frozenset({"kind", "report", "certificates"})


@dataclass(frozen=True, slots=True)
class SnpEvidence:
    """A report and its host's certificates.

    Attributes:
        report: 1184 bytes.
        certificates: DER by names of :data:`LIMITS`; may be empty.
    """

    report: bytes
    certificates: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode({"kind": KIND, "report": self.report, "certificates": dict(self.certificates)})

    @classmethod
    def parse(cls, data: bytes) -> SnpEvidence:
        """Read evidence.

        Raises:
            EvidenceError: Not canonical, too long, or fields missing, unknown, of another type or out of bounds.
        """
        value = cbor.decode(data, max_length=MAX_EVIDENCE)
        if not isinstance(value, dict) or set(value) != _FIELDS or value["kind"] != KIND:
            raise EvidenceError(f"SNP evidence is not a map of exactly {sorted(_FIELDS)} of kind {KIND!r}")
        report, certificates = value["report"], value["certificates"]
        if not isinstance(report, bytes) or len(report) != REPORT_SIZE:
            raise EvidenceError(f"SNP evidence without a report of {REPORT_SIZE} bytes")
        if not isinstance(certificates, dict) or not LIMITS.keys() >= certificates.keys():
            raise EvidenceError(f"SNP evidence with certificates that are not a map of {sorted(LIMITS)}")
        for name, item in certificates.items():
            if not isinstance(item, bytes) or not 0 < len(item) <= LIMITS[name]:
                raise EvidenceError(f"SNP evidence with a certificate {name} that is not 1 to {LIMITS[name]} bytes")
        return cls(report, certificates)

    def collateral(self) -> SnpCollateral | None:
        """The host's certificates as collateral, ``None`` unless they reach from the report's key to a root.

        Raises:
            EvidenceError: The report cannot be read.
        """
        name = "vlek" if parse_report(self.report).signing_key is SigningKey.VLEK else "vcek"
        found = self.certificates
        if not found.keys() >= {name, "ask", "ark"}:
            return None
        return SnpCollateral(found[name], found["ask"], found["ark"], found.get("crl"))
