"""Register 10 of a TPM follows from registers 0 to 9: explained by theirs, and only where the digest proves it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from explain_support import log_of

from measurements.explain import explain
from measurements.explanation import Candidate
from measurements.prediction import PredictedEvent, Prediction, Register
from measurements.tpm_machine import boot_aggregate


def machine(command_line: bytes = b"quiet", more: tuple[bytes, ...] = ()) -> Prediction:
    """Registers 0 to 10, of which register 9 holds a command line."""
    registers = {}
    for number in range(10):
        content = command_line if number == 9 else bytes([number])
        event = PredictedEvent(hashlib.sha256(content).digest(), "command line", "text", ("command line",))
        registers[f"pcr{number}"] = Register.replayed(f"pcr{number}", "sha256", [event])
    aggregate = hashlib.sha256(boot_aggregate([register.value for register in registers.values()])).digest()
    listed = [PredictedEvent(aggregate, "boot aggregate", "registers 0 to 9", ("firmware", "command line"))]
    listed += [PredictedEvent(hashlib.sha256(item).digest(), "a file", "its bytes", ("image",)) for item in more]
    registers["pcr10"] = Register.replayed("pcr10", "sha256", listed)
    return Prediction("tpm", "disk", "small", registers)


@pytest.mark.parametrize("logged", [True, False])
def test_it_is_explained_by_what_it_follows_from(logged: bool) -> None:
    seen = machine(b"debug")
    found = explain(machine(), seen.values, log_of(seen) if logged else None)
    first, second = found.findings
    assert (first.register, second.register) == ("pcr9", "pcr10")
    assert second.event == "boot aggregate"
    assert [cause.input for cause in second.causes] == ["command line"]
    assert "follows from pcr9" in second.causes[0].sentence
    assert not second.certain, "nor is its source's"
    change = Candidate("command line 'debug'", ("command line",), seen)
    found = explain(machine(), seen.values, log_of(seen) if logged else None, (change,))
    assert [item.change for item in found.findings] == ["command line 'debug'"] * 2
    assert all(item.certain for item in found.findings)


def test_the_order_of_registers_does_not_matter() -> None:
    """A program that sorts names puts register 10 before register 2."""
    seen, predicted = machine(b"debug"), machine()
    ordered = {name: predicted.registers[name] for name in sorted(predicted.registers)}
    assert list(ordered).index("pcr10") < list(ordered).index("pcr9")
    found = explain(replace(predicted, registers=ordered), seen.values, log_of(seen))
    assert found.finding("pcr10") == explain(predicted, seen.values, log_of(seen)).finding("pcr10")


def test_a_register_10_that_does_not_follow_is_a_finding_of_its_own() -> None:
    seen = machine(b"debug", (b"a file that was measured",))
    found = explain(machine(), seen.values, log_of(seen))
    finding = found.finding("pcr10")
    assert finding is not None
    assert "follows" not in finding.causes[0].sentence
    assert next(item.kind for item in found.findings if item.register == "pcr10") == "changed"


def test_it_does_not_follow_where_registers_are_not_reported() -> None:
    seen = machine(b"debug")
    values = {name: value for name, value in seen.values.items() if name != "pcr3"}
    finding = explain(machine(), values).finding("pcr10")
    assert finding is not None
    assert "follows" not in finding.causes[0].sentence


def test_its_event_does_not_speak_for_or_against_any_cause() -> None:
    """It lists what moves any of ten registers; equal, it is no argument that the command line is."""
    base = machine()
    seen = machine(b"debug")
    values = {**seen.values, "pcr10": base.values["pcr10"]}
    (finding,) = explain(base, values, log_of(replace(seen, registers={"pcr9": seen.registers["pcr9"]}))).findings
    assert "boot aggregate" not in finding.causes[0].sentence
