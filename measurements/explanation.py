"""What an explanation is made of: findings for a reader, chains for a picture, and what was tried on the way.

Values only; :mod:`measurements.explain` makes them, :mod:`measurements.explain_text` and :mod:`measurements.picture`
show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from measurements.alignment import Kind
    from measurements.prediction import Bank, Input, Prediction

LinkKind: TypeAlias = "Kind | Literal['unknown']"
"""How prediction and machine compare at one place; ``unknown``: the register differs, and nothing says where."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The same machine with one change, and what it would measure.

    Attributes:
        change: In a few words, for example ``memory 4096 MiB``.
        inputs: What is changed; the first is what a reader is told of.
        prediction: As of the changed machine.
        complete: Whether everything that the change moves was at hand. Else the rest of the prediction is that of the
            unchanged machine: what agrees is proven all the same, what does not says nothing.
        detail: More to be said of it, for example which ACPI tables differ then.
    """

    change: str
    inputs: tuple[Input, ...]
    prediction: Prediction
    complete: bool = True
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """What may have moved an event.

    Attributes:
        input: What it is.
        sentence: How it is known, or why it is likely.
        remedy: What to change.
        certain: Whether a digest proves it: with this change the prediction has exactly what was seen.
    """

    input: Input
    sentence: str
    remedy: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One place in the chain of a register.

    Attributes:
        kind: How prediction and machine compare there.
        position: Place among the predicted events; None for ``inserted``.
        logged: Place among the events that the machine logged for this register; None for ``missing``.
        name: The predicted event's name, or what the log says of an inserted one.
        expected: The predicted digest; None for ``inserted``.
        seen: The digest that was extended; None for ``missing``.
        said: What the log says of the event; empty without a log. Never authenticated by itself.
        covered: Whether ``said`` is what the digest is the hash of.
        about: The input that ``said`` speaks of, where that is one.
    """

    kind: LinkKind
    position: int | None
    logged: int | None
    name: str
    expected: bytes | None
    seen: bytes | None
    said: str = ""
    covered: bool = False
    about: Input | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """One register as a chain of events.

    Attributes:
        register: Its name.
        bank: Its hash.
        expected: The predicted value.
        seen: The reported value.
        basis: What the links were compared with: ``log`` (which replays to the value), ``change`` (the prediction of
            the change that gives the value), or empty: the events that differ are not known.
        links: In order.
        why: What ``basis`` is in words.
    """

    register: str
    bank: Bank
    expected: bytes
    seen: bytes
    basis: str
    links: tuple[Link, ...]
    why: str = ""

    @property
    def equal(self) -> bool:
        """Whether the machine reports what was predicted."""
        return self.expected == self.seen

    @property
    def differing(self) -> tuple[Link, ...]:
        """The links that differ."""
        return tuple(link for link in self.links if link.kind not in {"equal", "unknown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is to be said of one register that differs.

    Attributes:
        register: Its name.
        kind: Of the first difference; None where no log and no change tells which event it is.
        position: Place of the event among the predicted ones; where an event was inserted, what it comes before.
        event: Name of the first event that differs.
        expected: Its predicted digest; None where none was predicted.
        seen: The digest in its place; None where there is none, or none is known.
        covers: What the event, or the register, covers.
        causes: Most likely first; certain ones alone where there are any.
        change: The single change that gives exactly what was seen; None where none was found.
        said: What the log says of the event, shown only where the digest is the hash of it.
        more: How many further events of the register differ.
    """

    register: str
    kind: Kind | None
    position: int | None
    event: str
    expected: bytes | None
    seen: bytes | None
    covers: str
    causes: tuple[Cause, ...]
    change: str | None
    said: str = ""
    more: int = 0

    @property
    def certain(self) -> bool:
        """Whether a digest proves the first cause."""
        return bool(self.causes) and self.causes[0].certain


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a machine reports something else, or that it does not.

    Attributes:
        platform: Of the prediction.
        boot: Of the prediction.
        shape: Of the prediction.
        equal: Whether every register that was both predicted and reported is the same.
        findings: One for each register that differs, in the order of the prediction.
        chains: One for each register that was both predicted and reported.
        changes: Single changes each of which explains all that differs.
        unmoved: Changes that were tried and would move none of the registers that were compared.
        tried: How many changes were tried.
        log: What the log was found to be; empty without one.
        log_refuted: The first register whose logged events lead elsewhere than its value; None where all hold.
        unreported: Registers that were predicted, and that the machine did not report.
        unpredicted: Registers that the machine reported and nobody predicted, and why.
    """

    platform: str
    boot: str
    shape: str
    equal: bool
    findings: tuple[Finding, ...]
    chains: tuple[Chain, ...]
    changes: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    tried: int = 0
    log: str = ""
    log_refuted: str | None = None
    unreported: tuple[str, ...] = ()
    unpredicted: Mapping[str, str] = field(default_factory=dict)

    def finding(self, register: str) -> Finding | None:
        """What is said of one register."""
        return next((finding for finding in self.findings if finding.register == register), None)
