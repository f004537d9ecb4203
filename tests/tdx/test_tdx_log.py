"""The event log's encoding and replay: golden bytes, every bound, and bytes that are none."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tdx_support import digest, firmware_log

from attestation import cbor, tdx_log
from attestation.errors import EvidenceError
from attestation.tdx_log import RuntimeEvent, TdxLog, extend
from measurements.eventlog import MAX_LOG, Event, EventLog, encode_tcg2, parse_tcg2, read_tcg2

if TYPE_CHECKING:
    from appliance.lab.tee import SyntheticTdx

DIGESTS = st.binary(min_size=48, max_size=48)
TEXTS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=tdx_log.MAX_TEXT)
RUNTIME = st.lists(st.builds(RuntimeEvent, DIGESTS, TEXTS), max_size=8).map(tuple)
FIRMWARE = st.lists(st.tuples(st.integers(0, 3), DIGESTS), max_size=8).map(lambda events: firmware_log(*events))
LOGS = st.builds(TdxLog, FIRMWARE | st.just(b""), RUNTIME)


def encoded(**fields: Any) -> bytes:
    return cbor.encode({"version": 1, "firmware": b"", "runtime": [], **fields})


def test_golden_bytes() -> None:
    log = TdxLog(b"", (RuntimeEvent(b"\x01" * 48, "one"),))
    expected = (
        "a36772756e74696d658182" + "5830" + "01" * 48 + "636f6e65" + "6776657273696f6e01" + "686669726d7761726540"
    )
    assert log.encode().hex() == expected
    assert TdxLog.parse(bytes.fromhex(expected)) == log
    assert TdxLog(b"").encode() == encoded()


@given(LOGS)
def test_every_log_comes_back(log: TdxLog) -> None:
    assert TdxLog.parse(log.encode()) == log
    assert len(log.encode()) <= tdx_log.MAX_LOG


@given(LOGS)
def test_replay_is_what_a_register_does(log: TdxLog) -> None:
    values = [bytes(48)] * 4
    for event in parse_tcg2(log.firmware).events if log.firmware else ():
        values[event.register - 1] = hashlib.sha384(values[event.register - 1] + event.digests["sha384"]).digest()
    for own in log.runtime:
        values[3] = hashlib.sha384(values[3] + own.digest).digest()
    assert log.replay() == tuple(values)
    for register in range(4):
        assert log.confirmed(register, values[register]) is log.registers[register]
        with pytest.raises(EvidenceError, match=f"leads to .* in RTMR{register}, the quote has"):
            log.confirmed(register, extend(values[register], bytes(48)))


@given(LOGS, st.integers(0), st.integers(0, 7))
def test_one_bit_changed_is_another_log_or_none(log: TdxLog, at: int, bit: int) -> None:
    data = bytearray(log.encode())
    data[at % len(data)] ^= 1 << bit
    with contextlib.suppress(EvidenceError):
        changed = TdxLog.parse(bytes(data))
        assert changed != log
        assert changed.encode() == bytes(data)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_log_are_refused(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        assert TdxLog.parse(data).encode() == data
    if data:
        with contextlib.suppress(EvidenceError):
            TdxLog(data)


def test_events_are_in_the_order_and_under_the_name_they_came_with(machine: SyntheticTdx) -> None:
    log = machine.log
    assert [len(events) for events in log.registers] == [13, 5, 2, 2]
    assert [event.text for event in log.registers[3]] == ["model volume", "engine"]
    assert [event.source for event in log.registers[3]] == ["guest", "guest"]
    assert log.registers[1][-1].text == "EV_EFI_ACTION Exit Boot Services Returned with Success"
    assert log.registers[0][2].text == "EV_EFI_VARIABLE_DRIVER_CONFIG SecureBoot"
    for register, events in enumerate(log.registers):
        assert [(event.register, event.position) for event in events] == [(register, i) for i in range(len(events))]


def test_what_is_not_extended_is_not_replayed() -> None:
    note = Event(0, 3, {"sha384": bytes(48)}, b"a note")
    event = Event(4, 6, {"sha384": digest("x")}, b"")
    with_note = encode_tcg2(EventLog(("sha384",), (note, event)), register=1)
    assert TdxLog(with_note).replay() == TdxLog(firmware_log((3, digest("x")))).replay()
    assert TdxLog(with_note).replay()[:3] == (bytes(48),) * 3


def test_the_longest_log_fits() -> None:
    event = RuntimeEvent(bytes(48), "\U0001f512" * tdx_log.MAX_TEXT)
    log = TdxLog(firmware_log((0, bytes(48))), (event,) * tdx_log.MAX_RUNTIME)
    assert TdxLog.parse(log.encode()) == log
    with pytest.raises(EvidenceError, match="at most 512"):
        TdxLog(b"", (event,) * (tdx_log.MAX_RUNTIME + 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside an item"),
        (encoded() + b"\0", "1 bytes follow"),
        (encoded(more=1), "not a map of exactly"),
        (cbor.encode([1]), "not a map of exactly"),
        (encoded(version=2), "version 2, expected 1"),
        (encoded(version=True), "version True"),
        (encoded(firmware="text"), "not bytes"),
        (encoded(runtime=b""), "not a list"),
        (encoded(runtime=[b"x"]), "not digest and text"),
        (encoded(runtime=[[bytes(48)]]), "not digest and text"),
        (encoded(runtime=[["x", bytes(48)]]), "not bytes and text"),
        (encoded(runtime=[[bytes(47), "x"]]), "digest of 47 bytes"),
        (encoded(runtime=[[bytes(32), "sha256"]]), "digest of 32 bytes"),
        (encoded(runtime=[[bytes(48), "x" * 201]]), "printable text of at most 200"),
        (encoded(runtime=[[bytes(48), "\x1b[2J"]]), "printable text"),
        (encoded(firmware=b"\0"), "firmware log of 1 bytes ends"),
        (encoded(firmware=firmware_log((0, bytes(48))) + bytes(8)), "8 bytes of filling"),
        (encoded(firmware=firmware_log((0, bytes(48)))[:-1]), "bytes of data where"),
        (encoded(firmware=firmware_log((0, bytes(32)), banks=("sha256",))), "banks sha256, expected sha384"),
        (encoded(firmware=firmware_log((-1, bytes(48)))), "register index 0, expected 1 to 4"),
        (encoded(firmware=firmware_log((4, bytes(48)))), "register index 5, expected 1 to 4"),
        (b"\xa3" + b"\x67version\x01" * 3, "not canonical"),
        (bytes(tdx_log.MAX_LOG + 1), "at most"),
    ],
    ids=range(23),
)
def test_each_way_not_to_be_a_log(data: bytes, message: str) -> None:
    TdxLog.parse(encoded())  # the control
    with pytest.raises(EvidenceError, match=message):
        TdxLog.parse(data)


def test_a_firmware_log_has_its_bound() -> None:
    big = encode_tcg2(EventLog(("sha384",), (Event(1, 6, {"sha384": bytes(48)}, bytes(200_000)),)), register=1)
    assert TdxLog(big).registers[0]
    with pytest.raises(EvidenceError, match="at most 262144"):
        TdxLog(encode_tcg2(EventLog(("sha384",), parse_tcg2(big).events * 2), register=1))


def test_a_log_that_looks_like_filling_everywhere_is_read_in_one_pass() -> None:
    """Every event begins with zeros, and zeros follow up to the last byte: once that took seconds."""
    event = Event(0, 0, {"sha384": b"\x01" * 48}, b"")
    head = encode_tcg2(EventLog(("sha384",), (event,) * 4095))
    rest = MAX_LOG - len(head) - 66
    last = Event(0, 0, {"sha384": bytes(48)}, bytes(rest - 1) + b"\x01")
    whole = encode_tcg2(EventLog(("sha384",), (*[event] * 4095, last)))
    assert len(whole) == MAX_LOG
    assert len(parse_tcg2(whole).events) == 4096


@given(FIRMWARE, st.sampled_from([b"", b"\0" * 9, b"\xff" * 4096]))
def test_what_is_read_is_written_again(firmware: bytes, fill: bytes) -> None:
    log, length = read_tcg2(firmware + fill)
    assert length == len(firmware)
    assert encode_tcg2(log, register=1) == firmware
