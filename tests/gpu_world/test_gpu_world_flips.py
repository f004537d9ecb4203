"""One bit changed anywhere in what a verifier is given about a GPU: refused, or without any effect on what is claimed.

Some bits mean nothing: blanks in PEM and in the XML around a signature. No bit may change a claim and be accepted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.lab.gpu_world import SyntheticGpus
from attestation.gpu.judge import judge_device

if TYPE_CHECKING:
    from attestation.gpu.judge import DeviceJudgement

NOW = time.time()
NONCE = b"\x5a" * 32
WORLD = SyntheticGpus(clock=lambda: NOW)
EVIDENCE, RIMS, OCSP = WORLD.gpu_evidence(0, NONCE), WORLD.rims(), WORLD.ocsp()
PLACES = st.integers(0, 10**6), st.integers(0, 7)


def judged(
    evidence: bytes = EVIDENCE, rims: dict[str, bytes] | None = None, ocsp: dict[bytes, bytes] | None = None
) -> DeviceJudgement:
    return judge_device(evidence, nonce=NONCE, roots=WORLD.roots(), rims=rims or RIMS, ocsp=ocsp or OCSP, now=NOW)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    at = place % len(data)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def harmless(found: DeviceJudgement) -> bool:
    """Refused with a reason, or the same claims as without the flip."""
    return bool(found.failed) if found.claims is None else found.claims == judged().claims


@settings(max_examples=150)
@given(*PLACES)
def test_in_the_evidence(place: int, bit: int) -> None:
    assert harmless(judged(flipped(EVIDENCE, place, bit)))


@pytest.mark.parametrize("start", [0, 4, 36, 45, 100, 3565, 3600, 4000])
def test_in_the_report(start: int) -> None:
    """Every byte of the report is under the signature, or is the signature: a flip is always refused."""
    at = EVIDENCE.index(bytes.fromhex("11e001ff")) + start
    assert judged().claims is not None
    assert judged(flipped(EVIDENCE, at, start % 8)).claims is None


@settings(max_examples=100)
@given(*PLACES, st.sampled_from(sorted(RIMS)))
def test_in_a_manifest(place: int, bit: int, name: str) -> None:
    assert harmless(judged(rims=RIMS | {name: flipped(RIMS[name], place, bit)}))


@settings(max_examples=100)
@given(*PLACES, st.sampled_from(sorted(OCSP)))
def test_in_a_revocation_answer(place: int, bit: int, name: bytes) -> None:
    assert harmless(judged(ocsp=OCSP | {name: flipped(OCSP[name], place, bit)}))


@settings(max_examples=60)
@given(st.integers(0, len(EVIDENCE) - 1))
def test_cut_off_anywhere(length: int) -> None:
    assert judged(EVIDENCE[:length]).claims is None
