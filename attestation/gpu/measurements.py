"""A report's measurements against the manifests' reference values; what no manifest speaks of is said, not skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from attestation.gpu.claims import CC_MODE_INDEX, OFF
from attestation.gpu.spdm import Opaque
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.gpu.rim import Manifest
    from attestation.gpu.spdm import SpdmReport

NVDEC_INDEX: Final = 35
"""Measurement of the video decoder's firmware, which is meaningless while the decoder is off (the vendor's verifier
leaves it out then)."""

_RAW: Final = 0x80
_DIGEST: Final = 48


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the comparison found; all indices from 0, as manifests count.

    Attributes:
        matched: Indices whose value is one of the references.
        different: Indices whose value is none of them, or that the report lacks.
        conflicts: Indices that two manifests speak of.
        skipped: Indices that mean nothing in this report.
        unchecked: Measured indices that no manifest speaks of.
    """

    matched: frozenset[int]
    different: tuple[int, ...]
    conflicts: tuple[int, ...]
    skipped: tuple[int, ...]
    unchecked: tuple[int, ...]

    def checks(self, why: str) -> tuple[Check, ...]:
        """The checks that this makes."""
        found = [
            Check(
                "gpu measurements",
                not self.different and bool(self.matched),
                f"{len(self.matched)} equal, other values at index {_list(self.different)}"
                if self.different
                else f"{len(self.matched)} compared, all equal",
                "the manifests' values at every index they speak of",
                _hint(self.different),
                why=why,
            ),
            Check(
                "gpu manifest indices",
                not self.conflicts,
                f"index {_list(self.conflicts)} in both manifests" if self.conflicts else "none twice",
                "each index in one manifest",
                "one of the manifests is not the one that belongs here",
                why="Two manifests that claim one index would let the weaker one decide.",
            ),
        ]
        found += [
            Check(
                "gpu measurements without reference",
                True,
                f"{len(indices)}: index {_list(indices)}",
                reason,
                checked=False,
                why="NVIDIA publishes no reference for these, so nobody but NVIDIA can say what they should be.",
            )
            for indices, reason in (
                (self.unchecked, "in no manifest: unchecked"),
                (self.skipped, "the video decoder is off: unchecked"),
            )
            if indices
        ]
        return tuple(found)


def compare(report: SpdmReport, manifests: Sequence[Manifest]) -> Comparison:
    """Compare a report with its manifests."""
    golden: dict[int, tuple[bytes, ...]] = {}
    conflicts: set[int] = set()
    for manifest in manifests:
        conflicts |= golden.keys() & manifest.golden.keys()
        golden.update(manifest.golden)
    skipped: set[int] = set()
    if report.opaque.get(Opaque.NVDEC0_STATUS) == bytes([OFF]):
        skipped = golden.keys() & {NVDEC_INDEX}
    measured = {index - 1: block for index, block in report.measurements.items()}
    matched = {
        index
        for index, values in golden.items()
        if index in measured
        and not measured[index].value_type & _RAW
        and len(measured[index].value) == _DIGEST
        and measured[index].value in values
    }
    return Comparison(
        matched=frozenset(matched - skipped),
        different=tuple(sorted(golden.keys() - matched - skipped)),
        conflicts=tuple(sorted(conflicts)),
        skipped=tuple(sorted(skipped)),
        unchecked=tuple(sorted(measured.keys() - golden.keys())),
    )


def _hint(different: tuple[int, ...]) -> str:
    if CC_MODE_INDEX in different:
        return (
            f"index {CC_MODE_INDEX} covers the confidential-computing mode: devtools mode, or a state that a reboot of "
            "the guest left behind; set the mode to 'on', reset the GPU, on a cloud stop and start the machine"
        )
    return "the GPU runs other firmware than its versions say, or was not reset; reset it and reload the driver"


def _list(indices: tuple[int, ...]) -> str:
    """Indices for a person: neighbours joined."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
