"""The older interface: the report device, the quote generation service's messages, and a service that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tdx_support import REPORT_DATA

from attestation import qgs
from attestation.errors import AttestationError, CollectionError, EvidenceError
from attestation.platforms import ConfigfsTdx
from attestation.platforms.base import EventLogPlatform, Platform
from attestation.platforms.tdx import open_tdx
from attestation.platforms.tdx_qgs import GET_REPORT0, QgsTdx, td_report
from attestation.tdx_log_files import LogFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.lab.tee import SyntheticTdx

REPORT = bytes(range(256)) * 4


def test_golden_messages() -> None:
    """The layout of ``qgs_msg_lib.h``."""
    head = bytes.fromhex("0100" "0000" "00000000" "18040000" "00000000" "00040000" "00000000")  # fmt: skip
    assert qgs.encode_request(REPORT) == head + REPORT
    answer = bytes.fromhex("0100" "0000" "01000000" "1b000000" "00000000" "00000000" "03000000") + b"abc"  # fmt: skip
    assert qgs.encode_answer(b"abc") == answer
    assert qgs.decode_answer(answer) == b"abc"
    refusal = bytes.fromhex("0100" "0000" "01000000" "18000000" "01200100" "00000000" "00000000")  # fmt: skip
    assert qgs.encode_refusal(0x12001) == refusal
    assert struct.unpack(">I", qgs.PREFIX.pack(0x418))[0] == len(head + REPORT)


@given(st.binary(min_size=1024, max_size=1024), st.binary(min_size=1, max_size=300), st.binary(max_size=64))
def test_messages_come_back(report: bytes, quote: bytes, identifier: bytes) -> None:
    assert qgs.decode_request(qgs.encode_request(report)) == report
    assert qgs.decode_answer(qgs.encode_answer(quote, identifier)) == quote


@given(st.integers(1, 2**32 - 1))
def test_refusals_say_their_code(code: int) -> None:
    with pytest.raises(CollectionError, match=f"refused with {code:#x}"):
        qgs.decode_answer(qgs.encode_refusal(code))


@given(st.binary(max_size=100), st.integers(0, 30), st.integers(0, 255))
def test_no_bytes_break_the_codec(data: bytes, at: int, value: int) -> None:
    good = bytearray(qgs.encode_answer(b"a quote"))
    good[at % len(good)] = value
    for message in (data, bytes(good), bytes(good) + data):
        for decode in (qgs.decode_answer, qgs.decode_request):
            with contextlib.suppress(AttestationError):
                decode(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", "of 0 bytes"),
        (qgs.encode_answer(b"x")[:23], "of 23 bytes"),
        (qgs.encode_answer(b"x") + b"\0", "and 25 bytes, expected 1, 1 and 26"),
        (b"\x02" + qgs.encode_answer(b"x")[1:], "version 2"),
        (qgs.encode_request(REPORT), "type 0"),
        (qgs.encode_answer(b""), "quote of 0 bytes"),
        (qgs.encode_answer(b"x", bytes(65)), "quote of 1 bytes"),
        (qgs.encode_answer(b"xy")[:20] + b"\x09\0\0\0xy", "lengths add up to 33"),
        (bytes(qgs.MAX_MESSAGE + 1), "expected 24 to"),
    ],
    ids=range(9),
)
def test_answers_that_are_none(message: bytes, expected: str) -> None:
    with pytest.raises(EvidenceError, match=expected):
        qgs.decode_answer(message)


def test_reports_have_one_size() -> None:
    for size in (0, 1023):
        with pytest.raises(CollectionError, match="expected 1024"):
            qgs.encode_request(bytes(size))
        with pytest.raises(EvidenceError, match="report of"):
            qgs.decode_request(qgs.encode_request(REPORT)[:16] + struct.pack("<II", size, 1024 - size) + REPORT)


@dataclass
class Service:
    """A quote generation service over a Unix socket; what it does wrong is said by name."""

    world: SyntheticTdx
    path: Path
    fault: str = ""
    reports: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (size,) = qgs.PREFIX.unpack(await reader.readexactly(4))
            report = qgs.decode_request(await reader.readexactly(size))
            self.reports.append(report)
            quote = self.world.quote(report[128:192])
            answer = {
                "": qgs.encode_answer(quote),
                "cut": qgs.encode_answer(quote),
                "padded": qgs.encode_answer(quote.ljust(8000, b"\0")),
                "refusal": qgs.encode_refusal(0xE011),
                "other report data": qgs.encode_answer(self.world.quote(bytes(64))),
                "no quote": qgs.encode_answer(b"no quote"),
                "request": qgs.encode_request(report),
            }.get(self.fault, b"")
            prefix = len(answer) + {"short": 0, "long": 2**31}.get(self.fault, 0)
            if self.fault == "silent":
                await asyncio.sleep(30)
            if self.fault != "gone":
                writer.write(qgs.PREFIX.pack(prefix) + (answer[:-1] if self.fault == "cut" else answer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def service(tmp_path: Path, machine: SyntheticTdx) -> AsyncIterator[Service]:
    made = Service(machine, tmp_path / "qgs.socket")
    async with await asyncio.start_unix_server(made.handle, path=made.path):
        yield made


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of the device, and the kernel's answer to its one request."""
    path = tmp_path / "tdx_guest"
    path.touch()

    def ioctl(handle: int, request: int, argument: bytearray, mutate: bool) -> int:
        assert (request, mutate, len(argument)) == (GET_REPORT0, True, 64 + 1024)
        argument[64:] = (bytes(128) + argument[:64]).ljust(1024, b"\xee")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return path


def test_the_request_to_the_device_is_the_kernels() -> None:
    """``_IOWR('T', 1, struct tdx_report_req)`` of asm-generic."""
    assert 3 << 30 | (64 + 1024) << 16 | ord("T") << 8 | 1 == GET_REPORT0


async def test_a_quote_by_the_older_way(service: Service, device: Path) -> None:
    platform: Platform = QgsTdx(device, service.path)
    assert isinstance(platform, EventLogPlatform)
    assert platform.name == "tdx"
    quote = await platform.collect(REPORT_DATA)
    assert service.world.quote(REPORT_DATA)[:632] == quote[:632]
    assert [report[128:192] for report in service.reports] == [REPORT_DATA]
    service.fault = "padded"
    assert len(await platform.collect(REPORT_DATA)) < 8000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refusal", "refused with 0xe011"),
        ("other report data", "over other report data"),
        ("no quote", "sent no quote"),
        ("request", "type 0"),
        ("short", "of 0 bytes"),
        ("long", "at most"),
        ("cut", "IncompleteReadError"),
        ("gone", "IncompleteReadError"),
        ("silent", "TimeoutError"),
    ],
)
async def test_a_service_that_misbehaves(service: Service, device: Path, fault: str, message: str) -> None:
    platform = QgsTdx(device, service.path, timeout=0.3 if fault == "silent" else 10.0)
    await platform.collect(REPORT_DATA)  # the control
    service.fault = fault
    with pytest.raises(CollectionError, match=message) as refused:
        await platform.collect(REPORT_DATA)
    if fault == "refusal":
        assert "not registered" in refused.value.hint


async def test_without_a_service_or_a_device(tmp_path: Path, device: Path) -> None:
    with pytest.raises(CollectionError, match="gives no quote"):
        await QgsTdx(device, tmp_path / "nobody").collect(REPORT_DATA)
    with pytest.raises(CollectionError, match="gives no quote"):
        await QgsTdx(device, 4050, timeout=5.0).collect(REPORT_DATA)
    with pytest.raises(CollectionError, match="gives no report"):
        await QgsTdx(tmp_path / "absent").collect(REPORT_DATA)
    with pytest.raises(CollectionError, match="expected 64"):
        await QgsTdx(device).collect(bytes(63))


def test_a_report_over_other_data_is_noticed(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert td_report(REPORT_DATA, device)[128:192] == REPORT_DATA

    def other(_: int, __: int, argument: bytearray, ___: bool) -> int:
        argument[64:] = bytes(1024)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", other)
    with pytest.raises(CollectionError, match="other report data"):
        td_report(REPORT_DATA, device)

    def refuse(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(CollectionError, match="Input/output error"):
        td_report(REPORT_DATA, device)


def test_configfs_is_chosen_where_it_is(tmp_path: Path) -> None:
    reports, device = tmp_path / "report", tmp_path / "tdx_guest"
    assert isinstance(open_tdx(reports, device), ConfigfsTdx)
    device.touch()
    assert isinstance(open_tdx(reports, device), QgsTdx)
    reports.mkdir()
    assert isinstance(open_tdx(reports, device), ConfigfsTdx)


async def test_either_way_brings_the_log(tmp_path: Path, machine: SyntheticTdx) -> None:
    files = LogFiles(table=tmp_path / "t", area=tmp_path / "a", copy=tmp_path / "copy", own=tmp_path / "own")
    for platform in (ConfigfsTdx(tmp_path, files=files), QgsTdx(files=files)):
        assert await platform.event_log() is None
    files.copy.write_bytes(machine.log.firmware)
    for platform in (ConfigfsTdx(tmp_path, files=files), QgsTdx(files=files)):
        assert isinstance(platform, EventLogPlatform)
        assert await platform.event_log() is not None
