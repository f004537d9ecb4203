"""Where the log comes from: the CCEL table and its area, boot's copy, and extensions of RTMR3 that are written down."""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tdx_support import digest, firmware_log, table

from attestation import tdx_log_files
from attestation.errors import CollectionError, EvidenceError
from attestation.tdx_log import MAX_RUNTIME, RuntimeEvent, TdxLog
from attestation.tdx_log_files import (
    CcelTable,
    LogFiles,
    SysfsRegister,
    extend_rtmr3,
    gather,
    gather_encoded,
    keep_firmware_log,
    own_events,
)

if TYPE_CHECKING:
    from pathlib import Path

FIRMWARE = firmware_log((0, digest("hob")), (1, digest("kernel")), (3, digest("firmware's own")))


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    """A machine with a table and a filled-up area."""
    made = LogFiles(
        table=tmp_path / "CCEL", area=tmp_path / "data", copy=tmp_path / "run" / "copy", own=tmp_path / "own"
    )
    made.table.write_bytes(table())
    made.area.write_bytes(FIRMWARE.ljust(0x10000, b"\xff"))
    return made


@dataclass
class Register:
    """What the TDX module does."""

    value: bytes = bytes(48)
    also: list[bytes] = field(default_factory=list)

    def read(self) -> bytes:
        return self.value

    def extend(self, digest: bytes) -> None:
        for item in (*self.also, digest):
            self.value = hashlib.sha384(self.value + item).digest()


async def test_firmwares_log_is_cut_to_its_length(files: LogFiles) -> None:
    assert gather(files) == TdxLog(FIRMWARE)
    assert await gather_encoded(files) == TdxLog(FIRMWARE).encode()
    files.area.write_bytes(FIRMWARE.ljust(0x10000, b"\0"))
    assert gather(files) == TdxLog(FIRMWARE)
    files.area.write_bytes(FIRMWARE)
    assert gather(files) == TdxLog(FIRMWARE)


async def test_a_machine_without_a_table_has_no_log_but_its_own(tmp_path: Path, files: LogFiles) -> None:
    files.table.unlink()
    assert gather(files) is None
    assert await gather_encoded(files) is None
    assert not keep_firmware_log(files)
    extend_rtmr3(digest("own"), "own", register=Register(), log=files.own)
    assert gather(files) == TdxLog(b"", (RuntimeEvent(digest("own"), "own"),))


def test_boot_leaves_a_copy_that_is_read_first(files: LogFiles) -> None:
    assert keep_firmware_log(files)
    assert files.copy.read_bytes() == FIRMWARE
    assert files.copy.stat().st_mode & 0o777 == 0o444
    files.area.unlink()
    files.table.unlink()
    assert gather(files) == TdxLog(FIRMWARE)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (table()[:-1], "of 55 bytes, expected 56"),
        (table() + b"\0", "has more than 56 bytes"),
        (table(signature=b"FACP"), "no CCEL table"),
        (table(good=False), "checksum is wrong"),
        (table(kind=1), "CC type 1, expected TDX"),
        (table(length=100), "has more than 100 bytes"),
    ],
)
def test_tables_that_are_refused(files: LogFiles, contents: bytes, message: str) -> None:
    gather(files)  # the control
    files.table.write_bytes(contents)
    with pytest.raises(CollectionError, match=message):
        gather(files)
    with pytest.raises(CollectionError, match=message):
        keep_firmware_log(files)


@given(st.binary(max_size=80) | st.binary(min_size=56, max_size=56).map(lambda data: b"CCEL" + data[4:]))
def test_no_bytes_break_the_table(data: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        CcelTable.parse(data)
    assert CcelTable.parse(table(length=7)) == CcelTable(7, 0xBEDB_F000)


def test_areas_that_are_refused(files: LogFiles) -> None:
    for contents, message in (
        (bytes(0x10000), "does not begin with a specification"),
        (b"", "ends inside its first event"),
        (FIRMWARE[:-1], "cannot be used"),
        (firmware_log((0, bytes(32)), banks=("sha256",)), "banks sha256"),
    ):
        files.area.write_bytes(contents)
        with pytest.raises(CollectionError, match=message):
            gather(files)
    files.table.write_bytes(table(length=1 << 40))
    files.area.write_bytes(bytes(tdx_log_files.MAX_AREA + 1))
    with pytest.raises(CollectionError, match="more than 1048576 bytes"):
        gather(files)
    files.area.unlink()
    files.area.mkdir()
    with pytest.raises(CollectionError, match="cannot be read"):
        gather(files)


def test_an_extension_is_written_down(files: LogFiles) -> None:
    register = Register()
    register.extend(digest("firmware's own"))
    made = [extend_rtmr3(digest(text), text, register=register, log=files.own) for text in ("volume", "engine")]
    log = gather(files)
    assert log is not None
    assert list(log.runtime) == made
    assert log.replay()[3] == register.value


def test_extensions_of_many_at_once_are_in_the_order_of_the_log(files: LogFiles) -> None:
    register = Register()
    with ThreadPoolExecutor(8) as pool:
        texts = [f"volume {number}" for number in range(32)]
        list(pool.map(lambda text: extend_rtmr3(digest(text), text, register=register, log=files.own), texts))
    log = TdxLog(b"", own_events(files.own))
    assert sorted(event.text for event in log.runtime) == sorted(texts)
    assert log.replay()[3] == register.value


def test_an_extension_by_another_program_is_noticed(files: LogFiles) -> None:
    with pytest.raises(CollectionError, match=r"RTMR3 is .* after an extension that leads to"):
        extend_rtmr3(digest("x"), "x", register=Register(also=[digest("a stranger's")]), log=files.own)
    assert own_events(files.own) == (RuntimeEvent(digest("x"), "x"),)


def test_what_does_not_fit_into_evidence_is_not_extended(files: LogFiles) -> None:
    register = Register()
    for bad in ((bytes(47), "x"), (bytes(48), "line\nbreak"), (bytes(48), "x" * 201)):
        with pytest.raises(EvidenceError):
            extend_rtmr3(*bad, register=register, log=files.own)
    line = json.dumps({"sha384": "00" * 48, "text": "x"}) + "\n"
    files.own.write_text(line * MAX_RUNTIME)
    with pytest.raises(CollectionError, match="512 times"):
        extend_rtmr3(bytes(48), "one more", register=register, log=files.own)
    assert register.value == bytes(48)


def test_a_log_that_cannot_be_written(files: LogFiles) -> None:
    register = Register()
    files.own.mkdir()
    with pytest.raises(CollectionError, match="cannot be written"):
        extend_rtmr3(bytes(48), "x", register=register, log=files.own)
    assert register.value == bytes(48)


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "null", '{"sha384": "00"}', '{"sha384": "00", "text": "x"}', '{"sha384": 1, "text": "x"}', "\xff"],
)
def test_own_logs_that_are_refused(files: LogFiles, line: str) -> None:
    files.own.write_text(line)
    with pytest.raises(CollectionError, match="holds a line that is no extension"):
        gather(files)


def test_the_kernels_file_is_read_and_written_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "rtmr3:sha384"
    path.write_bytes(bytes(48))
    register = SysfsRegister(path)
    assert register.read() == bytes(48)
    register.extend(b"\x01" * 48)  # a plain file keeps what was written, the kernel's adds it
    assert path.read_bytes() == b"\x01" * 48
    for content in (bytes(47), bytes(49)):
        path.write_bytes(content)
        with pytest.raises(CollectionError, match="expected 48"):
            register.read()
    path.unlink()
    with pytest.raises(CollectionError, match="cannot be read") as refused:
        extend_rtmr3(bytes(48), "x", register=register, log=tmp_path / "own")
    assert "6.16" in refused.value.hint
    assert own_events(tmp_path / "own") == ()
    with pytest.raises(CollectionError, match="cannot be extended"):
        register.extend(bytes(48))
