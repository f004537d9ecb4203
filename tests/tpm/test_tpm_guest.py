"""A fresh bundle of a booted image, as its status port gave it: QEMU, Debian's OVMF 2025.02, swtpm, the guest's code.

Made on 2026-11-22 with roots of that run; the registers below were predicted from the image's file. It keeps the
formats of bundle, evidence and logs what they were, and shows what a real machine's log holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from attestation import policy
from attestation.evidence import parse_bundle
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.references import TpmReference
from attestation.verifier import Verifier
from measurements.eventlog import parse_tcg2

if TYPE_CHECKING:
    from attestation.verdict import Verdict

DATA = Path(__file__).parent / "data"
MADE = 1_795_379_030.0
NONCE = b"\7" * 32
PREDICTED = {
    4: "ed0364cbb0b1f2d26ee259c05475d8a8220c0acbaa24acb3829f81a9486f37a4",
    9: "c5b46e782a3c50faf9299bf37bda01eb660792ab34434d82cae3550a0928cab1",
    11: "fb5d7813c453076217f34fb2577eedeae006faf84acbf8fa7e02d88b21037f1d",
    12: "0" * 64,
}


async def judge(bundle: bytes, *, now: float = MADE, **changed: str) -> Verdict:
    values = {register: changed.get(f"pcr{register}", text) for register, text in PREDICTED.items()}
    reference = TpmReference("image", {register: bytes.fromhex(text) for register, text in values.items()})
    roots = ((DATA / "guest.root.der").read_bytes(),)
    chosen = policy.for_name("simulated", tpm_roots=roots, tpm_references=(reference,))
    key = parse_bundle((DATA / "guest.bundle").read_bytes()).keys["tls"]
    return await Verifier(chosen, clock=lambda: now).verify_bundle(bundle, nonce=NONCE, public_key=key)


async def test_a_booted_images_evidence_is_accepted() -> None:
    bundle = (DATA / "guest.bundle").read_bytes()
    verdict = (await judge(bundle)).require()
    assert verdict.assurance == "none"
    assert verdict.image_hash.hex() == "2d8aab22f092a54c199343b29e041af134c95a64c4b6e5b9939589060c411067"
    assert next(check.seen for check in verdict.checks if check.name == "event log") == "replays"
    # Its kernel's own log was shown, so that register is not left out.
    assert not any(check.name == "event log of PCR 10" for check in verdict.checks)


async def test_its_logs_hold_what_a_real_machine_measures() -> None:
    logs = parse_evidence(parse_bundle((DATA / "guest.bundle").read_bytes()).quote).logs
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
async def test_another_image_is_not_it(register: int) -> None:
    verdict = await judge((DATA / "guest.bundle").read_bytes(), **{f"pcr{register}": "ab" * 32})
    assert [check.name.split(" (")[0] for check in verdict.failed] == [f"PCR {register}"]


async def test_its_time_is_over_some_day() -> None:
    verdict = await judge((DATA / "guest.bundle").read_bytes(), now=MADE + 8 * 86400)
    assert [check.name for check in verdict.failed] == ["attestation key certificate"]


async def test_every_byte_of_it_counts() -> None:
    """One bit changed, at a sample of places over the whole bundle."""
    bundle = (DATA / "guest.bundle").read_bytes()
    for offset in range(0, len(bundle), 97):
        changed = bytearray(bundle)
        changed[offset] ^= 1 << offset % 8
        assert not (await judge(bytes(changed))).accepted, offset
