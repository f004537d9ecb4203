"""Judging the devices of a machine: evidence of each in, verified claims out, and what a policy makes of them.

A device that answered with the right nonce proves no more than that it exists somewhere (attestation specification,
section 4). That it belongs to this machine rests on the measured guest, which holds the session with it and whose quote
covers the evidence that is judged here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from attestation.gpu.memory import Memory
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attestation.gpu.claims import GpuClaims
    from attestation.gpu.roots import GpuRoots


@dataclass(frozen=True, slots=True)
class References:
    """What device evidence is compared with; nothing of it is trusted, its signatures and dates are checked.

    Attributes:
        rims: Reference manifests by id.
        ocsp: OCSP responses, DER, by SHA-256 of the certificate they speak of.
    """

    rims: Mapping[str, bytes] = field(default_factory=dict)
    ocsp: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceFinding:
    """What was found out about all devices.

    Attributes:
        claims: Of every device in order; ``None`` unless every one verified.
        checks: In the order of devices.
        expires_at: Unix time at which the first of what they rest on expires.
    """

    claims: tuple[GpuClaims, ...] | None
    checks: tuple[Check, ...]
    expires_at: float = math.inf


class DeviceJudge(Protocol):
    """Looks at the evidence of a machine's devices."""

    @property
    def judges(self) -> bool:
        """Whether it looks at the evidence, so that references are worth looking for."""

    def judge(
        self, devices: Sequence[bytes], nonces: Callable[[int], bytes], references: References, now: float
    ) -> DeviceFinding:
        """Judge all devices.

        Args:
            devices: Evidence of each (:mod:`attestation.gpu.evidence`).
            nonces: What the device at an index had to answer.
            references: What it is compared with.
            now: Unix time.
        """


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Looks at no device and says so; for policies that give no assurance."""

    judges: bool = False

    def judge(
        self, devices: Sequence[bytes], nonces: Callable[[int], bytes], references: References, now: float
    ) -> DeviceFinding:
        """List what was not looked at."""
        expected = "not checked: this policy judges no devices"
        checks = tuple(
            Check("gpu evidence", True, f"{len(evidence)} bytes", expected, checked=False, group=f"gpu {index}")
            for index, evidence in enumerate(devices)
        )
        return DeviceFinding(None, checks)


@dataclass(frozen=True, slots=True)
class Judged:
    """Verifies the evidence of every device.

    Attributes:
        roots: Under which devices and reference manifests are certified; ``None`` refuses every device, for a policy
            that trusts no maker of devices.
        memory: What was verified before and does not depend on time.
    """

    roots: GpuRoots | None
    judges: bool = True
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)

    def judge(
        self, devices: Sequence[bytes], nonces: Callable[[int], bytes], references: References, now: float
    ) -> DeviceFinding:
        """Verify each."""
        if not devices:
            return DeviceFinding((), ())
        if self.roots is None:
            return DeviceFinding(None, tuple(_untrusted(index) for index in range(len(devices))))
        from attestation.gpu.judge import judge_device  # noqa: PLC0415 - loads XML signatures: machines without a GPU do not

        claims: list[GpuClaims] = []
        checks: list[Check] = []
        expires_at = math.inf
        for index, evidence in enumerate(devices):
            found = judge_device(
                evidence,
                nonce=nonces(index),
                roots=self.roots,
                rims=references.rims,
                ocsp=references.ocsp,
                now=now,
                index=index,
                memory=self.memory,
            )
            checks.extend(check.within(f"gpu {index}") for check in found.checks)
            expires_at = min(expires_at, found.expires_at)
            if found.claims is not None:
                claims.append(found.claims)
        whole = len(claims) == len(devices) and all(check.passed for check in checks)
        return DeviceFinding(tuple(claims) if whole else None, tuple(checks), expires_at)


def _untrusted(index: int) -> Check:
    return Check(
        "gpu evidence",
        False,
        "of a device",
        "of a device whose maker this policy trusts",
        "this policy trusts no root of devices",
        group=f"gpu {index}",
    )
