"""Readers of machines that are no bare TD and no bare TPM: SEV-SNP, and the clouds' own forms.

Their packages are loaded when the first evidence of their kind comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.readers import Reading, nothing

if TYPE_CHECKING:
    from attestation.readers import Form, Reader


@dataclass(frozen=True, slots=True)
class SnpReader:
    """Reads SEV-SNP reports.

    Attributes:
        roots: Key ids of trusted roots, 48 bytes each.
    """

    roots: frozenset[bytes]
    forms: frozenset[Form] = frozenset({"snp"})

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the report."""
        from attestation.snp import reader  # noqa: PLC0415 - most verifiers meet no such machine

        if quote is None:
            return Reading(None, None, (nothing("an SEV-SNP report"),))
        found, checks = reader.read(quote, collateral, self.roots, now)
        return Reading(None, None, checks, found.expires_at if found else math.inf, snp=found)


@dataclass(frozen=True, slots=True)
class AzureReader:
    """Reads the evidence of Azure's machines.

    Attributes:
        roots: Key ids of AMD's roots, 48 bytes each.
    """

    roots: frozenset[bytes]
    forms: frozenset[Form] = frozenset({"azure"})

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the processor's report and the vTPM's quote."""
        from attestation.azure import reader  # noqa: PLC0415 - most verifiers meet no such machine

        if quote is None:
            return Reading(None, None, (nothing("Azure's"),))
        found, checks = reader.read(quote, collateral, self.roots, now)
        return Reading(None, None, checks, found.expires_at if found else math.inf, azure=found)


@dataclass(frozen=True, slots=True)
class GcpReader:
    """Reads the evidence of Google's machines.

    Attributes:
        roots: Of the vTPM's attestation key, DER certificates or key ids of 48 bytes.
        tdx: Reads the TDX quote in it, ``None`` if no root of theirs is trusted.
    """

    roots: tuple[bytes, ...]
    tdx: Reader | None
    forms: frozenset[Form] = frozenset({"gcp"})

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the vTPM's quote and the processor's."""
        from attestation.gcp import reader  # noqa: PLC0415 - most verifiers meet no such machine

        if quote is None:
            return Reading(None, None, (nothing("Google's"),))
        found, checks = reader.read(quote, collateral, self.roots, now, tdx=self.tdx)
        return Reading(None, None, checks, found.expires_at if found else math.inf, gcp=found)
