"""Policies: which evidence is taken as proof, and what it has to say.

A policy is a reader, which turns bytes into a subject, and rules over the subject. ``tdx`` rests on Intel's root;
``simulated`` on roots made for a run: of TDX quotes, with the same reader and rules, and of TPMs that the run emulates;
``fake_tdx`` and ``any`` are the protocol's own development policies (specification, section 5.7) and prove nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import dcap
from attestation.errors import AttestationError
from attestation.readers import AnyReader, DcapReader, FakeReader, NoReader, Reader, TpmReader
from attestation.rules import AllOf, ByPlatform, ReportData, Rule, StatementImage, Subject
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
from attestation.tpm.rules import ConfigurationRegister, LogsReplay, References, TpmReportData, Unchecked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.claims import WorkloadStatement
    from attestation.tdx import TdReport
    from attestation.tpm.references import TpmReference
    from attestation.verdict import Assurance, Check

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
        image = reading.image_hash
        if not all(check.passed for check in reading.checks):
            return Appraisal(reading.checks, image, now)
        subject = Subject(reading.report, reading.claims, image, report_data, now, statement, reading.tpm)
        finding = self.rule.appraise(subject)
        found = reading.claims
        machine, root_key_id = (found.ppid, found.root_key_id) if found else (b"", b"")
        if reading.tpm is not None:
            machine, root_key_id = reading.tpm.machine, reading.tpm.root_key_id
        return Appraisal(
            checks=(*reading.checks, *finding.checks),
            image_hash=image,
            expires_at=min(reading.expires_at, finding.expires_at),
            report=reading.report,
            machine=machine,
            root_key_id=root_key_id,
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


def tpm_rules(references: Sequence[TpmReference] = ()) -> Rule:
    """The rules of a machine that a TPM speaks for.

    Args:
        references: The images that it may have booted; without any, the image hash alone says.
    """
    return AllOf(
        (
            TpmReportData(),
            References(tuple(references)),
            ConfigurationRegister(),
            StatementImage(),
            LogsReplay(),
            Unchecked(),
        )
    )


def for_name(
    name: PolicyName | str,
    *,
    simulated_roots: Sequence[bytes] = (),
    tpm_roots: Sequence[bytes] = (),
    tpm_references: Sequence[TpmReference] = (),
    tcb_grace_days: int = 0,
    mr_seam: frozenset[bytes] | None = None,
    zero_padding: bool = False,
    min_evaluation_number: int = 0,
) -> Policy:
    """Make a policy by its configured name.

    Args:
        name: ``tdx``, ``simulated``, ``fake_tdx`` or ``any``; the last two are for development and warn.
        simulated_roots: Roots of TDX quotes, DER certificates, for ``simulated`` only.
        tpm_roots: Roots of TPM attestation keys, DER certificates, for ``simulated`` only.
        tpm_references: The images that a TPM machine may have booted; without any, the image hash alone says.
        tcb_grace_days: See :class:`attestation.rules.TcbStatus`.
        mr_seam: See :func:`production_rules`.
        zero_padding: Take quotes with zeros after them, as the reference's peers may show on real machines.
        min_evaluation_number: See :class:`attestation.rules.TcbStatus`.

    Raises:
        AttestationError: Unknown name, or roots where none belong or are missing.
    """
    given = len(simulated_roots) + len(tpm_roots)
    if (name == "simulated") != bool(given):
        raise AttestationError(
            f"policy {name!r} with {given} simulated roots",
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
        if given > MAX_SIMULATED_ROOTS:
            raise AttestationError(f"{given} simulated roots, at most {MAX_SIMULATED_ROOTS}")
        ids = frozenset(root_key_id(root) for root in simulated_roots)
        tdx = AllOf((RootKey(ids), *production_rules(tcb=tcb, mr_seam=mr_seam)))
        reader = AnyReader(
            DcapReader(tuple(simulated_roots), zero_padding) if simulated_roots else None,
            TpmReader(tuple(tpm_roots)) if tpm_roots else None,
        )
        return Policy("simulated", "none", reader, ByPlatform(tpm_rules(tpm_references), tdx))
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
