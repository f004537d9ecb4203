"""Attack class 6 and what belongs to it: logs that lie, sequences that are wrong, and the machine without any of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tdx_support import NOW, digest, failed, firmware_log, rtmrs, subject_of

from appliance.lab.tee import Faults, SyntheticTdx
from appliance.lab.tee_log import ACPI_POSITIONS, KERNEL_POSITION
from attestation import tdx_log_rules
from attestation.rules import AllOf, Subject
from attestation.tdx import TD10_FIELDS, TdReport
from attestation.tdx_log import RuntimeEvent, TdxLog
from attestation.tdx_log_rules import BootSequence, EventDigests, LogReplays, NoUnloggedExtend, log_rules
from attestation.verdict import grow

if TYPE_CHECKING:
    from attestation.rules import Finding, Rule

HEALTHY = SyntheticTdx(clock=lambda: NOW)
ACPI = {at: frozenset({HEALTHY.log.registers[0][at].digest}) for at in ACPI_POSITIONS}
KERNEL = frozenset({HEALTHY.log.registers[1][KERNEL_POSITION].digest})
EVERY_RULE: Rule = log_rules(
    BootSequence(),
    EventDigests(register=0, required=ACPI, count=13, hint="the host handed over other ACPI tables"),
    EventDigests(register=1, required={KERNEL_POSITION: KERNEL}),
    EventDigests.exactly(2, tuple(event.digest for event in HEALTHY.log.registers[2])),
    required=True,
)
RTMR1_ALL = ["event log", "separators", "rtmr1 events"]

ATTACKS = [
    ("log_rewritten", []),  # nothing rests on types and data: this is no attack that has to be seen
    ("log_edited", RTMR1_ALL),
    ("log_cut", RTMR1_ALL),
    ("log_foreign", ["event log", "separators", "rtmr0 events", "rtmr1 events", "rtmr2 events"]),
    ("duplicate_separator", ["separators"]),
    ("no_exit_boot_services", ["exit boot services"]),
    ("unlogged_extend", ["event log", "rtmr3 log", "separators"]),
    ("hostile_acpi", [f"rtmr0 event {at}" for at in ACPI_POSITIONS]),
]


def _report(registers: tuple[bytes, ...]) -> TdReport:
    fields = {name: bytes(size) for name, size in TD10_FIELDS}
    return TdReport(**fields | {f"rtmr{i}": value for i, value in enumerate(registers)})


def _subject(log: TdxLog | None, *, registers: tuple[bytes, ...] | None = None) -> Subject:
    """A subject whose quote is the log's own, unless other registers are given."""
    if registers is None:
        registers = log.replay() if log is not None else (bytes(48),) * 4
    return Subject(_report(registers), None, bytes(32), bytes(64), NOW, log=log)


def _only(finding: Finding) -> str:
    assert len(finding.checks) == 1
    return finding.checks[0].seen


@pytest.mark.parametrize(("attack", "checks"), ATTACKS, ids=[name for name, _ in ATTACKS])
def test_a_log_or_a_boot_that_is_wrong_is_refused(attack: str, checks: list[str]) -> None:
    world = SyntheticTdx(Faults(**{attack: True}), clock=lambda: NOW)  # type: ignore[arg-type]  # every one is a flag
    assert failed(EVERY_RULE.appraise(subject_of(world))) == checks
    healed = SyntheticTdx(clock=lambda: NOW)
    assert failed(EVERY_RULE.appraise(subject_of(healed))) == []


def test_rewritten_types_and_data_change_nothing_that_is_decided() -> None:
    world = SyntheticTdx(Faults(log_rewritten=True), clock=lambda: NOW)
    kinds = {event.text.split()[0] for events in world.log.registers for event in events}
    assert kinds == {"EV_SEPARATOR", "EV_EVENT_TAG"}
    assert world.log.firmware != HEALTHY.log.firmware
    assert world.log.replay() == HEALTHY.log.replay()
    shown, honest = (EVERY_RULE.appraise(subject_of(each)) for each in (world, HEALTHY))
    assert [(check.name, check.passed) for check in shown.checks] == [(c.name, c.passed) for c in honest.checks]


def test_retyping_cannot_hide_an_event() -> None:
    """An event that says it was not extended is not replayed, and then the register is missed."""
    firmware = bytearray(HEALTHY.log.firmware)
    at = firmware.index(HEALTHY.log.registers[1][KERNEL_POSITION].digest) - 10  # the type, before count and bank
    firmware[at : at + 4] = (3).to_bytes(4, "little")
    hidden = TdxLog(bytes(firmware))
    assert [len(events) for events in hidden.registers] == [13, 4, 2, 0]
    seen = LogReplays().appraise(subject_of(HEALTHY, log=hidden)).checks[0]
    assert not seen.passed
    assert seen.seen.startswith("RTMR1 differs first")


@pytest.mark.parametrize("register", range(4))
def test_the_first_register_that_differs_is_named(machine: SyntheticTdx, register: int) -> None:
    subject = subject_of(machine)
    assert subject.report is not None
    assert LogReplays().appraise(subject).passed
    values = rtmrs(subject.report)
    other = tuple(digest("moved") if i >= register else value for i, value in enumerate(values))
    moved = replace(subject, report=replace(subject.report, **{f"rtmr{i}": other[i] for i in range(4)}))
    assert _only(LogReplays().appraise(moved)).startswith(f"RTMR{register} differs first")


def test_a_log_of_another_machine_of_the_same_image_is_as_good(machine: SyntheticTdx) -> None:
    """A log says what was started, never where: the quote and the nonce say that."""
    assert LogReplays().appraise(subject_of(machine.neighbour(), log=machine.log)).passed


def test_every_extension_of_rtmr3_is_logged(machine: SyntheticTdx) -> None:
    assert NoUnloggedExtend().appraise(subject_of(machine)).passed
    less = TdxLog(machine.log.firmware, machine.log.runtime[:1])
    turned = TdxLog(machine.log.firmware, machine.log.runtime[::-1])
    more = TdxLog(machine.log.firmware, (*machine.log.runtime, RuntimeEvent(digest("never"), "never happened")))
    for log in (less, turned, more):
        assert failed(NoUnloggedExtend().appraise(subject_of(machine, log=log))) == ["rtmr3 log"]
    relabelled = tuple(RuntimeEvent(event.digest, "something else") for event in machine.log.runtime)
    other = TdxLog(machine.log.firmware, relabelled)
    assert NoUnloggedExtend().appraise(subject_of(machine, log=other)).passed


def test_without_a_log_nothing_is_said_and_said_so(machine: SyntheticTdx) -> None:
    subject = subject_of(machine, fresh=False)
    checks = log_rules(required=True).appraise(subject).checks
    assert [(item.name, item.passed, item.checked) for item in checks] == [
        ("event log", True, False),
        ("rtmr3 log", True, False),
    ]
    fresh = replace(subject_of(machine), log=None)
    assert failed(log_rules().appraise(fresh)) == ["rtmr3 log"]
    assert failed(log_rules(required=True).appraise(fresh)) == ["event log", "rtmr3 log"]
    untouched = replace(subject_of(HEALTHY), log=None)
    assert failed(log_rules().appraise(untouched)) == []
    assert failed(AllOf((BootSequence(), EventDigests(register=1, count=5))).appraise(untouched)) == [
        "separators",
        "rtmr1 events",
    ]


def test_without_a_verified_quote_no_rule_about_the_log_holds() -> None:
    nothing = Subject(None, None, bytes(32), bytes(64), NOW, log=HEALTHY.log)
    names = failed(EVERY_RULE.appraise(nothing))
    assert names == ["event log", "rtmr3 log", "separators", "rtmr0 events", "rtmr1 events", "rtmr2 events"]


A, B, C = (digest(letter) for letter in "abc")
LOG = TdxLog(firmware_log((1, A), (1, B), (0, C)))


@pytest.mark.parametrize(
    ("rule", "checks"),
    [
        (EventDigests.exactly(1, (A, B)), []),
        (EventDigests.exactly(1, (B, A)), ["rtmr1 event 0", "rtmr1 event 1"]),
        (EventDigests.exactly(1, (A,)), ["rtmr1 events"]),
        (EventDigests.exactly(1, (A, B, C)), ["rtmr1 event 2", "rtmr1 events"]),
        (EventDigests.exactly(3, ()), []),
        (EventDigests.exactly(0, ()), ["rtmr0 events"]),
        (EventDigests(register=1, required={1: frozenset({A, B})}), []),
        (EventDigests(register=1, required={1: frozenset()}), ["rtmr1 event 1"]),
        (EventDigests(register=1, required={2: frozenset({C})}), ["rtmr1 event 2"]),
        (EventDigests(register=1, allowed=frozenset({A, B})), []),
        (EventDigests(register=1, allowed=frozenset({A})), ["rtmr1 events"]),
        (EventDigests(register=1, required={1: frozenset({B})}, allowed=frozenset({A})), []),
        (EventDigests(register=1, required={1: frozenset({B})}, allowed=frozenset({B})), ["rtmr1 events"]),
        (EventDigests(register=1, count=2), []),
        (EventDigests(register=1, count=3), ["rtmr1 events"]),
        (EventDigests(register=0, required={0: frozenset({A})}), ["rtmr0 event 0"]),
    ],
    ids=range(16),
)
def test_digests_are_compared_at_their_place(rule: EventDigests, checks: list[str]) -> None:
    assert failed(rule.appraise(_subject(LOG))) == checks


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([A, B, C])), max_size=6), st.integers(0, 3))
def test_a_list_that_was_not_replayed_is_never_looked_at(events: list[tuple[int, bytes]], register: int) -> None:
    """Whatever the log shows, unless it leads to the quote no rule on its digests holds."""
    log = TdxLog(firmware_log(*events))
    rule = EventDigests.exactly(register, tuple(event.digest for event in log.registers[register]))
    assert rule.appraise(_subject(log)).passed
    values = list(log.replay())
    values[register] = hashlib.sha384(values[register]).digest()
    assert failed(rule.appraise(_subject(log, registers=tuple(values)))) == [f"rtmr{register} events"]


END = ((1, tdx_log_rules.EXIT_CALLED), (1, tdx_log_rules.EXIT_DONE))
S0, S1, S2, S3 = ((register, tdx_log_rules.SEPARATOR) for register in range(4))


@pytest.mark.parametrize(
    ("events", "checks"),
    [
        ((S0, S1, *END), []),
        ((S0, (0, A), (1, B), S1, (2, C), *END), []),
        ((S1, *END), ["separators"]),
        ((S0, *END), ["separators"]),
        ((S0, S0, *END), ["separators"]),
        ((S0, S0, S1, *END), ["separators"]),
        ((S0, S1, S2, *END), ["separators"]),
        ((S0, S1, S3, *END), ["separators"]),
        ((S0, S1), ["exit boot services"]),
        ((S0, S1, END[0]), ["exit boot services"]),
        ((S0, S1, END[1], END[0]), ["exit boot services"]),
        ((S0, S1, *END, (1, A)), ["exit boot services"]),
        ((S0, S1, *END, *END), ["exit boot services"]),
        ((S0, S1, (0, tdx_log_rules.EXIT_DONE), *END), ["exit boot services"]),
        ((), ["separators", "exit boot services"]),
    ],
    ids=range(15),
)
def test_firmware_ends_once_and_in_its_place(events: tuple[tuple[int, bytes], ...], checks: list[str]) -> None:
    assert failed(BootSequence().appraise(_subject(TdxLog(firmware_log(*events))))) == checks


def test_older_firmware_is_a_matter_of_policy() -> None:
    older = _subject(TdxLog(firmware_log(S0, S0, *END)))
    assert failed(BootSequence().appraise(older)) == ["separators"]
    assert failed(BootSequence({0: 2}).appraise(older)) == []


def test_checks_stand_in_their_group_and_say_why(machine: SyntheticTdx) -> None:
    checks = EVERY_RULE.appraise(subject_of(machine)).checks
    assert {check.group for check in checks} == {"event log"}
    assert [node.name for node in grow(checks).checks] == ["event log"]
    assert all(check.why for check in checks)
