"""An explanation as lines for a person, and as one plain value for programs.

The first line is the answer. Every text that stems from a machine's log is printable and bounded already
(:mod:`measurements.explain_content`), and is called a hint unless the digest covers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measurements.explanation import Cause, Chain, Explanation, Finding, Link

SCHEMA: Final = "chrysalis explanation 1"
MAX_CAUSES: Final = 4
"""Causes of one finding that are told to a person; a program gets all of them."""

MAX_UNMOVED: Final = 12
"""Changes that move nothing that are told to a person; as above."""

_KINDS: Final = {
    "changed": "is another",
    "inserted": "was not predicted",
    "missing": "is missing",
    None: "cannot be told",
}


def summary(explanation: Explanation) -> str:
    """The answer in one line."""
    if explanation.equal:
        count = len(explanation.chains)
        return f"equal: {count} register{'s' if count != 1 else ''} as predicted for {explanation.shape}"
    names = ", ".join(dict.fromkeys(finding.register for finding in explanation.findings))
    if explanation.changes:
        return f"differs in {names}; one change explains all of it: {' or '.join(explanation.changes)}"
    if all(finding.certain for finding in explanation.findings):
        told = (finding.change or finding.causes[0].sentence for finding in explanation.findings)
        return f"differs in {names}; explained by: {'; '.join(dict.fromkeys(told))}"
    return f"differs in {names}"


def lines(explanation: Explanation) -> Iterator[str]:
    """The whole explanation, the answer first."""
    yield summary(explanation)
    if explanation.log:
        yield f"  log: {explanation.log}"
    for finding in explanation.findings:
        yield ""
        yield from _finding(finding)
    if explanation.tried:
        yield ""
        yield f"{explanation.tried} single change{'s were' if explanation.tried > 1 else ' was'} tried"
    if explanation.unmoved:
        left = len(explanation.unmoved) - MAX_UNMOVED
        more = f", and {left} more" if left > 0 else ""
        yield f"  moves no register here: {', '.join(explanation.unmoved[:MAX_UNMOVED])}{more}"
    if explanation.unreported:
        yield f"not reported by the machine: {', '.join(explanation.unreported)}"
    for name, why in explanation.unpredicted.items():
        yield f"not compared: {name}: {why}"


def to_value(explanation: Explanation) -> dict[str, Any]:
    """The whole explanation as maps, lists, texts and numbers; digests are hexadecimal."""
    return {
        "schema": SCHEMA,
        "equal": explanation.equal,
        "summary": summary(explanation),
        "platform": explanation.platform,
        "boot": explanation.boot,
        "shape": explanation.shape,
        "changes": list(explanation.changes),
        "findings": [_finding_value(finding) for finding in explanation.findings],
        "registers": {chain.register: _chain_value(chain) for chain in explanation.chains},
        "tried": explanation.tried,
        "moves_no_register": list(explanation.unmoved),
        "log": explanation.log or None,
        "log_refuted": explanation.log_refuted,
        "unreported": list(explanation.unreported),
        "unpredicted": dict(explanation.unpredicted),
    }


def _finding(finding: Finding) -> Iterator[str]:
    if finding.kind is None:
        yield f"{finding.register}: which event differs cannot be told from its value"
    else:
        place = "before" if finding.kind == "inserted" else "at"
        yield f"{finding.register}: {finding.event} {_KINDS[finding.kind]} ({place} position {finding.position})"
    yield f"  covers    {finding.covers}"
    if finding.expected is not None:
        yield f"  predicted {finding.expected.hex()}"
    if finding.seen is not None:
        yield f"  seen      {finding.seen.hex()}"
    if finding.said:
        yield f"  it is     {finding.said}"
    for number, cause in enumerate(finding.causes[:MAX_CAUSES], start=1):
        yield from _cause(cause, "certain" if cause.certain else f"likely {number}")
    left = len(finding.causes) - MAX_CAUSES
    if left > 0:
        yield f"  less likely: {', '.join(cause.input for cause in finding.causes[MAX_CAUSES:])}"
    if finding.more:
        yield f"  and {finding.more} later event{'s' if finding.more > 1 else ''} of this register, of the same cause"


def _cause(cause: Cause, head: str) -> Iterator[str]:
    yield f"  {head:<9} {cause.input}: {cause.sentence}"
    yield f"            do: {cause.remedy}"


def _finding_value(finding: Finding) -> dict[str, Any]:
    return {
        "register": finding.register,
        "kind": finding.kind,
        "position": finding.position,
        "event": finding.event or None,
        "expected": _hex(finding.expected),
        "seen": _hex(finding.seen),
        "covers": finding.covers,
        "certain": finding.certain,
        "change": finding.change,
        "said": finding.said or None,
        "more": finding.more,
        "causes": [
            {"input": cause.input, "certain": cause.certain, "sentence": cause.sentence, "remedy": cause.remedy}
            for cause in finding.causes
        ],
    }


def _chain_value(chain: Chain) -> dict[str, Any]:
    return {
        "equal": chain.equal,
        "bank": chain.bank,
        "expected": chain.expected.hex(),
        "seen": chain.seen.hex(),
        "basis": chain.basis or None,
        "events": [_link_value(link) for link in chain.links],
    }


def _link_value(link: Link) -> dict[str, Any]:
    return {
        "kind": link.kind,
        "name": link.name,
        "position": link.position,
        "logged": link.logged,
        "expected": _hex(link.expected),
        "seen": _hex(link.seen),
        "said": link.said or None,
        "said_is_covered": link.covered,
    }


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
