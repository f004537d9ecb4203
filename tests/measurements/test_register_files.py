"""Files of register values and of predictions: every form that is read, and what is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from explain_support import Small, log_of
from hypothesis import given
from hypothesis import strategies as st

from measurements.errors import MeasurementError
from measurements.prediction_file import of_log, of_values, parse_prediction, to_value
from measurements.register_file import RegisterFileError, parse_registers

A, B, C = "11" * 32, "22" * 32, "33" * 48


@pytest.mark.parametrize(
    "text",
    [
        f'{{"pcr4": "{A}", "pcr11": "{B}", "rtmr0": "{C}"}}',
        f'{{"registers": {{"pcr4": {{"value": "{A}"}}, "pcr11": "{B}", "rtmr0": "{C}"}}, "other": 1}}',
        f"pcr4 {A}\npcr11={B}\nrtmr0: {C}\n",
        f"# seen today\n  sha256:\n    4 : 0x{A.upper()}\n    11: 0x{B}\n\nRTMR0 : {C}",
    ],
    ids=["json", "json of a prediction", "lines", "tpm2_pcrread"],
)
def test_every_form_is_read(text: str) -> None:
    assert parse_registers(text.encode()) == {
        "pcr4": bytes.fromhex(A),
        "pcr11": bytes.fromhex(B),
        "rtmr0": bytes.fromhex(C),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 register values"),
        (b"{}", "0 register values"),
        (b"\xff\xfe", "no text"),
        (b"{", "begin as JSON"),
        (b"[" * 100000, "not a register"),
        (b'{"registers": []}', "without a map"),
        (f'{{"pcr24": "{A}"}}'.encode(), "'pcr24'"),
        (f'{{"pcr4": "{A[:-2]}"}}'.encode(), "not 64 or 96"),
        (f'{{"pcr4": "{C}"}}'.encode(), "48 bytes, expected 32"),
        (f'{{"mrtd": "{A}"}}'.encode(), "32 bytes, expected 48"),
        (b'{"pcr4": 5}', "not 64 or 96"),
        (f"pcr4 {A}\npcr4 {A}".encode(), "twice"),
        (f"pcr4 {A} and more".encode(), "line 1"),
        (f"pcr04 {A}".encode(), "'pcr04'"),
        (b" " * (1 << 20) + b"x", "at most"),
        (b"pcr4" + b" " * 1_000_000 + b"x", "line 1"),
    ],
)
def test_what_is_no_file_of_values_is_refused(data: bytes, message: str) -> None:
    assert parse_registers(f"pcr4 {A}".encode())  # the control
    with pytest.raises(RegisterFileError, match=message):
        parse_registers(data)


@given(st.binary(max_size=200), st.text(max_size=200))
def test_noise_raises_the_declared_error_alone(data: bytes, text: str) -> None:
    for item in (data, b"{" + data, text.encode("utf-8", "replace"), f"pcr4 {A}\n{text}".encode("utf-8", "replace")):
        with contextlib.suppress(RegisterFileError):
            assert parse_registers(item)
        with contextlib.suppress(MeasurementError):
            parse_prediction(item)


@pytest.mark.parametrize("prediction", [Small().tdx(), Small(extra=(b"more",)).tpm()], ids=["tdx", "tpm"])
def test_predictions_come_back_as_they_were_written(prediction: object) -> None:
    value = to_value(prediction)  # type: ignore[arg-type]  # a prediction
    assert parse_prediction(json.dumps(value).encode()) == prediction
    assert parse_registers(json.dumps(value).encode()) == prediction.values  # type: ignore[attr-defined]  # as above


def altered(path: str, value: object) -> bytes:
    """A prediction with one value replaced; the path is separated by slashes."""
    found = to_value(Small().tdx())
    place = found
    *steps, last = path.split("/")
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[last] = value
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", "another", "not of schema"),
        ("registers", {}, "without 1 to"),
        ("registers", [], "without 1 to"),
        ("unpredicted", [], "not a map"),
        ("platform", 5, "a text is expected"),
        ("shape", "\x1b[2J", "not printable"),
        ("shape", "x" * 2001, "over 2000 characters"),
        ("registers/pcr99", {}, "'pcr99'"),
        ("registers/rtmr0", [], "'rtmr0'"),
        ("registers/rtmr0/bank", "md5", "without a bank"),
        ("registers/rtmr0/extended", 1, "without a bank"),
        ("registers/rtmr0/bank", [], "without a bank"),
        ("registers/rtmr0/events", {}, "no list"),
        ("registers/rtmr0/events", [{}] * 5000, "no list"),
        ("registers/rtmr0/value", "00" * 48, "do not lead"),
        ("registers/rtmr0/value", "00" * 47, "not 48 bytes"),
        ("registers/rtmr0/value", "zz" * 48, "not 48 bytes"),
        ("registers/rtmr0/events/0/digest", "11" * 48, "do not lead"),
        ("registers/rtmr0/events/0/inputs", ["weather"], "something unknown moves"),
        ("registers/rtmr0/events/0/inputs", [["memory"]], "something unknown moves"),
        ("registers/rtmr0/events/0/inputs", ["memory"] * 100, "with an event that is none"),
        ("registers/rtmr0/events/0/inputs", "memory", "with an event that is none"),
        ("registers/rtmr0/events/0/name", None, "a text is expected"),
    ],
)
def test_a_prediction_that_is_none_is_refused(path: str, value: object, message: str) -> None:
    assert parse_prediction(altered("shape", "another")).shape == "another"  # the control
    with pytest.raises(MeasurementError, match=message):
        parse_prediction(altered(path, value))


def test_a_log_becomes_a_prediction_of_what_it_confirms() -> None:
    prediction = Small().tdx()
    names = {1: "rtmr0", 3: "rtmr2"}
    found = of_log(log_of(prediction), names)
    assert found.values == {name: prediction.values[name] for name in names.values()}
    assert [event.digest for event in found.registers["rtmr0"].events] == [
        event.digest for event in prediction.registers["rtmr0"].events
    ]
    reported = {**prediction.values, "rtmr0": bytes(48)}
    found = of_log(log_of(prediction), names, reported)
    assert found.values == reported
    assert found.registers["rtmr0"].events == (), "the log leads elsewhere: it says nothing of this register"
    assert len(found.registers["rtmr2"].events) == 2
    assert of_values({"pcr4": bytes(32)}).registers["pcr4"].bank == "sha256"
