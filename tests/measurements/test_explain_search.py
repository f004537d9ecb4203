"""Explanations without a log: the change whose prediction is the reported value, or another course of the boot."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from explain_support import PHASES, Small, around, log_of
from hypothesis import given
from hypothesis import strategies as st

from measurements.explain import explain
from measurements.explain_findings import MAX_FINDINGS
from measurements.explain_search import MAX_CANDIDATES
from measurements.explain_text import summary
from measurements.explanation import Candidate
from measurements.prediction import PredictedEvent, Prediction, Register

if TYPE_CHECKING:
    from measurements.prediction import Input

BASE = Small()
CHANGES = list(around(BASE))


@given(st.data())
def test_the_change_that_was_made_is_found(data: st.DataObject) -> None:
    """Of any of the candidates, by values alone; and told to move nothing where it does not."""
    made = data.draw(st.sampled_from(CHANGES))
    order = data.draw(st.permutations(CHANGES))
    found = explain(BASE.tdx(), made.prediction.values, None, order)
    if made.change == "an SMBIOS string":
        assert found.equal
        assert found.unmoved == (made.change,)
        return
    assert found.changes == (made.change,)
    assert summary(found).endswith(f"one change explains all of it: {made.change}")
    for finding in found.findings:
        assert finding.change == made.change
        assert [cause.input for cause in finding.causes] == [made.inputs[0]]
        assert finding.certain
    assert "an SMBIOS string" in found.unmoved
    assert found.tried == len(CHANGES)


def test_the_event_is_named_although_there_is_no_log() -> None:
    """A value that is what a change gives has that change's events: there is no other list that leads to it."""
    found = explain(BASE.tdx(), Small(vcpus=4).tdx().values, None, around(BASE))
    (finding,) = found.findings
    assert (finding.event, finding.position, finding.kind) == ("ACPI tables", 4, "changed")
    assert finding.seen == Small(vcpus=4).tdx().registers["rtmr0"].events[4].digest
    assert found.chains[1].basis == "change"


def test_a_value_that_nothing_explains_names_no_event() -> None:
    found = explain(BASE.tdx(), Small(memory=5000).tdx().values, None, around(BASE))
    (finding,) = found.findings
    assert (finding.event, finding.position, finding.kind) == ("", None, None)
    assert not finding.certain
    assert finding.change is None
    assert {link.kind for link in found.chains[1].links} == {"unknown"}
    assert found.chains[1].differing == ()


def test_registers_that_differ_together_point_at_what_they_share() -> None:
    found = explain(BASE.tdx(), Small(firmware=b"unknown").tdx().values)
    assert {finding.register for finding in found.findings} == {"mrtd", "rtmr0"}
    assert all(finding.causes[0].input == "firmware" for finding in found.findings)
    alone = explain(BASE.tdx(), Small(vcpus=7).tdx().values)
    finding = alone.finding("rtmr0")
    assert finding is not None
    assert finding.causes[-1].input == "firmware", "control: MRTD is as predicted, so the firmware is"
    assert "BFV in mrtd" in finding.causes[-1].sentence


def test_two_changes_at_once_are_found_where_they_move_other_events() -> None:
    both = Small(memory=4096, variables=b"\1").tdx()
    found = explain(BASE.tdx(), both.values, None, around(BASE))
    (finding,) = found.findings
    assert finding.change == "memory 4096 MiB, and firmware variables enrolled"
    assert [cause.input for cause in finding.causes] == ["memory", "firmware variables"]
    assert finding.certain
    assert finding.more == 2
    shared = Small(memory=4096, vcpus=4).tdx()
    (finding,) = explain(BASE.tdx(), shared.values, None, around(BASE)).findings
    assert not finding.certain, "both move the ACPI tables: their digest is that of neither"


def test_a_change_of_each_register_is_found_on_its_own() -> None:
    seen = Small(memory=4096, command_line=b"debug").tdx()
    found = explain(BASE.tdx(), seen.values, None, around(BASE))
    assert {item.register: item.change for item in found.findings} == {
        "rtmr0": "memory 4096 MiB",
        "rtmr2": "command line 'debug'",
    }
    assert found.changes == ()


def test_candidates_that_agree_in_more_registers_come_first() -> None:
    """Two changes give one register; the one that gives the others, too, is named first."""
    seen = Small(memory=4096).tdx()
    worse = replace(CHANGES[1], change="worse", prediction=Small(memory=4096, initrd=b"x").tdx())
    found = explain(BASE.tdx(), seen.values, None, (worse, CHANGES[1]))
    assert [item.change for item in found.findings] == ["memory 4096 MiB"]
    assert len(found.findings[0].causes) == 2
    assert found.changes == ("memory 4096 MiB",)


def test_an_incomplete_candidate_proves_and_refutes_nothing() -> None:
    """Its tables are those of the unchanged machine: a digest that agrees is a proof, one that does not is nothing."""
    half = Small(memory=4096).tdx()
    acpi = BASE.tdx().registers["rtmr0"].events[4]
    events = (*half.registers["rtmr0"].events[:4], acpi)
    registers = {**half.registers, "rtmr0": Register.replayed("rtmr0", "sha384", events)}
    incomplete = Candidate("memory 4096 MiB", ("memory",), replace(half, registers=registers), complete=False)
    seen = Small(memory=4096).tdx()
    logged = explain(BASE.tdx(), seen.values, log_of(seen), (incomplete,))
    assert logged.findings[0].change == "memory 4096 MiB"
    assert logged.findings[0].certain
    other = Small(memory=8192).tdx()
    (finding,) = explain(BASE.tdx(), other.values, None, (incomplete,)).findings
    assert all("none of the values" not in cause.sentence for cause in finding.causes)
    (finding,) = explain(BASE.tdx(), other.values, None, (replace(incomplete, complete=True),)).findings
    assert any("none of the values" in cause.sentence for cause in finding.causes), "control"
    same = Candidate("another device", ("devices",), BASE.tdx(), complete=False)
    assert explain(BASE.tdx(), seen.values, None, (same,)).unmoved == ()
    assert explain(BASE.tdx(), seen.values, None, (replace(same, complete=True),)).unmoved == ("another device",)


def test_an_input_whose_changes_would_move_nothing_is_less_likely() -> None:
    """Tried and inert is an argument; tried and moved to other values is none."""
    seen = Small(vcpus=3).tdx()
    inert = [Candidate(f"QEMU 9.{minor}.0", ("qemu",), BASE.tdx()) for minor in range(3)]
    prediction, log = BASE.tdx(), log_of(seen)
    before = explain(prediction, seen.values, log).findings[0].causes
    assert [cause.input for cause in before] == ["qemu", "vcpus", "memory"]
    after = explain(prediction, seen.values, log, (*inert, *CHANGES[2:4])).findings[0].causes
    assert [cause.input for cause in after] == ["vcpus", "qemu", "memory"]
    assert "no other value that was tried would move" in after[1].sentence
    assert "none of the values that were tried gives" in after[0].sentence
    incomplete = [replace(item, complete=False) for item in inert]
    for few in (inert[:2], incomplete):
        assert explain(prediction, seen.values, log, few).findings[0].causes[0].input == "qemu", "control"


def test_a_candidate_that_does_not_predict_a_register_does_not_leave_it_unmoved() -> None:
    prediction = BASE.tdx()
    partial = replace(prediction, registers={"mrtd": prediction.registers["mrtd"]})
    assert explain(prediction, prediction.values, None, (Candidate("x", ("qemu",), partial),)).unmoved == ()


def test_values_of_another_release_are_found_without_events() -> None:
    seen = Small(command_line=b"x").tdx()
    values = {name: replace(item, events=(), extended=False) for name, item in seen.registers.items()}
    release = Candidate("release 6", ("image",), Prediction("tdx", "direct", "any", values), complete=False)
    found = explain(BASE.tdx(), seen.values, None, (release,))
    assert found.changes == ("release 6",)
    assert found.findings[0].change == "release 6"
    assert found.findings[0].event == ""


@pytest.mark.parametrize(
    ("seen", "register", "change", "first"),
    [
        (Small(phases=PHASES[:2]), "pcr11", "the machine had come no further than phase leave-initrd", "phase"),
        (Small(phases=(*PHASES, "shutdown")), "pcr11", "phase shutdown was measured after phase ready", "phase"),
        (Small(phases=("enter-initrd", "sysinit", "ready")), "pcr11", "phase leave-initrd was not measured", "phase"),
        (Small(phases=("enter-initrd", "leave-initrd", "ready", "sysinit")), "pcr11",
         "phase sysinit and phase ready came in the other order", "phase"),
        (Small(configuration=b"chrysalis configuration refused v1\0"), "pcr14",
         "the guest refused its configuration came in place of measured configuration", "configuration"),
    ],
)  # fmt: skip
def test_other_courses_of_the_boot_are_found(seen: Small, register: str, change: str, first: str) -> None:
    found = explain(BASE.tpm(), seen.tpm().values)
    finding = found.finding(register)
    assert finding is not None
    assert finding.change == change
    assert finding.causes[0].input == first
    assert finding.certain


def test_a_boot_option_that_failed_first() -> None:
    base = BASE.tpm()
    events = list(base.registers["pcr4"].events)
    failed = hashlib.sha256(b"Returning from EFI Application from Boot Option").digest()
    events.insert(2, replace(events[0], digest=failed))
    value = Register.replayed("pcr4", "sha256", events).value
    (finding,) = explain(base, {**base.values, "pcr4": value}).findings
    assert finding.change == "a boot option returned: it failed was measured after separator"
    assert finding.causes[0].input == "boot"


def test_a_register_of_zeros_is_said_to_be_empty() -> None:
    base = BASE.tpm()
    found = explain(base, {**base.values, "pcr14": bytes(32)})
    assert found.findings[0].change == "nothing was measured into it"
    assert found.findings[0].kind == "missing"
    tdx = BASE.tdx()
    (finding,) = explain(tdx, {**tdx.values, "mrtd": bytes(48)}).findings
    assert "the register holds zeros" in finding.causes[0].sentence


def test_something_added_where_nothing_was_predicted() -> None:
    """Register 12 is empty by prediction; what a host adds is found with a log, and is a course without."""
    seen = Small(extra=(b"io.systemd.stub.kernel-cmdline-extra",)).tpm()
    found = explain(BASE.tpm(), seen.values, log_of(seen))
    (finding,) = found.findings
    assert (finding.register, finding.kind, finding.position) == ("pcr12", "inserted", 0)
    assert finding.causes[0].input == "command line"
    (finding,) = explain(BASE.tpm(), seen.values).findings
    assert finding.change is None
    assert finding.causes[0].input == "command line"


def test_no_more_candidates_are_taken_than_the_bound() -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield CHANGES[0]

    found = explain(BASE.tdx(), Small(memory=5000).tdx().values, None, endless())  # type: ignore[arg-type]  # a generator of candidates
    assert found.tried == MAX_CANDIDATES
    assert taken <= MAX_CANDIDATES + 1


def test_a_change_of_several_things_proves_none_of_them_by_one_event() -> None:
    """A whole other shape has the command line that was seen; so may many others."""
    other = Candidate(
        "shape large", ("memory", "vcpus"), Small(memory=9, vcpus=9, command_line=b"x", initrd=b"y").tdx()
    )
    seen = Small(command_line=b"x").tdx()
    (finding,) = explain(BASE.tdx(), seen.values, log_of(seen), (other,)).findings
    assert not finding.certain
    assert finding.change is None
    single = Candidate("command line 'x'", ("command line",), Small(command_line=b"x", initrd=b"y").tdx())
    (finding,) = explain(BASE.tdx(), seen.values, log_of(seen), (other, single)).findings
    assert finding.change == "command line 'x'", "control: a change of one thing does"
    assert [cause.input for cause in finding.causes] == ["command line"]


def test_what_is_proven_in_one_register_is_likely_in_another() -> None:
    """A firmware that is proven to be another explains what firmware measures elsewhere, too."""
    seen = Small(firmware=b"unknown").tdx()
    proven = Candidate("firmware of next year", ("firmware",), replace(
        BASE.tdx(), registers={"mrtd": seen.registers["mrtd"]}))  # fmt: skip
    found = explain(BASE.tdx(), seen.values, None, (proven,))
    finding = found.finding("rtmr0")
    assert finding is not None
    assert finding.causes[0].input == "firmware"
    assert "proven by another event" in finding.causes[0].sentence


def test_events_are_paired_by_the_names_that_changes_give_them() -> None:
    """Tables are gone, and the order of boot is another: not the tables that became an order of boot."""
    events = [PredictedEvent(hashlib.sha384(bytes([i])).digest(), name, "", ("qemu",))
              for i, name in enumerate(("ACPI tables", "ACPI root pointer", "boot order", "separator"))]  # fmt: skip
    order = PredictedEvent(hashlib.sha384(b"order").digest(), "boot order", "", ("boot",))
    base, seen, other = (
        Prediction("tdx", "direct", "small", {"rtmr0": Register.replayed("rtmr0", "sha384", listed)})
        for listed in (events, [order, events[3]], [*events[:2], order, events[3]])
    )
    found = explain(base, seen.values, log_of(seen), (Candidate("disk boot", ("boot",), other),))
    assert [(link.kind, link.name) for link in found.chains[0].links] == [
        ("missing", "ACPI tables"),
        ("missing", "ACPI root pointer"),
        ("changed", "boot order"),
        ("equal", "separator"),
    ]
    assert [item.change for item in found.findings] == [None, "disk boot"]
    blind = explain(base, seen.values, log_of(seen))
    assert blind.chains[0].links[0].kind == "changed", "control: nothing but the log names it"


def test_findings_of_a_register_are_bounded() -> None:
    """What a machine logs decides how many differences there are; the rest is counted."""
    kinds: tuple[Input, ...] = ("acpi", "image")  # by turns, so that no difference has the cause of the one before
    events = [
        PredictedEvent(hashlib.sha256(b"%d" % number).digest(), f"event {number}", "", (kinds[number % 2],))
        for number in range(3 * MAX_FINDINGS)
    ]
    seen = [replace(event, digest=hashlib.sha256(event.digest).digest()) for event in events]
    base, other = (
        Prediction("tpm", "disk", "x", {"pcr1": Register.replayed("pcr1", "sha256", listed)})
        for listed in (events, seen)
    )
    changes = [
        Candidate(
            f"change {number}",
            (kinds[number % 2],),
            Prediction("tpm", "disk", "x", {"pcr1": Register.replayed("pcr1", "sha256", [
                *events[:number], seen[number], *events[number + 1 :],
            ])}),
        )
        for number in range(len(events))
    ]  # fmt: skip
    findings = explain(base, other.values, log_of(other), changes).findings
    assert len(findings) == MAX_FINDINGS
    assert findings[0].more == 2 * MAX_FINDINGS
    few = explain(base, other.values, log_of(other), changes[:5]).findings
    assert [finding.change for finding in few[:5]] == [f"change {number}" for number in range(5)], "the control"


def test_an_event_that_states_its_own_cause_is_a_finding_of_its_own() -> None:
    """A key was enrolled, and the firmware is another: the first explains nothing of the second."""
    key = b"\0" * 16 + (2).to_bytes(8, "little") + (4).to_bytes(8, "little") + "PK".encode("utf-16-le") + b"keys"
    digest = hashlib.sha384(key).digest()
    inputs: list[tuple[Input, ...]] = [("firmware",), ("firmware variables",)]
    base, seen = (
        Prediction("tdx", "direct", "small", {"rtmr0": Register.replayed("rtmr0", "sha384", [
            PredictedEvent(item, name, "", moved)
            for item, name, moved in zip(digests, ("firmware volume CFV", "variable PK"), inputs, strict=True)
        ])})
        for digests in ([b"\1" * 48, b"\2" * 48], [b"\3" * 48, digest])
    )  # fmt: skip
    log = log_of(seen, {digest: key})
    log = replace(log, events=tuple(replace(item, type=0x80000001) for item in log.events))
    first, second = explain(base, seen.values, log).findings
    assert (first.event, first.causes[0].input, first.certain) == ("firmware volume CFV", "firmware", False)
    assert (second.event, second.causes[0].input, second.certain) == ("variable PK", "firmware variables", True)
    assert second.said == "variable PK of 4 bytes"
