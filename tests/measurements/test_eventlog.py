"""Event logs: real ones replayed to what their machines quoted, built ones for every rule, and bytes that are none."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from measurements import eventlog
from measurements.errors import EventLogError
from measurements.eventlog import EventLog, parse_tcg2

if TYPE_CHECKING:
    from pathlib import Path

BANKS = {0x4: ("sha1", 20), 0xB: ("sha256", 32), 0xC: ("sha384", 48)}


def specification(banks: tuple[int, ...] = (0xB,), vendor: bytes = b"") -> bytes:
    """TCG_EfiSpecIDEvent."""
    algorithms = b"".join(struct.pack("<HH", bank, BANKS[bank][1]) for bank in banks)
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    return head + algorithms + bytes([len(vendor)]) + vendor


def first(content: bytes) -> bytes:
    """TCG_PCR_EVENT that carries it."""
    return struct.pack("<II20sI", 0, 3, bytes(20), len(content)) + content


def event(register: int, kind: int, data: bytes, banks: tuple[int, ...] = (0xB,)) -> bytes:
    """TCG_PCR_EVENT2 whose digests are those of its data."""
    digests = b"".join(struct.pack("<H", bank) + hashlib.new(BANKS[bank][0], data).digest() for bank in banks)
    return struct.pack("<III", register, kind, len(banks)) + digests + struct.pack("<I", len(data)) + data


def extended(bank: str, start: bytes, *contents: bytes) -> bytes:
    value = start
    for content in contents:
        value = hashlib.new(bank, value + hashlib.new(bank, content).digest()).digest()
    return value


def test_every_bank_replays() -> None:
    banks = (0x4, 0xB, 0xC)
    log = first(specification(banks, b"vendor")) + event(4, 5, b"a", banks) + event(4, 4, b"b", banks)
    parsed = parse_tcg2(log + event(0, 3, b"not extended", banks) + event(9, 6, b"c", banks))
    assert parsed.banks == ("sha1", "sha256", "sha384")
    assert [item.type_name for item in parsed.events] == ["EV_ACTION", "EV_SEPARATOR", "EV_NO_ACTION", "EV_EVENT_TAG"]
    for bank, size in BANKS.values():
        assert parsed.replay(bank) == {
            4: extended(bank, bytes(size), b"a", b"b"),
            9: extended(bank, bytes(size), b"c"),
        }
    with pytest.raises(EventLogError, match="without bank sha512"):
        parsed.replay("sha512")


def test_register_0_begins_with_its_locality() -> None:
    start = event(0, 3, b"StartupLocality\0\x03")
    parsed = parse_tcg2(first(specification()) + start + event(0, 8, b"crtm") + event(1, 1, b"x"))
    assert parsed.replay("sha256") == {
        0: extended("sha256", bytes(31) + b"\3", b"crtm"),
        1: extended("sha256", bytes(32), b"x"),
    }


def test_types_and_data_change_no_register() -> None:
    honest = first(specification()) + event(4, 5, b"a") + event(4, 4, b"\0\0\0\0")
    parsed = parse_tcg2(honest)
    lies = b"".join(
        struct.pack("<IIIH", 4, 0xD, 1, 0xB) + item.digests["sha256"] + struct.pack("<I", 3) + b"lie"
        for item in parsed.events
    )
    assert parse_tcg2(first(specification()) + lies).replay("sha256") == parsed.replay("sha256")


@pytest.mark.parametrize("fill", [b"", b"\0" * 100, b"\xff" * 4096, b"\0" * 3])
def test_filling_may_follow(fill: bytes) -> None:
    log = first(specification()) + event(4, 5, b"a")
    assert parse_tcg2(log + fill) == parse_tcg2(log)
    assert len(parse_tcg2(log).events) == 1


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"", "ends inside its first event"),
        (first(specification())[:40], "specification id event"),
        (first(b"Spec ID Event02\0" + bytes(12)), "version 3"),
        (first(specification())[:4] + b"\4" + first(specification())[5:], "does not begin"),
        (first(specification() + b"\0"), "with 1 banks"),
        (first(specification()[:-5] + struct.pack("<HHB", 0xB, 20, 0)), "0x000b of 20 bytes"),
        (first(specification()[:-5] + struct.pack("<HHB", 0x99, 20, 0)), "0x0099 of 20 bytes"),
        (first(specification((0xB, 0xB))), "0x000b of 32 bytes"),
        (first(specification()[:24] + struct.pack("<I", 2**31) + b"\0"), "2147483648 banks"),
        (first(specification()) + event(4, 5, b"a")[:-1], "1 bytes of data where 0 are left"),
        (first(specification()) + event(4, 5, b"a")[:8], "ends inside the event"),
        (first(specification()) + event(4, 5, b"")[:-2], "ends inside the event"),
        (first(specification()) + event(24, 5, b"a"), "extends register 24"),
        (first(specification()) + event(4, 5, b"a", (0xB, 0xC)), "2 digests in a log of 1 banks"),
        (first(specification()) + event(4, 5, b"a", (0xC,)), "bank 0x000c"),
        (first(specification((0xB, 0xC))) + event(4, 5, b"a", (0xB, 0xB)), "missing or twice"),
        (first(specification()) + event(4, 5, b"a") + b"\0\0\0\1", "ends inside the event"),
        (first(specification()) + event(4, 5, b"") * (eventlog.MAX_EVENTS + 1), "more than 4096 events"),
        (bytes(eventlog.MAX_LOG + 1), "at most"),
    ],
)
def test_what_is_no_log_is_refused(log: bytes, message: str) -> None:
    assert parse_tcg2(first(specification()) + event(4, 5, b"a")).events  # the control
    with pytest.raises(EventLogError, match=message):
        parse_tcg2(log)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
@example(28 + 24, b"\xff\xff\xff\xff")
def test_damaged_logs_raise_the_declared_error_alone(offset: int, patch: bytes) -> None:
    banks = (0xB, 0xC)
    log = bytearray(first(specification(banks)) + event(4, 5, b"a" * 50, banks) + event(9, 4, b"b" * 50, banks))
    log[offset : offset + len(patch)] = patch
    with contextlib.suppress(EventLogError):
        for bank, value in parse_tcg2(bytes(log)).replay("sha256").items():
            assert 0 <= bank <= eventlog.MAX_REGISTER
            assert len(value) == 32


@given(st.binary(max_size=300))
def test_noise_is_no_log(noise: bytes) -> None:
    for data in (noise, first(specification()) + noise, first(noise)):
        with contextlib.suppress(EventLogError):
            assert isinstance(parse_tcg2(data), EventLog)


# Logs of real machines ----------------------------------------------------------------------------------------------


def sample(shared: Path, path: str) -> bytes:
    return (shared / "samples" / path).read_bytes()


def test_a_cloud_machines_log_replays_to_its_quote(shared: Path) -> None:
    """Source: github.com/Dstack-TEE/dstack, a GCP vTPM's log and a quote over registers 0 to 2 of the same machine."""
    parsed = parse_tcg2(sample(shared, "Dstack-TEE__dstack/dstack/cc-eventlog/samples/tpm_eventlog.bin"))
    quote = sample(shared, "Dstack-TEE__dstack/dstack/tpm-attest/tests/tpm_quote_sample.bin")
    registers = parsed.replay("sha256")
    assert hashlib.sha256(registers[0] + registers[1] + registers[2]).digest() == quote[-32:]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tpm/cos-101-amd-sev.bin", 48),
        ("tpm/rhel8-uefi.bin", 82),
        ("tpm/ubuntu-2104-no-secure-boot.bin", 105),
        ("ccel/cos-113-intel-tdx.bin", 43),
        ("ccel/event_log.bin", 27),
    ],
)
def test_logs_of_clouds_are_read_to_their_end(shared: Path, name: str, count: int) -> None:
    """Source: github.com/google/go-eventlog, testdata/eventlogs."""
    parsed = parse_tcg2(sample(shared, f"google__go-eventlog/testdata/eventlogs/{name}"))
    assert len(parsed.events) == count
    for bank in parsed.banks:
        assert parsed.replay(bank)
    # What a separator was extended with is the hash of its four bytes, whatever the log's bank.
    separators = [item for item in parsed.events if item.type_name == "EV_SEPARATOR" and len(item.data) == 4]
    assert separators
    for item in separators:
        for bank in parsed.banks:
            assert item.digests[bank] == hashlib.new(bank, item.data).digest()


def test_logs_of_an_older_kind_are_refused(shared: Path) -> None:
    """Source: as above; a log of TPM 1.2's format, and one of which the first event alone is left."""
    for name in ("eventlogs/tpm/debian-10.bin", "legacydata/short_no_action_eventlog"):
        with pytest.raises(EventLogError, match="does not begin"):
            parse_tcg2(sample(shared, f"google__go-eventlog/testdata/{name}"))
