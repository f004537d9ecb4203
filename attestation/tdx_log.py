"""The event log of a TDX machine: firmware's part and the guest's own, one list of events for each RTMR.

Firmware's part is the CCEL table's log area: TCG2 crypto-agile form with SHA-384 digests, measurement register index 1
to 4 for RTMR0 to 3 (UEFI specification 2.10, section 38.4.1; index 0 is MRTD, which nothing extends). What the running
guest adds to RTMR3 gets no entry there, because the kernel writes none: our own list follows it, in order.

A register confirms digests and nothing else. So a rule gets events from :meth:`TdxLog.confirmed` alone, which replays
the very list that it returns and refuses it unless it leads to the quoted register: no list is checked that was not
replayed. Types, data and texts are for people.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from attestation import cbor
from attestation.errors import EvidenceError
from measurements.errors import EventLogError
from measurements.eventlog import read_tcg2

if TYPE_CHECKING:
    from measurements.eventlog import Event

REGISTERS = 4
MAX_FIRMWARE = 256 * 1024
"""Longest firmware log, in bytes; real ones have 2 to 20 thousand in areas of 64 to 256 KiB."""

MAX_RUNTIME = 512
MAX_TEXT = 200
MAX_LOG = MAX_FIRMWARE + MAX_RUNTIME * (MAX_TEXT * 4 + 64) + 64
"""Longest encoded log, in bytes."""

ZERO = bytes(48)
_VERSION = 1
_BANK = "sha384"
_SHOWN = 60
_VARIABLE = struct.Struct("<16sQQ")
"""UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile 1.06, section 10.2.6): GUID, lengths of name and data."""

_FIELDS = frozenset({"version", "firmware", "runtime"})


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One extension of RTMR3 by the running guest.

    Attributes:
        digest: 48 bytes.
        text: What it says it is, at most :data:`MAX_TEXT` printable characters; not authenticated.
    """

    digest: bytes
    text: str

    def __post_init__(self) -> None:
        if len(self.digest) != len(ZERO):
            raise EvidenceError(f"runtime event with a digest of {len(self.digest)} bytes, expected {len(ZERO)}")
        if len(self.text) > MAX_TEXT or not self.text.isprintable():
            raise EvidenceError(f"runtime event without a printable text of at most {MAX_TEXT} characters")


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of one register.

    Attributes:
        register: 0 to 3.
        position: In its register, from 0.
        digest: What the register was extended with, 48 bytes.
        source: Who logged it.
        text: For people; not authenticated.
    """

    register: int
    position: int
    digest: bytes
    source: Literal["firmware", "guest"]
    text: str


@dataclass(frozen=True, slots=True)
class TdxLog:
    """Both parts of one machine's log.

    Args:
        firmware: The CCEL log without filling; empty for a machine that has none.
        runtime: The guest's own extensions of RTMR3, in order; they follow firmware's.

    Attributes:
        registers: The events of RTMR0 to 3, in order: what is replayed and what is looked at.

    Raises:
        EvidenceError: Malformed, out of bounds, with filling, or of other banks or registers.
    """

    firmware: bytes
    runtime: tuple[RuntimeEvent, ...] = ()
    registers: tuple[tuple[LoggedEvent, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.runtime) > MAX_RUNTIME:
            raise EvidenceError(f"log of {len(self.runtime)} runtime events, at most {MAX_RUNTIME} are read")
        lists: list[list[LoggedEvent]] = [[] for _ in range(REGISTERS)]
        for register, digest, text in _firmware_events(self.firmware):
            lists[register].append(LoggedEvent(register, len(lists[register]), digest, "firmware", text))
        for event in self.runtime:
            lists[3].append(LoggedEvent(3, len(lists[3]), event.digest, "guest", event.text))
        object.__setattr__(self, "registers", tuple(map(tuple, lists)))

    def replay(self) -> tuple[bytes, ...]:
        """RTMR0 to 3 as the log says they are, 48 bytes each."""
        return tuple(_replay(events) for events in self.registers)

    def confirmed(self, register: int, value: bytes) -> tuple[LoggedEvent, ...]:
        """The events of a register, which lead to the value that was quoted.

        Args:
            register: 0 to 3.
            value: What the quote says the register holds, 48 bytes.

        Raises:
            EvidenceError: They lead elsewhere; then nothing that they say holds.
        """
        events = self.registers[register]
        seen = _replay(events)
        if seen != value:
            raise EvidenceError(
                f"log leads to {seen.hex()} in RTMR{register}, the quote has {value.hex()}",
                hint="something was measured and left out of the log, or the log was edited",
            )
        return events

    def encode(self) -> bytes:
        """Canonical CBOR: a map of ``version``, ``firmware`` and ``runtime`` (a list of digest and text)."""
        runtime = [[event.digest, event.text] for event in self.runtime]
        return cbor.encode({"version": _VERSION, "firmware": self.firmware, "runtime": runtime})

    @classmethod
    def parse(cls, data: bytes) -> TdxLog:
        """Read :meth:`encode`'s bytes.

        Raises:
            EvidenceError: Not canonical, of another shape or version, or anything the constructor refuses.
        """
        value = cbor.decode(data, max_length=MAX_LOG)
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise EvidenceError(f"event log is not a map of exactly {sorted(_FIELDS)}")
        version, firmware, runtime = value["version"], value["firmware"], value["runtime"]
        if version != _VERSION or isinstance(version, bool):
            raise EvidenceError(f"event log of version {version!r}, expected {_VERSION}")
        if not isinstance(firmware, bytes):
            raise EvidenceError("event log whose firmware part is not bytes")
        if not isinstance(runtime, list):
            raise EvidenceError("event log whose runtime part is not a list")
        return cls(firmware, tuple(_runtime(item) for item in runtime))


def extend(value: bytes, digest: bytes) -> bytes:
    """What a register holds after one more extension: SHA-384 of both; 48 bytes."""
    return hashlib.sha384(value + digest).digest()


def _replay(events: tuple[LoggedEvent, ...]) -> bytes:
    value = ZERO
    for event in events:
        value = extend(value, event.digest)
    return value


def _firmware_events(data: bytes) -> list[tuple[int, bytes, str]]:
    """Register number, digest and name of every event that extends."""
    if not data:
        return []
    if len(data) > MAX_FIRMWARE:
        raise EvidenceError(f"firmware log of {len(data)} bytes, at most {MAX_FIRMWARE} are read")
    try:
        log, end = read_tcg2(data)
    except EventLogError as error:
        raise EvidenceError(f"firmware {error.message}", hint=error.hint) from None
    if end != len(data):
        raise EvidenceError(f"firmware log with {len(data) - end} bytes of filling", hint="filling is not evidence")
    if log.banks != (_BANK,):
        raise EvidenceError(f"firmware log of banks {', '.join(log.banks)}, expected {_BANK} alone")
    events = []
    for event in log.events:
        if not event.extended:
            continue
        if not 1 <= event.register <= REGISTERS:
            raise EvidenceError(f"firmware log extends register index {event.register}, expected 1 to {REGISTERS}")
        events.append((event.register - 1, event.digests[_BANK], _text(event)))
    return events


def _runtime(item: object) -> RuntimeEvent:
    if not isinstance(item, list) or len(item) != 2:
        raise EvidenceError("runtime event that is not digest and text")
    digest, text = item
    if not isinstance(digest, bytes) or not isinstance(text, str):
        raise EvidenceError("runtime event that is not bytes and text")
    return RuntimeEvent(digest, text)


def _text(event: Event) -> str:
    """An event's type, and its data where they are a text or the variable of firmware that they name."""
    data = event.data
    if len(data) > _VARIABLE.size and event.type_name.startswith("EV_EFI_VARIABLE"):
        length = _VARIABLE.unpack_from(data)[1]
        data = data[_VARIABLE.size : _VARIABLE.size + 2 * min(length, _SHOWN)][::2]
    shown = data.rstrip(b"\0").decode("ascii", "replace")
    if not shown or not shown.isprintable() or not shown.isascii():
        return event.type_name
    return f"{event.type_name} {shown[:_SHOWN]}"
