"""The search for changes that give what a machine reports: one change, two at once, or another course of the boot.

In: a prediction, reported values, and candidates. Out: what each candidate would move (:class:`Trial`), and for one
register the events that lead to the reported value (:class:`Match`). A match is a proof, not a guess: nobody can make
another list of events that leads to the same value.

Every search is bounded: :data:`MAX_CANDIDATES` candidates, :data:`MAX_PAIRS` pairs, and registers of at most
:data:`MAX_COURSE` events for other courses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

from measurements.explain_causes import ADDED
from measurements.explain_content import known
from measurements.prediction import PredictedEvent, Register, replay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from measurements.explanation import Candidate
    from measurements.prediction import Input, Prediction

MAX_CANDIDATES = 1024
MAX_PAIRS = 20000
MAX_COURSE = 64
INERT = 3
"""How many changes of an input have to be tried, all in vain, to speak against it."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one change would do.

    Attributes:
        change: In a few words.
        inputs: What it changes.
        moved: Registers that it moves, as they would be.
        agrees: Registers that would hold what was reported.
        complete: Whether what does not agree says anything (:class:`~measurements.explanation.Candidate`).
        detail: More to be said of it.
    """

    change: str
    inputs: tuple[Input, ...]
    moved: Mapping[str, Register]
    agrees: frozenset[str]
    complete: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Trials:
    """All changes that were tried.

    Attributes:
        every: Those that move something, in the order in which they came.
        unmoved: Those that move nothing that was compared.
        tried: How many there were.
        effects: Of every change whose prediction is complete: what it changes first, and the registers that it moves.
        extensions: By register and digest, those that extend it with what the unchanged machine does not, and what is
            not measured on many machines anyway.
    """

    every: tuple[Trial, ...]
    unmoved: tuple[str, ...]
    tried: int
    effects: tuple[tuple[Input, frozenset[str]], ...]
    extensions: Mapping[tuple[str, bytes], Sequence[Trial]]

    def giving(self, register: str) -> list[Trial]:
        """Those that move a register to the value that was reported.

        Those that agree in most registers come first, then those that change least; one that changes several things
        at once is left out where one that changes a single thing does the same.
        """
        found = [trial for trial in self.every if register in trial.moved and register in trial.agrees]
        return _plainest(sorted(found, key=lambda trial: (-len(trial.agrees), len(trial.inputs))))

    def extending(self, register: str, digest: bytes) -> list[Trial]:
        """Those that extend a register with a digest that the unchanged machine has not; in the same order."""
        found = self.extensions.get((register, digest), ())
        return _plainest(sorted(found, key=lambda trial: (-len(trial.agrees), len(trial.inputs))))

    def names(self, register: str) -> dict[bytes, str]:
        """Names of a register's events by digest, over all that would move it."""
        return {
            event.digest: event.name
            for trial in self.every
            if register in trial.moved
            for event in trial.moved[register].events
        }

    def moving(self, register: str) -> frozenset[Input]:
        """Inputs of changes that move a register, and not to the value that was reported."""
        return frozenset(
            trial.inputs[0]
            for trial in self.every
            if trial.complete and trial.inputs and register in trial.moved and register not in trial.agrees
        )

    def inert(self, register: str) -> frozenset[Input]:
        """Inputs with several changes none of which moves a register."""
        moving = {moved for moved, names in self.effects if register in names}
        counts = Counter(moved for moved, _ in self.effects)
        return frozenset(moved for moved, count in counts.items() if moved not in moving and count >= INERT)


@dataclass(frozen=True, slots=True)
class Match:
    """What leads to a reported value.

    Attributes:
        change: In a few words.
        inputs: What a reader is told of: one input for each change.
        events: The register's events then; None of a prediction that names none.
        detail: More to be said of it.
    """

    change: str
    inputs: tuple[Input, ...]
    events: tuple[PredictedEvent, ...] | None
    detail: str = ""


def _plainest(trials: list[Trial]) -> list[Trial]:
    """Those that change one thing, if there are any."""
    return [trial for trial in trials if len(trial.inputs) == 1] or trials


def try_all(prediction: Prediction, values: Mapping[str, bytes], candidates: Iterable[Candidate]) -> Trials:
    """Hold every candidate against what was predicted and what was reported.

    Args:
        prediction: Of the unchanged machine.
        values: What was reported, of registers that were predicted.
        candidates: The first :data:`MAX_CANDIDATES` are tried.
    """
    every: list[Trial] = []
    unmoved: list[str] = []
    effects: list[tuple[Input, frozenset[str]]] = []
    tried = 0
    for candidate in islice(candidates, MAX_CANDIDATES):
        tried += 1
        registers = candidate.prediction.registers
        moved = {
            name: registers[name]
            for name in values
            if name in registers and registers[name].value != prediction.registers[name].value
        }
        agrees = frozenset(name for name in values if name in registers and registers[name].value == values[name])
        if candidate.complete and candidate.inputs and values.keys() <= registers.keys():
            effects.append((candidate.inputs[0], frozenset(moved)))
        if moved:
            every.append(Trial(candidate.change, candidate.inputs, moved, agrees, candidate.complete, candidate.detail))
        elif candidate.complete and values.keys() <= registers.keys():
            unmoved.append(candidate.change)
    extensions = _extensions(prediction, every)
    return Trials(tuple(every), tuple(dict.fromkeys(unmoved)), tried, tuple(effects), extensions)


def _extensions(prediction: Prediction, trials: Iterable[Trial]) -> dict[tuple[str, bytes], list[Trial]]:
    usual = {
        name: {event.digest for event in register.events} | known(register.bank).keys()
        for name, register in prediction.registers.items()
    }
    found: dict[tuple[str, bytes], list[Trial]] = {}
    for trial in trials:
        for name, register in trial.moved.items():
            for digest in {event.digest for event in register.events} - usual[name]:
                found.setdefault((name, digest), []).append(trial)
    return found


def search(register: Register, value: bytes, trials: Trials) -> tuple[Match, ...]:
    """What leads to the value of one register, of which there is no log that can be relied on.

    Args:
        register: As predicted.
        value: As reported.
        trials: What was tried.

    Returns:
        Single changes if there are any; else another course of the boot; else two changes at once; else nothing.
    """
    single = tuple(
        Match(trial.change, trial.inputs[:1], _events_of(trial.moved[register.name]), trial.detail)
        for trial in trials.giving(register.name)
    )
    if single or not register.extended:
        return single
    course = next((match for match, digests in _courses(register) if replay(digests, register.bank) == value), None)
    return (course,) if course else tuple(islice(_pairs(register, value, trials), 1))


def _events_of(register: Register) -> tuple[PredictedEvent, ...] | None:
    """A register's events; None of one of which only the value is known."""
    return register.events if register.extended or register.events else None


def _pairs(register: Register, value: bytes, trials: Trials) -> Iterator[Match]:
    """Two changes that move different events of the register."""
    variations: dict[tuple[tuple[int, bytes], ...], Trial] = {}
    for trial in trials.every:
        events = trial.moved[register.name].events if register.name in trial.moved else ()
        if len(events) == len(register.events):
            pairs = enumerate(zip(events, register.events, strict=True))
            places = tuple((i, event.digest) for i, (event, before) in pairs if event.digest != before.digest)
            variations.setdefault(places, trial)
    for (one, first), (other, second) in islice(combinations(variations.items(), 2), MAX_PAIRS):
        changed = dict(one)
        if changed.keys() & {place for place, _ in other}:
            continue
        changed |= dict(other)
        digests = [changed.get(i, event.digest) for i, event in enumerate(register.events)]
        if replay(digests, register.bank) == value:
            trials_by_place = dict.fromkeys((place for place, _ in one), first)
            events = tuple(
                trials_by_place.get(i, second).moved[register.name].events[i] if i in changed else event
                for i, event in enumerate(register.events)
            )
            inputs = tuple(dict.fromkeys((*first.inputs[:1], *second.inputs[:1])))
            yield Match(f"{first.change}, and {second.change}", inputs, events)


def _courses(register: Register) -> Iterator[tuple[Match, Sequence[bytes]]]:
    """The same machine whose boot took another course: cut short, an event left out, in another order, or one more."""
    events = register.events
    if len(events) > MAX_COURSE:
        return
    if events:
        yield _course(register, "nothing was measured into it", (), ())
    for end in range(len(events) - 1, 0, -1):
        yield _course(register, f"the machine had come no further than {events[end - 1].name}", events[:end], ())
    for i, event in enumerate(events[:-1]):
        kept = (*events[:i], *events[i + 1 :])
        yield _course(register, f"{event.name} was not measured", kept, event.inputs)
    for i in range(len(events) - 1):
        swapped = (*events[:i], events[i + 1], events[i], *events[i + 2 :])
        both = (*events[i].inputs, *events[i + 1].inputs)
        yield _course(register, f"{events[i].name} and {events[i + 1].name} came in the other order", swapped, both)
    for i in range(len(events), -1, -1):
        before = f"after {events[i - 1].name}" if i else "first of all"
        for event in _familiar(register):
            more = (*events[:i], event, *events[i:])
            yield _course(register, f"{event.name} was measured {before}", more, event.inputs)
            if i < len(events):
                other = (*events[:i], event, *events[i + 1 :])
                yield _course(register, f"{event.name} came in place of {events[i].name}", other, event.inputs)


def _course(
    register: Register, change: str, events: tuple[PredictedEvent, ...], inputs: tuple[Input, ...]
) -> tuple[Match, Sequence[bytes]]:
    moved = tuple(dict.fromkeys(inputs)) or ADDED.get(register.name, ("boot",))
    return Match(change, moved[:1], events), [event.digest for event in events]


def _familiar(register: Register) -> Iterator[PredictedEvent]:
    """Events that firmware and systemd measure on many machines, and those of the register itself, once more."""
    for digest, (name, moved) in known(register.bank).items():
        yield PredictedEvent(digest, name, "a text that is measured on many machines", (moved,) if moved else ())
    yield from {event.digest: event for event in register.events}.values()
