"""Readers: a quote in, a report and verified claims out. One for each kind of evidence a policy may rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from attestation import claims, dcap
from attestation.errors import CollateralError, EvidenceError
from attestation.tdx import TD10_FIELDS, TdReport, parse_quote, without_padding
from attestation.tpm import reader as tpm
from attestation.tpm.evidence import is_tpm_evidence
from attestation.verdict import NO_ATTESTATION, Check

_QUOTE_HINTS = (
    ("CrlExpired", "collateral is stale: refresh it, and check this machine's clock"),
    ("expired", "collateral is stale: refresh it, and check this machine's clock"),
    ("in the future", "collateral is from the future: check this machine's clock"),
    ("Fmspc", "the collateral belongs to another kind of platform"),
    ("certificate chain", "the chain does not end in this policy's root, or a certificate in it is revoked or expired"),
    ("Debug", "the guest runs in debug mode and can be read by its host"),
    ("migration", "the guest can be migrated, so its state can be taken out"),
    ("TCB status is invalid", "the platform's TCB is revoked"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of a quote: report and verified claims, and the checks that belong to reading it."""

    report: TdReport | None
    claims: dcap.QuoteClaims | None
    checks: tuple[Check, ...]
    expires_at: float = math.inf
    tpm: tpm.TpmClaims | None = None

    @property
    def image_hash(self) -> bytes:
        """What was booted, 32 bytes; zeros without attestation."""
        if self.tpm is not None:
            return self.tpm.image_hash
        return claims.image_hash(self.report.measurements) if self.report else NO_ATTESTATION


class Reader(Protocol):
    """Turns a quote into a reading."""

    @property
    def needs_collateral(self) -> bool:
        """Whether :meth:`read` needs collateral."""

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Read a quote; whatever is wrong with it becomes a failed check."""


@dataclass(frozen=True, slots=True)
class NoReader:
    """Takes anything, quote or not, and reads nothing from it (``any``)."""

    needs_collateral: bool = False

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Ignore the quote."""
        return Reading(None, None, (Check("quote", True, "ignored" if quote else "none", "anything"),))


@dataclass(frozen=True, slots=True)
class FakeReader:
    """Reads a 64-byte quote: report data alone, all measurements zero (``fake_tdx``)."""

    needs_collateral: bool = False

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Take the 64 bytes as report data."""
        passed = quote is not None and len(quote) == 64
        seen = "none" if quote is None else f"{len(quote)} bytes"
        check = Check("quote", passed, seen, "64 bytes", "a fake quote is the report data and nothing else")
        if not passed or quote is None:
            return Reading(None, None, (check,))
        fields = {name: bytes(size) for name, size in TD10_FIELDS}
        return Reading(TdReport(**{**fields, "report_data": quote}), None, (check,))


@dataclass(frozen=True, slots=True)
class DcapReader:
    """Reads a real quote under one of several roots.

    Attributes:
        roots: DER certificates; ``None`` is Intel's.
        zero_padding: Whether zeros after a quote are cut rather than refused, as some machines send them.
        needs_collateral: Always.
    """

    roots: tuple[bytes | None, ...]
    zero_padding: bool = False
    needs_collateral: bool = True

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the quote under each root until one fits."""
        expected = "a quote that verifies"
        if quote is None:
            return Reading(None, None, (Check("quote", False, "none", expected, "this peer shows no evidence"),))
        if self.zero_padding:
            quote = without_padding(quote)
        if collateral is None:
            return Reading(None, None, (_why_none(quote),))
        failure = ""
        for root in self.roots:
            try:
                found = dcap.verify_quote(quote, collateral, root_der=root, now=now)
            except (EvidenceError, CollateralError) as error:
                failure = error.message
                continue
            check = Check("quote", True, f"version {found.quote.version}, signatures and chain hold", expected)
            return Reading(found.quote.report, found, (check,), found.expires_at)
        hint = next((text for key, text in _QUOTE_HINTS if key in failure), "")
        return Reading(None, None, (Check("quote", False, failure, expected, hint),))


@dataclass(frozen=True, slots=True)
class TpmReader:
    """Reads the evidence of a TPM under one of several roots.

    Attributes:
        roots: Roots of authorities that certify attestation keys, DER.
    """

    roots: tuple[bytes, ...]
    needs_collateral: bool = False

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the evidence; its certificates are all that is needed."""
        if quote is None:
            return Reading(None, None, (Check("quote", False, "none", "a TPM's", "this peer shows no evidence"),))
        found, checks = tpm.read(quote, self.roots, now)
        return Reading(None, None, checks, found.expires_at if found else math.inf, found)


@dataclass(frozen=True, slots=True)
class AnyReader:
    """Reads what a TPM shows or a TDX quote, whichever it is by its form; one of the two may not be trusted at all.

    Attributes:
        tdx: For TDX quotes, ``None`` if no root of theirs is trusted.
        tpm: For TPM evidence, ``None`` if no root of theirs is trusted.
    """

    tdx: DcapReader | None
    tpm: TpmReader | None

    @property
    def needs_collateral(self) -> bool:
        """Whether quotes are read that need some."""
        return self.tdx is not None

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Read by the form that the evidence has."""
        of_tpm = quote is not None and is_tpm_evidence(quote)
        reader: Reader | None = self.tpm if of_tpm else self.tdx
        if quote is None or reader is None:
            seen = "none" if quote is None else "a TPM's" if of_tpm else "a TDX quote"
            trusted = [name for name, part in (("a TDX quote", self.tdx), ("a TPM's", self.tpm)) if part]
            hint = "this peer shows no evidence" if quote is None else "this policy trusts no root of that kind"
            return Reading(None, None, (Check("quote", False, seen, " or ".join(trusted), hint),))
        return reader.read(quote, collateral, now)


def _why_none(quote: bytes) -> Check:
    """The failed check of a quote without collateral: the quote may be why nobody could look for it."""
    try:
        parse_quote(quote)
        fmspc, _ = dcap.platform_of(quote)
    except EvidenceError as error:
        return Check("quote", False, error.message, "a quote that verifies", error.hint)
    return Check(
        "collateral", False, "none", f"collateral for platform {fmspc}", "configure a source, or let peers staple"
    )
