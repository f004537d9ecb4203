"""The report as Markdown: the verdict line first, then each step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from appliance.audit.report import CLOSING, WORDS, took
from attestation.report import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.audit.outcome import Step
    from appliance.audit.plan import Audit

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~])")
_FENCE = re.compile(r"`{3,}")


def render(audit: Audit) -> str:
    """The page."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    yield f"**{_text(audit.verdict.line)}**"
    yield ""
    yield "| step | result | what | time |"
    yield "|---|---|---|---|"
    for step in audit.steps:
        yield f"| {_text(step.title)} | {WORDS[step.status]} | {_text(step.summary)} | {took(step)} |"
    for step in audit.steps:
        if step.status != "left out":
            yield from _step(step)
    yield ""
    yield f"Audited {audit.begun.isoformat(timespec='seconds')}. {CLOSING}"


def _step(step: Step) -> Iterator[str]:
    yield ""
    yield f"## {_text(step.title)}: {WORDS[step.status]}"
    yield ""
    yield _text(step.summary)
    yield ""
    for name, value in step.inputs.items():
        yield f"- {_text(name)}: {_text(value)}"
    for finding in step.findings:
        yield f"- **{_text(finding.subject)}**: {_text(finding.text)}"
        if finding.details:
            yield ""
            yield from _fenced(finding.details, indent="  ")
            yield ""
    for note in step.notes:
        yield f"- note: {_text(note)}"
    if step.rows:
        yield ""
        yield "| what | result | stated | seen |"
        yield "|---|---|---|---|"
        for row in step.rows:
            word = "same" if row.same else "**differs**"
            yield f"| {_text(row.name)} | {word} | {_text(row.stated)} | {_text(row.seen)} |"
    if step.commands:
        yield ""
        yield "To repeat it:"
        yield ""
        yield from _fenced("\n".join(step.commands))


def _text(text: str) -> str:
    """A value inside a paragraph or a cell: harmless, on one line, and no markup."""
    return _MARKUP.sub(r"\\\1", visible(text))


def _fenced(text: str, indent: str = "") -> Iterator[str]:
    """A block whose fence is longer than any in it."""
    fence = "`" * max([3, *(len(found) + 1 for found in _FENCE.findall(text))])
    yield f"{indent}{fence}"
    yield from (f"{indent}{visible(line)}" for line in text.splitlines())
    yield f"{indent}{fence}"
