"""What a logged event says of itself, as a line for a person; whether its digest covers that is told apart.

In: one event of a log that replays. Out: :class:`Said`. An event's type and data are not authenticated: a log with
other data replays as well. But where the digest is the hash of the data, or of the part of it that firmware hashes, the
register confirms those bytes, and they may be shown as what was measured. Everything else is called a hint.

What a text says decides nothing, and every text is bounded and printable: control characters, and those that turn the
reading order around, are shown as escapes.

Layouts: TCG PC Client Platform Firmware Profile 1.06, sections 10.2.6 (variables), 10.4.5.4 (partition table), 10.4.2
(separators and actions), 10.4.4 (tagged events); UEFI specification 2.10, section 3.1.3 (load options).
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measurements.eventlog import Event
    from measurements.prediction import Bank, Input

MAX_SHOWN = 160
"""Characters of one event that are shown."""

_MAX_PARTITIONS = 8
_VARIABLE = struct.Struct("<16sQQ")
_TAG = struct.Struct("<II")
_LOAD_OPTION = struct.Struct("<IH")
_GPT_HEADER = 92
_GPT_ENTRY = 128
_GRUB = (b"grub_cmd: ", b"kernel_cmdline: ")
_KEYS = frozenset({"SecureBoot", "PK", "KEK", "db", "dbx", "dbt", "dbr", "DeployedMode", "AuditMode", "MokList"})
_PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")

KNOWN: Mapping[bytes, tuple[str, Input | None]] = {
    bytes(4): ("separator", None),
    b"\xff\xff\xff\xff": ("separator in the form ffffffff", "firmware"),
    b"\1\0\0\0": ("separator that reports an error", "firmware"),
    b"Calling EFI Application from Boot Option": ("calling a boot option", "boot"),
    b"Returning from EFI Application from Boot Option": ("a boot option returned: it failed", "boot"),
    b"Exit Boot Services Invocation": ("exit of boot services", None),
    b"Exit Boot Services Returned with Success": ("exit of boot services succeeded", None),
    b"Exit Boot Services Returned with Failure": ("exit of boot services failed", "firmware"),
    b"UEFI Debug Mode": ("firmware in debug mode", "firmware"),
    b"Entering ROM Based Setup": ("the firmware's setup was entered", "boot"),
    b"DMA Protection Disabled": ("DMA protection is off", "firmware"),
    b"chrysalis configuration refused v1\0": ("the guest refused its configuration", "configuration"),
    **{phase.encode(): (f"phase {phase}", "phase") for phase in _PHASES},
}
"""Texts that firmware and systemd measure on many machines, and what they mean."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an event says.

    Attributes:
        text: At most :data:`MAX_SHOWN` printable characters and a note; empty where there is nothing to show.
        covered: Whether the digest is the hash of what the text shows.
        input: What it speaks of, where that is one thing.
    """

    text: str
    covered: bool
    input: Input | None = None


@cache
def known(bank: Bank) -> Mapping[bytes, tuple[str, Input | None]]:
    """Digests of :data:`KNOWN` in a bank, with what they mean: for these no log is needed to know the text."""
    return {hashlib.new(bank, content).digest(): meaning for content, meaning in KNOWN.items()}


def said(event: Event, bank: Bank) -> Said:
    """What one event says of itself.

    Args:
        event: Of a log that has the bank.
        bank: Whose digest the register was extended with.
    """
    digest = event.digests[bank]
    readings = tuple(_readings(event))
    confirmed = next((item for item in readings if hashlib.new(bank, item.content).digest() == digest), None)
    if confirmed is not None and (not confirmed.whole or confirmed.input is not None):
        return Said(shown(confirmed.text), confirmed.whole, confirmed.input)
    if (meaning := known(bank).get(digest)) is not None:
        return Said(meaning[0], covered=True, input=meaning[1])
    if confirmed is not None:
        return Said(shown(confirmed.text), covered=True)
    return Said(shown(f"{event.type_name} {readings[0].text}".rstrip()), covered=False)


def shown(text: str) -> str:
    """A stranger's text: bounded, and printable."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read an event's data.

    Attributes:
        content: What the digest would be the hash of.
        text: What is shown of the event.
        input: What it speaks of.
        whole: Whether ``content`` is all that the text is made of; else a name beside it is the log's word alone.
    """

    content: bytes
    text: str
    input: Input | None = None
    whole: bool = True


def _readings(event: Event) -> Iterator[_Reading]:
    """The ways in which firmware hashes data of this type; at least one."""
    data, kind = event.data, event.type_name
    if kind.startswith("EV_EFI_VARIABLE") and (variable := _variable(data)):
        text, moved = _variable_text(*variable)
        yield _Reading(data, text, moved)
        yield _Reading(variable[1], text, moved, whole=False)
    elif kind == "EV_EVENT_TAG" and len(data) >= _TAG.size and _TAG.unpack_from(data)[1] == len(data) - _TAG.size:
        yield _Reading(data[_TAG.size :], text_of(data[_TAG.size :]))
    elif kind == "EV_EFI_GPT_EVENT" and (table := _partitions(data)):
        yield _Reading(data, table, "disk")
    elif kind == "EV_S_CRTM_VERSION":
        version = data.decode("utf-16-le", "replace").rstrip("\0")
        yield _Reading(data, f"firmware version {version!r}", "firmware")
    else:
        yield _Reading(data, text_of(data))
        if kind == "EV_IPL" and data.startswith(_GRUB):  # GRUB hashes what stands behind the word, without the end
            content = data.rstrip(b"\0").partition(b": ")[2]
            yield _Reading(content, text_of(content))


def text_of(content: bytes) -> str:
    """Bytes as the text that they are, in UTF-16 or ASCII, else their number and first digits."""
    if len(content) > 1 and len(content) % 2 == 0 and not any(content[1:64:2]):
        text = content.decode("utf-16-le", "replace").rstrip("\0")
    else:
        text = content.rstrip(b"\0").decode("ascii", "replace")
    if text and "\N{REPLACEMENT CHARACTER}" not in text and all(char.isprintable() for char in text[:MAX_SHOWN]):
        return text
    return f"{len(content)} bytes {content[:16].hex()}" if content else ""


def _variable(data: bytes) -> tuple[str, bytes] | None:
    """Name and value of UEFI_VARIABLE_DATA, if its lengths are those of the data."""
    if len(data) < _VARIABLE.size:
        return None
    _, characters, length = _VARIABLE.unpack_from(data)
    end = _VARIABLE.size + 2 * characters
    if end + length != len(data):
        return None
    return data[_VARIABLE.size : end].decode("utf-16-le", "replace"), data[end:]


def _variable_text(name: str, value: bytes) -> tuple[str, Input | None]:
    if name in _KEYS:
        if len(value) == 1:
            return f"variable {name} = {value[0]}", "firmware variables"
        return f"variable {name} {f'of {len(value)} bytes' if value else 'empty'}", "firmware variables"
    if name == "BootOrder" and len(value) % 2 == 0:
        numbers = ", ".join(f"{number:04X}" for (number,) in struct.iter_unpack("<H", value))
        return f"boot order {numbers or 'empty'}", "boot"
    if name.startswith("Boot") and len(name) == 8 and len(value) > _LOAD_OPTION.size:
        description = value[_LOAD_OPTION.size :].decode("utf-16-le", "replace").partition("\0")[0]
        return f"boot option {name[4:]} {description!r}", "devices"
    return f"variable {name} of {len(value)} bytes", "firmware variables"


def _partitions(data: bytes) -> str:
    """Disk identifier and partition names of UEFI_GPT_DATA."""
    if len(data) < _GPT_HEADER + 8 or not data.startswith(b"EFI PART"):
        return ""
    count = int.from_bytes(data[_GPT_HEADER : _GPT_HEADER + 8], "little")
    if _GPT_HEADER + 8 + count * _GPT_ENTRY != len(data):
        return ""
    entries = [data[i : i + _GPT_ENTRY] for i in range(_GPT_HEADER + 8, len(data), _GPT_ENTRY)][:_MAX_PARTITIONS]
    names = ", ".join(entry[56:].decode("utf-16-le", "replace").partition("\0")[0] or "unnamed" for entry in entries)
    more = f" and {count - len(entries)} more" if count > len(entries) else ""
    return f"disk {uuid.UUID(bytes_le=data[56:72])} with partitions {names}{more}"
