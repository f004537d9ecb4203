"""Evidence of a real software TPM, and every way to falsify it that can be staged; each has the untouched evidence as
its control and is refused for its own reason."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
import tpm_support as support
from cryptography.hazmat.primitives.asymmetric import ec
from tpm_images import IMAGE, OTHER_COMMAND_LINE, OTHER_KERNEL

from appliance.lab.tee import SyntheticTdx
from appliance.lab.tpm_ca import KEY_LIFE
from appliance.lab.tpm_world import TpmWorld
from attestation import policy
from attestation.claims import WorkloadStatement
from attestation.errors import AttestationError
from attestation.platforms import Tpm
from attestation.policy import Fresh
from attestation.tpm import references
from attestation.tpm.attest import parse_quote
from attestation.tpm.evidence import TpmEvidence, parse_evidence
from attestation.tpm.keys import parse_public
from attestation.tpm.logs import BootLogs, SystemEvent
from measurements import tpm as predictor

if TYPE_CHECKING:
    from tpm_support import Made

    from attestation.policy import Appraisal
    from attestation.tpm.references import TpmReference
    from measurements.tpm import TpmPrediction

Change = Callable[[TpmEvidence], TpmEvidence]


def statement(made: Made, measured: bytes = support.MEASURED) -> WorkloadStatement:
    registers = {**made.prediction.registers, 14: predictor.configuration_register(support.MEASURED)}
    return WorkloadStatement(image=references.image_hash(registers), measured_config=measured)


def appraise(
    made: Made,
    data: bytes | None = None,
    *,
    roots: tuple[bytes, ...] | None = None,
    refs: tuple[TpmReference, ...] | None = None,
    report_data: bytes | None = None,
    now: float | None = None,
    said: WorkloadStatement | None = None,
) -> Appraisal:
    """Judge evidence, the machine's own by default, as fresh evidence is judged."""
    known = (support.reference(made.prediction),) if refs is None else refs
    chosen = policy.for_name("simulated", tpm_roots=roots or made.world.roots, tpm_references=known)
    return chosen.appraise(
        made.fresh_form if data is None else data,
        None,
        report_data=report_data or made.report_data,
        now=time.time() if now is None else now,
        fresh=Fresh(said or statement(made), time.time()),
    )


def failed(appraisal: Appraisal) -> list[str]:
    return [check.name for check in appraisal.checks if not check.passed]


def test_an_honest_machine_is_accepted(made: Made) -> None:
    appraisal = appraise(made)
    assert failed(appraisal) == []
    assert appraisal.image_hash == statement(made).image
    assert len(appraisal.machine) == 32
    assert len(appraisal.root_key_id) == 48
    assert appraisal.expires_at < time.time() + KEY_LIFE.total_seconds() + 1
    names = [check.name for check in appraisal.checks]
    assert [name.split(" (")[0] for name in names if name.startswith("PCR ")] == [
        "PCR 4",
        "PCR 9",
        "PCR 11",
        "PCR 12",
        "PCR 14",
    ]
    unchecked = [check.name for check in appraisal.checks if not check.checked]
    assert unchecked == [
        "tpm",
        "firmware (PCR 0 to 3, 5 to 7)",
        "other registers (PCR 8, 10, 13, 15)",
        "tpm clock",
        "machine",
        "statement",
    ]


def test_the_form_for_certificates_says_that_it_has_no_log(made: Made) -> None:
    assert len(made.certificate_form) < 4096
    assert parse_evidence(made.certificate_form).logs is None
    chosen = policy.for_name("simulated", tpm_roots=made.world.roots)
    appraisal = chosen.appraise(made.certificate_form, None, report_data=made.report_data, now=time.time())
    assert failed(appraisal) == []
    assert [check.name for check in appraisal.checks if not check.checked][:5] == [
        "PCR 4 (what firmware started: the image and its kernel)",
        "PCR 9 (command line and initrd as the kernel got them)",
        "PCR 11 (the image's sections, and how far it has booted)",
        "PCR 14 (measured configuration)",
        "event log",
    ]
    # Fresh evidence may not leave the log out.
    assert failed(appraise(made, made.certificate_form)) == ["event log"]


def _register(evidence: TpmEvidence, register: int, value: bytes) -> TpmEvidence:
    changed = list(evidence.registers)
    changed[register] = value
    return replace(evidence, registers=tuple(changed))


def _logs(evidence: TpmEvidence, **changes: Any) -> TpmEvidence:
    assert evidence.logs is not None
    return replace(evidence, logs=replace(evidence.logs, **changes))


def _flip(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


def _foreign_key(evidence: TpmEvidence) -> TpmEvidence:
    """Another key's public area, attributes and all, in place of the one that signed."""
    public = parse_public(evidence.key)
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    point = b"".join(b"\0 " + value.to_bytes(32, "big") for value in (numbers.x, numbers.y))
    raw = public.raw[: -len(point)] + point
    return replace(evidence, key=len(raw).to_bytes(2, "big") + raw)


def _attribute(evidence: TpmEvidence, bit: int) -> TpmEvidence:
    """The key's attributes with one bit changed; key and certificate stay."""
    raw = bytearray(evidence.key)
    raw[6:10] = (int.from_bytes(raw[6:10], "big") ^ 1 << bit).to_bytes(4, "big")
    return replace(evidence, key=bytes(raw))


ATTACKS: dict[str, tuple[Change, list[str]]] = {
    "value of a register edited": (lambda e: _register(e, 11, bytes(32)), ["register digest"]),
    "two registers exchanged": (
        lambda e: _register(_register(e, 4, e.registers[9]), 9, e.registers[4]),
        ["register digest"],
    ),
    "quote edited": (lambda e: replace(e, quote=_flip(e.quote, 60)), ["quote signature"]),
    "digest in the quote edited": (
        lambda e: replace(e, quote=_flip(e.quote, -1)),
        ["quote signature", "register digest"],
    ),
    "signature edited": (lambda e: replace(e, signature=_flip(e.signature, -1)), ["quote signature"]),
    "key of another machine": (_foreign_key, ["certified key", "quote signature"]),
    "key that is not restricted": (lambda e: _attribute(e, 16), ["attestation key"]),
    "key that can leave its TPM": (lambda e: _attribute(e, 1), ["attestation key"]),
    "key that does not sign": (lambda e: _attribute(e, 18), ["attestation key"]),
    "key that decrypts": (lambda e: _attribute(e, 17), ["attestation key"]),
    "certificates the other way round": (
        lambda e: replace(e, chain=e.chain[::-1]),
        ["attestation key certificate"],
    ),
    "certificate edited": (
        lambda e: replace(e, chain=(_flip(e.chain[0], -1), e.chain[1])),
        ["attestation key certificate"],
    ),
    "log: a digest edited": (
        lambda e: _logs(e, system=tuple(replace(item, digest=bytes(32)) for item in e.logs.system)),  # type: ignore[union-attr]  # fresh evidence has logs
        ["event log"],
    ),
    "log: an event left out": (lambda e: _logs(e, system=e.logs.system[1:]), ["event log"]),  # type: ignore[union-attr]  # as above
    "log: an event twice": (lambda e: _logs(e, system=e.logs.system + e.logs.system[:1]), ["event log"]),  # type: ignore[union-attr]  # as above
    "log: an event of another register": (
        lambda e: _logs(e, system=(*e.logs.system, SystemEvent(15, bytes(32), "nothing"))),  # type: ignore[union-attr]  # as above
        ["event log"],
    ),
    "log: firmware's cut short": (lambda e: _logs(e, firmware=e.logs.firmware[:-1]), ["event log"]),  # type: ignore[union-attr]  # as above
    "log: firmware's empty": (lambda e: _logs(e, firmware=b""), ["event log"]),
    "no logs": (lambda e: replace(e, logs=None), ["event log"]),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_altered_evidence_is_refused_for_its_own_reason(made: Made, name: str) -> None:
    change, reasons = ATTACKS[name]
    assert failed(appraise(made, made.evidence.encode())) == []
    assert failed(appraise(made, change(made.evidence).encode())) == reasons


def test_a_log_whose_types_and_texts_lie_changes_nothing(made: Made) -> None:
    """Everything in the logs that no register confirms is rewritten: the verdict is the same, to the check."""
    evidence = made.evidence
    assert evidence.logs is not None
    retyped = [(register, 0x80000008, digest, b"innocent") for register, _, digest, _ in made.tpm.firmware]
    renamed = tuple(replace(event, text="phase: innocent") for event in evidence.logs.system)
    lying = replace(evidence, logs=BootLogs(support.tcg2_log(retyped), renamed))
    assert lying.logs != evidence.logs
    assert appraise(made, lying.encode()).checks == appraise(made).checks


def test_an_event_retyped_as_no_action_is_missed(made: Made) -> None:
    """The one type that a replay obeys: what it hides is then missing from the register."""
    hidden = [(r, 3 if i == 0 else k, d, x) for i, (r, k, d, x) in enumerate(made.tpm.firmware)]
    lying = _logs(made.evidence, firmware=support.tcg2_log(hidden))
    appraisal = appraise(made, lying.encode())
    assert failed(appraisal) == ["event log"]
    assert next(c.seen for c in appraisal.checks if c.name == "event log") == "replays but for PCR 0"


def test_a_replayed_quote_is_refused(made: Made) -> None:
    other = hashlib.sha512(made.report_data).digest()
    assert failed(appraise(made, report_data=other)) == ["report data"]


def test_another_runs_root_is_refused(made: Made, tmp_path: Any) -> None:
    stranger = TpmWorld(tmp_path)
    appraisal = appraise(made, roots=stranger.roots)
    assert failed(appraisal) == ["attestation key certificate"]
    assert "no trusted root" in appraisal.checks[0].seen
    assert failed(appraise(made, roots=(*stranger.roots, *made.world.roots))) == []


def test_an_expired_certificate_is_refused(made: Made) -> None:
    lived = KEY_LIFE.total_seconds()
    assert failed(appraise(made, now=time.time() + lived - 60)) == []
    for later in (lived + 60, -3600):
        appraisal = appraise(made, now=time.time() + later)
        assert failed(appraisal) == ["attestation key certificate"]
        assert "is valid from" in appraisal.checks[0].seen


def test_a_certificate_for_another_purpose_is_refused(made: Made) -> None:
    """An endorsement certificate of the same root does not make its key an attestation key."""
    endorsement = made.tpm.tool("tpm2_nvread", "0x1c00002")
    authority = made.world._endorsements.der
    forged = replace(made.evidence, chain=(endorsement, authority))
    appraisal = appraise(made, forged.encode())
    assert failed(appraisal) == ["attestation key certificate"]
    assert "attestation key (usage" in appraisal.checks[0].seen


def test_a_key_certified_for_days_gone_by(made: Made) -> None:
    key = parse_public(made.evidence.key).key
    life = dt.timedelta(seconds=-120)
    stale = replace(made.evidence, chain=(made.world.ca.certify(key, bytes(32), life=life), made.evidence.chain[1]))
    fresh = replace(made.evidence, chain=(made.world.ca.certify(key, bytes(32)), made.evidence.chain[1]))
    assert failed(appraise(made, fresh.encode())) == []
    assert failed(appraise(made, stale.encode())) == ["attestation key certificate"]


@pytest.mark.parametrize(
    ("image", "differing", "hint"),
    [
        (OTHER_KERNEL, ["PCR 4", "PCR 11"], "not command line or initrd"),
        (OTHER_COMMAND_LINE, ["PCR 4", "PCR 9", "PCR 11"], "the image's command line, initrd or os-release"),
    ],
    ids=["kernel section", "command line"],
)
def test_another_image_is_named_register_by_register(made: Made, image: bytes, differing: list[str], hint: str) -> None:
    other = predictor.predict(image, boot="disk")
    refs = (support.reference(other, name="release 2"),)
    appraisal = appraise(made, refs=refs)
    assert [name.split(" (")[0] for name in failed(appraisal)] == differing
    first = next(check for check in appraisal.checks if not check.passed)
    assert first.seen == made.prediction.registers[4].hex()
    assert first.expected == f"{other.registers[4].hex()} as release 2"
    assert hint in first.hint
    # Listed beside the machine's own image it does no harm: the reference that fits answers.
    assert failed(appraise(made, refs=(*refs, support.reference(made.prediction)))) == []


def test_how_the_image_is_started_and_how_far_it_has_booted(made: Made, prediction: TpmPrediction) -> None:
    direct = predictor.predict(IMAGE, boot="direct")
    assert [name[:5] for name in failed(appraise(made, refs=(support.reference(direct),)))] == ["PCR 4"]
    early = predictor.predict(IMAGE, boot="disk", phases=prediction.phases[:2])
    assert [name[:6] for name in failed(appraise(made, refs=(support.reference(early),)))] == ["PCR 11"]


def test_another_configuration_is_named(made: Made) -> None:
    """By the statement where there is one, by the reference where it pins it."""
    other = bytes(32)
    unpinned = (support.reference(made.prediction, None),)
    assert failed(appraise(made, refs=unpinned)) == []
    assert failed(appraise(made, refs=unpinned, said=statement(made, other))) == ["stated configuration (PCR 14)"]
    pinned = (support.reference(made.prediction, other),)
    assert failed(appraise(made, refs=pinned)) == ["PCR 14 (measured configuration)"]


def test_a_statement_of_another_image_is_refused(made: Made) -> None:
    said = dataclasses.replace(statement(made), image=bytes(32))
    assert failed(appraise(made, said=said)) == ["statement image"]


async def test_what_the_host_adds_is_named(world: TpmWorld, prediction: TpmPrediction) -> None:
    """An SMBIOS string or an addon moves register 12, whether or not there are references."""
    with support.software_tpm(world) as machine:
        machine.boot(prediction)
        async with support.platform(world, machine) as platform:
            before = await platform.collect(bytes(64))
            machine.measure(12, 0xD, hashlib.sha256(b"debug").digest(), b"debug")
            after = await platform.collect(bytes(64))
            logged = await platform.collect_with_logs(bytes(64))
    for refs in ((), (support.reference(prediction),)):
        judge = support.verifier(world, *refs).policy
        assert failed(judge.appraise(before, None, report_data=bytes(64), now=time.time())) == []
        for shown in (after, logged):
            appraisal = judge.appraise(shown, None, report_data=bytes(64), now=time.time())
            assert failed(appraisal) == ["PCR 12 (command-line overrides, credentials and addons)"]


async def test_an_extension_that_nobody_logged_is_refused(world: TpmWorld, prediction: TpmPrediction) -> None:
    with support.software_tpm(world) as machine:
        machine.boot(prediction)
        async with support.platform(world, machine) as platform:
            before = await platform.collect_with_logs(bytes(64))
            machine.extend(13, bytes(32))
            after = await platform.collect_with_logs(bytes(64))
    judge = support.verifier(world).policy
    assert failed(judge.appraise(before, None, report_data=bytes(64), now=time.time())) == []
    appraisal = judge.appraise(after, None, report_data=bytes(64), now=time.time())
    assert failed(appraisal) == ["event log"]
    assert next(check.seen for check in appraisal.checks if check.name == "event log") == "replays but for PCR 13"


async def test_register_10_is_the_kernels_own_affair(world: TpmWorld, prediction: TpmPrediction) -> None:
    """Where its log cannot be read it is listed as unchecked; a log that is shown has to fit."""
    with support.software_tpm(world) as machine:
        machine.boot(prediction)
        content = b"boot_aggregate"
        machine.extend(10, hashlib.sha256(content).digest())
        async with support.platform(world, machine) as platform:
            silent = await platform.collect_with_logs(bytes(64))
            entry = b"\x0a\0\0\0" + bytes(20) + b"\6\0\0\0ima-ng" + len(content).to_bytes(4, "little")
            machine.files.kernel.write_bytes(entry + content)
            logged = await platform.collect_with_logs(bytes(64))
            machine.files.kernel.write_bytes(entry + content[::-1])
            wrong = await platform.collect_with_logs(bytes(64))
    judge = support.verifier(world).policy
    for shown, names, refused in (
        (silent, ["event log", "event log of PCR 10"], []),
        (logged, ["event log"], []),
        (wrong, ["event log"], ["event log"]),
    ):
        appraisal = judge.appraise(shown, None, report_data=bytes(64), now=time.time())
        assert [check.name for check in appraisal.checks if check.name.startswith("event log")] == names
        assert failed(appraisal) == refused


async def test_a_reset_machine_has_another_key(world: TpmWorld, prediction: TpmPrediction) -> None:
    """The attestation key cannot be made again after a reset: evidence of the old boot cannot be continued."""
    with support.software_tpm(world) as machine:
        machine.boot(prediction)
        async with support.platform(world, machine) as platform:
            first = parse_evidence(await platform.collect(bytes(64)))
            again = parse_evidence(await platform.collect(bytes(64)))
            machine.restart()
            machine.boot(prediction)
            with pytest.raises(AttestationError):
                await platform.collect(bytes(64))
        async with support.platform(world, machine) as platform:
            second = parse_evidence(await platform.collect(bytes(64)))
    assert first.key == again.key != second.key
    assert first.registers == second.registers
    assert parse_quote(first.quote).signer == parse_quote(again.quote).signer != parse_quote(second.quote).signer


def test_bytes_that_are_no_evidence(made: Made) -> None:
    plain = cbor2.loads(made.fresh_form)

    def with_changes(**changes: Any) -> bytes:
        return cbor2.dumps({**plain, **changes}, canonical=True)

    assert with_changes() == made.fresh_form
    bad = {
        "trailing byte": made.fresh_form + b"\0",
        "cut short": made.fresh_form[:-1],
        "duplicate keys": b"\xa9" + made.fresh_form[1:] + cbor2.dumps("kind") + cbor2.dumps("tpm"),
        "twice": made.fresh_form * 2,
        "empty map": b"\xa0",
        "another version": with_changes(version=2),
        "version true": with_changes(version=True),
        "another kind": with_changes(kind="tdx"),
        "a field more": with_changes(more=1),
        "no chain": with_changes(chain=[]),
        "a long chain": with_changes(chain=plain["chain"] * 3),
        "chain of text": with_changes(chain=["x"]),
        "15 registers": with_changes(registers=plain["registers"][:15]),
        "a short register": with_changes(registers=[b"\0" * 31, *plain["registers"][1:]]),
        "empty quote": with_changes(quote=b""),
        "quote with a trailing byte": with_changes(quote=plain["quote"] + b"\0"),
        "signature with a trailing byte": with_changes(signature=plain["signature"] + b"\0"),
        "key with a trailing byte": with_changes(key=plain["key"] + b"\0"),
        "a certificate cut short": with_changes(chain=[plain["chain"][0][:-1], plain["chain"][1]]),
        "logs of another shape": with_changes(logs={"firmware": b""}),
        "an event of register 24": with_changes(logs={"firmware": b"", "system": [[24, bytes(32), ""]]}),
        "an event without digest": with_changes(logs={"firmware": b"", "system": [[1, b"", ""]]}),
        "too many events": with_changes(logs={"firmware": b"", "system": [[1, bytes(32), ""]] * 513}),
    }
    for name, data in bad.items():
        appraisal = appraise(made, data)
        assert len(failed(appraisal)) == 1, name
        assert appraisal.image_hash == bytes(32), name


def test_evidence_of_a_kind_that_the_policy_does_not_trust(made: Made) -> None:
    """Without tpm_roots no TPM is believed, without simulated_roots no simulated TDX quote; with both, both are."""
    machine = SyntheticTdx()
    quote, collateral = machine.quote(made.report_data), machine.collateral_json()
    tpm_only = policy.for_name("simulated", tpm_roots=made.world.roots)
    tdx_only = policy.for_name("simulated", simulated_roots=(machine.root_der,))
    both = policy.for_name("simulated", tpm_roots=made.world.roots, simulated_roots=(machine.root_der,))
    now = time.time()
    accepted = {
        ("tdx" in chosen.reader.forms, kind): failed(
            chosen.appraise(data, collateral, report_data=made.report_data, now=now)
        )
        for chosen in (tpm_only, tdx_only)
        for kind, data in (("tpm", made.certificate_form), ("tdx", quote))
    }
    assert accepted == {(False, "tpm"): [], (False, "tdx"): ["quote"], (True, "tpm"): ["quote"], (True, "tdx"): []}
    for data in (quote, made.certificate_form, made.fresh_form):
        assert failed(both.appraise(data, collateral, report_data=made.report_data, now=now)) == []
    for chosen in (tpm_only, tdx_only, both):
        assert failed(chosen.appraise(None, collateral, report_data=made.report_data, now=now)) == ["quote"]
        assert chosen.assurance == "none"
    real = policy.for_name("tdx")
    assert failed(real.appraise(made.certificate_form, collateral, report_data=made.report_data, now=now)) == ["quote"]


def test_a_platform_wants_64_bytes(made: Made) -> None:
    assert Tpm.name == "tpm"
    with pytest.raises(AttestationError, match="simulated roots"):
        policy.for_name("tdx", tpm_roots=made.world.roots)
