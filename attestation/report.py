"""What is told about a verification besides its checks: facts for a reader who was not there. Text and JSON forms.

In: a verdict and the facts. Out: an indented tree with the assurance first, or one JSON value of a stated schema. Text
from evidence is shown escaped: nothing in it can move a cursor, colour a terminal or turn the reading order around.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from attestation.verdict import NO_ATTESTATION, Check, CheckGroup, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attestation.verdict import Verdict

SCHEMA: Final = "chrysalis verdict 1"
MAX_SHOWN: Final = 4000
"""Characters of one value that are shown; a longer one is cut, and says so."""

NO_ASSURANCE: Final = "no assurance: this rests on no hardware root of trust"
ASSURANCE: Final = "hardware assurance: this rests on the root of the processor's maker"
MARKS: Final = {"passed": "ok", "failed": "FAIL", "unchecked": "--"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a verdict does not know itself.

    Attributes:
        source: Where the evidence came from: a file's name or a peer's address.
        digest: SHA-256 of the bundle, empty for other evidence.
        nonce_ours: Whether it answers the nonce that the verifier asked with.
    """

    source: str
    digest: bytes = b""
    nonce_ours: bool = False


def visible(text: str) -> str:
    """A stranger's text, harmless: what does not print is shown as an escape, what is too long is cut."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text)} characters)"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


def state_of(check: Check) -> str:
    """``passed``, ``failed`` or ``unchecked``."""
    if not check.passed:
        return "failed"
    return "passed" if check.checked else "unchecked"


def summary(verdict: Verdict, facts: Facts) -> list[tuple[str, str]]:
    """Names and values that head every form of a report."""
    attested = verdict.image_hash != NO_ATTESTATION
    rows = [
        ("evidence", facts.source),
        ("policy", verdict.policy),
        ("judged as of", moment(verdict.judged_at)),
        ("valid until", moment(verdict.expires_at)),
        ("image", verdict.image_hash.hex() if attested else "not attested"),
    ]
    if verdict.public_key is not None:
        rows.append(("key", verdict.public_key.hex()))
    if verdict.platform != "none":
        rows.append(("platform", verdict.platform))
    if verdict.machine:
        rows.append(("machine", verdict.machine.hex()))
    if facts.digest:
        rows.append(("bundle", f"sha256 {facts.digest.hex()}"))
    if verdict.made_at is not None:
        rows.append(("made at", f"{moment(verdict.made_at)} as the machine states it; {_anchor(verdict)}"))
        nonce = "the one that was asked for" if facts.nonce_ours else "nobody here asked for it: this may be a replay"
        rows.append(("nonce", nonce))
    return rows


def counts(verdict: Verdict) -> str:
    """How many checks passed, failed and were left out, in words."""
    states = [state_of(check) for check in verdict.checks]
    words = ("passed", "failed", "unchecked")
    return ", ".join(f"{states.count(word)} {word}" for word in words)


def text_lines(verdict: Verdict, facts: Facts, *, reasons: bool = False) -> list[str]:
    """The verdict as an indented tree.

    Args:
        verdict: What was found.
        facts: What was judged.
        reasons: Tell of every check why it matters; otherwise of those that failed.
    """
    lines = [ASSURANCE if verdict.assurance == "hardware" else NO_ASSURANCE]
    lines.append(f"{'ACCEPTED' if verdict.accepted else 'REFUSED'} by policy {visible(verdict.policy)!r}")
    lines.append(f"{counts(verdict)}")
    lines += [f"  {name:<12} {visible(value)}" for name, value in summary(verdict, facts)]
    if verdict.statement is not None:
        lines.append("  it says it runs")
        lines += [f"    {name:<16} {visible(value)}" for name, value in statement_rows(verdict)]
    lines += _branch(verdict.tree, 0, reasons=reasons)
    return lines


def statement_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """The workload statement, as names and values."""
    if verdict.statement is None:
        return []
    found = verdict.statement.to_dict()
    return [
        (name, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        for name, value in found.items()
        if value not in ("", {}, None)
    ]


def to_value(verdict: Verdict, facts: Facts) -> dict[str, Any]:
    """The verdict as plain values (:data:`SCHEMA`, described in ``docs/attestation.md``).

    Bytes are lower-case hex, times Unix seconds; ``expires_at`` null means that nothing in the evidence expires.
    """
    plain: dict[str, Any] = json.loads(verdict.to_json())
    return {
        "schema": SCHEMA,
        **plain,
        "evidence": {
            "source": facts.source,
            "sha256": facts.digest.hex() or None,
            "nonce_ours": facts.nonce_ours,
            "made_at": verdict.made_at,
            "anchored_at": verdict.anchored_at,
            "judged_at": verdict.judged_at if math.isfinite(verdict.judged_at) else None,
        },
        "tree": _plain(verdict.tree),
    }


def _anchor(verdict: Verdict) -> str:
    if verdict.anchored_at is None:
        return "not anchored: nothing but the machine's own word says so"
    return f"its digest is on chain since {moment(verdict.anchored_at)}"


def _branch(group: CheckGroup, depth: int, *, reasons: bool) -> Iterator[str]:
    indent = "  " * depth
    failed = "" if group.passed else "  (refused here)"
    if depth:
        yield f"{'  ' * (depth - 1)}{visible(group.title)}{failed}"
    for item in group.checks:
        if isinstance(item, CheckGroup):
            yield from _branch(item, depth + 1, reasons=reasons)
            continue
        state = state_of(item)
        yield f"{indent}{MARKS[state]:<4} {visible(item.name)}: {visible(item.seen)}{_wanted(state, item)}"
        if item.why and (reasons or state == "failed"):
            yield f"{indent}       why: {visible(item.why)}"
        if item.hint and state == "failed":
            yield f"{indent}       do:  {visible(item.hint)}"


def _wanted(state: str, check: Check) -> str:
    if state == "passed":
        return ""
    if state == "failed":
        return f"; expected {visible(check.expected)}"
    return f" (not judged: {visible(check.expected.removeprefix('not checked: '))})"


def _plain(group: CheckGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "title": group.title,
        "passed": group.passed,
        "checks": [
            _plain(item)
            if isinstance(item, CheckGroup)
            else {
                "name": item.name,
                "state": state_of(item),
                "seen": item.seen,
                "expected": item.expected,
                "why": item.why,
                "hint": "" if item.passed else item.hint,
            }
            for item in group.checks
        ],
    }
