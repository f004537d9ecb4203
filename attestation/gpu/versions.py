"""Versions of drivers and VBIOSes, and the rules about them.

A driver's is decimal (``550.90.07``), a VBIOS's hexadecimal (``96.00.9F.00.01``); both compare field by field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, Literal

from attestation.errors import EvidenceError, PolicyError
from attestation.gpu.devices import finding, gpus_of, looked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attestation.gpu.claims import GpuClaims
    from attestation.rules import Finding, Subject

Base = Literal[10, 16]
_FORMS = {
    10: re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}"),
    16: re.compile(r"[0-9A-Fa-f]{1,4}(\.[0-9A-Fa-f]{1,4}){0,7}"),
}


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version that compares; ``550.90`` and ``550.90.0`` are the same."""

    fields: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, base: Base) -> Version:
        """Read a version.

        Raises:
            EvidenceError: It is none.
        """
        if not _FORMS[base].fullmatch(text):
            raise EvidenceError(
                f"version {text[:40]!r} is not made of {'decimal' if base == 10 else 'hexadecimal'} fields"
            )
        fields = [int(part, base) for part in text.split(".")]
        while fields and fields[-1] == 0:
            fields.pop()
        return cls(tuple(fields))

    def __lt__(self, other: Version) -> bool:
        return self.fields < other.fields


@dataclass(frozen=True, slots=True)
class DriverRange:
    """Every GPU's driver is within a range, or one of a list, and none of those that are refused.

    Attributes:
        least: Oldest, empty for none.
        most: Newest, empty for none.
        allowed: If there are some, one of these and nothing else.
        refused: None of these.
    """

    least: str = ""
    most: str = ""
    allowed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_range(self.least, self.most, 10)

    def appraise(self, subject: Subject) -> Finding:
        """Compare every GPU's driver."""
        return _versions("gpu driver", self, 10, subject, lambda device: device.driver)


@dataclass(frozen=True, slots=True)
class VbiosRange:
    """Every GPU's VBIOS is within a range, or one of a list, and none of those that are refused; as of a driver."""

    least: str = ""
    most: str = ""
    allowed: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_range(self.least, self.most, 16)

    def appraise(self, subject: Subject) -> Finding:
        """Compare every GPU's VBIOS."""
        return _versions("gpu vbios", self, 16, subject, lambda device: device.vbios)


def _versions(
    name: str, rule: DriverRange | VbiosRange, base: Base, subject: Subject, version: Callable[[GpuClaims], str]
) -> Finding:
    expected = _range_in_words(rule)

    def look(devices: tuple[GpuClaims, ...]) -> Finding:
        found = {device.index: version(device) for device in gpus_of(devices)}
        wrong = {index: text for index, text in found.items() if not _within(text, rule, base)}
        seen = ", ".join(f"{text} in GPU {index}" for index, text in wrong.items()) or _listed(set(found.values()))
        why = "Versions with known flaws are signed as well as the repaired ones."
        return finding(
            name, not wrong, seen, expected, "update it on the machine, or choose a machine that has it", why=why
        )

    return looked(name, expected, subject, look)


def _within(text: str, rule: DriverRange | VbiosRange, base: Base) -> bool:
    try:
        seen = Version.parse(text, base)
        allowed, refused = ({Version.parse(item, base) for item in items} for items in (rule.allowed, rule.refused))
        least, most = (Version.parse(bound, base) if bound else seen for bound in (rule.least, rule.most))
    except EvidenceError:
        return False
    return least <= seen <= most and seen not in refused and (not allowed or seen in allowed)


def _range_in_words(rule: DriverRange | VbiosRange) -> str:
    parts = [f"{word} {bound}" for word, bound in (("from", rule.least), ("to", rule.most)) if bound]
    parts += [f"one of {_listed(rule.allowed)}"] if rule.allowed else []
    parts += [f"not {_listed(rule.refused)}"] if rule.refused else []
    return ", ".join(parts) or "any version with a signed manifest"


def _check_range(least: str, most: str, base: Base) -> None:
    if least and most and Version.parse(least, base) > Version.parse(most, base):
        raise PolicyError(f"versions from {least} to {most} allow nothing", hint="exchange the bounds")


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(sorted(texts)) or "none"
