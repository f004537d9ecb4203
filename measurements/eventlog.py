"""Event logs of firmware: bytes in, events and replayed registers out.

An event's type and data are hints for people: they are not what a register was extended with, so anybody who holds the
log can rewrite them and it still replays. Decide on digests alone. (Two types matter to a replay itself: what is not
extended, and the locality that register 0 began with; if they lie, the replay misses the register.)

Layout: TCG PC Client Platform Firmware Profile 1.06, section 10: one TCG_PCR_EVENT that holds the specification id
event, then TCG_PCR_EVENT2. All integers are little-endian. CCEL tables have the same layout, register n + 1 for RTMR n.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from measurements.errors import EventLogError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LOG = 1024 * 1024
"""Longest log that is read, in bytes; a usual one has 20 to 60 thousand."""

MAX_EVENTS = 4096
MAX_REGISTER = 23
BANKS: Mapping[int, tuple[str, int]] = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3_256", 32),
}
"""Banks by TPM_ALG_ID (TCG Algorithm Registry, section 6): name and digest size in bytes."""

NO_ACTION = 3
EVENT_TYPES: Mapping[int, str] = {
    0x00: "EV_PREBOOT_CERT",
    0x01: "EV_POST_CODE",
    0x03: "EV_NO_ACTION",
    0x04: "EV_SEPARATOR",
    0x05: "EV_ACTION",
    0x06: "EV_EVENT_TAG",
    0x07: "EV_S_CRTM_CONTENTS",
    0x08: "EV_S_CRTM_VERSION",
    0x09: "EV_CPU_MICROCODE",
    0x0A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    0x0D: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    0x0F: "EV_NONHOST_CODE",
    0x10: "EV_NONHOST_CONFIG",
    0x11: "EV_NONHOST_INFO",
    0x12: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x13: "EV_POST_CODE2",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}
"""Names of event types (section 10.4.1), for people."""

_FIRST = struct.Struct("<II20sI")
_NEXT = struct.Struct("<III")
_U32 = struct.Struct("<I")
_ALGORITHM = struct.Struct("<HH")
_SPECIFICATION = struct.Struct("<16sIBBBBI")
_SIGNATURE = b"Spec ID Event03\0"
_LOCALITY = b"StartupLocality\0"
_FILL = (b"\0", b"\xff")


@dataclass(frozen=True, slots=True)
class Event:
    """One event; only its digests are what a register can confirm.

    Attributes:
        register: Which register it says to have extended.
        type: Event type, not authenticated.
        digests: By bank.
        data: Event data, not authenticated.
    """

    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def type_name(self) -> str:
        """The type's name, or its number."""
        return EVENT_TYPES.get(self.type, f"{self.type:#010x}")

    @property
    def extended(self) -> bool:
        """Whether it extends its register at all."""
        return self.type != NO_ACTION


@dataclass(frozen=True, slots=True)
class EventLog:
    """A log as firmware wrote it.

    Attributes:
        banks: Names of the banks whose digests every event carries.
        events: In order, without the first, which describes the log.
    """

    banks: tuple[str, ...]
    events: tuple[Event, ...]

    def replay(self, bank: str) -> dict[int, bytes]:
        """Registers as the log says they are.

        Args:
            bank: For example ``sha256``.

        Returns:
            Values by register, for those that were extended.

        Raises:
            EventLogError: The log has no such bank, or the bank's hash is not at hand.
        """
        if bank not in self.banks:
            raise EventLogError(f"log without bank {bank}; it has {', '.join(self.banks)}")
        if bank not in hashlib.algorithms_available:
            raise EventLogError(f"bank {bank} cannot be computed here")
        values: dict[int, bytes] = {}
        size = hashlib.new(bank).digest_size
        start = self._startup_locality()
        for event in self.events:
            if not event.extended:
                continue
            before = values.get(event.register)
            if before is None:
                before = bytes(size - 1) + bytes([start if event.register == 0 else 0])
            values[event.register] = hashlib.new(bank, before + event.digests[bank]).digest()
        return values

    def _startup_locality(self) -> int:
        """What register 0 begins with (section 10.4.5.3); 0 unless the log says otherwise."""
        for event in self.events:
            if not event.extended and event.data.startswith(_LOCALITY) and len(event.data) == len(_LOCALITY) + 1:
                return event.data[-1]
        return 0


def parse_tcg2(data: bytes) -> EventLog:
    """Read a log to its last byte; behind the last event only filling (all zeros or all ones) may follow.

    Raises:
        EventLogError: Another format, cut short, or over :data:`MAX_LOG` bytes or :data:`MAX_EVENTS` events.
    """
    return read_tcg2(data)[0]


def read_tcg2(data: bytes) -> tuple[EventLog, int]:
    """Read a log as :func:`parse_tcg2` does, and say how long it is without its filling, in bytes.

    Raises:
        EventLogError: As there.
    """
    if len(data) > MAX_LOG:
        raise EventLogError(f"log of {len(data)} bytes, at most {MAX_LOG} are read")
    if len(data) < _FIRST.size:
        raise EventLogError(f"log of {len(data)} bytes ends inside its first event")
    _, kind, _, length = _FIRST.unpack_from(data)
    offset = _FIRST.size + length
    if kind != NO_ACTION or offset > len(data):
        raise EventLogError("log does not begin with a specification id event", hint="logs of TPM 1.2 are not read")
    sizes = _specification(data[_FIRST.size : offset])
    events: list[Event] = []
    filling = min(len(data.rstrip(fill)) for fill in _FILL)
    while offset < filling:
        if len(events) == MAX_EVENTS:
            raise EventLogError(f"log with more than {MAX_EVENTS} events")
        event, offset = _event(data, offset, sizes)
        events.append(event)
    return EventLog(tuple(BANKS[identifier][0] for identifier in sizes), tuple(events)), offset


def encode_tcg2(log: EventLog, *, register: int = 0) -> bytes:
    """Write a log as firmware would, without filling: what :func:`parse_tcg2` reads back.

    Args:
        log: Events with a digest for every bank of the log.
        register: What the first event, which describes the log, says to be about; CCEL tables have 1.

    Raises:
        EventLogError: A bank is not known, or an event lacks one.
    """
    identifiers = {name: (identifier, size) for identifier, (name, size) in BANKS.items()}
    if not log.banks or not set(log.banks) <= set(identifiers):
        raise EventLogError(f"log of banks {', '.join(log.banks) or 'none'}; known are {', '.join(identifiers)}")
    algorithms = b"".join(_ALGORITHM.pack(*identifiers[name]) for name in log.banks)
    head = _SPECIFICATION.pack(_SIGNATURE, 0, 0, 2, 0, 2, len(log.banks)) + algorithms + b"\0"
    parts = [_FIRST.pack(register, NO_ACTION, bytes(20), len(head)), head]
    for event in log.events:
        if set(event.digests) != set(log.banks):
            raise EventLogError(f"event with digests of {', '.join(event.digests)} in a log of {', '.join(log.banks)}")
        parts.append(_NEXT.pack(event.register, event.type, len(log.banks)))
        parts += [identifiers[name][0].to_bytes(2, "little") + event.digests[name] for name in log.banks]
        parts.append(_U32.pack(len(event.data)) + event.data)
    return b"".join(parts)


def _specification(data: bytes) -> Mapping[int, int]:
    """Digest sizes by algorithm, from TCG_EfiSpecIDEvent (section 10.4.5.1)."""
    if len(data) < _SPECIFICATION.size or not data.startswith(_SIGNATURE):
        raise EventLogError("log does not begin with a specification id event of version 3")
    count = _SPECIFICATION.unpack_from(data)[-1]
    end = _SPECIFICATION.size + count * _ALGORITHM.size
    if not 0 < count <= len(BANKS) or end + 1 > len(data) or end + 1 + data[end] != len(data):
        raise EventLogError(f"specification id event of {len(data)} bytes with {count} banks")
    sizes: dict[int, int] = {}
    for i in range(count):
        identifier, size = _ALGORITHM.unpack_from(data, _SPECIFICATION.size + i * _ALGORITHM.size)
        if identifier in sizes or BANKS.get(identifier, ("", -1))[1] != size:
            raise EventLogError(f"log with a bank {identifier:#06x} of {size} bytes")
        sizes[identifier] = size
    return sizes


def _event(data: bytes, offset: int, sizes: Mapping[int, int]) -> tuple[Event, int]:
    """One TCG_PCR_EVENT2 and the offset behind it."""
    if offset + _NEXT.size > len(data):
        raise EventLogError(f"log ends inside the event at {offset}")
    register, kind, count = _NEXT.unpack_from(data, offset)
    if kind != NO_ACTION and register > MAX_REGISTER:
        raise EventLogError(f"event at {offset} extends register {register}, the last is {MAX_REGISTER}")
    if count != len(sizes):
        raise EventLogError(f"event at {offset} has {count} digests in a log of {len(sizes)} banks")
    at = offset + _NEXT.size
    digests: dict[str, bytes] = {}
    for _ in range(count):
        identifier = int.from_bytes(data[at : at + 2], "little")
        if identifier not in sizes or BANKS[identifier][0] in digests:
            raise EventLogError(f"event at {offset} has a digest of bank {identifier:#06x}, missing or twice")
        digests[BANKS[identifier][0]] = data[at + 2 : at + 2 + sizes[identifier]]
        at += 2 + sizes[identifier]
    if at + _U32.size > len(data):
        raise EventLogError(f"log ends inside the event at {offset}")
    (length,) = _U32.unpack_from(data, at)
    end = at + _U32.size + length
    if end > len(data):
        raise EventLogError(f"event at {offset} has {length} bytes of data where {len(data) - at - 4} are left")
    return Event(register, kind, digests, data[at + _U32.size : end]), end
