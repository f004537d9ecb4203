"""The rules that policies are made of: small objects, each of which looks at one thing and says what it saw.

A rule takes a :class:`Subject` and returns a :class:`Finding`; :class:`AllOf` and :class:`AnyOf` compose them. None of
them fetches, caches or raises: a rule that does not hold is a failed check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from attestation.verdict import NO_ATTESTATION, Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.azure.reader import AzureClaims
    from attestation.claims import WorkloadStatement
    from attestation.dcap import QuoteClaims
    from attestation.gcp.reader import GcpClaims
    from attestation.gpu.claims import GpuClaims
    from attestation.snp.reader import SnpClaims
    from attestation.tdx import TdReport
    from attestation.tdx_log import TdxLog
    from attestation.tpm.reader import TpmClaims


WORKLOAD = "workload"
"""The group of checks about what a machine says it runs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What rules look at.

    Attributes:
        report: The TD report, ``None`` without a quote.
        claims: The verified claims, ``None`` for a fake quote or none.
        image_hash: 32 bytes, zeros without attestation.
        report_data: The 64 bytes that report data must be.
        now: Unix time.
        statement: The workload statement of fresh evidence.
        tpm: The verified claims of a TPM machine, ``None`` for every other.
        snp: Those of an SEV-SNP machine.
        azure: Those of a machine under Azure's paravisor.
        gcp: Those of a Google machine with its vTPM.
        devices: The verified claims of every device in order; ``None`` where nobody looked (a certificate).
        log: The event log of a TDX machine, parsed and not yet compared with anything.
        made_at: Unix time that fresh evidence states.
        anchored_at: Unix time since when a chain holds its digest, ``None`` where nobody showed that.
    """

    report: TdReport | None
    claims: QuoteClaims | None
    image_hash: bytes
    report_data: bytes
    now: float
    statement: WorkloadStatement | None = None
    tpm: TpmClaims | None = None
    snp: SnpClaims | None = None
    azure: AzureClaims | None = None
    gcp: GcpClaims | None = None
    devices: tuple[GpuClaims, ...] | None = None
    log: TdxLog | None = None
    made_at: float | None = None
    anchored_at: float | None = None

    @property
    def platform(self) -> str:
        """Which kind of machine speaks: ``azure``, ``gcp``, ``snp``, ``tpm``, ``tdx``, or ``none``."""
        claims = (("azure", self.azure), ("gcp", self.gcp), ("snp", self.snp), ("tpm", self.tpm), ("tdx", self.report))
        return next((name for name, found in claims if found is not None), "none")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: its checks, and until when they hold (Unix time)."""

    checks: tuple[Check, ...]
    expires_at: float = math.inf

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


class Rule(Protocol):
    """One thing that a policy demands."""

    def appraise(self, subject: Subject) -> Finding:
        """Look at the subject."""


class RegistryView(Protocol):
    """The part of the registry on chain that a policy asks."""

    def image_listed(self, image_hash: bytes, /) -> bool:
        """Whether the image is listed for the peer's role."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds if every rule holds; all are looked at, so that one report names every failure."""

    rules: tuple[Rule, ...]

    def appraise(self, subject: Subject) -> Finding:
        """Look at the subject with every rule."""
        findings = [rule.appraise(subject) for rule in self.rules]
        return Finding(
            tuple(check for finding in findings for check in finding.checks),
            min((finding.expires_at for finding in findings), default=math.inf),
        )


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds if one rule holds; the first that does answers, else all failures are reported."""

    rules: tuple[Rule, ...]

    def appraise(self, subject: Subject) -> Finding:
        """Look at the subject with one rule after the other."""
        checks: list[Check] = []
        for rule in self.rules:
            finding = rule.appraise(subject)
            if finding.passed:
                return finding
            checks.extend(finding.checks)
        return Finding(tuple(checks) or (Check("alternatives", False, "none", "at least one"),))


@dataclass(frozen=True, slots=True)
class ByPlatform:
    """Holds if the rule for the subject's kind of machine holds; a kind without a rule is refused.

    Attributes:
        rules: By :attr:`Subject.platform`.
    """

    rules: Mapping[str, Rule] = field(hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Look at the subject with its own rule."""
        rule = self.rules.get(subject.platform)
        if rule is None:
            wanted = " or ".join(sorted(self.rules)) or "none"
            return one("platform", False, subject.platform, wanted, "this policy takes no machines of that kind")
        return rule.appraise(subject)


@dataclass(frozen=True, slots=True)
class InGroup:
    """A rule whose checks stand in a group of the verdict's tree, where they name none of their own."""

    group: str
    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look at the subject with the rule."""
        found = self.rule.appraise(subject)
        return Finding(tuple(check.within(self.group) for check in found.checks), found.expires_at)


@dataclass(frozen=True, slots=True)
class ReportData:
    """Report data is what the peer's key or evidence demands: the binding of everything else."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare all 64 bytes."""
        seen = subject.report.report_data if subject.report else b""
        return one(
            "report data",
            seen == subject.report_data,
            short(seen),
            short(subject.report_data),
            "the quote was made for another key, nonce or statement",
            why="this is what ties the machine's keys, its statement and its GPUs to the quote",
        )


@dataclass(frozen=True, slots=True)
class StatementImage:
    """The statement's image is the one the quote measures."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the two, if there is a statement."""
        if subject.statement is None:
            return Finding(())
        seen = subject.statement.image
        check = Check(
            "statement image",
            seen == subject.image_hash,
            short(seen),
            short(subject.image_hash),
            "the statement speaks of another image",
            why="what the machine says it runs must be what was measured when it started",
            group=WORKLOAD,
        )
        return Finding((check,))


@dataclass(frozen=True, slots=True)
class ImageListed:
    """The image is listed in the registry; a peer without attestation never is."""

    registry: RegistryView = field(hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Ask the registry."""
        image = subject.image_hash
        check = Check(
            "image",
            image != NO_ATTESTATION and self.registry.image_listed(image),
            image.hex() if image != NO_ATTESTATION else "not attested",
            "listed in the root contract",
            "compare the image with the published manifests: measurements differ or the listing is not there yet",
            why="whoever can choose the image can read what the machine is asked",
            lasting=False,
        )
        return Finding((check,))


@dataclass(frozen=True, slots=True)
class StatementValues:
    """Fields of the statement have given values, for example ``{"root_contract": …, "owner": …}``."""

    values: Mapping[str, object] = field(hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Compare the fields; without a statement every one fails."""
        checks = []
        for name, wanted in sorted(self.values.items()):
            seen = getattr(subject.statement, name) if subject.statement else None
            check = Check(f"statement {name}", seen == wanted, _text(seen), _text(wanted), group=WORKLOAD)
            checks.append(check)
        return Finding(tuple(checks))


@dataclass(frozen=True, slots=True)
class MaxAge:
    """Fresh evidence is not older than a number of seconds; a certificate's says nothing of its age."""

    seconds: float

    def appraise(self, subject: Subject) -> Finding:
        """Compare the stated time with now."""
        if subject.made_at is None:
            return Finding(())
        check = Check(
            "age",
            subject.now - subject.made_at <= self.seconds,
            f"{max(0.0, subject.now - subject.made_at):.0f} s",
            f"at most {self.seconds:.0f} s",
            "ask for fresh evidence",
            why="a machine may have changed since it made old evidence",
            group="bundle",
        )
        return Finding((check,), subject.made_at + self.seconds)


def one(name: str, passed: bool, seen: str, expected: str, hint: str = "", *, why: str = "") -> Finding:
    """A finding of one check."""
    return Finding((Check(name, passed, seen, expected, hint, why=why),))


def short(value: bytes) -> str:
    """Bytes for a person: hex, cut in the middle when long."""
    if not value:
        return "nothing"
    if value.count(0) == len(value):
        return "zeros"
    text = value.hex()
    return text if len(text) <= 64 else f"{text[:32]}…{text[-8:]}"


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
