"""Policies: which evidence is taken as proof, and what it has to say.

A policy is a reader, which turns bytes into a subject, and rules over the subject. ``tdx`` rests on Intel's root;
``simulated`` on roots made for a run, with the same reader and rules; ``fake_tdx`` and ``any`` are the protocol's own
development policies (specification, section 5.7) and prove nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import claims, dcap
from attestation.errors import AttestationError
from attestation.readers import DcapReader, FakeReader, NoReader, Reader
from attestation.rules import AllOf, ReportData, Rule, StatementImage, Subject
from attestation.tdx_rules import (
    ZERO48,
    ConfigBinding,
    PlatformFlags,
    Register,
    RootKey,
    TcbStatus,
    TdAttributes,
    Xfam,
)
from attestation.verdict import NO_ATTESTATION, Assurance, Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.claims import WorkloadStatement
    from attestation.tdx import TdReport

_log = structlog.get_logger(__name__)
PolicyName = Literal["tdx", "simulated", "fake_tdx", "any"]
MAX_SIMULATED_ROOTS = 8


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
