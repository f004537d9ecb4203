"""Attacks on a TDX machine, its collateral and its quotes: each with a control that differs only in the attack.

Classes 3, 4, 5, 9, 10 and 13 of the attestation specification's section 5; class 6 is in ``test_tdx_log_rules``.
"""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tdx_support import DAY, NOW, REPORT_DATA, failed, judge, subject_of

from appliance.lab.tee import Faults, SyntheticTdx
from attestation import policy, tdx
from attestation.errors import EvidenceError
from attestation.tdx import BodyType, TdAttribute, parse_quote, without_padding
from attestation.tdx_rules import MachineListed, PlatformKind, Register, TcbStatus, TdAttributes, Xfam

if TYPE_CHECKING:
    from attestation.rules import Rule
    from attestation.verdict import Check

ATTACKS: list[tuple[str, dict[str, Any], str, str]] = [
    ("3 debug", {"debug": True}, "quote", "Debug mode is enabled"),
    ("3 performance monitoring", {"flipped": (TdAttribute.PERFMON,)}, "td_attributes", "PERFMON"),
    ("3 key locker", {"flipped": (TdAttribute.KL,)}, "td_attributes", "KL"),
    ("3 protection keys", {"flipped": (TdAttribute.PKS,)}, "td_attributes", "PKS"),
    ("3 linear address separation", {"flipped": (TdAttribute.LASS,)}, "td_attributes", "LASS"),
    ("3 silent page faults", {"flipped": (TdAttribute.SEPT_VE_DISABLE,)}, "quote", "SEPT_VE_DISABLE"),
    ("3 a module that Intel did not sign", {"unsigned_module": True}, "quote", "TDX module"),
    ("4 migratable", {"migratable": True}, "quote", "migration is enabled"),
    ("4 service TD", {"service_td": True}, "quote", "service TD"),
    ("5 out of date", {"tcb_status": "OutOfDate"}, "tcb status", "OutOfDate"),
    ("5 revoked level", {"tcb_status": "Revoked"}, "quote", "status is invalid"),
    ("5 quoting enclave out of date", {"qe_status": "OutOfDate"}, "tcb status", "OutOfDate"),
    ("5 module out of date", {"module_status": "OutOfDate"}, "tcb status", "OutOfDate"),
    ("5 stale", {"collateral_age_s": 31 * DAY}, "quote", "expired"),
    ("5 from the future", {"collateral_age_s": -DAY}, "quote", "in the future"),
    ("5 forged", {"forge_tcb_info": True}, "quote", "signature"),
    ("5 of another kind of platform", {"collateral_fmspc": bytes(6)}, "quote", "Fmspc"),
    ("5 revoked machine", {"revoke_pck": True}, "quote", "chain"),
    ("5 revoked authority", {"revoke_platform_ca": True}, "quote", "chain"),
    ("5 missing revocation list", {"missing_crl": True}, "quote", "PCK CRL"),
    ("5 revocation list without a number", {"numbered_crls": False}, "quote", "root CA CRL"),
    ("13 truncated", {"quote_form": "truncated"}, "quote", "lengths add up"),
    ("13 trailing bytes", {"quote_form": "trailing"}, "quote", "lengths add up"),
    ("13 padded", {"quote_form": "padded"}, "quote", "lengths add up"),
    ("13 SGX as TDX", {"quote_form": "sgx"}, "quote", "TEE type 0x0"),
    ("13 unknown body", {"quote_form": "unknown body"}, "quote", "body type 9"),
    ("13 unknown version", {"quote_form": "unknown version"}, "quote", "version 6"),
    ("13 absurd length", {"quote_form": "long"}, "quote", "at most 32768"),
]


@pytest.mark.parametrize(("attack", "check", "seen"), [item[1:] for item in ATTACKS], ids=[item[0] for item in ATTACKS])
def test_an_attack_is_refused_by_name(attack: dict[str, Any], check: str, seen: str) -> None:
    checks = judge(SyntheticTdx(Faults(**attack), clock=lambda: NOW))
    assert failed(checks) == [check]
    assert seen.lower() in next(item for item in checks if not item.passed).seen.lower()


HINTS = [
    ({"debug": True}, "debug mode"),
    ({"flipped": (TdAttribute.SEPT_VE_DISABLE,)}, "launch it with SEPT_VE_DISABLE"),
    ({"unsigned_module": True}, "not one that Intel signed"),
    ({"migratable": True}, "can be migrated"),
    ({"service_td": True}, "launch it without one"),
    ({"tcb_status": "Revoked"}, "TCB is revoked"),
    ({"collateral_age_s": 31 * DAY}, "collateral is stale"),
    ({"collateral_age_s": -DAY}, "from the future"),
    ({"forge_tcb_info": True}, "altered or is not signed by Intel"),
    ({"collateral_fmspc": bytes(6)}, "another kind of platform"),
    ({"revoke_pck": True}, "revoked or expired"),
    ({"missing_crl": True}, "lacks a revocation list"),
    ({"numbered_crls": False}, "lacks a revocation list"),
]


@pytest.mark.parametrize(("attack", "hint"), HINTS)
def test_what_the_quote_library_refuses_has_a_hint_of_its_own(attack: dict[str, Any], hint: str) -> None:
    checks = judge(SyntheticTdx(Faults(**attack), clock=lambda: NOW))
    assert hint in next(item for item in checks if item.name == "quote").hint


def test_a_platform_older_than_every_listed_level_is_told_to_update() -> None:
    """Control: the lowest level that is listed."""
    world = SyntheticTdx(clock=lambda: NOW)
    svn = parse_quote(world.quote(REPORT_DATA)).report.tee_tcb_svn

    def checks(level: int) -> list[Check]:
        shown = world.quote(REPORT_DATA, tee_tcb_svn=svn[:2] + bytes([level]) + svn[3:])
        return [check for check in judge(world, quote=shown) if not check.passed]

    assert checks(2) == []
    (check,) = checks(1)
    assert "No matching TCB level" in check.seen
    assert "update firmware" in check.hint


@pytest.mark.parametrize("service_td", [False, True])
def test_the_control_of_all_of_them(service_td: bool) -> None:
    """A healthy machine, with either body; only the field of the attack is another."""
    world = SyntheticTdx(clock=lambda: NOW)
    body = BodyType.TD_1_5 if service_td else None
    assert failed(judge(world, quote=world.quote(REPORT_DATA, body=body))) == []


def test_every_field_of_the_world_is_staged_somewhere() -> None:
    """An attack that nobody stages is one that nobody sees fail."""
    here = {name for _, attack, _, _ in ATTACKS for name in attack}
    elsewhere = {
        "advisories", "newer_level_age_s", "collateral_lifetime_s", "sgx_type", "dynamic_platform", "cached_keys",
        "smt_enabled",  # with the TCB's grace and the platform's flags, in the tests of quote policies
        "log_rewritten", "log_edited", "log_cut", "log_foreign", "duplicate_separator", "no_exit_boot_services",
        "unlogged_extend", "hostile_acpi",  # in test_tdx_log_rules
    }  # fmt: skip
    assert here | elsewhere == {item.name for item in fields(Faults)}
    assert not here & elsewhere


def test_padding_is_taken_only_where_a_policy_says_so() -> None:
    world = SyntheticTdx(Faults(quote_form="padded"), clock=lambda: NOW)
    assert failed(judge(world, zero_padding=True)) == []
    assert failed(judge(world, quote=world.quote(REPORT_DATA) + b"\x01", zero_padding=True)) == ["quote"]


@pytest.mark.parametrize("bit", [bit for bit in range(64) if bit != TdAttribute.SEPT_VE_DISABLE])
def test_every_other_attribute_is_refused_by_our_own_rule(bit: int) -> None:
    """Whatever the quote library thinks of a bit: the rule compares all 64."""
    subject = subject_of(SyntheticTdx(clock=lambda: NOW))
    assert subject.report is not None
    rule = TdAttributes()
    assert rule.appraise(subject).passed
    wrong = (1 << TdAttribute.SEPT_VE_DISABLE | 1 << bit).to_bytes(8, "little")
    other = replace(subject, report=replace(subject.report, td_attributes=wrong))
    assert failed(rule.appraise(other)) == ["td_attributes"]


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        (Register("mr_service_td", frozenset({bytes(48)})), True),
        (Register("mr_signer_seam", frozenset({b"\x01" * 48})), False),
        (Register("mr_seam", frozenset({b"\x01" * 48})), False),
        (Xfam(required=0x602E7, allowed=0x602E7), True),
        (Xfam(required=0x602E7, allowed=0x602E6), False),
        (Xfam(required=0x602EF), False),
        (TdAttributes(0), False),
    ],
    ids=range(7),
)
@pytest.mark.parametrize("body", [None, BodyType.TD_1_0, BodyType.TD_1_5])
def test_registers_are_pinned_in_every_body(
    machine: SyntheticTdx, rule: Rule, passed: bool, body: BodyType | None
) -> None:
    assert rule.appraise(subject_of(machine, body=body)).passed is passed


def test_a_leaked_key_or_a_tapped_machine_is_kept_out_by_the_list_alone(machine: SyntheticTdx) -> None:
    """Classes 9 and 10: the neighbour runs the same image under the same root, so that all else is as it has to be."""
    relay = machine.neighbour()
    assert relay.ppid != machine.ppid
    assert failed(judge(machine, quote=relay.quote(REPORT_DATA))) == []
    listed = MachineListed(frozenset({machine.ppid}))
    assert failed(judge(machine, listed)) == []
    assert failed(judge(machine, listed, quote=relay.quote(REPORT_DATA))) == ["machine"]
    assert failed(judge(machine, listed, MachineListed(frozenset()))) == ["machine"]


def test_kinds_of_platforms_can_be_listed(machine: SyntheticTdx) -> None:
    assert failed(judge(machine, PlatformKind(frozenset({machine.fmspc})))) == []
    assert failed(judge(machine, PlatformKind(frozenset({bytes(6)})))) == ["platform kind"]


def test_a_quote_for_another_nonce_is_a_replay(machine: SyntheticTdx) -> None:
    assert failed(judge(machine, quote=machine.quote(bytes(64)))) == ["report data"]


def test_a_key_that_no_enclave_vouches_for() -> None:
    world = SyntheticTdx(clock=lambda: NOW)
    assert failed(judge(world)) == []
    world.swap_attestation_key()
    assert failed(judge(world)) == ["quote"]


def test_the_signature_of_another_machine_fits_no_report(machine: SyntheticTdx) -> None:
    ours, theirs = machine.quote(REPORT_DATA), machine.neighbour().quote(REPORT_DATA, mr_td=bytes(48))
    assert failed(judge(machine, quote=theirs[:632] + ours[632:])) == ["quote"]


@pytest.mark.parametrize(
    ("status", "covered"),
    [
        ("OutOfDate", True),
        ("SWHardeningNeeded", True),
        ("ConfigurationNeeded", False),
        ("OutOfDateConfigurationNeeded", False),
        ("ConfigurationAndSWHardeningNeeded", False),
    ],
)
def test_grace_is_for_named_statuses_and_advisories(status: str, covered: bool) -> None:
    late = Faults(tcb_status=status, advisories=("INTEL-SA-00001",), newer_level_age_s=10 * DAY)
    subject = subject_of(SyntheticTdx(late, clock=lambda: NOW))
    assert not TcbStatus().appraise(subject).passed
    found = TcbStatus(grace_days=11).appraise(subject)
    assert found.passed is covered
    assert not TcbStatus(grace_days=10).appraise(subject).passed
    named = TcbStatus(grace_days=11, grace_statuses=frozenset({status}))
    assert named.appraise(subject).passed
    assert abs(named.appraise(subject).expires_at - NOW - DAY) < 2  # the level's date has whole seconds
    none = TcbStatus(grace_days=11, grace_statuses=frozenset({status}), grace_advisories=frozenset())
    assert not none.appraise(subject).passed
    assert all(check.hint and check.why for check in none.appraise(subject).checks)


PARTS = st.sampled_from([None, BodyType.TD_1_0, BodyType.TD_1_5])
NAMES = [name for name, size in tdx.TD10_FIELDS if size == 48]


@given(PARTS, st.sampled_from(NAMES), st.binary(min_size=48, max_size=48), st.binary(min_size=64, max_size=64))
def test_what_a_machine_states_is_what_is_read(
    machine: SyntheticTdx, body: BodyType | None, name: str, value: bytes, report_data: bytes
) -> None:
    quote = machine.quote(report_data, body=body, **{name: value})
    parsed = parse_quote(quote)
    assert getattr(parsed.report, name) == value
    assert parsed.report.report_data == report_data
    assert parsed.version == (4 if body is None else 5)
    assert parsed.body_type is (body or BodyType.TD_1_0)
    assert quote.startswith(parsed.signed)
    assert without_padding(quote + bytes(100)) == quote


@given(PARTS, st.integers(0, 5000))
def test_no_beginning_of_a_quote_is_a_quote(machine: SyntheticTdx, body: BodyType | None, length: int) -> None:
    quote = machine.quote(REPORT_DATA, body=body)
    with pytest.raises(EvidenceError):
        parse_quote(quote[: min(length, len(quote) - 1)])


@given(st.binary(max_size=700), PARTS, st.integers(0, 700), st.binary(max_size=8))
def test_no_bytes_break_the_parser(
    machine: SyntheticTdx, junk: bytes, body: BodyType | None, at: int, change: bytes
) -> None:
    quote = bytearray(machine.quote(REPORT_DATA, body=body))
    quote[at : at + len(change)] = change
    for data in (junk, bytes(quote), bytes(quote) + junk):
        with contextlib.suppress(EvidenceError):
            parsed = parse_quote(data)
            assert data.startswith(parsed.signed)
        without_padding(data)


def test_a_release_policy_takes_no_synthetic_machine(machine: SyntheticTdx) -> None:
    checks = policy.for_name("tdx").appraise(
        machine.quote(REPORT_DATA), machine.collateral_json(), report_data=REPORT_DATA, now=NOW
    )
    assert failed(checks.checks) == ["quote"]
