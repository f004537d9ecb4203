"""The evidence of a booted image, as its status port gave it: QEMU, Debian's OVMF 2025.02, swtpm, the guest's code.

Made on 2026-11-23 by the demonstration with roots of that run; the registers below were predicted from the image's
file. It keeps the formats of bundle, evidence and logs what they were, and shows what a real machine's log holds.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attestation import policy
from attestation.evidence import Bundle, parse_bundle
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.references import TpmReference
from attestation.verifier import Verifier
from measurements.eventlog import parse_tcg2

if TYPE_CHECKING:
    from attestation.verdict import Verdict

DATA = Path(__file__).parent / "data"
BUNDLE = (DATA / "guest.bundle").read_bytes()
MADE = 1_795_392_640.0
NONCE = bytes.fromhex("b20f33346bf49e68b40c841034808b9f7dd51f86800982f4803d93a00494f25b")
PREDICTED = {
    4: "31bedd197d8f8ab85ac2f64bdc475c29522d5d4df00fefe98b51525b01f894a6",
    9: "19bf8d83f704feb4ef02eaa8c708182aa20cd71265af6cea874846eecafc77ab",
    11: "8697f2a7404605d93d1042e9db723385e954c55bc4d6a2e247cb7a99c05aeabb",
    12: "0" * 64,
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return parse_bundle(BUNDLE)


def judge(data: bytes = BUNDLE, *, now: float = MADE, nonce: bytes = NONCE, **changed: str) -> Verdict:
    values = {register: changed.get(f"pcr{register}", text) for register, text in PREDICTED.items()}
    reference = TpmReference("image", {register: bytes.fromhex(text) for register, text in values.items()})
    roots = ((DATA / "guest.root.der").read_bytes(),)
    chosen = policy.for_name("simulated", tpm_roots=roots, tpm_references=(reference,))
    verifier = Verifier(chosen, clock=lambda: now)
    return asyncio.run(verifier.verify_bundle(data, nonce=nonce, public_key=parse_bundle(BUNDLE).keys["tls"]))


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failed]


def test_a_booted_images_evidence_is_accepted() -> None:
    found = judge()
    assert failed(found) == []
    assert found.accepted
    assert found.assurance == "none"
    assert found.image_hash.hex() == "2be7f66608d6a160a7198059c9c6440b8e53e1faf2de1f9b7bed166ecf7ed5e0"
    assert next(check.seen for check in found.checks if check.name == "event log") == "replays"
    # Its kernel's own log was shown, so that register is not left out.
    assert not any(check.name == "event log of PCR 10" for check in found.checks)


def test_another_question_is_not_answered() -> None:
    assert failed(judge(nonce=b"\x08" * 32)) == ["nonce"]


@pytest.mark.parametrize("start", range(13))
def test_every_byte_counts(start: int) -> None:
    for at in range(start, len(BUNDLE), 13 * 5):
        found = judge(BUNDLE[:at] + bytes((BUNDLE[at] ^ 1,)) + BUNDLE[at + 1 :])
        assert not found.accepted, at
        assert failed(found)


def test_its_logs_hold_what_a_real_machine_measures(bundle: Bundle) -> None:
    logs = parse_evidence(bundle.quote).logs
    assert logs is not None
    assert [event.text for event in logs.system] == [
        *(f"phase: {phase}" for phase in ("enter-initrd", "leave-initrd", "sysinit", "ready")),
        "integrity: ima-sig",
        "measured configuration",
    ]
    firmware = parse_tcg2(logs.firmware)
    started = [event.type_name for event in firmware.events if event.register == 4]
    application = "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert started == ["EV_EFI_ACTION", "EV_SEPARATOR", application, application]  # the image, and the kernel in it
    assert [event.data[8:].rstrip(b"\0").decode() for event in firmware.events if event.register == 9] == [
        "LOADED_IMAGE::LoadOptions",
        "Linux initrd",
    ]


@pytest.mark.parametrize("register", sorted(PREDICTED))
def test_another_image_is_not_it(register: int) -> None:
    found = judge(**{f"pcr{register}": "ab" * 32})
    assert [name.split(" (")[0] for name in failed(found)] == [f"PCR {register}"]


def test_its_time_is_over_some_day() -> None:
    assert failed(judge(now=MADE + 8 * 86400)) == ["attestation key certificate"]
