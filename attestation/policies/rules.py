"""Rules that policy files are made of and that belong to no platform: which machines, whose word, which events.

Each says what it saw. What a policy leaves out is listed as unchecked, with the reason where one is stated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.policies.references import IMAGE_WHY, tpm_of
from attestation.rules import Finding, one, short
from attestation.verdict import NO_ATTESTATION, Check
from measurements.errors import EventLogError
from measurements.eventlog import parse_tcg2
from measurements.tpm import RESET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import RegistryView, Rule, Subject

_ANCHOR_WHY = "whoever breaks this kind of machine later can make evidence and date it back to before"


@dataclass(frozen=True, slots=True)
class OnPlatform:
    """A rule for machines of some platforms; it says nothing of others."""

    platforms: tuple[str, ...]
    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look, if it is one of them."""
        return self.rule.appraise(subject) if subject.platform in self.platforms else Finding(())


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to fulfil a demand: on the named platforms its rule, on every other a failure that says so."""

    name: str
    platforms: tuple[str, ...]
    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look, if it is for this kind of machine."""
        seen = subject.platform
        if seen not in self.platforms:
            return one(f"alternative {self.name!r}", False, seen, " or ".join(self.platforms), "for other machines")
        finding = self.rule.appraise(subject)
        held = Check(f"alternative {self.name!r}", finding.passed, "holds" if finding.passed else "fails", "holds")
        return Finding((held, *finding.checks), finding.expires_at)


@dataclass(frozen=True, slots=True)
class ImageStated:
    """The image is one that the policy itself names."""

    images: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look the image hash up."""
        image = subject.image_hash
        passed = image != NO_ATTESTATION and image in self.images
        seen = image.hex() if image != NO_ATTESTATION else "not attested"
        hint = "another image runs, or the policy is older than it"
        return one("image", passed, seen, f"one of {len(self.images)} that the policy names", hint, why=IMAGE_WHY)


@dataclass(frozen=True, slots=True)
class ImageRegistered:
    """The image is listed in the root contract on chain; without a view of it nothing is.

    Attributes:
        registry: The proven view of the root contract, ``None`` where whoever verifies gave none.
    """

    registry: RegistryView | None = field(hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Ask the registry."""
        image = subject.image_hash
        if self.registry is None:
            hint = "this policy asks the root contract: name the network (--network FILE)"
            return one("image in the registry", False, "the registry was not asked", "listed", hint, why=IMAGE_WHY)
        check = Check(
            "image in the registry",
            image != NO_ATTESTATION and self.registry.image_listed(image),
            image.hex() if image != NO_ATTESTATION else "not attested",
            "listed in the root contract",
            "compare the image with the published manifests: measurements differ or the listing is not there yet",
            why=IMAGE_WHY,
            lasting=False,
        )
        return Finding((check,))


@dataclass(frozen=True, slots=True)
class TpmMachineListed:
    """The TPM's machine is on an allow-list."""

    machines: frozenset[bytes]

    def appraise(self, subject: Subject) -> Finding:
        """Look the machine up."""
        seen = subject.tpm.machine if subject.tpm else b""
        return one("machine", seen in self.machines, seen.hex() or "unknown", f"one of {len(self.machines)} listed")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAre:
    """The events of one register are what they have to be, by digest; types and texts decide nothing.

    Attributes:
        register: ``rtmr0`` to ``rtmr3``, or ``pcr0`` to ``pcr23``.
        at: Digests that are allowed by position (from 0); the position has to exist.
        contains: Digests that all have to be there.
        only: Digests of which every event's is one, ``None`` for no such demand.
        exactly: The digests of all events in order, ``None`` for no such demand.
    """

    register: str
    at: Mapping[int, frozenset[bytes]] = field(default_factory=dict, hash=False)
    contains: tuple[bytes, ...] = ()
    only: frozenset[bytes] | None = None
    exactly: tuple[bytes, ...] | None = None

    def appraise(self, subject: Subject) -> Finding:
        """Look at the digests of the register's events."""
        name = f"events of {self.register}"
        try:
            found = digests_of(subject, self.register)
        except (EventLogError, EvidenceError) as error:
            return one(name, False, error.message, "a log that can be read", error.hint)
        if found is None:
            return one(name, False, "no event log", "an event log", "fresh evidence carries the log of its machine")
        missing = [digest for digest in self.contains if digest not in found]
        extra = [digest for digest in found if self.only is not None and digest not in self.only]
        checks = []
        for place, digests in sorted(self.at.items()):
            event = found[place] if place < len(found) else None
            seen = f"only {len(found)} events" if event is None else short(event)
            expected = " or ".join(sorted(map(short, digests)))
            checks.append(Check(f"{name}: event {place}", event in digests, seen, expected))
        if self.contains:
            seen = f"without {short(missing[0])}" if missing else f"all of {len(self.contains)}"
            checks.append(Check(f"{name}: contain", not missing, seen, f"{len(self.contains)} stated digests"))
        if self.only is not None:
            seen = f"also {short(extra[0])}" if extra else f"{len(found)} events"
            checks.append(Check(f"{name}: only", not extra, seen, f"none but {len(self.only)} stated digests"))
        if self.exactly is not None:
            checks.append(
                Check(f"{name}: exactly", found == self.exactly, _first_difference(found, self.exactly),
                      f"{len(self.exactly)} stated events in order")
            )  # fmt: skip
        return Finding(tuple(checks))


@dataclass(frozen=True, slots=True)
class FreshForm:
    """The evidence is a bundle: a certificate's quote has no time, no statement and no device in it."""

    def appraise(self, subject: Subject) -> Finding:
        """Look for the time that only a bundle states."""
        return one(
            "fresh evidence",
            subject.made_at is not None,
            "a certificate" if subject.made_at is None else "a bundle",
            "a bundle",
            "ask the machine's attested port, or for a bundle: this policy limits the age of evidence",
            why="a certificate may be as old as it is valid, and says nothing of GPUs or of what runs",
        )


@dataclass(frozen=True, slots=True)
class Anchored:
    """The bundle's digest is on chain, soon after the time that it states.

    Attributes:
        within_s: Most seconds between the stated time and the anchor.
    """

    within_s: float

    def appraise(self, subject: Subject) -> Finding:
        """Compare both times."""
        name, wanted = "not made after", f"the bundle's digest on chain within {self.within_s:g} s"
        hint = "anchor it (chrysalis attest anchor), then verify with --anchor ADDRESS"
        if subject.made_at is None or subject.anchored_at is None:
            return one(name, False, "no anchor was shown", wanted, hint, why=_ANCHOR_WHY)
        gap = subject.anchored_at - subject.made_at
        seen = f"on chain {gap:.0f} s after the stated time"
        return one(name, gap <= self.within_s, seen, wanted, hint, why=_ANCHOR_WHY)


@dataclass(frozen=True, slots=True)
class NotNeeded:
    """A part of the evidence that the policy leaves out on purpose, said in so many words.

    Attributes:
        section: Which part, as policies call it.
        reason: Why.
    """

    section: str
    reason: str

    def appraise(self, subject: Subject) -> Finding:
        """List it as unchecked."""
        name, group, seen = {
            "measurements": ("image", "platform", subject.image_hash.hex()),
            "machines": ("machine", "platform", "any"),
            "gpu": ("gpu policy", "gpu", _counted(subject)),
            "event_log": ("events", "event log", "any that lead to the registers"),
            "freshness": ("age", "bundle", "any"),
        }[self.section]
        return Finding((Check(name, True, seen, f"not checked: {self.reason}", checked=False, group=group),))


def digests_of(subject: Subject, register: str) -> tuple[bytes, ...] | None:
    """The digests that a register was extended with, in order, confirmed by the register; ``None`` without a log.

    Raises:
        EventLogError: The log of a TPM is malformed, or leads elsewhere.
        EvidenceError: The log of a TD leads elsewhere.
    """
    if register.startswith("rtmr"):
        report = subject.gcp.report if subject.gcp is not None else subject.report
        if subject.log is None or report is None:
            return None
        events = subject.log.confirmed(int(register[4:]), getattr(report, register))
        return tuple(event.digest for event in events)
    number = int(register.removeprefix("pcr"))
    tpm = tpm_of(subject)
    logs = tpm.logs if tpm is not None else None
    if logs is None or tpm is None:
        return None
    if logs.replay().get(number, RESET) != tpm.registers.get(number):
        raise EventLogError(
            f"the log does not lead to what PCR {number} holds",
            hint="something was measured and left out of the log, or the log was edited",
        )
    firmware = parse_tcg2(logs.firmware)
    found = [event.digests["sha256"] for event in firmware.events if event.register == number and event.extended]
    return (*found, *(event.digest for event in logs.system if event.register == number))


def _counted(subject: Subject) -> str:
    return "not looked at" if subject.devices is None else f"{len(subject.devices)} devices"


def _first_difference(found: tuple[bytes, ...], wanted: tuple[bytes, ...]) -> str:
    for number, (seen, expected) in enumerate(zip(found, wanted, strict=False)):
        if seen != expected:
            return f"event {number} is {short(seen)}, not {short(expected)}"
    if len(found) == len(wanted):
        return f"{len(found)} events, as stated"
    return f"{len(found)} events, not {len(wanted)}"
