"""The rules about a TPM machine; those that hold for every platform are in :mod:`attestation.rules`.

Registers 4, 9, 11, 12 and 14 say what was booted. They are compared with references where there are some, and are part
of the image hash either way. Registers 0 to 7 but for 4 hold firmware and its settings: nothing here knows what they
should be, and the verdict says so. An event log confirms the registers it replays to; its types and texts decide
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.rules import Finding, one, short
from attestation.tpm.evidence import REGISTERS, qualifying_data
from attestation.tpm.references import COVERS, HINTS, IDENTITY_REGISTERS
from attestation.verdict import Check
from measurements.errors import EventLogError
from measurements.tpm import RESET, configuration_register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Subject
    from attestation.tpm.reader import TpmClaims
    from attestation.tpm.references import TpmReference

FIRMWARE_REGISTERS = (0, 1, 2, 3, 5, 6, 7)
OTHER_REGISTERS = (8, 10, 13, 15)
KERNEL_REGISTER = 10
"""The integrity subsystem's; its log cannot be read everywhere."""

_UNCHECKED = "by policy: unchecked"


@dataclass(frozen=True, slots=True)
class TpmReportData:
    """The quote was asked for with what the peer's key or evidence demands: the binding of everything else."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the quote's extra data with the hash of the report data."""
        seen = subject.tpm.extra if subject.tpm else b""
        wanted = qualifying_data(subject.report_data)
        hint = "the quote was made for another key, nonce or statement: a replay"
        return one("report data", seen == wanted, short(seen), short(wanted), hint)


@dataclass(frozen=True, slots=True)
class References:
    """The registers that say what was booted hold one image's values; each that differs is named.

    Attributes:
        references: The images that are allowed; with none, the image hash alone pins the values, but for register 12,
            which an image on its own leaves at zero.
    """

    references: tuple[TpmReference, ...] = ()

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the reference that fits best."""
        if subject.tpm is None:
            return one("registers", False, "no verified quote", "a verified quote")
        seen = subject.tpm.registers
        if not self.references:
            return Finding(tuple(self._pinned(register, seen[register]) for register in IDENTITY_REGISTERS))
        best = min(self.references, key=lambda reference: len(reference.differing(seen)))
        hints = best.explain(seen)
        return Finding(
            tuple(
                Check(
                    _name(register),
                    register not in hints,
                    seen[register].hex(),
                    f"{wanted.hex()} as {best.name}",
                    hints.get(register, ""),
                )
                for register, wanted in sorted(best.registers.items())
            )
        )

    @staticmethod
    def _pinned(register: int, seen: bytes) -> Check:
        if register == 12:
            return Check(_name(register), seen == RESET, seen.hex(), RESET.hex(), HINTS[register])
        return Check(_name(register), True, seen.hex(), "pinned by the image hash", checked=False)


@dataclass(frozen=True, slots=True)
class ConfigurationRegister:
    """Register 14 holds the measured configuration that the statement names; without a statement nothing is said."""

    def appraise(self, subject: Subject) -> Finding:
        """Compare with the statement, if there is one."""
        if subject.statement is None:
            return Finding(())
        seen = subject.tpm.registers[14] if subject.tpm else b""
        wanted = configuration_register(subject.statement.measured_config)
        return one(
            "stated configuration (PCR 14)",
            seen == wanted,
            short(seen),
            short(wanted),
            "the machine was started with another measured configuration than it states",
        )


@dataclass(frozen=True, slots=True)
class LogsReplay:
    """The logs lead to the registers, every one of them; required of fresh evidence."""

    def appraise(self, subject: Subject) -> Finding:
        """Replay both logs."""
        if subject.tpm is None:
            return one("event log", False, "no verified quote", "a verified quote")
        if subject.tpm.logs is None:
            if subject.statement is None:
                text = "none: a certificate has no room for it, fresh evidence carries it"
                return Finding((Check("event log", True, text, _UNCHECKED, checked=False),))
            return one("event log", False, "none", "the logs of this boot", "fresh evidence carries its logs")
        try:
            replayed = subject.tpm.logs.replay()
        except EventLogError as error:
            return one("event log", False, error.message, "a log that can be replayed", error.hint)
        return Finding(_replay_checks(subject.tpm, replayed))


@dataclass(frozen=True, slots=True)
class Unchecked:
    """What nothing here judges, said in so many words: firmware, other registers, the clock, the TPM itself.

    Attributes:
        tpm: What has to be said of the TPM; empty if something vouches for it.
    """

    tpm: str = "whoever runs the machine may emulate it, and the root was made for a run"

    def appraise(self, subject: Subject) -> Finding:
        """List what is left out, with what was seen."""
        if subject.tpm is None:
            return Finding(())
        seen = (
            *((("tpm", self.tpm),) if self.tpm else ()),
            ("firmware (PCR 0 to 3, 5 to 7)", _values(subject.tpm.registers, FIRMWARE_REGISTERS)),
            ("other registers (PCR 8, 10, 13, 15)", _values(subject.tpm.registers, OTHER_REGISTERS)),
            ("tpm clock", _age(subject.tpm)),
        )
        return Finding(tuple(Check(name, True, text, _UNCHECKED, checked=False) for name, text in seen))


def _replay_checks(claims: TpmClaims, replayed: Mapping[int, bytes]) -> tuple[Check, ...]:
    logged = claims.logs is not None and any(event.register == KERNEL_REGISTER for event in claims.logs.system)
    differing = [
        register
        for register in REGISTERS
        if replayed.get(register, RESET) != claims.registers[register] and (register != KERNEL_REGISTER or logged)
    ]
    check = Check(
        "event log",
        not differing,
        f"replays but for PCR {', '.join(map(str, differing))}" if differing else "replays",
        "replays to every register",
        "something was measured and left out of the log, or the log was edited",
    )
    if logged or claims.registers[KERNEL_REGISTER] == RESET:
        return (check,)
    left_out = Check("event log of PCR 10", True, "not shown", _UNCHECKED, checked=False)
    return check, left_out


def _name(register: int) -> str:
    return f"PCR {register} ({COVERS[register]})"


def _age(claims: TpmClaims) -> str:
    """The clock in words; a TPM blinds its counters for keys that anybody may make (part 1, section 36.7)."""
    clock = claims.clock
    words = [f"powered {clock.milliseconds / 1000:.0f} s"]
    if claims.hierarchy in {"endorsement", "platform"}:
        words.append(f"reset {clock.resets} times, resumed {clock.restarts} times")
    else:
        words.append("its counts of resets blinded")
    return ", ".join(words if clock.safe else [*words, "may have been set back"])


def _values(registers: Mapping[int, bytes], which: tuple[int, ...]) -> str:
    return ", ".join(f"{register}: {registers[register].hex()[:16] if any(registers[register]) else 'zeros'}"
                     for register in which)  # fmt: skip
