"""Policies: which evidence is taken as proof, and what it has to say.

A policy is a reader, which turns bytes into a subject, and rules over the subject. ``tdx`` rests on Intel's root;
``simulated`` on roots made for a run, with the same reader and rules; ``fake_tdx`` and ``any`` are the protocol's own
development policies (specification, section 5.7) and prove nothing.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import claims, dcap
from attestation.errors import AttestationError, CollateralError, EvidenceError
from attestation.rules import (
    ZERO48,
    AllOf,
    ConfigBinding,
    PlatformFlags,
    Register,
    ReportData,
    RootKey,
    Rule,
    StatementImage,
    Subject,
    TcbStatus,
    TdAttributes,
    Xfam,
)
from attestation.tdx import TD10_FIELDS, TdReport, without_padding
from attestation.verdict import NO_ATTESTATION, Assurance, Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.claims import WorkloadStatement

_log = structlog.get_logger(__name__)
PolicyName = Literal["tdx", "simulated", "fake_tdx", "any"]
MAX_SIMULATED_ROOTS = 8
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
        if collateral is None:
            check = Check("collateral", False, "none", "collateral for the quote's platform", "configure a source")
            return Reading(None, None, (check,))
        if self.zero_padding:
            quote = without_padding(quote)
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
class Appraisal:
    """What a policy says of one quote; the verifier makes a verdict of it."""

    checks: tuple[Check, ...]
    image_hash: bytes
    expires_at: float
    report: TdReport | None = None
    machine: bytes = b""
    root_key_id: bytes = b""

    def noting(self, check: Check) -> Appraisal:
        """This appraisal with one more check before its own."""
        return replace(self, checks=(check, *self.checks))


@dataclass(frozen=True, slots=True)
class Policy:
    """A reader and rules under a name.

    Attributes:
        name: As in configuration.
        assurance: ``hardware`` only for a policy that rests on the CPU vendor's root.
        reader: Turns the quote into a subject.
        rule: What the subject has to fulfil.
    """

    name: str
    assurance: Assurance
    reader: Reader
    rule: Rule

    def demanding(self, *rules: Rule) -> Policy:
        """This policy with more rules, for example :class:`attestation.rules.ImageListed`."""
        return replace(self, rule=AllOf((self.rule, *rules)))

    def appraise(
        self,
        quote: bytes | None,
        collateral: bytes | None,
        *,
        report_data: bytes,
        now: float,
        statement: WorkloadStatement | None = None,
    ) -> Appraisal:
        """Appraise a quote.

        Args:
            quote: The quote, ``None`` if the peer shows none.
            collateral: JSON, ``None`` if there is none.
            report_data: The 64 bytes that report data must be.
            now: Unix time.
            statement: The workload statement that ``report_data`` covers.

        Returns:
            All checks; nothing is raised for bad evidence.
        """
        reading = self.reader.read(quote, collateral, now)
        image = claims.image_hash(reading.report.measurements) if reading.report else NO_ATTESTATION
        if not all(check.passed for check in reading.checks):
            return Appraisal(reading.checks, image, now)
        subject = Subject(reading.report, reading.claims, image, report_data, now, statement)
        finding = self.rule.appraise(subject)
        found = reading.claims
        return Appraisal(
            checks=(*reading.checks, *finding.checks),
            image_hash=image,
            expires_at=min(reading.expires_at, finding.expires_at),
            report=reading.report,
            machine=found.ppid if found else b"",
            root_key_id=found.root_key_id if found else b"",
        )


def production_rules(*, tcb: TcbStatus, mr_seam: frozenset[bytes] | None = None) -> tuple[Rule, ...]:
    """The rules of a healthy production TD, the same for Intel's root and for simulated ones.

    Args:
        tcb: The rule about TCB status.
        mr_seam: Digests of the TDX modules that are allowed, 48 bytes each; ``None`` leaves it to TCB info.
    """
    zero = frozenset({ZERO48})
    rules: list[Rule] = [
        ReportData(),
        tcb,
        PlatformFlags(),
        TdAttributes(),
        Xfam(),
        Register("mr_signer_seam", zero, "the TDX module is not signed by Intel"),
        Register("seam_attributes", frozenset({bytes(8)}), "the TDX module is not a production one"),
        Register("mr_owner", zero, "this project launches machines without an owner field"),
        Register("mr_owner_config", zero, "this project launches machines without an owner field"),
        Register("mr_service_td", zero, "a service TD is bound to the machine and may migrate it"),
        ConfigBinding(),
        StatementImage(),
    ]
    if mr_seam is not None:
        rules.append(Register("mr_seam", mr_seam, "another TDX module than the listed ones is loaded"))
    return tuple(rules)


def for_name(
    name: PolicyName | str,
    *,
    simulated_roots: Sequence[bytes] = (),
    tcb_grace_days: int = 0,
    mr_seam: frozenset[bytes] | None = None,
    zero_padding: bool = False,
    min_evaluation_number: int = 0,
) -> Policy:
    """Make a policy by its configured name.

    Args:
        name: ``tdx``, ``simulated``, ``fake_tdx`` or ``any``; the last two are for development and warn.
        simulated_roots: DER certificates, for ``simulated`` only.
        tcb_grace_days: See :class:`attestation.rules.TcbStatus`.
        mr_seam: See :func:`production_rules`.
        zero_padding: Take quotes with zeros after them, as the reference's peers may show on real machines.
        min_evaluation_number: See :class:`attestation.rules.TcbStatus`.

    Raises:
        AttestationError: Unknown name, or roots where none belong or are missing.
    """
    if (name == "simulated") != bool(simulated_roots):
        raise AttestationError(
            f"policy {name!r} with {len(simulated_roots)} simulated roots",
            hint="simulated roots belong to policy 'simulated', which needs at least one",
        )
    tcb = TcbStatus(grace_days=tcb_grace_days, min_evaluation_number=min_evaluation_number)
    if name == "tdx":
        rules = production_rules(tcb=tcb, mr_seam=mr_seam)
        return Policy(
            "tdx",
            "hardware",
            DcapReader((None,), zero_padding),
            AllOf((RootKey(frozenset({dcap.INTEL_ROOT_KEY_ID})), *rules)),
        )
    _log.warning("policy gives no assurance: development only", kind=name)
    if name == "simulated":
        if len(simulated_roots) > MAX_SIMULATED_ROOTS:
            raise AttestationError(f"{len(simulated_roots)} simulated roots, at most {MAX_SIMULATED_ROOTS}")
        ids = frozenset(root_key_id(root) for root in simulated_roots)
        rules = production_rules(tcb=tcb, mr_seam=mr_seam)
        return Policy(
            "simulated", "none", DcapReader(tuple(simulated_roots), zero_padding), AllOf((RootKey(ids), *rules))
        )
    if name == "fake_tdx":
        return Policy("fake_tdx", "none", FakeReader(), AllOf((ReportData(), StatementImage())))
    if name == "any":
        return Policy("any", "none", NoReader(), AllOf(()))
    raise AttestationError(f"policy {name!r} is not known", hint="tdx, simulated, fake_tdx or any")


def root_key_id(root_der: bytes) -> bytes:
    """SHA-384 of a root certificate's public key as X.962 point, 48 bytes.

    Raises:
        AttestationError: Not a certificate.
    """
    try:
        key = x509.load_der_x509_certificate(root_der).public_key()
        point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    except ValueError as error:
        raise AttestationError(f"simulated root is not a certificate of an elliptic-curve key: {error}") from None
    return hashlib.sha384(point).digest()
