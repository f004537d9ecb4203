"""One register as a chain: predicted events beside those that lead to the reported value.

In: a register, its reported value, and the events of a log that replays, or of a change that gives the value. Out: a
:class:`~measurements.explanation.Chain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.alignment import align, pair_by_name
from measurements.explain_content import Said, said
from measurements.explanation import Chain, Link

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from measurements.eventlog import Event
    from measurements.explain_search import Match
    from measurements.prediction import Register

_LOG = "the machine's log, which replays to its value"
_UNKNOWN = "which event differs cannot be told from the value"


def chain_of(
    register: Register,
    value: bytes,
    logged: Sequence[Event] | None,
    matches: Sequence[Match],
    names: Mapping[bytes, str],
) -> Chain:
    """Lay a register beside what was reported of it.

    Args:
        register: As predicted.
        value: As reported.
        logged: Its events, of a log that leads to the value; None without such a log.
        matches: What else leads to the value.
        names: Names of events by their digests, as changes that were tried would have them.
    """
    name, bank = register.name, register.bank
    if logged is not None and register.extended:
        texts = [said(event, bank) for event in logged]
        links = _links(register, [event.digests[bank] for event in logged], texts, names)
        return Chain(name, bank, register.value, value, "log", links, _LOG)
    if value == register.value:
        equal = (
            Link("equal", i, None, event.name, event.digest, event.digest) for i, event in enumerate(register.events)
        )
        return Chain(name, bank, register.value, value, "", tuple(equal))
    match = next((match for match in matches if match.events is not None), None)
    if match is not None and match.events is not None and (register.events or register.extended):
        texts = [Said(event.name, covered=False) for event in match.events]
        known = {**names, **{event.digest: event.name for event in match.events}}
        links = _links(register, [event.digest for event in match.events], texts, known)
        return Chain(name, bank, register.value, value, "change", links, f"the prediction with {match.change}")
    unknown = (Link("unknown", i, None, event.name, event.digest, None) for i, event in enumerate(register.events))
    return Chain(name, bank, register.value, value, "", tuple(unknown), _UNKNOWN)


def _links(
    register: Register, digests: Sequence[bytes], texts: Sequence[Said], names: Mapping[bytes, str]
) -> tuple[Link, ...]:
    predicted = {event.digest: event.name for event in register.events}
    ours = [event.name for event in register.events]
    theirs = [names.get(digest) or _name(text, ours) for digest, text in zip(digests, texts, strict=True)]
    found = []
    for step in pair_by_name(align([event.digest for event in register.events], digests), ours, theirs):
        event = None if step.left is None else register.events[step.left]
        seen = None if step.right is None else digests[step.right]
        text = Said("", covered=False) if step.right is None else texts[step.right]
        again = predicted.get(seen) if seen is not None and step.kind != "equal" else None
        named = None if step.right is None else theirs[step.right]
        found.append(
            Link(
                step.kind,
                step.left,
                step.right,
                event.name if event else again or named or text.text or "an event",
                event.digest if event else None,
                seen,
                f"the event that was predicted as {again}" if again else text.text,
                text.covered or again is not None,
                None if again else text.input,
            )
        )
    return tuple(found)


def _name(text: Said, names: Sequence[str]) -> str | None:
    """The predicted name that an event has by its own data, where its digest covers these."""
    if not text.covered:
        return None
    return next((name for name in names if text.text == name or text.text.startswith(f"{name} ")), None)
