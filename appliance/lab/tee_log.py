"""What a synthetic TDX machine measured while it booted, and the log that it shows of it.

The events are those of EDK II under QEMU with a kernel that the machine monitor hands over (attestation specification,
section 3): 13 in RTMR0, 5 in RTMR1, 2 in RTMR2, then the guest's own in RTMR3.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attestation.tdx_log import ZERO, RuntimeEvent, TdxLog, extend
from measurements.eventlog import Event, EventLog, encode_tcg2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.lab.tee_faults import Faults

SEPARATOR = bytes(4)
ACPI_POSITIONS = (8, 9, 10)
"""Where the loader, the root pointer and the tables of ACPI are in RTMR0."""

KERNEL_POSITION = 0
"""Where the kernel is in RTMR1."""

_TABLES = b"chrysalis simulated ACPI tables"
_EXIT = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")


@dataclass(frozen=True, slots=True)
class Measured:
    """One thing that was measured.

    Attributes:
        register: 0 to 3.
        kind: Event type.
        content: What is hashed.
        data: What the event shows.
    """

    register: int
    kind: int
    content: bytes
    data: bytes

    @property
    def digest(self) -> bytes:
        """SHA-384 of the content, 48 bytes."""
        return hashlib.sha384(self.content).digest()


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a machine.

    Attributes:
        shown: The log as the machine shows it.
        registers: RTMR0 to 3 as they really are, by name.
    """

    shown: TdxLog
    registers: dict[str, bytes]


def boot(faults: Faults, runtime: Sequence[RuntimeEvent] = ()) -> Boot:
    """Boot a machine.

    Args:
        faults: What is wrong with it or with its log.
        runtime: What its guest extends RTMR3 with, and logs.
    """
    measured = _measured(faults)
    values = {f"rtmr{register}": ZERO for register in range(4)}
    for item in measured:
        values[f"rtmr{item.register}"] = extend(values[f"rtmr{item.register}"], item.digest)
    extensions = [event.digest for event in runtime]
    if faults.unlogged_extend:
        extensions.append(hashlib.sha384(b"what nobody wrote down").digest())
    for digest in extensions:
        values["rtmr3"] = extend(values["rtmr3"], digest)
    return Boot(TdxLog(_shown(measured, faults), tuple(runtime)), values)


def _measured(faults: Faults) -> list[Measured]:
    acpi = b"hostile AML" if faults.hostile_acpi else _TABLES
    kernel = b"chrysalis simulated kernel"
    items = [
        Measured(0, 0x8000000B, b"simulated TD HOB", b"\x09TdxTable\0"),
        Measured(0, 0x8000000A, b"simulated CFV", b"\x29Fv(simulated)\0"),
        *(Measured(0, 0x80000001, name.encode(), _variable(name)) for name in ("SecureBoot", "PK", "KEK", "db", "dbx")),
        Measured(0, 4, SEPARATOR, SEPARATOR),
        *(Measured(0, 10, name + acpi, b"ACPI DATA") for name in (b"loader of ", b"root pointer of ", b"")),
        Measured(0, 0x80000002, bytes(2), _variable("BootOrder")),
        Measured(0, 0x80000002, b"simulated Boot0000", _variable("Boot0000")),
        Measured(1, 0x80000003, kernel, b""),
        Measured(1, 0x80000007, *[b"Calling EFI Application from Boot Option"] * 2),
        Measured(1, 4, SEPARATOR, SEPARATOR),
    ]
    if faults.duplicate_separator:
        items.append(Measured(1, 4, SEPARATOR, SEPARATOR))
    items += [
        Measured(2, 6, "simulated command line\0".encode("utf-16-le"), b"LOADED_IMAGE::LoadOptions\0"),
        Measured(2, 6, b"simulated initrd", b"Linux initrd\0"),
    ]
    if not faults.no_exit_boot_services:
        items += [Measured(1, 0x80000007, text, text) for text in _EXIT]
    return items


def _shown(measured: list[Measured], faults: Faults) -> bytes:
    """The firmware's log as it is shown, with what is wrong with it."""
    items = list(measured)
    if faults.log_foreign:
        items = [replace(item, content=b"elsewhere: " + item.content) for item in items]
    if faults.log_cut:
        items = items[:-1]
    events = []
    for item in items:
        digest, kind, data = item.digest, item.kind, item.data
        if faults.log_edited and item.content == b"chrysalis simulated kernel":
            digest = hashlib.sha384(b"the kernel that a verifier would like to see").digest()
        if faults.log_rewritten:
            kind, data = 6 if kind == 4 else 4, SEPARATOR
        events.append(Event(item.register + 1, kind, {"sha384": digest}, data))
    return encode_tcg2(EventLog(("sha384",), tuple(events)), register=1)


def _variable(name: str) -> bytes:
    """UEFI_VARIABLE_DATA of a variable without content."""
    text = name.encode("utf-16-le")
    return bytes(16) + len(name).to_bytes(8, "little") + bytes(8) + text
