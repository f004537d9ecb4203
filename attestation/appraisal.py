"""What a policy is: a reader, which turns bytes into a subject, rules over the subject, and a judge of devices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from attestation.devices import DeviceFinding, DeviceJudge, Unjudged
from attestation.errors import EvidenceError
from attestation.rules import AllOf, Subject
from attestation.tdx_log import TdxLog
from attestation.uncovered import unchecked
from attestation.verdict import Check

if TYPE_CHECKING:
    from attestation.claims import WorkloadStatement
    from attestation.gpu.claims import GpuClaims
    from attestation.readers import Reader
    from attestation.rules import Rule
    from attestation.tdx import TdReport
    from attestation.verdict import Assurance

_UNJUDGED = Unjudged()


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a policy says of one quote; the verifier makes a verdict of it."""

    checks: tuple[Check, ...]
    image_hash: bytes
    expires_at: float
    platform: str = "none"
    report: TdReport | None = None
    machine: bytes = b""
    root_key_id: bytes = b""
    devices: tuple[GpuClaims, ...] | None = None

    @property
    def keepable(self) -> bool:
        """Whether it can be used again until it expires: everything passed, and nobody has to be asked anew."""
        return all(check.passed and check.lasting for check in self.checks)

    def noting(self, checks: tuple[Check, ...]) -> Appraisal:
        """This appraisal with more checks before its own."""
        return replace(self, checks=(*checks, *self.checks)) if checks else self


@dataclass(frozen=True, slots=True)
class Fresh:
    """What fresh evidence shows besides the quote.

    Attributes:
        statement: The workload statement that report data cover.
        made_at: Unix time that it states.
        log: The event log behind a TDX quote, ``None`` if none was shown.
        devices: What was found out about the machine's devices.
        anchored_at: Unix time since when a chain holds the bundle's digest, ``None`` where nobody showed that.
    """

    statement: WorkloadStatement
    made_at: float
    log: bytes | None = None
    devices: DeviceFinding = field(default_factory=lambda: DeviceFinding((), ()))
    anchored_at: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A reader and rules under a name.

    Attributes:
        name: As in configuration.
        assurance: ``hardware`` only for a policy that rests on the CPU vendor's root.
        reader: Turns the quote into a subject.
        rule: What the subject has to fulfil.
        devices: Looks at the evidence of the machine's devices.
    """

    name: str
    assurance: Assurance
    reader: Reader
    rule: Rule
    devices: DeviceJudge = _UNJUDGED

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
        fresh: Fresh | None = None,
    ) -> Appraisal:
        """Appraise a quote.

        Args:
            quote: The quote, ``None`` if the peer shows none.
            collateral: What the quote's form needs to be verified, ``None`` if there is none.
            report_data: The 64 bytes that report data must be.
            now: Unix time.
            fresh: What came with it, ``None`` for a certificate's.

        Returns:
            All checks, also of what no rule looked at; nothing is raised for bad evidence.
        """
        reading = self.reader.read(quote, collateral, now)
        image, looked = reading.image_hash, fresh.devices if fresh else DeviceFinding(None, ())
        read = (*(check.within("platform") for check in reading.checks), *looked.checks)
        if not all(check.passed for check in reading.checks):
            return Appraisal(read, image, now)
        log, unread = _read_log(fresh)
        subject = Subject(
            reading.report,
            reading.claims,
            image,
            report_data,
            now,
            statement=fresh.statement if fresh else None,
            made_at=fresh.made_at if fresh else None,
            anchored_at=fresh.anchored_at if fresh else None,
            tpm=reading.tpm,
            snp=reading.snp,
            azure=reading.azure,
            gcp=reading.gcp,
            devices=looked.claims,
            log=log,
        )
        finding = self.rule.appraise(subject)
        checks = (*read, *unread, *(check.within("platform") for check in finding.checks))
        return Appraisal(
            checks=(*checks, *unchecked(subject, checks)),
            image_hash=image,
            expires_at=min(reading.expires_at, looked.expires_at, finding.expires_at),
            platform=subject.platform,
            report=reading.report,
            machine=reading.machine,
            root_key_id=reading.root_key_id,
            devices=looked.claims,
        )


def _read_log(fresh: Fresh | None) -> tuple[TdxLog | None, tuple[Check, ...]]:
    """The log in a form that rules read, and a failed check if it has none."""
    if fresh is None or fresh.log is None:
        return None, ()
    try:
        return TdxLog.parse(fresh.log), ()
    except EvidenceError as error:
        check = Check("event log", False, error.message, "a log that can be replayed", error.hint, group="event log")
        return None, (check,)
