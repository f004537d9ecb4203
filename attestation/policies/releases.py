"""Which releases are taken at a moment, and the rule that asks for one of them. Pure.

In: signed manifests, present and past ones together, and how long an older one is still taken. Out: each with the time
until which it is taken, or the reason why it is not. A manifest counts from its ``not_before`` to its ``expires``; from
the moment a newer one of its family counts, it has the grace window left, so that machines can be rolled over while
both are taken. The end of that window follows from the newer manifest's own signed date: whoever shows both to a
verifier later does not get another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from attestation.policies.references import RegistersAre
from attestation.policies.release_memory import family_of
from attestation.rules import Finding, one
from measurements.manifest import date

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from attestation.policies.references import ReferenceSet
    from attestation.rules import Subject
    from measurements.manifest import Manifest

CHECK: Final = "image in a current release"
_HINT = "another image runs than those of the release manifests, or the manifest of its release is not here yet"
_WHY = "only a release that its makers still stand behind may be sent what must stay private"


@dataclass(frozen=True, slots=True)
class Release:
    """A release whose manifest's signatures hold.

    Attributes:
        manifest: What it says.
        references: Its registers.
    """

    manifest: Manifest
    references: tuple[ReferenceSet, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """For people."""
        return f"release {self.manifest.release} of {family_of(self.manifest)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A release at a moment.

    Attributes:
        release: The release; it is taken from its ``not_before`` on.
        until: Unix time at which that ends.
        ending: What ends it, for people.
    """

    release: Release
    until: float
    ending: str

    def refusal(self, now: float) -> str:
        """Why it is not taken; empty when it is."""
        since = self.release.manifest.not_before
        if now < since:
            return f"{self.release.name} counts from {date(since)}"
        return f"{self.release.name} {self.ending}" if now >= self.until else ""


class ReleaseView(Protocol):
    """What a rule asks for the releases as they stand."""

    @property
    def standings(self) -> tuple[Standing, ...]:
        """All that are known."""
        ...


def standings(releases: Iterable[Release], now: float, grace_s: float) -> tuple[Standing, ...]:
    """Where each release stands.

    Args:
        releases: All that are known.
        now: Unix time; a newer release ends an older one only once it counts itself.
        grace_s: Seconds for which an older release is taken beside a newer one.

    Returns:
        One for each, by family, the highest release first.
    """
    known = sorted(releases, key=lambda item: (family_of(item.manifest), -item.manifest.release))
    return tuple(_standing(item, known, now, grace_s) for item in known)


def started(manifests: Iterable[Manifest], now: float) -> list[Manifest]:
    """Releases that count already, expired ones too: what a memory of releases is told."""
    return [manifest for manifest in manifests if manifest.release and manifest.not_before <= now]


def _standing(release: Release, known: Sequence[Release], now: float, grace_s: float) -> Standing:
    manifest = release.manifest
    until, ending = float(manifest.expires), f"expired at {date(manifest.expires)}"
    for other in known:
        newer = other.manifest
        if family_of(newer) != family_of(manifest) or newer.release <= manifest.release or newer.not_before > now:
            continue
        end = newer.not_before + grace_s
        if end < until:
            until, ending = end, f"was replaced by release {newer.release}, and its grace ended at {date(end)}"
    return Standing(release, until, ending)


@dataclass(frozen=True, slots=True)
class ImageReleased:
    """The machine's registers are those of a release that is taken now; the verdict ends when the release does.

    Attributes:
        releases: The releases as they stand.
    """

    releases: ReleaseView = field(hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Compare with every release that is taken at the subject's time."""
        known, now = self.releases.standings, subject.now
        taken = sorted((item for item in known if not item.refusal(now)), key=lambda item: -item.until)
        for item in taken:
            finding = RegistersAre(CHECK, item.release.references).appraise(subject)
            if finding.passed:
                return _asked_again(finding, item.until)
        for item in known:
            # The first check compares the registers; this release's time is over, or has not come.
            if item not in taken and RegistersAre(CHECK, item.release.references).appraise(subject).checks[0].passed:
                expected = " or ".join(other.release.name for other in taken) or "a release that counts now"
                hint = "this machine has to be started with the newest release that counts"
                return _asked_again(one(CHECK, False, item.refusal(now), expected, hint, why=_WHY))
        references = tuple(reference for item in taken for reference in item.release.references)
        return _asked_again(RegistersAre(CHECK, references, _HINT).appraise(subject))


def _asked_again(finding: Finding, until: float = math.inf) -> Finding:
    """The finding as one about a list that changes: no verdict on it is kept for the next evidence."""
    checks = tuple(replace(check, lasting=False) for check in finding.checks)
    return Finding(checks, min(finding.expires_at, until))
