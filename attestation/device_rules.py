"""Whether the devices that a machine shows are those that it says it computes on.

A worker could show its processor's evidence alone and compute on a GPU that nobody judged, so a statement that names
GPUs needs the evidence of as many. What each device and the set of them has to be is
:mod:`attestation.gpu.rules`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.rules import WORKLOAD, Finding
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Rule, Subject

_CUDA = "cuda"
_WHY = "requests are computed on the GPUs: one that nobody judged may show them to anybody"


@dataclass(frozen=True, slots=True)
class StatedDevices:
    """The evidence has as many GPUs as the engine that the statement describes computes on."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the statement's engine with the devices."""
        if subject.statement is None:
            return Finding(())
        stated = devices_of(subject.statement.engine)
        if subject.devices is None:  # one of them failed, or this policy judges none: its own check says which
            seen, reason = f"{stated} stated", "not checked: not every device was judged"
            return Finding((Check("stated devices", True, seen, reason, checked=False, why=_WHY, group=WORKLOAD),))
        shown = sum(device.kind == "gpu" for device in subject.devices)
        if not stated and not shown:
            return Finding(())
        check = Check(
            "stated devices",
            shown >= stated,
            f"{shown} GPUs that verify",
            f"at least the {stated} that the engine computes on",
            "the machine shows no evidence of the GPUs that it says it uses",
            why=_WHY,
            group=WORKLOAD,
        )
        return Finding((check,))


@dataclass(frozen=True, slots=True)
class WhereDevices:
    """A rule about devices, for machines that show any; it says nothing of others."""

    rule: Rule

    def appraise(self, subject: Subject) -> Finding:
        """Look, if there is a device."""
        return self.rule.appraise(subject) if subject.devices else Finding(())


def devices_of(engine: Mapping[str, object]) -> int:
    """How many GPUs an engine computes on, by its settings (``device``, ``tensor_parallel``, ``data_parallel``)."""
    if engine.get("device") != _CUDA:
        return 0
    return _count(engine.get("tensor_parallel")) * _count(engine.get("data_parallel"))


def _count(value: object) -> int:
    """A stranger's number: what is none counts as one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**16 else 1
