"""What a verifier remembers: the same verdicts with and without, and nothing that depends on time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from gpu_evidence_support import failed
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import ChainFault, GpuAttack, OcspFault, ReportFault, RimFault
from attestation.gpu.judge import judge_device
from attestation.gpu.memory import Memory, digest

if TYPE_CHECKING:
    from attestation.gpu.judge import DeviceJudgement

NONCE = bytes([3]) * 32
NOW = time.time()


def judged(world: SyntheticGpus, memory: Memory | None, **changed: Any) -> DeviceJudgement:
    given = {"nonce": NONCE, "roots": world.roots(), "rims": world.rims(), "ocsp": world.ocsp(), "now": NOW}
    return judge_device(world.gpu_evidence(0, NONCE), **(given | changed), memory=memory)


@pytest.mark.parametrize(
    "attack",
    [
        GpuAttack(report=ReportFault.BAD_SIGNATURE),
        GpuAttack(report=ReportFault.REPLAYED),
        GpuAttack(chain=ChainFault.OTHER_ISSUER),
        GpuAttack(chain=ChainFault.OTHER_ROOT),
        GpuAttack(rim=RimFault.ALTERED),
        GpuAttack(rim=RimFault.EXPIRED),
        GpuAttack(rim=RimFault.CONFLICTING),
        GpuAttack(ocsp=OcspFault.REVOKED),
        GpuAttack(ocsp=OcspFault.BAD_SIGNATURE),
        GpuAttack(ocsp=OcspFault.EXPIRED),
    ],
    ids=str,
)
def test_a_verifier_that_remembers_refuses_what_one_that_does_not_refuses(attack: GpuAttack) -> None:
    honest = SyntheticGpus(1, clock=lambda: NOW)
    attacked = SyntheticGpus(1, clock=lambda: NOW, attack=attack, vendor=honest.vendor)
    memory = Memory()
    assert judged(honest, memory).claims is not None
    first = judged(attacked, memory)
    assert failed(first.checks)
    assert failed(judged(attacked, memory).checks) == failed(first.checks) == failed(judged(attacked, None).checks)
    assert judged(honest, memory).claims is not None


def test_dates_are_looked_at_each_time() -> None:
    world, memory = SyntheticGpus(1, clock=lambda: NOW), Memory()
    known = {"rims": world.rims(), "ocsp": world.ocsp()}
    assert judged(world, memory, **known).claims is not None
    tomorrow = judged(world, memory, **known, now=NOW + 2 * 86400)
    assert failed(tomorrow.checks) == [
        "gpu certificate revocation",
        "gpu driver manifest revocation",
        "gpu vbios manifest revocation",
    ]
    later = judged(world, memory, **known, now=NOW + 5 * 365 * 86400, require_ocsp=False)
    assert {"gpu driver manifest", "gpu vbios manifest"} <= set(failed(later.checks))
    assert judged(world, memory, **known).claims is not None


def test_another_root_is_another_question() -> None:
    world, other, memory = SyntheticGpus(1), SyntheticGpus(1), Memory()
    assert judged(world, memory).claims is not None
    assert failed(judged(world, memory, roots=other.roots()).checks) == ["gpu certificate chain"]


def test_what_holds_is_verified_once_and_what_does_not_each_time() -> None:
    memory, asked = Memory(), []

    def verify(held: bool) -> bool:
        asked.append(held)
        return held

    assert [memory.holds(lambda: verify(True), b"a", b"b") for _ in range(3)] == [True] * 3
    assert [memory.holds(lambda: verify(False), b"a", b"c") for _ in range(3)] == [False] * 3
    assert asked == [True, False, False, False]


def test_it_is_bounded() -> None:
    memory = Memory(kept=2)
    for name in (b"1", b"2", b"3"):
        memory.holds(lambda: True, name)
    assert not memory.holds(lambda: False, b"1")
    assert memory.holds(lambda: False, b"3")
    assert not Memory(kept=0).holds(lambda: False, b"1")


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_parts_are_not_mistaken_for_each_other(first: list[bytes], second: list[bytes]) -> None:
    assert (digest(*first) == digest(*second)) == (first == second)
