"""Explanations with a log: exactly the event that differs, whatever the log says of itself."""

from __future__ import annotations

import hashlib
import string
from dataclasses import replace

import pytest
from explain_support import Small, around, log_of
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import MeasurementError
from measurements.eventlog import Event, EventLog
from measurements.explain import explain, register_index
from measurements.explain_text import lines, summary
from measurements.explanation import Candidate
from measurements.prediction import PredictedEvent, Prediction, Register

BASE = Small()


def test_equal_is_equal_with_and_without_a_log() -> None:
    prediction = BASE.tdx()
    for log in (None, log_of(prediction)):
        found = explain(prediction, prediction.values, log, around(BASE))
        assert found.equal
        assert found.findings == ()
        assert found.changes == ()
        assert found.unmoved == ("an SMBIOS string",)
        assert summary(found) == "equal: 4 registers as predicted for small"


@pytest.mark.parametrize(
    ("seen", "register", "event", "position", "first"),
    [
        (Small(memory=5000), "rtmr0", "TD HOB", 0, "memory"),
        (Small(vcpus=3), "rtmr0", "ACPI tables", 4, "qemu"),
        (Small(variables=b"x"), "rtmr0", "variable SecureBoot", 2, "firmware variables"),
        (Small(command_line=b"x"), "rtmr2", "command line", 0, "command line"),
        (Small(initrd=b"x"), "rtmr2", "initrd", 1, "initrd"),
        (Small(configuration=b"x"), "mrconfigid", "", None, "configuration"),
        (Small(firmware=b"x"), "mrtd", "", None, "firmware"),
    ],
)
def test_the_first_event_is_named_with_its_causes(
    seen: Small, register: str, event: str, position: int | None, first: str
) -> None:
    found = explain(BASE.tdx(), seen.tdx().values, log_of(seen.tdx()))
    finding = found.finding(register)
    assert finding is not None
    assert (finding.event, finding.position) == (event, position)
    assert finding.causes[0].input == first
    assert all(cause.remedy for cause in finding.causes)
    assert finding.change is None
    assert not finding.certain


def test_equal_events_speak_against_a_cause() -> None:
    """ACPI tables alone: more memory would have moved the TD HOB, too."""
    found = explain(BASE.tdx(), Small(vcpus=3).tdx().values, log_of(Small(vcpus=3).tdx()))
    finding = found.finding("rtmr0")
    assert finding is not None
    assert [cause.input for cause in finding.causes] == ["qemu", "vcpus", "memory"]
    assert "less likely: TD HOB in rtmr0" in finding.causes[-1].sentence
    both = explain(BASE.tdx(), Small(memory=3).tdx().values, log_of(Small(memory=3).tdx()))
    finding = both.finding("rtmr0")
    assert finding is not None
    assert [cause.input for cause in finding.causes] == ["memory", "firmware"]
    assert "1 other difference would have the same cause" in finding.causes[0].sentence
    assert finding.more == 1, "control: the ACPI tables differ as well, of the same cause"


def test_a_candidate_with_the_digest_is_certain_and_others_are_not() -> None:
    seen = Small(memory=4096).tdx()
    found = explain(BASE.tdx(), seen.values, log_of(seen), around(BASE))
    assert found.changes == ("memory 4096 MiB",)
    finding = found.finding("rtmr0")
    assert finding is not None
    assert finding.certain
    assert finding.change == "memory 4096 MiB"
    assert [cause.input for cause in finding.causes] == ["memory"]
    unknown = explain(BASE.tdx(), Small(memory=5000).tdx().values, log_of(Small(memory=5000).tdx()), around(BASE))
    finding = unknown.finding("rtmr0")
    assert finding is not None
    assert not finding.certain
    assert "none of the values that were tried" in finding.causes[0].sentence


def test_two_changes_are_two_findings_of_one_register() -> None:
    seen = Small(memory=4096, variables=b"\1").tdx()
    found = explain(BASE.tdx(), seen.values, log_of(seen), around(BASE))
    assert [(item.event, item.change) for item in found.findings] == [
        ("TD HOB", "memory 4096 MiB"),
        ("variable SecureBoot", "firmware variables enrolled"),
    ]
    assert all(item.certain for item in found.findings)
    assert found.changes == ()
    assert summary(found) == "differs in rtmr0; explained by: memory 4096 MiB; firmware variables enrolled"


@pytest.mark.parametrize("kind", ["inserted", "missing", "changed"])
@given(data=st.data())
def test_exactly_the_mutated_event_is_named(kind: str, data: st.DataObject) -> None:
    """A random prediction and one random mutation, chosen by hypothesis."""
    contents = data.draw(st.lists(st.binary(max_size=4), min_size=1, max_size=20, unique=True))
    events = [
        PredictedEvent(hashlib.sha384(content).digest(), f"event {i}", "drawn", ("memory",))
        for i, content in enumerate(contents)
    ]
    place = data.draw(st.integers(0, len(events) - 1))
    new = PredictedEvent(hashlib.sha384(b"mutated").digest(), "new", "drawn")
    mutated = {
        "changed": [*events[:place], new, *events[place + 1 :]],
        "inserted": [*events[:place], new, *events[place:]],
        "missing": [*events[:place], *events[place + 1 :]],
    }[kind]
    prediction, seen = (
        Prediction("tdx", "direct", "drawn", {"rtmr1": Register.replayed("rtmr1", "sha384", listed)})
        for listed in (events, mutated)
    )
    found = explain(prediction, seen.values, log_of(seen))
    (finding,) = found.findings
    assert (finding.kind, finding.position, finding.more) == (kind, place, 0)
    assert finding.expected == (None if kind == "inserted" else events[place].digest)
    assert finding.seen == (None if kind == "missing" else new.digest)
    assert finding.event == ("EV_IPL new" if kind == "inserted" else f"event {place}")
    assert [link.kind for link in found.chains[0].differing] == [kind]
    candidate = Candidate("mutated", ("devices",), seen)
    without = explain(prediction, seen.values, None, (candidate,))
    assert without.changes == ("mutated",)
    assert without.findings[0].certain
    assert without.findings[0].position == place


@given(st.binary(min_size=0, max_size=30), st.integers(0, 0xFFFFFFFF).filter(lambda number: number != 3))
def test_types_and_data_decide_nothing(text: bytes, kind: int) -> None:
    """A log whose types and data were rewritten replays as well, and leads to the same findings."""
    seen = Small(memory=5000, command_line=b"x").tdx()
    honest = log_of(seen)
    lying = EventLog(honest.banks, tuple(replace(event, type=kind, data=text) for event in honest.events))
    first, second = (explain(BASE.tdx(), seen.values, log, around(BASE)) for log in (honest, lying))
    assert [(item.register, item.position, item.causes, item.change) for item in first.findings] == [
        (item.register, item.position, item.causes, item.change) for item in second.findings
    ]


def test_data_are_shown_where_the_digest_is_their_hash_and_only_there() -> None:
    text = b"init=/bin/sh"
    seen = Small(command_line=text).tdx()
    digest = hashlib.sha384(text).digest()
    said = {}
    for name, data in {"honest": text, "lying": b"init=/bin/ls"}.items():
        found = explain(BASE.tdx(), seen.values, log_of(seen, {digest: data}))
        said[name] = found.findings[0].said
        link = found.chains[2].differing[0]
        assert link.covered is (name == "honest")
        assert data.decode() in link.said
    assert said == {"honest": "init=/bin/sh", "lying": ""}


def test_a_log_of_another_machine_is_not_used() -> None:
    seen = Small(memory=4096).tdx()
    other = log_of(Small(memory=8192).tdx())
    found = explain(BASE.tdx(), seen.values, other, around(BASE))
    assert found.log_refuted == "rtmr0"
    assert "not this machine's" in found.log
    assert found.changes == ("memory 4096 MiB",), "the search without a log finds it"
    assert found.chains[1].basis == "change"
    honest = explain(BASE.tdx(), seen.values, log_of(seen), around(BASE))
    assert honest.log_refuted is None
    assert honest.chains[1].basis == "log"


def test_a_register_that_confirms_its_events_uses_them_although_another_does_not() -> None:
    seen = Small(memory=5000, command_line=b"x").tdx()
    mixed = log_of(replace(Small(memory=1, command_line=b"x")).tdx())
    found = explain(BASE.tdx(), seen.values, mixed)
    assert found.log_refuted == "rtmr0"
    finding = found.finding("rtmr2")
    assert finding is not None
    assert finding.event == "command line"


def test_a_log_of_another_bank_is_said_to_be_of_no_use() -> None:
    seen = Small(memory=4096).tdx()
    found = explain(BASE.tdx(), seen.values, log_of(Small().tpm()), around(BASE))
    assert "without bank sha384" in found.log
    assert found.log_refuted == "rtmr0"
    assert found.changes == ("memory 4096 MiB",)


def test_a_tpm_that_began_in_another_locality() -> None:
    events = (PredictedEvent(hashlib.sha256(b"crtm").digest(), "CRTM version", "text", ("firmware",)),)
    prediction = Prediction("tpm", "disk", "small", {"pcr0": Register.replayed("pcr0", "sha256", events)})
    log = EventLog(
        ("sha256",),
        (
            Event(0, 3, {"sha256": bytes(32)}, b"StartupLocality\0\x03"),
            Event(0, 8, {"sha256": events[0].digest}, b"crtm"),
        ),
    )
    found = explain(prediction, {"pcr0": log.replay("sha256")[0]}, log)
    assert "began with another value" in found.findings[0].causes[0].sentence
    assert explain(prediction, prediction.values, EventLog(log.banks, log.events[1:])).equal, "control"


def test_registers_that_are_not_compared_are_told() -> None:
    prediction = BASE.tdx()
    values = {**prediction.values, "rtmr3": bytes(48), "rtmr1": bytes(48)}
    del values["mrtd"]
    found = explain(prediction, values)
    assert found.equal
    assert found.unreported == ("mrtd",)
    assert found.unpredicted == {"rtmr3": "the guest's own", "rtmr1": "no predictor speaks of it"}


def test_what_cannot_be_compared_is_refused() -> None:
    prediction = BASE.tdx()
    assert explain(prediction, {"mrtd": bytes(48)}).findings
    with pytest.raises(MeasurementError, match="pcr4; predicted are mrtd"):
        explain(prediction, {"pcr4": bytes(32)})
    with pytest.raises(MeasurementError, match="mrtd of 47 bytes"):
        explain(prediction, {"mrtd": bytes(47)})


def test_register_indices() -> None:
    assert [register_index(name) for name in ("pcr0", "pcr15", "rtmr0", "rtmr3")] == [0, 15, 1, 4]
    assert [register_index(name) for name in ("mrtd", "mrconfigid", "measurement", "host_data")] == [None] * 4


def test_every_line_prints() -> None:
    """Nothing from a log reaches a terminal unescaped."""
    evil = b"\x1b[2J\xe2\x80\xae\0\r\n" + b"x" * 5000
    seen = Small(command_line=evil, extra=(evil,)).tdx()
    found = explain(BASE.tdx(), seen.values, log_of(seen, {hashlib.sha384(evil).digest(): evil}))
    allowed = set(string.printable) | set("…≠−—–")
    for line in lines(found):
        assert len(line) < 600
        assert line.isprintable() or not line
        assert set(line) <= allowed
