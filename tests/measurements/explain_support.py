"""A small machine whose every event is known: predictions of it, and the logs that its twins would write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from measurements.eventlog import Event, EventLog
from measurements.explanation import Candidate
from measurements.prediction import PredictedEvent, Prediction, Register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from measurements.prediction import Bank, Input

PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
VARIABLE = 0x80000001


@dataclass(frozen=True)
class Small:
    """What the small machine is made of; each part goes into the events that a real one has it in."""

    memory: int = 2048
    vcpus: int = 2
    firmware: bytes = b"firmware"
    variables: bytes = b"\0"
    command_line: bytes = b"quiet"
    initrd: bytes = b"initrd"
    configuration: bytes = b"configuration"
    phases: tuple[str, ...] = PHASES
    extra: tuple[bytes, ...] = ()

    def tdx(self) -> Prediction:
        """Its registers as a TD."""
        settings = (
            _event("sha384", b"hob %d" % self.memory, "TD HOB", "memory", "firmware"),
            _event("sha384", b"cfv" + self.firmware, "firmware volume CFV", "firmware", "firmware variables"),
            _event("sha384", b"secure boot" + self.variables, "variable SecureBoot", "firmware variables"),
            _event("sha384", bytes(4), "separator"),
            _event("sha384", b"acpi %d %d" % (self.memory, self.vcpus), "ACPI tables", "qemu", "vcpus", "memory"),
        )
        started = (
            _event("sha384", self.command_line, "command line", "command line"),
            _event("sha384", self.initrd, "initrd", "initrd", "image"),
            *(_event("sha384", item, "more", "command line") for item in self.extra),
        )
        part = _event("sha384", self.firmware, "firmware volume BFV", "firmware")
        set_at_launch = hashlib.sha256(self.configuration).digest().ljust(48, b"\0")
        return Prediction(
            "tdx",
            "direct",
            "small",
            {
                "mrtd": Register("mrtd", "sha384", hashlib.sha384(self.firmware).digest(), (part,), extended=False),
                "rtmr0": Register.replayed("rtmr0", "sha384", settings),
                "rtmr2": Register.replayed("rtmr2", "sha384", started),
                "mrconfigid": Register(
                    "mrconfigid",
                    "sha384",
                    set_at_launch,
                    (PredictedEvent(set_at_launch, "measured configuration", "set at launch", ("configuration",)),),
                    extended=False,
                ),
            },
            {"rtmr3": "the guest's own"},
        )

    def tpm(self) -> Prediction:
        """Its registers as a machine with a TPM."""
        phases = (_event("sha256", phase.encode(), f"phase {phase}", "phase") for phase in self.phases)
        return Prediction(
            "tpm",
            "disk",
            "small",
            {
                "pcr4": Register.replayed("pcr4", "sha256", [
                    _event("sha256", b"Calling EFI Application from Boot Option", "calling a boot option", "boot"),
                    _event("sha256", bytes(4), "separator"),
                    _event("sha256", b"image" + self.initrd, "image", "image", "initrd"),
                ]),
                "pcr11": Register.replayed("pcr11", "sha256", [
                    _event("sha256", self.initrd, "section .initrd", "image", "initrd"), *phases,
                ]),
                "pcr12": Register.replayed(
                    "pcr12", "sha256", [_event("sha256", item, "more", "command line") for item in self.extra]
                ),
                "pcr14": Register.replayed(
                    "pcr14", "sha256", [_event("sha256", self.configuration, "measured configuration", "configuration")]
                ),
            },
        )  # fmt: skip


def log_of(prediction: Prediction, data: Mapping[bytes, bytes] | None = None) -> EventLog:
    """The log that a machine with these measurements writes.

    Args:
        prediction: What it measures.
        data: Event data by digest; their name otherwise.
    """
    bank: Bank = "sha384" if prediction.platform == "tdx" else "sha256"
    events = []
    for name, register in prediction.registers.items():
        if register.extended:
            index = int(name.removeprefix("rtmr")) + 1 if name.startswith("rtmr") else int(name.removeprefix("pcr"))
            events += [
                Event(index, 0xD, {bank: event.digest}, (data or {}).get(event.digest, event.name.encode()))
                for event in register.events
            ]
    return EventLog((bank,), tuple(events))


def around(small: Small) -> Iterator[Candidate]:
    """Single changes of the small machine as a TD, with one that moves nothing."""
    changes: list[tuple[str, Input, dict[str, object]]] = [
        ("memory 1024 MiB", "memory", {"memory": 1024}),
        ("memory 4096 MiB", "memory", {"memory": 4096}),
        ("1 vCPU", "vcpus", {"vcpus": 1}),
        ("4 vCPUs", "vcpus", {"vcpus": 4}),
        ("firmware of next year", "firmware", {"firmware": b"next"}),
        ("firmware variables enrolled", "firmware variables", {"variables": b"\1"}),
        ("command line 'debug'", "command line", {"command_line": b"debug"}),
        ("initrd other", "initrd", {"initrd": b"other"}),
        ("configuration other", "configuration", {"configuration": b"other"}),
        ("an SMBIOS string", "machine", {}),
    ]
    for change, moved, values in changes:
        yield Candidate(change, (moved,), replace(small, **values).tdx())  # type: ignore[arg-type]  # names of its fields


def _event(bank: Bank, content: bytes, name: str, *inputs: Input) -> PredictedEvent:
    return PredictedEvent(hashlib.new(bank, content).digest(), name, f"the small machine's {name}", inputs)
