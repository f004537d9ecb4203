"""Registers compared with reference values: a policy's own, or those of a signed release as long as it counts.

A set states registers of one platform, by the names that manifests use. What a machine shows besides is listed as not
judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.rules import Finding, one, short
from attestation.verdict import Check
from measurements.manifest import ManifestDateError, date

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Subject
    from attestation.tpm.reader import TpmClaims
    from measurements.manifest import Manifest

IMAGE_WHY = "whoever can choose the image can read what the machine is asked"
_DATES_WHY = "an old release may have holes that are known by now; its date is what ends it where no chain is asked"
_TDX_REGISTERS = {
    "mrtd": "mr_td",
    "mrseam": "mr_seam",
    "mrconfigid": "mr_config_id",
    "mrowner": "mr_owner",
    "mrownerconfig": "mr_owner_config",
}
_PARTS: Mapping[str, tuple[str, ...]] = {"azure": ("tpm",), "gcp": ("tdx", "tpm")}
"""Whose registers a cloud's machine shows besides, those that a processor vouches for first."""


def registers_of(subject: Subject) -> Mapping[str, bytes]:
    """The registers that this machine's evidence vouches for, by the names that manifests use."""
    found: dict[str, bytes] = {}
    report = subject.gcp.report if subject.gcp is not None else subject.report
    if report is not None:
        fields = ("mr_td", "mr_seam", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        found |= {name: getattr(report, name) for name in fields}
    snp = subject.azure.snp if subject.azure is not None else subject.snp
    if snp is not None:
        found |= {"measurement": snp.report.measurement, "host_data": snp.report.host_data}
    tpm = tpm_of(subject)
    if tpm is not None:
        found |= {f"pcr{number}": value for number, value in tpm.registers.items()}
    return found


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Values of registers that belong together.

    Attributes:
        platform: For machines of this platform.
        source: Whose they are, for people.
        values: By register; names as manifests have them.
        manifest: The release that states them, whose dates have to hold; ``None`` for values without a date.
    """

    platform: str
    source: str
    values: Mapping[str, bytes] = field(hash=False)
    manifest: Manifest | None = field(default=None, hash=False, repr=False)

    @property
    def canonical(self) -> dict[str, bytes]:
        """The values by the names that :func:`registers_of` uses."""
        if self.platform not in {"tdx", "gcp"}:
            return dict(self.values)
        return {_TDX_REGISTERS.get(name, name): value for name, value in self.values.items()}

    def outdated(self, now: float) -> ManifestDateError | None:
        """Why the release behind this set does not count at a time, if it does not."""
        if self.manifest is None:
            return None
        try:
            self.manifest.require_current(now)
        except ManifestDateError as error:
            return error
        return None


@dataclass(frozen=True, slots=True)
class RegistersAre:
    """The registers hold the values of one reference set; the nearest one is reported, register by register.

    Of several that fit it is one of a release that counts now, and of those the one that states most.

    Attributes:
        name: What the check is called.
        references: Sets of every platform.
        hint: What to do when none fits.
    """

    name: str
    references: tuple[ReferenceSet, ...]
    hint: str = ""

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the reference that differs least."""
        platform, seen = subject.platform, registers_of(subject)
        fitting = _fitting(self.references, platform)
        if not fitting:
            stated = sorted({reference.platform for reference in self.references}) or ["no platform"]
            expected = f"registers of a {platform} machine"
            return one(self.name, False, f"registers of {', '.join(stated)}", expected, self.hint, why=IMAGE_WHY)
        now = subject.now
        best = min(
            fitting,
            key=lambda item: (len(_differing(item, seen)), item.outdated(now) is not None, -len(item.values)),
        )
        differing = _differing(best, seen)
        words = f"as {best.source}" if not differing else f"{', '.join(differing)} differ from {best.source}"
        summary = Check(self.name, not differing, words, f"as {best.source}", self.hint, why=IMAGE_WHY)
        values = best.canonical
        checks = [
            Check(f"{self.name}: {name}", False, short(seen.get(name, b"")), short(values[name]), self.hint)
            for name in differing
        ]
        dates, expires_at = self._dates(best, now)
        checks += dates
        left = sorted(name for name in seen if name not in values and any(seen[name]))
        if left:
            text = f"{', '.join(left)} hold values that {best.source} does not state"
            checks.append(Check(f"{self.name}: other registers", True, text, "unchecked", checked=False))
        return Finding((summary, *checks), expires_at)

    def _dates(self, best: ReferenceSet, now: float) -> tuple[list[Check], float]:
        """The check of a release's dates, and until when it holds."""
        if best.manifest is None or not best.manifest.expires:
            return [], math.inf
        name, error = f"{self.name}: dates", best.outdated(now)
        until = f"{date(best.manifest.not_before)} to {date(best.manifest.expires)}"
        if error is not None:
            return [Check(name, False, f"{date(now)}", until, error.hint, why=_DATES_WHY)], math.inf
        return [Check(name, True, until, until, why=_DATES_WHY)], float(best.manifest.expires)


def tpm_of(subject: Subject) -> TpmClaims | None:
    """What a TPM says, whichever machine it belongs to."""
    for claims in (subject.azure, subject.gcp):
        if claims is not None:
            found: TpmClaims = claims.tpm
            return found
    return subject.tpm


def _fitting(references: tuple[ReferenceSet, ...], platform: str) -> list[ReferenceSet]:
    """The sets that say most of a platform: its own, else those of the parts that it is made of."""
    for wanted in (platform, *_PARTS.get(platform, ())):
        found = [reference for reference in references if reference.platform == wanted]
        if found:
            return found
    return []


def _differing(reference: ReferenceSet, seen: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name, value in reference.canonical.items() if seen.get(name) != value)
