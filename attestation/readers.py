"""Readers: platform evidence in, verified claims out. One for each kind of evidence a policy may rest on.

Evidence says what it is: a TDX quote by its version, everything else is a canonical map with a text field ``kind``
(:func:`form_of`). :class:`ByForm` gives each form to its own reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from attestation import cbor, claims, dcap
from attestation.errors import CollateralError, EvidenceError
from attestation.tdx import TD10_FIELDS, TdReport, parse_quote, without_padding
from attestation.tpm import reader as tpm_reader
from attestation.tpm.evidence import MAX_EVIDENCE
from attestation.verdict import NO_ATTESTATION, Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.azure.reader import AzureClaims
    from attestation.gcp.reader import GcpClaims
    from attestation.snp.reader import SnpClaims
    from attestation.tpm.reader import TpmClaims

Form = Literal["tdx", "tpm", "snp", "azure", "gcp"]
FORMS: tuple[Form, ...] = ("tpm", "snp", "azure", "gcp")
"""Forms that name their kind."""

WORDS: Mapping[str, str] = {
    "tdx": "a TDX quote",
    "tpm": "a TPM's",
    "snp": "an SEV-SNP report",
    "azure": "Azure's",
    "gcp": "Google's",
}
"""Forms of evidence, for a person."""

_MAP = 5
"""CBOR's major type of maps; a TDX quote begins with its version, a small number."""

_QUOTE_HINTS = (
    ("CrlExpired", "collateral is stale: refresh it, and check this machine's clock"),
    ("expired", "collateral is stale: refresh it, and check this machine's clock"),
    ("in the future", "collateral is from the future: check this machine's clock"),
    ("Fmspc", "the collateral belongs to another kind of platform"),
    ("certificate chain", "the chain does not end in this policy's root, or a certificate in it is revoked or expired"),
    ("Debug", "the guest runs in debug mode and can be read by its host"),
    ("migration", "the guest can be migrated, so its state can be taken out"),
    ("service TD", "a service TD is bound to the machine and may take its state out: launch it without one"),
    ("SEPT_VE_DISABLE", "the host can make the guest's memory vanish unseen: launch it with SEPT_VE_DISABLE"),
    ("TDX module identity", "the TDX module is not one that Intel signed"),
    ("TCB status is invalid", "the platform's TCB is revoked"),
    (
        "No matching TCB level",
        "the platform is older than all that Intel lists: update firmware and TDX module",
    ),
    ("CRL", "the collateral lacks a revocation list that can be read: fetch it again, from Intel or another cache"),
    ("Signature is invalid for", "the collateral was altered or is not signed by Intel: fetch it again"),
)
"""What to do, by words of the library's message; the first that fits."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader made of a quote: report and verified claims, and the checks that belong to reading it."""

    report: TdReport | None
    claims: dcap.QuoteClaims | None
    checks: tuple[Check, ...]
    expires_at: float = math.inf
    tpm: TpmClaims | None = None
    snp: SnpClaims | None = None
    azure: AzureClaims | None = None
    gcp: GcpClaims | None = None

    @property
    def _other(self) -> TpmClaims | SnpClaims | AzureClaims | GcpClaims | None:
        """The claims of a machine that is not a bare TD."""
        return self.tpm or self.snp or self.azure or self.gcp

    @property
    def machine(self) -> bytes:
        """Identifier of the machine, empty when unknown."""
        return self._other.machine if self._other else self.claims.ppid if self.claims else b""

    @property
    def root_key_id(self) -> bytes:
        """SHA-384 of the root's public key, empty when no root was involved."""
        return self._other.root_key_id if self._other else self.claims.root_key_id if self.claims else b""

    @property
    def image_hash(self) -> bytes:
        """What was booted, 32 bytes; zeros without attestation."""
        if self._other is not None:
            return self._other.image_hash
        return claims.image_hash(self.report.measurements) if self.report else NO_ATTESTATION


class Reader(Protocol):
    """Turns a quote into a reading."""

    @property
    def forms(self) -> frozenset[Form]:
        """The forms of evidence that it reads; collateral is looked for where it reads a form that needs some."""

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Read a quote; whatever is wrong with it becomes a failed check."""


@dataclass(frozen=True, slots=True)
class NoReader:
    """Takes anything, quote or not, and reads nothing from it (``any``)."""

    forms: frozenset[Form] = frozenset()

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Ignore the quote."""
        return Reading(None, None, (Check("quote", True, "ignored" if quote else "none", "anything"),))


@dataclass(frozen=True, slots=True)
class FakeReader:
    """Reads a 64-byte quote: report data alone, all measurements zero (``fake_tdx``)."""

    forms: frozenset[Form] = frozenset()

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
        memory: Parsed collateral.
    """

    roots: tuple[bytes | None, ...]
    zero_padding: bool = False
    forms: frozenset[Form] = frozenset({"tdx"})
    memory: dcap.CollateralMemory = field(default_factory=dcap.CollateralMemory, compare=False, repr=False)

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the quote under each root until one fits."""
        expected = "a quote that verifies"
        if quote is None:
            return Reading(None, None, (nothing(expected),))
        if self.zero_padding:
            quote = without_padding(quote)
        if collateral is None:
            return Reading(None, None, (_why_none(quote),))
        failure = hint = ""
        for root in self.roots:
            try:
                found = dcap.verify_quote(quote, collateral, root_der=root, now=now, memory=self.memory)
            except (EvidenceError, CollateralError) as error:
                failure, hint = error.message, error.hint
                continue
            check = Check("quote", True, f"version {found.quote.version}, signatures and chain hold", expected)
            return Reading(found.quote.report, found, (check,), found.expires_at)
        hint = next((text for key, text in _QUOTE_HINTS if key in failure), hint)
        return Reading(None, None, (Check("quote", False, failure, expected, hint),))


@dataclass(frozen=True, slots=True)
class TpmReader:
    """Reads the evidence of a TPM under one of several roots.

    Attributes:
        roots: Roots of authorities that certify attestation keys, DER.
    """

    roots: tuple[bytes, ...]
    forms: frozenset[Form] = frozenset({"tpm"})

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Verify the evidence; its certificates are all that is needed."""
        if quote is None:
            return Reading(None, None, (nothing("a TPM's"),))
        found, checks = tpm_reader.read(quote, self.roots, now)
        return Reading(None, None, checks, found.expires_at if found else math.inf, found)


@dataclass(frozen=True, slots=True)
class ByForm:
    """Reads each form of evidence with its own reader; forms without one are not trusted at all.

    Attributes:
        readers: By form.
    """

    readers: Mapping[Form, Reader]

    @property
    def forms(self) -> frozenset[Form]:
        """Every form that has a reader."""
        return frozenset(self.readers)

    def read(self, quote: bytes | None, collateral: bytes | None, now: float) -> Reading:
        """Read by the form that the evidence has."""
        trusted = " or ".join(WORDS[form] for form in self.readers)
        if quote is None:
            return Reading(None, None, (nothing(trusted),))
        try:
            form = form_of(quote)
        except EvidenceError as error:
            return Reading(None, None, (Check("quote", False, error.message, trusted, error.hint),))
        reader = self.readers.get(form)
        if reader is None:
            hint = "this policy trusts no root of that kind"
            return Reading(None, None, (Check("quote", False, WORDS[form], trusted, hint),))
        return reader.read(quote, collateral, now)


def form_of(evidence: bytes) -> Form:
    """What evidence says that it is; nothing about it is verified.

    Raises:
        EvidenceError: A map that is malformed or of a kind that is not known. Whatever is no map counts as a TDX quote,
            whose parser says what is wrong with it.
    """
    if not evidence or evidence[0] >> 5 != _MAP:
        return "tdx"
    kind = cbor.decode(evidence, max_length=MAX_EVIDENCE).get("kind")
    form = next((known for known in FORMS if known == kind), None)
    if form is None:
        raise EvidenceError(
            f"evidence of kind {kind!r:.40}, expected one of {', '.join(FORMS)}", hint="another release may know it"
        )
    return form


def nothing(wanted: str) -> Check:
    """The failed check of a peer that shows no evidence."""
    return Check("quote", False, "none", wanted, "this peer shows no evidence")


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
