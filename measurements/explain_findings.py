"""What is said of one register that differs: the first event, what it covers, causes in order, what to change.

In: a register's chain beside its prediction, and all that was tried. Out: findings, the first difference first; a
further difference gets a finding of its own only where the causes named so far do not explain it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from measurements.explain_causes import ADDED, COVERS, FIRMWARE_MADE, Known, certain, likely, stated
from measurements.explanation import Cause, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from measurements.explain_causes import Seen
    from measurements.explain_search import Match, Trial, Trials
    from measurements.explanation import Chain, Link
    from measurements.prediction import Input, Register

MAX_FINDINGS = 64
"""Of one register; further differences are counted only. What a machine logs decides how many there are."""

_LOCALITY = Cause(
    "firmware",
    "every event is as predicted, and the register began with another value than zero",
    "start the machine so that its TPM begins in locality 0; the log says how it began",
    certain=True,
)
_ZEROS = Cause(
    "machine",
    "the register holds zeros: nothing was measured into it",
    "start the machine on hardware that measures, with firmware that does",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One register that differs.

    Attributes:
        register: As predicted.
        chain: Prediction and machine side by side.
        matches: What leads to the reported value, where no log says.
        trials: What was tried.
        evidence: Every event of any register of which it is known whether it is as predicted.
        proven: Inputs that a digest proved to differ, in any register.
    """

    register: Register
    chain: Chain
    matches: Sequence[Match]
    trials: Trials
    evidence: Sequence[Seen]
    proven: frozenset[Input] = frozenset()

    def findings(self) -> tuple[Finding, ...]:
        """At least one."""
        differing = self.chain.differing
        if not differing:
            return (self._of_value(),)
        found: list[Finding] = []
        more = 0
        for link in differing:
            if len(found) == MAX_FINDINGS or self._explained(link, found):
                more += 1
                continue
            found.append(self._of_link(link))
            if found[-1].change is not None and self._gives_value(found[-1].change):
                more = len(differing) - 1
                del found[1:]
                break
        return (replace(found[0], more=more), *found[1:])

    def certainties(self) -> frozenset[Input]:
        """Inputs that a digest of this register proves to differ."""
        named = {cause.input for finding in self.findings() for cause in finding.causes if cause.certain}
        own = (self._stated(link) for link in self.chain.differing)
        return frozenset(named | {cause.input for cause in own if cause is not None})

    def _gives_value(self, change: str) -> bool:
        """Whether a change gives the register's whole value, not only one event."""
        names = {trial.change for trial in self.trials.giving(self.register.name)}
        return change in names or any(match.change == change for match in self.matches)

    def _explained(self, link: Link, findings: Sequence[Finding]) -> bool:
        """Whether the causes of an earlier difference are those of this one, too."""
        proven, own, inputs = self._proofs(link)[1], self._stated(link), self._inputs(link)
        extending = () if link.seen is None else self.trials.extending(self.register.name, link.seen)
        changes = {trial.change for trial in extending}
        for finding in findings:
            if proven not in {None, finding.change}:
                continue
            if own is not None and finding.causes and own.input != finding.causes[0].input:
                continue
            if finding.change is not None:
                if finding.change in changes:
                    return True
            elif finding.causes and finding.causes[0].input in inputs:
                return True
        return False

    def _inputs(self, link: Link) -> tuple[Input, ...]:
        """What can have moved an event; of what firmware makes, also a build that is proven to be another."""
        inputs = self._listed(link)
        other = "firmware" in self.proven and self.register.name in FIRMWARE_MADE
        return tuple(dict.fromkeys((*inputs, "firmware"))) if other else inputs

    def _listed(self, link: Link) -> tuple[Input, ...]:
        if link.position is not None:
            return self.register.events[link.position].inputs or self._anything()
        if link.about is not None:
            return tuple(dict.fromkeys((link.about, *ADDED.get(self.register.name, ()))))
        return ADDED.get(self.register.name) or self._anything()

    def _anything(self) -> tuple[Input, ...]:
        """All that moves the register, in the order in which its events name it."""
        listed = tuple(dict.fromkeys(moved for event in self.register.events for moved in event.inputs))
        return listed or ADDED.get(self.register.name) or ("firmware",)

    def _of_link(self, link: Link) -> Finding:
        covers = COVERS.get(self.register.name, "a register")
        if link.position is not None and (source := self.register.events[link.position].source):
            covers = f"{source} ({self.register.name}: {covers})"
        causes, change = self._causes(link)
        return Finding(
            register=self.register.name,
            kind=None if link.kind == "unknown" else link.kind,
            position=self._before(link) if link.position is None else link.position,
            event=link.name,
            expected=link.expected,
            seen=link.seen,
            covers=covers,
            causes=causes,
            change=change,
            said=link.said if link.covered else "",
        )

    def _before(self, inserted: Link) -> int:
        """The predicted position that an inserted event comes before."""
        after = self.chain.links[self.chain.links.index(inserted) + 1 :]
        return next((link.position for link in after if link.position is not None), len(self.register.events))

    def _of_value(self) -> Finding:
        """The finding of a register of which no event can be named."""
        causes, change = self._proofs(None)
        if not causes:
            others = [seen for seen in self.evidence if seen.register != self.register.name]
            causes = self._likely(self._anything(), others)
        if self.chain.basis == "log":
            causes = (_LOCALITY,)
        elif not any(self.chain.seen) and change is None:
            causes = (_ZEROS, *causes)
        return Finding(
            register=self.register.name,
            kind=None,
            position=None,
            event="",
            expected=None,
            seen=None,
            covers=COVERS.get(self.register.name, "a register"),
            causes=causes,
            change=change,
        )

    def _causes(self, link: Link) -> tuple[tuple[Cause, ...], str | None]:
        """Causes of one difference, and the change that proves the first."""
        causes, change = self._proofs(link)
        if causes:
            return causes, change
        place = (self.register.name, link.name)
        inserted = link.position is None  # what adds an event leaves those that are there as they are
        others = [seen for seen in self.evidence if not inserted and (seen.register, seen.name) != place]
        causes = self._likely(self._inputs(link), others)
        first = self._stated(link)
        return (causes if first is None else (first, *(cause for cause in causes if cause.input != first.input))), None

    def _stated(self, link: Link) -> Cause | None:
        """The cause that an event states itself, where its digest covers that and nothing else moves the event."""
        alone = link.position is None or self.register.events[link.position].inputs == (link.about,)
        return stated(link.about, link.said) if link.covered and link.about is not None and alone else None

    def _proofs(self, link: Link | None) -> tuple[tuple[Cause, ...], str | None]:
        """Changes that give what was seen: the register's value, else the digest of one event."""
        name = self.register.name
        what = f"register {name}"
        found = {trial.change: (trial.inputs[:1], what, trial.detail) for trial in self.trials.giving(name)}
        found |= {match.change: (match.inputs, what, match.detail) for match in self.matches}
        if not found and link is not None and link.seen is not None:
            extending = self.trials.extending(name, link.seen)
            if any(len(trial.inputs) > 1 for trial in extending) and not self._same_input(extending):
                extending = []  # one event does not say which of the things that are changed at once it is
            found = {trial.change: (trial.inputs[:1], "this event", trial.detail) for trial in extending}
        causes = tuple(cause for change, proof in found.items() for cause in certain(change, *proof))
        return causes, next(iter(found), None)

    @staticmethod
    def _same_input(trials: Sequence[Trial]) -> bool:
        """Whether changes of several things at once are about one configuration, as a model is part of one."""
        return all("configuration" in trial.inputs for trial in trials)

    def _likely(self, inputs: Sequence[Input], others: Sequence[Seen]) -> tuple[Cause, ...]:
        name = self.register.name
        return likely(inputs, others, Known(self.proven, self.trials.moving(name), self.trials.inert(name)))
