"""Attack classes 3, 4, 5 and 13 on a synthetic machine: each with a control that differs only in the attack."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from attest_support import NOW, World, verifier_for
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.lab.tee import Faults, SyntheticTdx
from attestation import claims, dcap, policy, rules, tdx_rules
from attestation.certificate import build_certificate
from attestation.collateral import StaticCollateral
from attestation.errors import AttestationError, EvidenceError, RefusedError
from attestation.ratls import Identity
from attestation.tdx import BodyType, TdAttribute, parse_quote, without_padding
from attestation.verdict import Check
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.verdict import Verdict

KEY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
REPORT_DATA = claims.certificate_report_data(PUBLIC)
DAY = 86400.0


async def _judge(
    tdx: SyntheticTdx, *, now: float = NOW, quote: bytes | None = None, body: BodyType | None = None, **options: Any
) -> Verdict:
    registers = options.pop("registers", {})
    made = quote if quote is not None else tdx.quote(REPORT_DATA, body=body, **registers)
    certificate = build_certificate(KEY, made, now=now - 60)
    return await verifier_for(tdx, now=now, **options).verify_certificate(certificate)


def _bits(*bits: int) -> bytes:
    return sum(1 << bit for bit in bits).to_bytes(8, "little")


@pytest.mark.parametrize("body", [None, BodyType.TD_1_0, BodyType.TD_1_5])
async def test_a_healthy_machine_is_accepted(world: SyntheticTdx, body: BodyType | None) -> None:
    verdict = await _judge(world, body=body)
    assert verdict.require() is verdict
    assert verdict.assurance == "none"
    assert verdict.explain()[0].startswith("no assurance")
    assert verdict.machine == world.ppid
    assert verdict.root_key_id == policy.root_key_id(world.root_der)
    assert verdict.public_key == PUBLIC
    report = parse_quote(world.quote(REPORT_DATA)).report
    assert verdict.image_hash == claims.image_hash(report.measurements)
    assert json.loads(verdict.to_json())["accepted"] is True


def test_parsed_collateral_is_kept_and_still_judged(world: SyntheticTdx) -> None:
    """The same collateral a second time: the same claims, and an altered quote or a later date fails as before."""
    memory = dcap.CollateralMemory()
    quote, collateral, root = world.quote(REPORT_DATA), world.collateral_json(), world.root_der
    first, second = (dcap.verify_quote(quote, collateral, root_der=root, now=NOW, memory=memory) for _ in range(2))
    assert first == second == dcap.verify_quote(quote, collateral, root_der=root, now=NOW)
    assert memory.get(collateral) is not None
    altered = bytearray(quote)
    altered[600] ^= 1
    for shown, trusted, now in (
        (bytes(altered), root, NOW),
        (quote, SyntheticTdx(clock=lambda: NOW).root_der, NOW),
        (quote, root, first.expires_at + 1),
    ):
        with pytest.raises(EvidenceError):
            dcap.verify_quote(shown, collateral, root_der=trusted, now=now, memory=memory)


def test_collateral_that_no_quote_verified_with_is_not_kept(world: SyntheticTdx) -> None:
    memory = dcap.CollateralMemory()
    quote, collateral = world.quote(REPORT_DATA), SyntheticTdx(clock=lambda: NOW).collateral_json()
    with pytest.raises(EvidenceError):
        dcap.verify_quote(quote, collateral, root_der=world.root_der, now=NOW, memory=memory)
    assert memory.get(collateral) is None


def test_a_check_in_a_group_is_else_the_same() -> None:
    check = Check("a", False, "b", "c", "d", checked=False, why="e", lasting=False)
    assert check.within("g") == replace(check, group="g")
    assert check.within("g").within("h") == check.within("g")


REGISTERS = [
    ("debug", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.DEBUG)}, "quote"),
    ("migratable", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.MIGRATABLE)}, "quote"),
    ("sept_ve_disable off", {"td_attributes": _bits()}, "quote"),
    ("perfmon", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.PERFMON)}, "td_attributes"),
    ("key locker", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.KL)}, "td_attributes"),
    ("pks", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.PKS)}, "td_attributes"),
    ("lass", {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.LASS)}, "td_attributes"),
    ("processor trace", {"xfam": (0x602E7 | 1 << 8).to_bytes(8, "little")}, "xfam"),
    ("last-branch records", {"xfam": (0x602E7 | 1 << 15).to_bytes(8, "little")}, "xfam"),
    ("no xfam", {"xfam": bytes(8)}, "xfam"),
    ("mr_owner", {"mr_owner": b"\x01" * 48}, "mr_owner"),
    ("mr_owner_config", {"mr_owner_config": b"\x01" * 48}, "mr_owner_config"),
    ("seam signer", {"mr_signer_seam": b"\x01" * 48}, "quote"),
    ("seam attributes", {"seam_attributes": b"\x01" * 8}, "quote"),
    ("module too old", {"tee_tcb_svn": bytes((0, 1)) + bytes(14)}, "quote"),
    ("report data", {"report_data": b""}, "report data"),
]


@pytest.mark.parametrize(("registers", "check"), [item[1:] for item in REGISTERS], ids=[item[0] for item in REGISTERS])
async def test_a_register_that_must_not_be(world: SyntheticTdx, registers: dict[str, bytes], check: str) -> None:
    assert (await _judge(world)).accepted
    if check == "report data":
        verdict = await _judge(world, quote=world.quote(claims.certificate_report_data(b"\x22" * 32)))
    else:
        verdict = await _judge(world, registers=registers)
    assert not verdict.accepted
    assert [item.name for item in verdict.failed] == [check]
    with pytest.raises(RefusedError, match=check) as caught:
        verdict.require()
    assert caught.value.verdict is verdict


async def test_a_service_td_is_refused(world: SyntheticTdx) -> None:
    assert (await _judge(world, body=BodyType.TD_1_5)).accepted
    verdict = await _judge(world, body=BodyType.TD_1_5, registers={"mr_service_td": b"\x01" * 48})
    assert not verdict.accepted
    subject = _subject(world)
    bound = replace(subject, report=replace(subject.report, mr_service_td=b"\x01" * 48))
    rule = rules.AllOf(policy.production_rules(tcb=tdx_rules.TcbStatus()))
    assert rule.appraise(subject).passed
    assert [item.name for item in rule.appraise(bound).checks if not item.passed] == ["mr_service_td"]


async def test_zeros_after_a_quote_are_cut_only_where_a_policy_says_so(world: SyntheticTdx) -> None:
    for body in (None, BodyType.TD_1_5):
        quote = world.quote(REPORT_DATA, body=body)
        assert without_padding(quote + bytes(70)) == quote
        for tail, padding, accepted in ((bytes(70), True, True), (bytes(70), False, False), (b"\0\1", True, False)):
            verdict = await _judge(world, quote=quote + tail, zero_padding=padding)
            assert verdict.accepted is accepted
    assert without_padding(b"\x05\0") == b"\x05\0"
    assert without_padding(bytes(600)) == bytes(600)


async def test_dcap_alone_would_accept_what_our_rules_refuse(world: SyntheticTdx) -> None:
    """Each gap that is named in the module: were it closed upstream, this test would say so."""
    collateral = world.collateral_json()
    for registers in (
        {"td_attributes": _bits(TdAttribute.SEPT_VE_DISABLE, TdAttribute.PERFMON)},
        {"xfam": bytes(8)},
        {"mr_owner": b"\x01" * 48},
    ):
        found = dcap.verify_quote(world.quote(REPORT_DATA, **registers), collateral, root_der=world.root_der, now=NOW)
        assert found.status == "UpToDate"


def _world(**faults: Any) -> SyntheticTdx:
    return SyntheticTdx(Faults(**faults), clock=lambda: NOW)


PLATFORMS = [
    ({"tcb_status": "OutOfDate", "advisories": ("INTEL-SA-00001",)}, "tcb status", "OutOfDate"),
    ({"tcb_status": "ConfigurationNeeded"}, "tcb status", "ConfigurationNeeded"),
    ({"tcb_status": "SWHardeningNeeded"}, "tcb status", "SWHardeningNeeded"),
    ({"tcb_status": "Revoked"}, "quote", "Revoked"),
    ({"qe_status": "OutOfDate"}, "tcb status", "OutOfDate"),
    ({"module_status": "OutOfDate"}, "tcb status", "OutOfDate"),
    ({"revoke_pck": True}, "quote", "chain"),
    ({"revoke_platform_ca": True}, "quote", "chain"),
    ({"numbered_crls": False}, "quote", "CRL"),
    ({"collateral_fmspc": b"\x01\x02\x03\x04\x05\x06"}, "quote", "mismatch"),
    ({"collateral_age_s": 31 * DAY}, "quote", "xpired"),
    ({"collateral_age_s": -DAY}, "quote", "future"),
    ({"forge_tcb_info": True}, "quote", "tcb_info"),
]


@pytest.mark.parametrize(("faults", "check", "seen"), PLATFORMS, ids=[str(item[0]) for item in PLATFORMS])
async def test_a_platform_or_collateral_that_is_bad(faults: dict[str, Any], check: str, seen: str) -> None:
    assert (await _judge(_world())).accepted
    verdict = await _judge(_world(**faults))
    assert [item.name for item in verdict.failed] == [check]
    assert seen in verdict.failed[0].seen


async def test_an_attestation_key_that_no_enclave_vouches_for() -> None:
    tdx = _world()
    assert (await _judge(tdx)).accepted
    tdx.swap_attestation_key()
    assert "QE report" in (await _judge(tdx)).failed[0].seen


async def test_a_machine_of_another_root_is_refused(world: SyntheticTdx) -> None:
    stranger = SyntheticTdx(clock=lambda: NOW)
    certificate = build_certificate(KEY, stranger.quote(REPORT_DATA), now=NOW - 60)
    ours = policy.for_name("simulated", simulated_roots=(world.root_der,))
    verifier = Verifier(ours, StaticCollateral(stranger.collateral_json()), clock=lambda: NOW)
    assert not (await verifier.verify_certificate(certificate)).accepted
    both = policy.for_name("simulated", simulated_roots=(world.root_der, stranger.root_der))
    verifier = Verifier(both, StaticCollateral(stranger.collateral_json()), clock=lambda: NOW)
    assert (await verifier.verify_certificate(certificate)).accepted


async def test_no_simulated_machine_passes_the_real_policy(world: SyntheticTdx) -> None:
    certificate = build_certificate(KEY, world.quote(REPORT_DATA), now=NOW - 60)
    verifier = Verifier(policy.for_name("tdx"), StaticCollateral(world.collateral_json()), clock=lambda: NOW)
    verdict = await verifier.verify_certificate(certificate)
    assert not verdict.accepted
    assert verdict.assurance == "none"


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda quote: quote + b"\0", "lengths add up"),
        (lambda quote: quote[:-1], "lengths add up"),
        (lambda quote: quote[:47], "shorter than its header"),
        (lambda quote: quote[:500], "ends inside its body"),
        (lambda quote: quote[:4] + bytes(4) + quote[8:], "TEE type 0x0"),
        (lambda quote: b"\x03" + quote[1:], "version 3"),
        (lambda quote: quote[:2] + b"\x03" + quote[3:], "key type 3"),
        (lambda quote: quote[:632] + b"\x10\0\0\0" + quote[636:652], "16 bytes of signature data"),
        (lambda quote: quote + bytes(33 * 1024), "at most"),
        (lambda quote: bytes(64), "TEE type"),
        (lambda quote: b"\x05" + quote[1:48] + b"\x04\0" + quote[50:], "body type 4"),
        (lambda quote: b"\x05" + quote[1:48] + b"\x02\0\x01\0\0\0" + quote[54:], "body of 1 bytes"),
    ],
)
def test_malformed_quotes_are_named(world: SyntheticTdx, alter: Any, message: str) -> None:
    quote = world.quote(REPORT_DATA)
    parse_quote(quote)
    with pytest.raises(AttestationError, match=message):
        parse_quote(alter(quote))


async def test_trailing_bytes_that_dcap_ignores_are_refused(world: SyntheticTdx) -> None:
    verdict = await _judge(world, quote=world.quote(REPORT_DATA) + b"\0")
    assert "lengths add up" in verdict.failed[0].seen


async def test_a_flipped_bit_anywhere_in_the_signed_part_is_refused(world: SyntheticTdx) -> None:
    quote = world.quote(REPORT_DATA)
    for offset in range(0, 636 + 580, 37):
        bad = bytearray(quote)
        bad[offset] ^= 0x10
        assert not (await _judge(world, quote=bytes(bad))).accepted, offset


@settings(deadline=None)
@given(st.integers(0, 6000), st.binary(max_size=12), st.integers(0, 12), st.booleans())
def test_no_damage_to_a_quote_breaks_the_verifier_or_changes_the_report(
    world: SyntheticTdx, at: int, insert: bytes, remove: int, fit: bool
) -> None:
    """What dcap leaves unauthenticated (parts of the certification data) may change; the signed report may not."""
    quote = world.quote(REPORT_DATA)
    bad = bytearray(quote)
    bad[at : at + remove] = insert
    if fit and len(bad) > 636:
        bad[632:636] = (len(bad) - 636).to_bytes(4, "little")
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    with contextlib.suppress(EvidenceError):
        dcap.platform_of(bytes(bad))
    appraisal = chosen.appraise(bytes(bad), world.collateral_json(), report_data=REPORT_DATA, now=NOW)
    if all(item.passed for item in appraisal.checks):
        assert appraisal.report == parse_quote(quote).report


async def test_grace_covers_named_statuses_for_its_days_only() -> None:
    tdx = _world(tcb_status="OutOfDate", advisories=("INTEL-SA-00009",), newer_level_age_s=10 * DAY)
    assert not (await _judge(tdx)).accepted
    assert not (await _judge(tdx, tcb_grace_days=9)).accepted
    verdict = await _judge(tdx, tcb_grace_days=11)
    assert verdict.accepted
    assert verdict.expires_at <= NOW + DAY + 1
    status = next(item for item in verdict.checks if item.name == "tcb status")
    assert "INTEL-SA-00009" in status.seen
    assert "until" in status.expected
    assert not (
        await _judge(_world(tcb_status="ConfigurationNeeded", newer_level_age_s=DAY), tcb_grace_days=90)
    ).accepted
    assert not (await _judge(_world(tcb_status="Revoked", newer_level_age_s=DAY), tcb_grace_days=90)).accepted


def _subject(tdx: SyntheticTdx) -> rules.Subject:
    found = dcap.verify_quote(tdx.quote(REPORT_DATA), tdx.collateral_json(), root_der=tdx.root_der, now=NOW)
    report = found.quote.report
    return rules.Subject(report, found, claims.image_hash(report.measurements), REPORT_DATA, NOW)


@pytest.mark.parametrize("body", [None, BodyType.TD_1_5])
@pytest.mark.parametrize("part", ["tcb_status", "module_status", "qe_status"])
def test_grace_counts_from_when_the_part_was_replaced(part: str, body: BodyType | None) -> None:
    """Without a newer level the part's own date counts, which is long past: no grace."""
    for newer, expected in ((3 * DAY, True), (None, False)):
        tdx = _world(**{part: "OutOfDate"}, newer_level_age_s=newer)
        quote = tdx.quote(REPORT_DATA, body=body)
        found = dcap.verify_quote(quote, tdx.collateral_json(), root_der=tdx.root_der, now=NOW)
        subject = rules.Subject(found.quote.report, found, bytes(32), REPORT_DATA, NOW)
        covered = tdx_rules.TcbStatus(grace_days=4).appraise(subject).passed
        assert covered is (expected and part == "tcb_status")


def test_grace_can_be_limited_to_advisories() -> None:
    subject = _subject(_world(tcb_status="OutOfDate", advisories=("INTEL-SA-00009",), newer_level_age_s=DAY))
    rule = tdx_rules.TcbStatus(grace_days=5, grace_advisories=frozenset({"INTEL-SA-00009"}))
    assert rule.appraise(subject).passed
    assert not tdx_rules.TcbStatus(grace_days=5, grace_advisories=frozenset({"INTEL-SA-1"})).appraise(subject).passed


def test_old_collateral_can_be_refused_by_its_number(world: SyntheticTdx) -> None:
    assert tdx_rules.TcbStatus(min_evaluation_number=17).appraise(_subject(world)).passed
    assert not tdx_rules.TcbStatus(min_evaluation_number=18).appraise(_subject(world)).passed


def test_a_normal_production_platform_is_allowed_and_can_be_refused() -> None:
    subject = _subject(_world())
    assert tdx_rules.PlatformFlags().appraise(subject).passed
    strict = tdx_rules.PlatformFlags(allow_dynamic_platform=False, allow_cached_keys=False, allow_smt=False)
    assert len([item for item in strict.appraise(subject).checks if not item.passed]) == 3
    tame = _subject(_world(dynamic_platform=False, cached_keys=False, smt_enabled=False))
    assert strict.appraise(tame).passed


def test_the_module_can_be_pinned(world: SyntheticTdx) -> None:
    quote, collateral = world.quote(REPORT_DATA), world.collateral_json()
    for module, accepted in ((world.registers["mr_seam"], True), (b"\x01" * 48, False)):
        chosen = policy.for_name("simulated", simulated_roots=(world.root_der,), mr_seam=frozenset({module}))
        appraisal = chosen.appraise(quote, collateral, report_data=REPORT_DATA, now=NOW)
        assert all(item.passed for item in appraisal.checks) is accepted


class _Registry:
    def __init__(self, *images: bytes) -> None:
        self.images = images

    def image_listed(self, image_hash: bytes, /) -> bool:
        return image_hash in self.images


async def test_images_and_machines_can_be_listed(world: SyntheticTdx) -> None:
    subject = _subject(world)
    base = policy.for_name("simulated", simulated_roots=(world.root_der,))
    cases = (
        ((rules.ImageListed(_Registry(subject.image_hash)), tdx_rules.MachineListed(frozenset({world.ppid}))), []),
        ((rules.ImageListed(_Registry()),), ["image"]),
        ((tdx_rules.MachineListed(frozenset({bytes(16)})),), ["machine"]),
    )
    certificate = build_certificate(KEY, world.quote(REPORT_DATA), now=NOW - 60)
    for extra, failed in cases:
        verifier = Verifier(base.demanding(*extra), StaticCollateral(world.collateral_json()), clock=lambda: NOW)
        assert [item.name for item in (await verifier.verify_certificate(certificate)).failed] == failed
    bare = Verifier(policy.for_name("any").demanding(rules.ImageListed(_Registry(bytes(32)))), clock=lambda: NOW)
    verdict = await bare.verify_certificate(build_certificate(KEY, None, now=NOW - 60))
    assert [item.name for item in verdict.failed] == ["image"]


def test_any_of_reports_every_alternative_or_the_first_that_holds(world: SyntheticTdx) -> None:
    subject = _subject(world)
    zero, one = (
        tdx_rules.Register("mr_td", frozenset({bytes(48)})),
        tdx_rules.Register("mr_td", frozenset({subject.report.mr_td})),
    )  # type: ignore[union-attr]  # there is one
    assert rules.AnyOf((zero, one)).appraise(subject).passed
    assert len(rules.AnyOf((zero, zero)).appraise(subject).checks) == 2
    assert not rules.AnyOf(()).appraise(subject).passed


@pytest.mark.parametrize(
    ("name", "roots"), [("simulated", 0), ("tdx", 1), ("any", 1), ("none", 0), ("simulated", 9), ("simulated", -1)]
)
def test_policies_that_cannot_be(world: SyntheticTdx, name: str, roots: int) -> None:
    with pytest.raises(AttestationError):
        policy.for_name(name, simulated_roots=(b"no certificate",) if roots < 0 else (world.root_der,) * roots)


async def test_fake_quotes_are_64_bytes_and_prove_nothing() -> None:
    verifier = Verifier(policy.for_name("fake_tdx"), clock=lambda: NOW)
    verdict = await verifier.verify_certificate(build_certificate(KEY, REPORT_DATA, now=NOW - 60))
    assert verdict.accepted
    assert verdict.assurance == "none"
    assert verdict.image_hash.hex() == "5c55c8f4db4010ba9203d83536d0609856af8c847ac039e37e7dde8fbd574b61"
    for bad, check in (
        (REPORT_DATA[:63], "quote"),
        (REPORT_DATA + b"\0", "quote"),
        (bytes(64), "report data"),
        (None, "quote"),
    ):
        refused = await verifier.verify_certificate(build_certificate(KEY, bad, now=NOW - 60))
        assert [item.name for item in refused.failed] == [check]


class _Counting:
    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def get(self, fmspc: str, ca: str) -> bytes:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_verdict_is_kept_until_collateral_expires_or_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    tdx = SyntheticTdx(Faults(collateral_lifetime_s=2 * 3600.0), clock=lambda: NOW)
    calls = []
    real = dcap.verify_quote
    monkeypatch.setattr(dcap, "verify_quote", lambda *args, **named: calls.append(1) or real(*args, **named))
    clock = [NOW]
    chosen = policy.for_name("simulated", simulated_roots=(tdx.root_der,))
    source = StaticCollateral(tdx.collateral_json())
    verifier = Verifier(chosen, source, clock=lambda: clock[0])
    certificate = build_certificate(KEY, tdx.quote(REPORT_DATA), now=NOW - 60)
    for _ in range(3):
        assert (await verifier.verify_certificate(certificate)).accepted
    assert len(calls) == 1
    clock[0] = NOW + 3601  # collateral was issued an hour before NOW and lives two
    expired = await verifier.verify_certificate(certificate)
    assert not expired.accepted
    assert len(calls) == 2
    changing = Verifier(chosen, _Counting(tdx.collateral_json(), tdx.collateral_json()), clock=lambda: NOW)
    for _ in range(3):
        assert (await changing.verify_certificate(certificate)).accepted
    assert len(calls) == 4


async def test_the_cache_is_bounded_and_keeps_no_refusals(monkeypatch: pytest.MonkeyPatch, world: SyntheticTdx) -> None:
    calls = []
    real = dcap.verify_quote
    monkeypatch.setattr(dcap, "verify_quote", lambda *args, **named: calls.append(1) or real(*args, **named))
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    verifier = Verifier(chosen, StaticCollateral(world.collateral_json()), clock=lambda: NOW, cache_limit=1)
    one, two = (build_certificate(KEY, world.quote(REPORT_DATA), now=NOW - 60) for _ in range(2))
    for certificate in (one, one, two, one):
        assert (await verifier.verify_certificate(certificate)).accepted
    assert len(calls) == 3
    bad = build_certificate(KEY, world.quote(bytes(64)), now=NOW - 60)
    for _ in range(2):
        assert not (await verifier.verify_certificate(bad)).accepted
    assert len(calls) == 5


async def test_without_collateral_nothing_is_accepted(world: SyntheticTdx) -> None:
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    verdict = await Verifier(chosen, clock=lambda: NOW).verify_certificate(
        build_certificate(KEY, world.quote(REPORT_DATA), now=NOW - 60)
    )
    assert [item.name for item in verdict.failed] == ["collateral"]
    for junk in (b"x" * 63, bytes(5000), world.quote(REPORT_DATA)[:900]):
        verdict = await Verifier(chosen, clock=lambda: NOW).verify_certificate(
            build_certificate(KEY, junk, now=NOW - 60)
        )
        assert [item.name for item in verdict.failed] == ["quote"]
    for junk in (b"", b"{}", b"\xff", b"[" * 100_000, b"x" * (1 << 20) + b"x"):
        verdict = await Verifier(chosen, StaticCollateral(junk), clock=lambda: NOW).verify_certificate(
            build_certificate(KEY, world.quote(REPORT_DATA), now=NOW - 60)
        )
        assert not verdict.accepted


_DCAP = "Phala-Network__dcap-qvl/sample/"
SAMPLES = [
    (_DCAP + "tdx_quote", _DCAP + "tdx_quote_collateral.json", []),
    ("TelegramMessenger__cocoon/tee/test/quote.dat", _DCAP + "tdx_quote_outdated_collateral.json", []),
    (
        "google__go-tdx-guest/testing/testdata/quote_v5_sample.dat",
        _DCAP + "tdx_quote_outdated_collateral.json",
        [],
    ),
    (_DCAP + "tdx_quote_outdated", _DCAP + "tdx_quote_outdated_collateral.json", ["quote"]),
    (_DCAP + "tdx_quote", _DCAP + "tdx_quote_outdated_collateral.json", ["quote"]),
]


@pytest.mark.parametrize(("quote_path", "collateral_path", "failed"), SAMPLES)
def test_real_quotes_verify_against_the_real_root_at_their_date(
    shared: Path, quote_path: str, collateral_path: str, failed: list[str]
) -> None:
    quote = (shared / "samples" / quote_path).read_bytes()
    collateral = (shared / "samples" / collateral_path).read_bytes()
    loaded = json.loads(collateral)
    issued = [json.loads(loaded[name])["issueDate"] for name in ("tcb_info", "qe_identity")]
    now = max(datetime.fromisoformat(stamp).timestamp() for stamp in issued) + 3600
    report_data = parse_quote(without_padding(quote)).report.report_data
    chosen = policy.for_name("tdx", zero_padding=True)
    appraisal = chosen.appraise(quote, collateral, report_data=report_data, now=now)
    assert [item.name for item in appraisal.checks if not item.passed] == failed
    if not failed:
        assert appraisal.root_key_id == dcap.INTEL_ROOT_KEY_ID
        late = chosen.appraise(quote, collateral, report_data=report_data, now=NOW)
        assert [item.name for item in late.checks if not item.passed] == ["quote"]


def test_the_image_hashes_of_the_reference(shared: Path) -> None:
    vectors = json.loads((shared / "vectors" / "cocoon.json").read_text())["image_hash"]
    quote = (shared / "samples" / "TelegramMessenger__cocoon" / "tee" / "test" / "quote.dat").read_bytes()
    report = parse_quote(without_padding(quote)).report
    assert report.measurements.hex() == vectors["quote_dat"]["measurements_hex"][:768]
    assert claims.image_hash(report.measurements).hex() == vectors["quote_dat"]["image_hash_hex"]
    assert report.report_data.hex() == vectors["quote_dat"]["report_data_hex"]
    assert claims.image_hash(bytes(384)).hex() == vectors["fake_tdx_or_all_zero"]["image_hash_hex"]
    fill = b"".join(bytes([int(byte, 16)]) * 48 for byte in vectors["unit_test_pattern"]["fill"])
    assert claims.image_hash(fill).hex() == vectors["unit_test_pattern"]["image_hash_hex"]


async def test_the_world_in_this_process_makes_identities(world: SyntheticTdx) -> None:
    identity = await Identity.create(World(world), clock=lambda: NOW)
    assert (await verifier_for(world).verify_certificate(identity.certificate)).accepted


def test_the_public_surface() -> None:
    """Locked: a name that goes is a change that others have to know of."""
    import attestation
    from attestation import ratls

    assert attestation.__all__ == sorted(attestation.__all__)
    assert all(getattr(attestation, name).__name__ == name for name in attestation.__all__)
    with pytest.raises(AttributeError):
        attestation.nothing  # noqa: B018 - the attempt is the test
    assert ratls.__all__ == [
        "Identity",
        "Peer",
        "RatlsDialer",
        "RatlsListener",
        "RouterDialer",
        "RouterListener",
        "open_pool",
    ]
