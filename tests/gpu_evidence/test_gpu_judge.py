"""The judge as a whole: any change of evidence is a refusal, never an exception; every check says why it matters."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gpu_evidence_support import build_report, by_name, failed
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import GpuAttack, OcspFault, RimFault
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.judge import judge_device
from attestation.gpu.memory import Memory
from attestation.gpu.roots import NVIDIA_ROOTS, GpuRoots
from attestation.gpu.spdm import Opaque

if TYPE_CHECKING:
    from attestation.gpu.judge import DeviceJudgement

NONCE = bytes([9]) * 32
NOW = time.time()
WORLD = SyntheticGpus(1, clock=lambda: NOW)
GIVEN: dict[str, Any] = {
    "nonce": NONCE,
    "roots": WORLD.roots(),
    "rims": WORLD.rims(),
    "ocsp": WORLD.ocsp(),
    "now": NOW,
    "memory": Memory(),
}
EVIDENCE = WORLD.gpu_evidence(0, NONCE)
SHOWN = DeviceEvidence.parse(EVIDENCE)


def judged(evidence: bytes = EVIDENCE, **changed: Any) -> DeviceJudgement:
    return judge_device(evidence, **(GIVEN | changed))


def test_an_honest_device_has_claims_and_an_end() -> None:
    judgement = judged(index=5)
    assert judgement.failed == ()
    assert judgement.claims is not None
    assert judgement.claims.index == 5
    assert judgement.claims.device_id == WORLD.device_ids[0]
    assert NOW < judgement.expires_at < NOW + 2 * 86400


@settings(max_examples=60)
@given(place=st.integers(0, len(SHOWN.report) - 1), bit=st.integers(0, 7))
def test_one_bit_of_a_report_is_a_refusal(place: int, bit: int) -> None:
    report = bytearray(SHOWN.report)
    report[place] ^= 1 << bit
    assert judged(replace(SHOWN, report=bytes(report)).encode()).claims is None


@settings(max_examples=60)
@given(place=st.integers(0, len(EVIDENCE) - 1), value=st.integers(0, 255), cut=st.integers(0, 40))
def test_changed_evidence_has_the_same_claims_or_none(place: int, value: int, cut: int) -> None:
    changed = EVIDENCE[:place] + bytes([value]) + EVIDENCE[place + 1 + cut :]
    assert judged(changed).claims in {None, judged().claims}


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    judgement = judged(data)
    assert failed(judgement.checks) == ["gpu evidence"]
    assert judgement.expires_at == math.inf


@settings(max_examples=40)
@given(st.binary(max_size=100), st.sampled_from(sorted(GIVEN["rims"])), st.sampled_from(sorted(GIVEN["ocsp"])))
def test_garbage_in_the_place_of_references_is_refused(data: bytes, rim: str, fingerprint: bytes) -> None:
    assert judged(rims=GIVEN["rims"] | {rim: data}).claims is None
    assert judged(ocsp=GIVEN["ocsp"] | {fingerprint: data}).claims is None


@pytest.mark.parametrize("now", [0.0, -1.0, math.inf, math.nan, 1e18])
def test_a_clock_that_is_wrong_is_a_refusal(now: float) -> None:
    assert judged(now=now).claims is None


def test_without_roots_or_under_the_vendors_a_synthetic_world_is_refused() -> None:
    for roots in (GpuRoots((), ()), NVIDIA_ROOTS):
        assert failed(judged(roots=roots).checks) == ["gpu certificate chain"]


def test_a_response_that_is_there_is_judged_whether_or_not_one_is_demanded() -> None:
    """A policy that does without responses still hears a revocation."""
    revoked = SyntheticGpus(1, clock=lambda: NOW, vendor=WORLD.vendor, attack=GpuAttack(ocsp=OcspFault.REVOKED))
    evidence, ocsp = revoked.gpu_evidence(0, NONCE), revoked.ocsp()
    attacked = judged(evidence, ocsp=ocsp, require_ocsp=False)
    control = judged(evidence, ocsp={}, require_ocsp=False)
    assert failed(attacked.checks) == ["gpu certificate revocation"]
    assert control.claims is not None
    assert not by_name(control.checks)["gpu certificate revocation"].checked


def test_every_check_says_why_it_matters_and_every_failure_what_to_do() -> None:
    attacks = [
        GpuAttack(),
        GpuAttack(mismatched=(3,)),
        GpuAttack(rim=RimFault.CONFLICTING),
        GpuAttack(rim=RimFault.MISSING),
        GpuAttack(ocsp=OcspFault.ON_HOLD),
        GpuAttack(ocsp=OcspFault.MISSING),
    ]
    for attack in attacks:
        world = SyntheticGpus(1, clock=lambda: NOW, attack=attack)
        judgement = judge_device(
            world.gpu_evidence(0, NONCE),
            nonce=NONCE,
            roots=world.roots(),
            rims=world.rims(),
            ocsp=world.ocsp(),
            now=NOW,
        )
        for check in judgement.checks:
            assert check.why.endswith("."), check.name
            assert check.passed or check.hint, check.name


def test_a_gpu_that_reports_no_driver_is_no_switch() -> None:
    """What a report leaves out must not change which manifests are asked for."""
    without = build_report(nonce=NONCE, opaque=[(Opaque.VBIOS_VERSION, b"96.00.9F.00.01")])
    checks = judged(replace(SHOWN, report=without).encode()).checks
    assert "gpu report" in failed(checks)
    assert "not those of a gpu" in by_name(checks)["gpu report"].seen


def test_devices_of_one_machine_are_judged_each_by_itself() -> None:
    world = SyntheticGpus(2, switches=2, clock=lambda: NOW)
    nonces = [bytes([index + 1]) * 32 for index in range(4)]
    devices = asyncio.run(world.collect(nonces.__getitem__))
    given = GIVEN | {"roots": world.roots(), "rims": world.rims(), "ocsp": world.ocsp()}
    kinds = []
    for index, evidence in enumerate(devices):
        judgement = judge_device(evidence, **(given | {"nonce": nonces[index]}))
        assert judgement.claims is not None, failed(judgement.checks)
        kinds.append(judgement.claims.kind)
        elsewhere = judge_device(evidence, **(given | {"nonce": nonces[index - 1]}))
        assert failed(elsewhere.checks) == ["gpu nonce"]
    assert kinds == ["gpu", "gpu", "switch", "switch"]
