"""What the rules about devices share: looking at verified devices, or saying that there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.rules import Finding, one
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from attestation.gpu.claims import GpuClaims
    from attestation.rules import Subject

GROUP = "gpus"
"""The group of checks about all devices together; those of one are in groups of their own."""

UNCHECKED = "by policy: unchecked"


def looked(name: str, expected: str, subject: Subject, look: Callable[[tuple[GpuClaims, ...]], Finding]) -> Finding:
    """Look at the devices if there is verified evidence; say so if there is none."""
    if subject.devices is not None:
        return look(subject.devices)
    if subject.statement is None:
        seen = "a certificate says nothing about devices"
        return Finding(
            (Check(name, True, seen, f"{UNCHECKED} here; fresh evidence shows them", checked=False, group=GROUP),)
        )
    return finding(name, False, "no verified devices", expected, "see the checks of each device")


def finding(name: str, passed: bool, seen: str, expected: str, hint: str = "", *, why: str = "") -> Finding:
    """A finding of one check about all devices."""
    return Finding(tuple(check.within(GROUP) for check in one(name, passed, seen, expected, hint, why=why).checks))


def gpus_of(devices: Iterable[GpuClaims]) -> list[GpuClaims]:
    """The GPUs among some devices."""
    return [device for device in devices if device.kind == "gpu"]
