"""What every predictor answers: registers, each with the events that make it.

In: nothing but values; a predictor is a function of artefacts and a machine's shape. Out: :class:`Prediction`. No
predictor is ever given a log or a quote of the machine that it speaks of.

An event names what moves it (``inputs``), so that a difference can be traced to a file or a setting, and where its
digest comes from (``source``), so that a reader can compute it by hand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Bank = Literal["sha256", "sha384"]
"""SHA-256: a TPM's registers. SHA-384: those of TDX, and SEV-SNP's launch digest."""

Input = Literal[
    "acpi",
    "boot",
    "command line",
    "configuration",
    "cpu",
    "devices",
    "disk",
    "firmware",
    "firmware variables",
    "image",
    "initrd",
    "kernel",
    "machine",
    "memory",
    "model",
    "phase",
    "qemu",
    "vcpus",
]
"""What can move an event; none at all: a constant of firmware or specification."""

SIZES: Mapping[str, int] = {"sha256": 32, "sha384": 48}


@dataclass(frozen=True, slots=True)
class PredictedEvent:
    """One extension of a register, or one part of a digest.

    Attributes:
        digest: As many bytes as the register's bank.
        name: What is measured, in a few words, the same on every machine.
        source: What it is computed from, and by which document.
        inputs: What would move it; empty for a constant.
    """

    digest: bytes
    name: str
    source: str
    inputs: tuple[Input, ...] = ()


@dataclass(frozen=True, slots=True)
class Register:
    """One predicted register.

    Attributes:
        name: ``pcr0``…``pcr15``, ``mrtd``, ``rtmr0``…``rtmr3``, ``mrconfigid``, ``measurement`` (SEV-SNP).
        bank: Which hash it holds.
        value: 32 or 48 bytes.
        events: What makes it, in order.
        extended: Whether ``value`` is zero extended by ``events`` one after the other; else it is a value of its own
            kind (MRTD, a launch digest, a field that is set), and ``events`` say what goes into it.
    """

    name: str
    bank: Bank
    value: bytes
    events: tuple[PredictedEvent, ...]
    extended: bool = True

    @classmethod
    def replayed(cls, name: str, bank: Bank, events: Iterable[PredictedEvent]) -> Register:
        """The register that begins at zero and is extended with ``events``."""
        kept = tuple(events)
        return cls(name, bank, replay((event.digest for event in kept), bank), kept)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a machine will report.

    Attributes:
        platform: ``tdx``, ``snp``, ``tpm``, ``gcp`` or ``azure``.
        boot: ``disk`` or ``direct``.
        shape: Name of the machine's shape; ``any`` where the shape moves none of these registers.
        registers: By name.
        unpredicted: Registers that no artefact decides, and why.
    """

    platform: str
    boot: str
    shape: str
    registers: Mapping[str, Register]
    unpredicted: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, bytes]:
        """Values by register."""
        return {name: register.value for name, register in self.registers.items()}


def replay(digests: Iterable[bytes], bank: Bank) -> bytes:
    """The value of a register that began at zero and was extended with ``digests``."""
    value = bytes(SIZES[bank])
    for digest in digests:
        value = hashlib.new(bank, value + digest).digest()
    return value
