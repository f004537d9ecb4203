"""The evidence of a booted image, as its status port gave it: QEMU, Debian's OVMF 2025.02, swtpm, the guest's code.

Made on 2026-11-22 with roots of that run; the registers below were predicted from the image's file. It keeps the
formats of evidence and logs what they were, and shows what a real machine's log holds. It came in a bundle of version
1, which is not read any more: its parts are taken out and put to the policy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from attestation import cbor, claims, merkle, policy
from attestation.claims import MAX_STATEMENT, WorkloadStatement
from attestation.evidence import MAX_BUNDLE
from attestation.policy import Appraisal, Fresh
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.references import TpmReference
from measurements.eventlog import parse_tcg2

DATA = Path(__file__).parent / "data"
MADE = 1_795_379_030.0
NONCE = b"\7" * 32
PREDICTED = {
    4: "ed0364cbb0b1f2d26ee259c05475d8a8220c0acbaa24acb3829f81a9486f37a4",
    9: "c5b46e782a3c50faf9299bf37bda01eb660792ab34434d82cae3550a0928cab1",
    11: "fb5d7813c453076217f34fb2577eedeae006faf84acbf8fa7e02d88b21037f1d",
    12: "0" * 64,
}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The fields of the bundle."""
    fields: dict[str, Any] = cbor.decode((DATA / "guest.bundle").read_bytes(), max_length=MAX_BUNDLE)
    return fields


def judge(parts: dict[str, Any], *, now: float = MADE, nonce: bytes = NONCE, **changed: str) -> Appraisal:
    values = {register: changed.get(f"pcr{register}", text) for register, text in PREDICTED.items()}
    reference = TpmReference("image", {register: bytes.fromhex(text) for register, text in values.items()})
    roots = ((DATA / "guest.root.der").read_bytes(),)
    chosen = policy.for_name("simulated", tpm_roots=roots, tpm_references=(reference,))
    said = parts["statement"]
    report_data = claims.report_data(
        merkle.leaf(nonce),
        claims.keys_hash(parts["keys"]),
        claims.gpu_evidence_hash(parts["gpu"]),
        hashlib.sha256(said).digest(),
    )
    statement = WorkloadStatement(**cbor.decode(said, max_length=MAX_STATEMENT))
    fresh = Fresh(statement, float(parts["made"]))
    return chosen.appraise(parts["quote"], None, report_data=report_data, now=now, fresh=fresh)


def failed(appraisal: Appraisal) -> list[str]:
    return [check.name for check in appraisal.checks if not check.passed]


def test_a_booted_images_evidence_is_accepted(parts: dict[str, Any]) -> None:
    found = judge(parts)
    assert failed(found) == []
    assert found.image_hash.hex() == "2d8aab22f092a54c199343b29e041af134c95a64c4b6e5b9939589060c411067"
    assert next(check.seen for check in found.checks if check.name == "event log") == "replays"
    # Its kernel's own log was shown, so that register is not left out.
    assert not any(check.name == "event log of PCR 10" for check in found.checks)


def test_another_question_is_not_answered(parts: dict[str, Any]) -> None:
    assert failed(judge(parts, nonce=b"\x08" * 32)) == ["report data"]


def test_its_logs_hold_what_a_real_machine_measures(parts: dict[str, Any]) -> None:
    logs = parse_evidence(parts["quote"]).logs
    assert logs is not None
    assert [event.text for event in logs.system] == [
        *(f"phase: {phase}" for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready")),
        "integrity: ima-sig",
        "measured configuration",
    ]
    firmware = parse_tcg2(logs.firmware)
    started = [event.type_name for event in firmware.events if event.register == 4]
    assert started == [
        "EV_EFI_BOOT_SERVICES_APPLICATION",
        "EV_EFI_ACTION",
        "EV_SEPARATOR",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
    ]
    assert [event.data[8:].rstrip(b"\0").decode() for event in firmware.events if event.register == 9] == [
        "LOADED_IMAGE::LoadOptions",
        "Linux initrd",
    ]


@pytest.mark.parametrize("register", sorted(PREDICTED))
def test_another_image_is_not_it(parts: dict[str, Any], register: int) -> None:
    found = judge(parts, **{f"pcr{register}": "ab" * 32})
    assert [name.split(" (")[0] for name in failed(found)] == [f"PCR {register}"]


def test_its_time_is_over_some_day(parts: dict[str, Any]) -> None:
    assert failed(judge(parts, now=MADE + 8 * 86400)) == ["attestation key certificate"]
