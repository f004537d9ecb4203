"""The rules about the event log of a TDX machine.

Every decision is made on exact digests at exact places of a list that was replayed to the quoted register; the types,
data and texts of events decide nothing, because whoever holds a log can rewrite them and it still replays.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.rules import AllOf, Finding, short
from attestation.tdx_log import REGISTERS, ZERO
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.rules import Rule, Subject
    from attestation.tdx import TdReport
    from attestation.tdx_log import LoggedEvent, TdxLog

GROUP = "event log"
SEPARATOR = hashlib.sha384(bytes(4)).digest()
"""EV_SEPARATOR of a boot without error (TCG PC Client Platform Firmware Profile 1.06, section 10.4.1)."""

EXIT_CALLED = hashlib.sha384(b"Exit Boot Services Invocation").digest()
EXIT_DONE = hashlib.sha384(b"Exit Boot Services Returned with Success").digest()
EDK2_SEPARATORS: Mapping[int, int] = {0: 1, 1: 1}
"""How many separators EDK II measures by register; builds before 2024 have others."""

_NO_LOG = "none"
_UNCHECKED = "by policy: unchecked, the image hash pins the registers"
_REPLAY_WHY = "A log that leads to the quoted registers is complete: it names each thing that was started, in order."
_ORDER_WHY = "What firmware did and what ran after it are told apart by these events; a second one blurs the line."
_OWN_WHY = "The kernel keeps no log of RTMR3, so what a program measures unseen shows only in the register."
_EXACT_WHY = "A digest is what the processor vouches for; the name beside it is only what somebody wrote."


@dataclass(frozen=True, slots=True)
class LogReplays:
    """The log leads to all four registers; the first that differs is named.

    Attributes:
        required: Whether fresh evidence without a log is refused. A certificate never has one.
    """

    required: bool = False

    def appraise(self, subject: Subject) -> Finding:
        """Replay the log and compare register by register."""
        expected = "leads to RTMR0 to RTMR3 of the quote"
        if subject.report is None:
            return _one("event log", False, "no verified quote", expected)
        if subject.log is None:
            if self.required and subject.statement is not None:
                hint = "fresh evidence carries its log: is the CCEL table there?"
                return _one("event log", False, _NO_LOG, expected, hint, why=_REPLAY_WHY)
            return Finding((Check("event log", True, _NO_LOG, _UNCHECKED, checked=False, group=GROUP),))
        for register, value in enumerate(_quoted(subject.report)):
            try:
                subject.log.confirmed(register, value)
            except EvidenceError as error:
                seen = f"RTMR{register} differs first: {error.message}"
                return _one("event log", False, seen, expected, error.hint, why=_REPLAY_WHY)
        count = sum(map(len, subject.log.registers))
        return _one("event log", True, f"{count} events lead to the four registers", expected, why=_REPLAY_WHY)


@dataclass(frozen=True, slots=True)
class NoUnloggedExtend:
    """RTMR3 holds what the guest's own list says and nothing else; the kernel writes no entry for it in firmware's log.

    Without a log only the zero that the register starts with is known to be complete; of a certificate, which cannot
    carry a log, nothing more is said.
    """

    def appraise(self, subject: Subject) -> Finding:
        """Compare RTMR3 with the list of its events."""
        name, expected = "rtmr3 log", "every extension of RTMR3 is in the log"
        if subject.report is None:
            return _one(name, False, "no verified quote", expected)
        value = subject.report.rtmr3
        if subject.log is None:
            if value == ZERO:
                return _one(name, True, "RTMR3 was never extended", expected, why=_OWN_WHY)
            if subject.statement is None:
                text = f"RTMR3 is {short(value)} and a certificate carries no log"
                return Finding((Check(name, True, text, _UNCHECKED, checked=False, group=GROUP),))
            hint = "the machine sent no log"
            return _one(name, False, f"RTMR3 is {short(value)} without a log", expected, hint, why=_OWN_WHY)
        try:
            events = subject.log.confirmed(3, value)
        except EvidenceError:
            seen = f"RTMR3 is {short(value)}, its {len(subject.log.registers[3])} events lead elsewhere"
            hint = "a program in the guest measured something and did not log it"
            return _one(name, False, seen, expected, hint, why=_OWN_WHY)
        return _one(name, True, f"{len(events)} extensions, all logged", expected, why=_OWN_WHY)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventDigests:
    """What one register was extended with: exact digests at exact positions, and what else there may be.

    Attributes:
        register: 0 to 3.
        required: Digests that are allowed by position (from 0); the position has to exist.
        allowed: Digests that are allowed at every other position; ``None`` allows any.
        count: How many events there are; ``None`` leaves it open.
        hint: What to do if one differs.
    """

    register: int
    required: Mapping[int, frozenset[bytes]] = field(default_factory=dict, hash=False)
    allowed: frozenset[bytes] | None = None
    count: int | None = None
    hint: str = ""

    def appraise(self, subject: Subject) -> Finding:
        """Compare the events that lead to the quoted register."""
        name = f"rtmr{self.register} events"
        events = _confirmed(subject, self.register)
        if isinstance(events, str):
            return _one(name, False, events, "events that lead to the register", why=_EXACT_WHY)
        checks = [self._at(position, events) for position in sorted(self.required)]
        stray = [e for e in events if e.position not in self.required and not self._allows(e.digest)]
        if self.allowed is not None or self.count is not None:
            wrong = len(stray) or (self.count is not None and len(events) != self.count)
            seen = f"{len(events)} events"
            if stray:
                seen += f", {_place(stray[0])} ({stray[0].text}) has {short(stray[0].digest)}"
            expected = "any number" if self.count is None else str(self.count)
            if self.allowed is not None:
                expected += f", others of {len(self.allowed)} listed digests"
            checks.append(Check(name, not wrong, seen, expected, self.hint, why=_EXACT_WHY, group=GROUP))
        return Finding(tuple(checks))

    @classmethod
    def exactly(cls, register: int, digests: tuple[bytes, ...], *, hint: str = "") -> EventDigests:
        """The rule that a register was extended with these digests in this order and nothing else."""
        required = {position: frozenset({digest}) for position, digest in enumerate(digests)}
        return cls(register=register, required=required, count=len(digests), hint=hint)

    def _allows(self, digest: bytes) -> bool:
        return self.allowed is None or digest in self.allowed

    def _at(self, position: int, events: tuple[LoggedEvent, ...]) -> Check:
        wanted = self.required[position]
        expected = " or ".join(sorted(short(value) for value in wanted)) or "nothing that is listed"
        name = f"rtmr{self.register} event {position}"
        if position >= len(events):
            return Check(name, False, f"only {len(events)} events", expected, self.hint, why=_EXACT_WHY, group=GROUP)
        event = events[position]
        seen = f"{short(event.digest)} ({event.text})" if event.text else short(event.digest)
        return Check(name, event.digest in wanted, seen, expected, self.hint, why=_EXACT_WHY, group=GROUP)


@dataclass(frozen=True, slots=True)
class BootSequence:
    """Firmware ended as it should: each separator once, then boot services were left, and nothing came after.

    Attributes:
        separators: How many separators each register has; the others have none.
    """

    separators: Mapping[int, int] = field(default_factory=lambda: EDK2_SEPARATORS, hash=False)

    def appraise(self, subject: Subject) -> Finding:
        """Count separators, and look at the end of RTMR1."""
        found: dict[int, int] = {}
        ends: tuple[bytes, ...] = ()
        left = 0
        for register in range(REGISTERS):
            events = _confirmed(subject, register)
            if isinstance(events, str):
                return _one("separators", False, events, "events that lead to the registers", why=_ORDER_WHY)
            digests = [event.digest for event in events]
            found[register] = digests.count(SEPARATOR)
            left += digests.count(EXIT_CALLED) + digests.count(EXIT_DONE)
            if register == 1:
                ends = tuple(digests[-2:])
        wanted = {register: self.separators.get(register, 0) for register in range(REGISTERS)}
        once = _one(
            "separators",
            found == wanted,
            _counts(found),
            _counts(wanted),
            "an event was put where it does not belong, or firmware is older than the policy: compare the digests",
            why=_ORDER_WHY,
        )
        last = ends == (EXIT_CALLED, EXIT_DONE)
        expected = "the last two events of RTMR1, and nowhere else"
        done = _one(
            "exit boot services",
            last and left == 2,
            expected if last and left == 2 else f"{left} such events, RTMR1 ends in {'them' if last else 'others'}",
            expected,
            "firmware's services were still there when the system ran, or the log stops before it",
            why="Until a system takes over, firmware may still start other programs.",
        )
        return Finding((*once.checks, *done.checks))


def log_rules(*more: Rule, required: bool = False) -> Rule:
    """The rules of every log, and more of :class:`EventDigests`.

    Args:
        *more: Rules on exact digests; each of them needs the log.
        required: Whether fresh evidence without a log is refused.
    """
    return AllOf((LogReplays(required), NoUnloggedExtend(), *more))


def _confirmed(subject: Subject, register: int) -> tuple[LoggedEvent, ...] | str:
    """The register's events, or why nothing that the log says of them holds."""
    if subject.report is None:
        return "no verified quote"
    log: TdxLog | None = subject.log
    if log is None:
        return "no event log"
    try:
        return log.confirmed(register, _quoted(subject.report)[register])
    except EvidenceError as error:
        return error.message


def _quoted(report: TdReport) -> tuple[bytes, ...]:
    return report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3


def _place(event: LoggedEvent) -> str:
    return f"event {event.position}"


def _counts(found: Mapping[int, int]) -> str:
    return ", ".join(f"{number} in RTMR{register}" for register, number in sorted(found.items()) if number) or "none"


def _one(name: str, passed: bool, seen: str, expected: str, hint: str = "", *, why: str = "") -> Finding:
    return Finding((Check(name, passed, seen, expected, hint, why=why, group=GROUP),))
