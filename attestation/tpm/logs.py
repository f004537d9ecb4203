"""What a TPM's registers were extended with: firmware's log, and what the running system measured after it.

The system's part is a list of register, digest and a text. Like the data of firmware's events, the text is for people:
registers confirm digests and nothing else. Nothing here needs a TPM; :func:`gather` reads the running machine's files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attestation import cbor
from attestation.errors import CollectionError, EvidenceError
from attestation.machine_files import read_file
from measurements.eventlog import MAX_LOG, MAX_REGISTER, parse_tcg2
from measurements.tpm import RESET, extend

MAX_EVENTS = 512
MAX_TEXT = 200
MAX_FILE = MAX_LOG
FIRMWARE_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
SYSTEMD_LOG = Path("/run/log/systemd/tpm2-measure.log")
KERNEL_LOG = Path("/sys/kernel/security/integrity/ima/binary_runtime_measurements")
OWN_LOG = Path("/run/chrysalis/tpm/events.jsonl")
"""Where :func:`record` writes in a guest."""

SNAPSHOT = Path("/run/chrysalis/tpm/logs.cbor")
"""Where a guest leaves its logs for services that may not read the kernel's files."""

_RECORD_START = b"\x1e"


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """One extension that the running system made.

    Attributes:
        register: 0 to 23.
        digest: 32 bytes, SHA-256 bank.
        text: What it says it is; not authenticated.
    """

    register: int
    digest: bytes
    text: str


@dataclass(frozen=True, slots=True)
class BootLogs:
    """Both logs of one boot.

    Attributes:
        firmware: As :func:`measurements.eventlog.parse_tcg2` reads it.
        system: In the order in which each register was extended.
    """

    firmware: bytes
    system: tuple[SystemEvent, ...]

    def replay(self) -> dict[int, bytes]:
        """SHA-256 registers as the logs say they are, for those that were extended.

        Raises:
            EventLogError: Firmware's log is malformed or has no SHA-256 bank.
        """
        values = parse_tcg2(self.firmware).replay("sha256")
        for event in self.system:
            values[event.register] = extend(values.get(event.register, RESET), event.digest)
        return values

    def plain(self) -> dict[str, Any]:
        """As values that CBOR encodes."""
        return {"firmware": self.firmware, "system": [[e.register, e.digest, e.text] for e in self.system]}

    @classmethod
    def from_plain(cls, value: object) -> BootLogs:
        """Check decoded values.

        Raises:
            EvidenceError: Another shape, or out of bounds.
        """
        if not isinstance(value, dict) or set(value) != {"firmware", "system"}:
            raise EvidenceError("logs are not a map of exactly firmware and system")
        firmware, system = value["firmware"], value["system"]
        if not isinstance(firmware, bytes) or len(firmware) > MAX_LOG:
            raise EvidenceError(f"firmware log is not at most {MAX_LOG} bytes")
        if not isinstance(system, list) or len(system) > MAX_EVENTS:
            raise EvidenceError(f"system log is not a list of at most {MAX_EVENTS} events")
        return cls(firmware, tuple(_event(item) for item in system))

    def encode(self) -> bytes:
        """Canonical CBOR, for :data:`SNAPSHOT`."""
        return cbor.encode(self.plain())

    @classmethod
    def decode(cls, data: bytes) -> BootLogs:
        """Read :meth:`encode`'s bytes; errors as :meth:`from_plain`."""
        return cls.from_plain(cbor.decode(data, max_length=2 * MAX_LOG))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFiles:
    """Where a machine keeps its logs. A file that does not exist is a log without events."""

    firmware: Path = FIRMWARE_LOG
    systemd: Path = SYSTEMD_LOG
    kernel: Path = KERNEL_LOG
    own: Path = OWN_LOG


def record(path: Path, event: SystemEvent) -> None:
    """Add an extension that this project made to its log; the file appears with mode 0644.

    Raises:
        EvidenceError: The event is out of bounds.
    """
    _event([event.register, event.digest, event.text])
    line = json.dumps({"pcr": event.register, "sha256": event.digest.hex(), "text": event.text})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def gather(files: LogFiles | None = None) -> BootLogs:
    """Read the logs of this machine as they are now.

    Raises:
        CollectionError: A log cannot be read, or is not what it should be.
    """
    files = files or LogFiles()
    firmware = read_file(files.firmware, MAX_FILE)
    events = [
        *_systemd(read_file(files.systemd, MAX_FILE), files.systemd),
        *_kernel(read_file(files.kernel, MAX_FILE), files.kernel),
        *_own(read_file(files.own, MAX_FILE), files.own),
    ]
    if len(events) > MAX_EVENTS:
        raise CollectionError(f"{len(events)} events after firmware's, at most {MAX_EVENTS} fit into evidence")
    return BootLogs(firmware, tuple(events))


def of_this_boot(snapshot: Path = SNAPSHOT, files: LogFiles | None = None) -> BootLogs:
    """The logs as a service shows them: those that were gathered for it, or else the machine's own.

    Args:
        snapshot: :meth:`BootLogs.encode`'s bytes, where they were left.
        files: Read where there is no such file.

    Raises:
        CollectionError: As :func:`gather`, or the snapshot is damaged.
    """
    try:
        return BootLogs.decode(snapshot.read_bytes())
    except FileNotFoundError:
        return gather(files)
    except OSError as error:
        raise CollectionError(f"logs in {snapshot} cannot be read: {error.strerror}") from None
    except EvidenceError as error:
        raise CollectionError(f"logs in {snapshot} are damaged: {error.message}") from None


def _systemd(data: bytes, path: Path) -> list[SystemEvent]:
    """Systemd's log: JSON texts, each between a record separator and a newline (RFC 7464; ``tpm2_extend_bytes``)."""
    events = []
    for text in data.split(_RECORD_START)[1:]:
        try:
            value = json.loads(text)
            if isinstance(value, dict) and "pcr" not in value:  # extensions of indexes that are no registers
                continue
            digest = next(item["digest"] for item in value["digests"] if item["hashAlg"] == "sha256")
            content = value.get("content", {})
            name = f"{content.get('eventType', 'systemd')}: {content.get('string', '')}"[:MAX_TEXT]
            events.append(_event([value["pcr"], bytes.fromhex(digest), name]))
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError, EvidenceError):
            raise CollectionError(f"log {path} holds a record that is no measurement") from None
    return events


def _kernel(data: bytes, path: Path) -> list[SystemEvent]:
    """The integrity subsystem's log (Linux ``security/integrity/ima/ima_fs.c``, little-endian).

    u32 register, SHA-1 digest, u32 length and name of the template, u32 length and data. Its SHA-256 register is
    extended with the hash of that data.
    """
    events, offset = [], 0
    while offset < len(data):
        try:
            register = int.from_bytes(_piece(data, offset, 4), "little")
            name_size = int.from_bytes(_piece(data, offset + 24, 4), "little")
            name = _piece(data, offset + 28, name_size)
            at = offset + 28 + name_size
            size = int.from_bytes(_piece(data, at, 4), "little")
            content = _piece(data, at + 4, size)
            text = f"integrity: {name.decode('ascii', 'replace')}"[:MAX_TEXT]
            events.append(_event([register, hashlib.sha256(content).digest(), text]))
        except EvidenceError:
            raise CollectionError(f"log {path} ends inside an entry at {offset}") from None
        offset = at + 4 + size
    return events


def _own(data: bytes, path: Path) -> list[SystemEvent]:
    events = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
            events.append(_event([value["pcr"], bytes.fromhex(value["sha256"]), value["text"]]))
        except (ValueError, KeyError, TypeError, RecursionError, EvidenceError):
            raise CollectionError(f"log {path} holds a line that is no measurement") from None
    return events


def _piece(data: bytes, offset: int, size: int) -> bytes:
    piece = data[offset : offset + size]
    if len(piece) != size:
        raise EvidenceError("cut short")
    return piece


def _event(item: object) -> SystemEvent:
    if not isinstance(item, list) or len(item) != 3:
        raise EvidenceError("event is not register, digest and text")
    register, digest, text = item
    if not isinstance(register, int) or isinstance(register, bool) or not 0 <= register <= MAX_REGISTER:
        raise EvidenceError(f"event of a register that is not 0 to {MAX_REGISTER}")
    if not isinstance(digest, bytes) or len(digest) != 32 or not isinstance(text, str) or len(text) > MAX_TEXT:
        raise EvidenceError(f"event without a digest of 32 bytes and a text of at most {MAX_TEXT} characters")
    return SystemEvent(register, digest, text)
