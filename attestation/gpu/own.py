"""A machine judges its own GPUs, with the same judge that verifiers use, before it lets anything run on them.

The nonces are the machine's own and new, so that no answer is one that was kept. What is found here is not shown to
anybody: verifiers ask for evidence over their own nonces and judge it again.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from attestation.collateral.gathering import gather
from attestation.devices import DeviceFinding, Judged, References
from attestation.gpu.rules import GpuCount, gpu_rules
from attestation.gpu.spdm import NONCE_SIZE
from attestation.rules import AllOf, Subject
from attestation.verdict import NO_ATTESTATION, Check

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.collateral.gathering import Missing
    from attestation.collateral.sources import Sources
    from attestation.evidence import DeviceCollector
    from attestation.gpu.roots import GpuRoots


async def judge_own(
    collector: DeviceCollector,
    sources: Sources,
    roots: GpuRoots,
    *,
    expected: int,
    clock: Callable[[], float] = time.time,
) -> DeviceFinding:
    """Ask this machine's devices and judge what they answer.

    Args:
        collector: Asks the driver.
        sources: Where manifests and revocation status come from.
        roots: Pinned roots of devices and manifests.
        expected: How many GPUs the driver says there are.
        clock: Unix time.

    Returns:
        Claims of every device, ``None`` unless every check passed, and all checks.

    Raises:
        CollectionError: The driver gives no evidence.
    """
    made: dict[int, bytes] = {}

    def nonce(index: int) -> bytes:
        return made.setdefault(index, secrets.token_bytes(NONCE_SIZE))

    devices = await collector.collect(nonce)
    gathered = await gather(None, devices, sources)
    now = clock()
    found = Judged(roots).judge(devices, nonce, References(gathered.staple.rims, gathered.staple.ocsp), now)
    if found.claims is None:
        return DeviceFinding(None, (*found.checks, *_missing(gathered.missing)), found.expires_at)
    subject = Subject(None, None, NO_ATTESTATION, b"", now, devices=found.claims)
    ruled = AllOf(gpu_rules(count=GpuCount(expected, expected))).appraise(subject)
    claims = found.claims if ruled.passed else None
    return DeviceFinding(claims, (*found.checks, *ruled.checks), min(found.expires_at, ruled.expires_at))


def _missing(missing: tuple[Missing, ...]) -> tuple[Check, ...]:
    """What could not be fetched: the reason behind a manifest or response that a check misses."""
    return tuple(
        Check(f"fetching {item.what}", False, item.reason, "an answer", item.hint, group="collateral")
        for item in missing
    )
