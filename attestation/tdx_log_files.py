"""Where a TDX guest's event log comes from: firmware's log area, and what the guest extended RTMR3 with.

The kernel shows the CCEL table and its log area under ``/sys/firmware/acpi`` to root alone; boot leaves a copy for
services without privileges. Linux 6.16 and newer extend a register by a write to its file
(``Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest``) and log nothing: :func:`extend_rtmr3` does both.

Layout of the table: ACPI header (36 bytes), CC type and subtype (u8), u16, u64 length and u64 address of the log area
(UEFI specification 2.10, section 38.4.1). All integers are little-endian.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

from attestation.errors import CollectionError, EvidenceError
from attestation.machine_files import read_file
from attestation.tdx_log import MAX_RUNTIME, MAX_TEXT, ZERO, RuntimeEvent, TdxLog, extend
from measurements.errors import EventLogError
from measurements.eventlog import read_tcg2

MAX_AREA = 1024 * 1024
"""Longest log area that is read, in bytes; firmware reserves 64 to 256 KiB."""

TABLE = Path("/sys/firmware/acpi/tables/CCEL")
AREA = Path("/sys/firmware/acpi/tables/data/CCEL")
FIRMWARE_COPY = Path("/run/chrysalis/tdx/firmware.log")
OWN_LOG = Path("/run/chrysalis/tdx/events.jsonl")
RTMR3 = Path("/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384")

CC_TDX = 2
"""CC type of TDX in the table."""

_TABLE = struct.Struct("<4sI28sBBHQQ")
_MAX_OWN = MAX_RUNTIME * (MAX_TEXT * 12 + 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFiles:
    """Where a guest's log is. A file that does not exist is a log without events.

    Attributes:
        table: The CCEL table.
        area: Its log area.
        copy: Firmware's log without filling, as :func:`keep_firmware_log` leaves it; read before the others.
        own: The guest's own extensions of RTMR3.
    """

    table: Path = TABLE
    area: Path = AREA
    copy: Path = FIRMWARE_COPY
    own: Path = OWN_LOG


class Register(Protocol):
    """A register that can be read and extended."""

    def read(self) -> bytes:
        """Its value, 48 bytes."""

    def extend(self, digest: bytes) -> None:
        """Extend it with 48 bytes."""


@dataclass(frozen=True, slots=True)
class SysfsRegister:
    """A register through the kernel's file: reading gives its value, writing extends it.

    Attributes:
        path: The file.
    """

    path: Path = RTMR3

    def read(self) -> bytes:
        """Its value, 48 bytes.

        Raises:
            CollectionError: No such file, or another size.
        """
        try:
            with self.path.open("rb") as file:
                value = file.read(len(ZERO) + 1)
        except OSError as error:
            raise CollectionError(
                f"register {self.path.name} cannot be read: {error.strerror}",
                hint="a TDX guest with Linux 6.16 or newer and CONFIG_TSM_MEASUREMENTS has it",
            ) from None
        if len(value) != len(ZERO):
            raise CollectionError(f"register {self.path.name} of {len(value)} bytes, expected {len(ZERO)}")
        return value

    def extend(self, digest: bytes) -> None:
        """Extend it; the kernel takes all 48 bytes in one write at offset 0 or none.

        Raises:
            CollectionError: The kernel refuses.
        """
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.write(digest)
        except OSError as error:
            raise CollectionError(f"register {self.path.name} cannot be extended: {error.strerror}") from None


def gather(files: LogFiles | None = None) -> TdxLog | None:
    """The log of this machine as it is now.

    Returns:
        ``None`` for a machine that has neither a CCEL table nor extensions of its own.

    Raises:
        CollectionError: A part cannot be read, or is not what it should be.
    """
    files = files or LogFiles()
    firmware = read_file(files.copy, MAX_AREA)
    if not firmware:
        firmware = _firmware(files)
    runtime = own_events(files.own)
    if not firmware and not runtime:
        return None
    try:
        return TdxLog(firmware, runtime)
    except EvidenceError as error:
        raise CollectionError(f"this machine's event log is none: {error.message}", hint=error.hint) from None


async def gather_encoded(files: LogFiles | None = None) -> bytes | None:
    """:func:`gather`, off the event loop and as bundles carry it."""
    log = await asyncio.to_thread(gather, files)
    return log.encode() if log is not None else None


def keep_firmware_log(files: LogFiles | None = None) -> bool:
    """Copy firmware's log, without its filling, to where services without privileges may read it.

    Returns:
        Whether there is one.

    Raises:
        CollectionError: As :func:`gather`.
    """
    files = files or LogFiles()
    firmware = _firmware(files)
    if firmware:
        _directory(files.copy.parent)
        partial = files.copy.with_name(f".{files.copy.name}.partial")
        partial.write_bytes(firmware)
        partial.chmod(0o444)
        partial.replace(files.copy)
    return bool(firmware)


def extend_rtmr3(digest: bytes, text: str, *, register: Register | None = None, log: Path = OWN_LOG) -> RuntimeEvent:
    """Extend RTMR3 and write it down, one process at a time.

    Args:
        digest: 48 bytes.
        text: What it is, for people.
        register: Another register than the kernel's RTMR3.
        log: Where extensions are written down, one JSON object a line.

    Raises:
        EvidenceError: Digest or text are out of bounds.
        CollectionError: The kernel cannot, the log is full, or something else extended the register meanwhile: from
            then on no log of this machine replays, so its evidence is refused until it starts anew.
    """
    event = RuntimeEvent(digest, text)
    register = register or SysfsRegister()
    try:
        _directory(log.parent)
        with log.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o644)
            before, after = _extend_logged(event, register, log, file)
    except OSError as error:
        raise CollectionError(f"log {log} cannot be written: {error.strerror}") from None
    if after != extend(before, digest):
        raise CollectionError(
            f"RTMR3 is {after.hex()[:16]}… after an extension that leads to {extend(before, digest).hex()[:16]}…",
            hint="another program extends RTMR3 without this log: this boot's evidence will be refused",
        )
    return event


def _extend_logged(event: RuntimeEvent, register: Register, log: Path, file: TextIO) -> tuple[bytes, bytes]:
    """Extend and write down; the register's value before and after."""
    if len(own_events(log)) >= MAX_RUNTIME:
        raise CollectionError(f"RTMR3 was extended {MAX_RUNTIME} times, no more fit into evidence")
    before = register.read()
    register.extend(event.digest)
    file.write(json.dumps({"sha384": event.digest.hex(), "text": event.text}) + "\n")
    file.flush()
    return before, register.read()


def own_events(path: Path) -> tuple[RuntimeEvent, ...]:
    """The extensions that :func:`extend_rtmr3` wrote down.

    Raises:
        CollectionError: The file cannot be read or holds something else.
    """
    events = []
    for line in read_file(path, _MAX_OWN).splitlines():
        try:
            value = json.loads(line)
            events.append(RuntimeEvent(bytes.fromhex(value["sha384"]), value["text"]))
        except (ValueError, KeyError, TypeError, RecursionError, EvidenceError):
            raise CollectionError(f"log {path} holds a line that is no extension of RTMR3") from None
    return tuple(events)


@dataclass(frozen=True, slots=True)
class CcelTable:
    """What the CCEL table of a TDX machine says.

    Attributes:
        length: Size of the log area in bytes.
        address: Its physical address.
    """

    length: int
    address: int = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> CcelTable:
        """Read a table.

        Raises:
            EvidenceError: Another table, length, checksum or kind of machine.
        """
        if len(data) != _TABLE.size:
            raise EvidenceError(f"CCEL table of {len(data)} bytes, expected {_TABLE.size}")
        signature, size, _, kind, _, _, length, address = _TABLE.unpack(data)
        if signature != b"CCEL" or size != _TABLE.size or sum(data) % 256:
            raise EvidenceError(f"ACPI table {signature!r} of {size} bytes is no CCEL table, or its checksum is wrong")
        if kind != CC_TDX:
            raise EvidenceError(f"CCEL table of CC type {kind}, expected TDX ({CC_TDX})")
        return cls(length, address)


def _firmware(files: LogFiles) -> bytes:
    """Firmware's log without filling; empty without a table."""
    table = read_file(files.table, _TABLE.size)
    if not table:
        return b""
    try:
        parsed = CcelTable.parse(table)
        area = read_file(files.area, min(parsed.length, MAX_AREA))
        return area[: read_tcg2(area)[1]]
    except (EvidenceError, EventLogError) as error:
        raise CollectionError(f"firmware's event log cannot be used: {error.message}", hint=error.hint) from None


def _directory(path: Path) -> None:
    """A directory that services without privileges may enter, whatever this process gives its files."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
