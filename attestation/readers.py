"""Readers: a quote in, a report and verified claims out. One for each kind of evidence a policy may rest on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from attestation import dcap
from attestation.errors import CollateralError, EvidenceError
from attestation.tdx import TD10_FIELDS, TdReport, parse_quote, without_padding
from attestation.verdict import Check

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
