"""Every TDX event log of real hardware: replayed to its quote where there is one, looked at by digests either way."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from tdx_samples import (
    DSTACK,
    GUEST,
    LOGS,
    SampleTable,
    dstack_digest,
    dstack_log,
    judged,
    own_registers,
    read_ccel,
    source,
)
from tdx_support import failed, rtmrs

from attestation.tdx import parse_quote, without_padding
from attestation.tdx_log import TdxLog
from attestation.tdx_log_rules import BootSequence, EventDigests, log_rules
from measurements.eventlog import Event, EventLog, encode_tcg2, parse_tcg2

if TYPE_CHECKING:
    from pathlib import Path


def test_googles_log_leads_to_its_quote(shared: Path, tmp_path: Path, sample_table: SampleTable) -> None:
    """Source: google/go-tdx-guest, ``testing/testdata/ccel``; the same log is in google/go-eventlog."""
    folder = shared / "samples" / GUEST / "ccel"
    log = read_ccel(folder / "ccel_data.dat", tmp_path, folder / "ccel_table.dat")
    report = parse_quote(without_padding((folder / "cos-113-tdx-quote.dat").read_bytes())).report
    assert report.report_data == (folder / "nonce.dat").read_bytes()
    matching = sum(a == b for a, b in zip(log.replay(), rtmrs(report), strict=True))
    ordered = BootSequence().appraise(judged(log, report)).passed
    seen = f"{matching} of 4 registers, sequence {'in' if ordered else 'out of'} order"
    sample_table("ccel/ccel_data.dat", source(GUEST), "4 of 4 registers, sequence in order", seen)
    assert seen == "4 of 4 registers, sequence in order"
    assert log_rules(BootSequence()).appraise(judged(log, report)).passed
    assert TdxLog.parse(log.encode()) == log
    assert len(log.encode()) < 20_000
    again = read_ccel(
        shared / "samples" / LOGS / "cos-113-intel-tdx.bin",
        tmp_path,
        shared / "samples" / LOGS / "cos-113-intel-tdx.table.bin",
    )
    assert again.firmware == log.firmware


def test_the_log_with_a_second_separator(shared: Path, tmp_path: Path, sample_table: SampleTable) -> None:
    """Source: google/go-eventlog; of the machine above, with RTMR1's separator said to be RTMR0's."""
    folder, logs = shared / "samples" / GUEST / "ccel", shared / "samples" / LOGS
    report = parse_quote(without_padding((folder / "cos-113-tdx-quote.dat").read_bytes())).report
    table = logs / "cos-113-intel-tdx.table.bin"
    log = read_ccel(logs / "cos-113-intel-tdx-dupe-separator.bin", tmp_path, table)
    checks = {item.name: item for item in log_rules(BootSequence()).appraise(judged(log, report)).checks}
    assert not checks["event log"].passed
    assert checks["event log"].seen.startswith("RTMR0 differs first")
    own = BootSequence().appraise(own_registers(log)).checks[0]
    seen = f"{checks['event log'].seen.partition(':')[0]}; separators: {own.seen}"
    expected = "RTMR0 differs first; separators: 2 in RTMR0"
    sample_table("cos-113-intel-tdx-dupe-separator.bin", source(LOGS), expected, seen)
    assert (own.passed, seen) == (False, expected)
    assert BootSequence().appraise(own_registers(read_ccel(logs / "cos-113-intel-tdx.bin", tmp_path, table))).passed


SEQUENCES = [
    (DSTACK + "cc-eventlog/samples/ccel.bin", (13, 5, 0, 0), "1 in RTMR0, 1 in RTMR1"),
    (LOGS + "CCEL_unpadded.data.bin", (14, 4, 1, 0), "2 in RTMR0"),
    (LOGS + "event_log.bin", (14, 13, 0, 0), "3 in RTMR0, 5 in RTMR1"),
]


@pytest.mark.parametrize("case", SEQUENCES, ids=[path.rpartition("/")[2] for path, _, _ in SEQUENCES])
def test_logs_without_a_quote(
    shared: Path, tmp_path: Path, sample_table: SampleTable, case: tuple[str, tuple[int, ...], str]
) -> None:
    """Older firmware measured separators elsewhere: its logs are in order only by a policy that says so."""
    path, counts, sequence = case
    samples = shared / "samples"
    log = read_ccel(samples / path, tmp_path, samples / LOGS / "CCEL.bin")
    separators, left = BootSequence().appraise(own_registers(log)).checks
    told = f"{sum(map(len, log.registers))} events, separators: {separators.seen}"
    expected = f"{sum(counts)} events, separators: {sequence}"
    sample_table(path.partition("/")[2], source(path), expected, told)
    assert told == expected
    assert tuple(map(len, log.registers)) == counts
    assert left.passed
    assert separators.passed is (sequence == "1 in RTMR0, 1 in RTMR1")


@pytest.mark.parametrize("name", ["quote-report.json", "tdx-lite-getquote.json"])
def test_dstacks_logs_lead_to_their_quotes(shared: Path, sample_table: SampleTable, name: str) -> None:
    """Source: Dstack-TEE/dstack, ``verifier/fixtures``; RTMR3 in their form of digest."""
    path = DSTACK + "verifier/fixtures/" + name
    loaded = json.loads((shared / "samples" / path).read_text())
    events: list[dict[str, Any]] = json.loads(loaded["event_log"])
    own = [item for item in events if item["imr"] == 3]
    assert all(item["digest"] in {"", dstack_digest(item).hex()} for item in own)
    log = dstack_log(events)
    report = parse_quote(without_padding(bytes.fromhex(loaded["quote"]))).report
    matching = sum(a == b for a, b in zip(log.replay(), rtmrs(report), strict=True))
    seen = f"{matching} of 4 registers, {len(log.registers[3])} events in RTMR3"
    sample_table(f"{name}, its log", source(path), f"4 of 4 registers, {len(own)} events in RTMR3", seen)
    assert seen == f"4 of 4 registers, {len(own)} events in RTMR3"
    assert [event.text for event in log.registers[3]] == [item["event"] for item in own]
    assert log_rules(BootSequence()).appraise(judged(log, report)).passed
    less = TdxLog(log.firmware, log.runtime[:-1])
    assert failed(log_rules().appraise(judged(less, report))) == ["event log", "rtmr3 log"]


def _rewritten(data: bytes) -> bytes:
    """All types and data overwritten, digests untouched."""
    events = parse_tcg2(data).events
    lies = (Event(e.register, 6, e.digests, b"A" * len(e.data)) for e in events)
    return encode_tcg2(EventLog(("sha384",), tuple(lies)), register=1)


def test_a_real_log_replays_with_every_event_rewritten(shared: Path, tmp_path: Path) -> None:
    """Source: google/go-tdx-guest. That is why only digests decide; the specification says so."""
    folder = shared / "samples" / GUEST / "ccel"
    honest = read_ccel(folder / "ccel_data.dat", tmp_path, folder / "ccel_table.dat")
    lies = TdxLog(_rewritten(honest.firmware))
    report = parse_quote(without_padding((folder / "cos-113-tdx-quote.dat").read_bytes())).report
    rule = log_rules(BootSequence(), EventDigests.exactly(1, tuple(e.digest for e in honest.registers[1])))
    for log in (honest, lies):
        assert rule.appraise(judged(log, report)).passed
    assert {event.text for events in lies.registers for event in events} != {
        event.text for events in honest.registers for event in events
    }


def test_known_digests_are_where_the_specification_says(shared: Path) -> None:
    """Boot0000 is the same constant in every sample; RTMR0 has 13 events, RTMR1 five, in dstack's machines."""
    loaded = json.loads((shared / "samples" / DSTACK / "verifier/fixtures/quote-report.json").read_text())
    log = dstack_log(json.loads(loaded["event_log"]))
    assert [len(events) for events in log.registers[:3]] == [13, 5, 2]
    assert log.registers[0][12].digest.hex().startswith("23ada07f")
    assert log.registers[0][7].digest == log.registers[1][2].digest == hashlib.sha384(bytes(4)).digest()
