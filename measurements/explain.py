"""Why a machine reports something else than was predicted: registers, events, causes, and what to change.

In: a prediction, the values that a machine reported, its event log if there is one, and candidates (the same machine
with one change each). Out: an :class:`~measurements.explanation.Explanation`. Pure, and it decides on digests alone.

A log counts for a register only if it replays to the reported value: then the register confirms each of its events,
and the first one that differs is a fact. Where there is no log, or it leads elsewhere, the register's value is looked
for among the candidates' predictions, other courses of the boot, and pairs of changes. Either way a candidate whose
digest is the seen one is a certain cause; without one the causes are ordered by all that was seen to be equal.

A TPM's log has register n as n, a CCEL log has RTMR n as n + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from measurements.errors import EventLogError, MeasurementError
from measurements.explain_causes import Seen
from measurements.explain_chains import chain_of
from measurements.explain_derived import EVENT, REGISTER, derived, following
from measurements.explain_findings import Case
from measurements.explain_search import search, try_all
from measurements.explanation import Candidate, Cause, Chain, Explanation, Finding, Link
from measurements.prediction import SIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from measurements.eventlog import Event, EventLog
    from measurements.prediction import Bank, Prediction

__all__ = ["Candidate", "Cause", "Chain", "Explanation", "Finding", "Link", "explain", "register_index"]


def explain(
    prediction: Prediction,
    values: Mapping[str, bytes],
    log: EventLog | None = None,
    candidates: Iterable[Candidate] = (),
) -> Explanation:
    """Say why reported registers differ from predicted ones.

    Args:
        prediction: What the machine was to measure; made without its log or quote.
        values: What it reported, by register name (:class:`~measurements.prediction.Register`).
        log: Its event log, with the events of firmware and, if they are known, those of the running system.
        candidates: The same machine with single changes; consumed once, a bounded number of them
            (:data:`~measurements.explain_search.MAX_CANDIDATES`).

    Raises:
        MeasurementError: No register was both predicted and reported, or a value has another length than its register.
    """
    compared = {name: values[name] for name in prediction.registers if name in values}
    _require(prediction, values, compared)
    logged = _Logged.of(log, prediction, compared)
    trials = try_all(prediction, compared, candidates)
    matches = {
        name: search(prediction.registers[name], value, trials)
        for name, value in compared.items()
        if value != prediction.registers[name].value and name not in logged.events
    }
    follows = None
    if compared.get(REGISTER) not in {None, prediction.values.get(REGISTER)}:
        follows = derived(prediction.registers[REGISTER], values)
    if follows is not None:
        matches[REGISTER] = (follows,)
    chains = tuple(
        chain_of(prediction.registers[name], value, logged.events.get(name), matches.get(name, ()), trials.names(name))
        for name, value in compared.items()
    )
    evidence = tuple(_evidence(prediction, chains))
    cases = [
        Case(prediction.registers[chain.register], chain, matches.get(chain.register, ()), trials, evidence)
        for chain in chains
        if not chain.equal
    ]
    proven = frozenset(moved for case in cases for moved in case.certainties())
    findings = [finding for case in cases for finding in replace(case, proven=proven).findings()]
    if follows is not None:
        # Whatever order the registers come in, this one follows from all the others.
        others = [finding for finding in findings if finding.register != REGISTER]
        findings = [following(item, others) if item.register == REGISTER else item for item in findings]
    differing = {chain.register for chain in chains if not chain.equal}
    return Explanation(
        platform=prediction.platform,
        boot=prediction.boot,
        shape=prediction.shape,
        equal=not differing,
        findings=tuple(findings),
        chains=chains,
        changes=tuple(trial.change for trial in trials.every if differing and trial.agrees == compared.keys()),
        unmoved=trials.unmoved,
        tried=trials.tried,
        log=logged.about,
        log_refuted=logged.refuted,
        unreported=tuple(name for name in prediction.registers if name not in values),
        unpredicted={
            name: prediction.unpredicted.get(name, "no predictor speaks of it")
            for name in values
            if name not in prediction.registers
        },
    )


def register_index(name: str) -> int | None:
    """Which register of a log a name means; None for registers that no log extends."""
    kind, digits = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz_")
    offset = {"pcr": 0, "rtmr": 1}.get(kind)
    return None if offset is None or not digits else int(digits) + offset


def _require(prediction: Prediction, values: Mapping[str, bytes], compared: Mapping[str, bytes]) -> None:
    if not compared:
        raise MeasurementError(
            f"the machine reports {', '.join(values) or 'nothing'}; predicted are {', '.join(prediction.registers)}",
            hint="is this the prediction of another platform?",
        )
    for name, value in compared.items():
        expected = SIZES[prediction.registers[name].bank]
        if len(value) != expected:
            raise MeasurementError(f"register {name} of {len(value)} bytes was reported, expected {expected}")


@dataclass(frozen=True, slots=True)
class _Logged:
    """What a log is worth.

    Attributes:
        events: By register name, the events of registers whose logged events lead to the reported value.
        about: In words.
        refuted: The first register that the log leads elsewhere.
    """

    events: Mapping[str, tuple[Event, ...]]
    about: str = ""
    refuted: str | None = None

    @classmethod
    def of(cls, log: EventLog | None, prediction: Prediction, compared: Mapping[str, bytes]) -> _Logged:
        if log is None:
            return cls({})
        banks = {name: prediction.registers[name].bank for name in compared if register_index(name) is not None}
        replayed: dict[Bank, dict[int, bytes]] = {}
        for bank in dict.fromkeys(banks.values()):
            try:
                replayed[bank] = log.replay(bank)
            except EventLogError as error:
                return cls({}, f"the log cannot be used: {error.message}", next(iter(banks)))
        events: dict[str, tuple[Event, ...]] = {}
        refuted = []
        for name, bank in banks.items():
            index = register_index(name)
            if replayed[bank].get(index or 0, bytes(SIZES[bank])) == compared[name]:
                events[name] = tuple(event for event in log.events if event.extended and event.register == index)
            else:
                refuted.append(name)
        if not refuted:
            return cls(events, "the log replays to every register that was reported")
        about = f"the log is not this machine's: its events do not lead to what {refuted[0]} holds"
        if events:
            about += f"; it is used for the {len(events)} of {len(banks)} registers that confirm it"
        return cls(events, about, refuted[0])


def _evidence(prediction: Prediction, chains: Iterable[Chain]) -> Iterator[Seen]:
    """Predicted events of which it is known whether they are as predicted; all as one, where none can be told apart."""
    for chain in chains:
        events = prediction.registers[chain.register].events
        if chain.links and all(link.kind == "unknown" for link in chain.links):
            yield Seen(chain.register, "", tuple({moved for event in events for moved in event.inputs}), equal=False)
            continue
        for link in chain.links:
            if link.position is not None and link.name != EVENT:
                yield Seen(chain.register, link.name, events[link.position].inputs, link.kind == "equal")
