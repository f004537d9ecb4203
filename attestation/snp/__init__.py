"""AMD SEV-SNP evidence: reports signed by a chip's or a provider's endorsement key, under AMD's pinned roots.

Pure: nothing here opens a file or a socket. :func:`~attestation.snp.reader.read` judges bytes,
:func:`~attestation.snp.rules.snp_rules` says what a production machine has to be; the names below are what other
packages use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from attestation.snp.collateral import SnpCollateral
    from attestation.snp.evidence import SnpEvidence
    from attestation.snp.reader import SnpClaims
    from attestation.snp.report import SnpReport, parse_report
    from attestation.snp.roots import AMD_ROOTS
    from attestation.snp.rules import snp_rules
    from attestation.snp.tcb import Product, Tcb

__all__ = [
    "AMD_ROOTS",
    "Product",
    "SnpClaims",
    "SnpCollateral",
    "SnpEvidence",
    "SnpReport",
    "Tcb",
    "parse_report",
    "snp_rules",
]

_HOMES = {
    "AMD_ROOTS": "roots",
    "Product": "tcb",
    "SnpClaims": "reader",
    "SnpCollateral": "collateral",
    "SnpEvidence": "evidence",
    "SnpReport": "report",
    "Tcb": "tcb",
    "parse_report": "report",
    "snp_rules": "rules",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, _HOMES)
