"""A verdict as one HTML page that a person can send to another.

One file: no script, no font, no address that a browser would fetch, and a content policy that says so; the one picture
that there may be is drawn inside it.
Light and dark, printable, readable without colours and by a screen reader. Every value from evidence is text and
nothing else: it is escaped, and what does not print is shown as an escape.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from attestation.report import (
    ASSURANCE,
    NO_ASSURANCE,
    counts,
    state_of,
    statement_rows,
    summary,
    visible,
)
from attestation.verdict import Check, CheckGroup, moment
from measurements.explain_text import lines as lines_of
from measurements.explain_text import summary as summary_of
from measurements.picture import render as render_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from attestation.report import Facts
    from attestation.verdict import Verdict
    from measurements.explanation import Explanation

_WORDS: Final = {"passed": ("✓", "passed"), "failed": ("✗", "failed"), "unchecked": ("–", "not judged")}
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #555; --line: #c9c9c9; --page: #fff; --panel: #f5f5f5;
  --good: #0b6b2e; --bad: #a6140e; --open: #6a5500; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --soft: #b0b0b0; --line: #4a4a4a; --page: #161616;
  --panel: #222; --good: #6fd394; --bad: #ff9088; --open: #e3c565; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .4rem; } h4, h5, h6 { font-size: 1rem; margin: 1rem 0 .4rem; }
header { border: .2rem solid; border-radius: .4rem; padding: 1rem 1.2rem; background: var(--panel); }
header.accepted { border-color: var(--good); } header.refused { border-color: var(--bad); }
header p { margin: .2rem 0; } .assurance { font-weight: 600; }
.none { color: var(--bad); } .hardware { color: var(--good); }
table { border-collapse: collapse; width: 100%; table-layout: fixed; margin: 0 0 1rem; }
caption { text-align: left; color: var(--soft); padding: .2rem 0; }
th, td { border-top: 1px solid var(--line); padding: .35rem .5rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th[scope=row] { font-weight: 600; } .facts th { width: 11rem; }
.checks th:first-child, .checks td:first-child { width: 7.5rem; } .checks th:nth-child(2) { width: 24%; }
.value { font-family: ui-monospace, monospace; font-size: .9rem; white-space: pre-wrap; }
.passed .state { color: var(--good); } .failed .state { color: var(--bad); font-weight: 700; }
.unchecked .state { color: var(--open); }
figure { margin: 1rem 0; overflow-x: auto; } summary { cursor: pointer; }
.note { color: var(--soft); margin: .2rem 0 0; } .failed .note { color: var(--text); }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--soft); }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
"""
_FOOT: Final = (
    "This page is a copy of a verdict, not evidence: whoever receives it can judge the same bundle again with "
    "<code>chrysalis attest verify</code>."
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(verdict: Verdict, facts: Facts, explanation: Explanation | None = None) -> str:
    """The page.

    Args:
        verdict: What was found.
        facts: What was judged, and when.
        explanation: Why the machine's registers are what they are, where they were compared with a prediction; shown
            as a picture.
    """
    outcome = "accepted" if verdict.accepted else "refused"
    hardware = verdict.assurance == "hardware"
    title = f"Attestation {outcome}: {visible(facts.source)}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<main>",
        f'<header class="{outcome}">',
        f'<p class="assurance {"hardware" if hardware else "none"}">{ASSURANCE if hardware else NO_ASSURANCE}</p>',
        f"<h1>{'✓ Accepted' if verdict.accepted else '✗ Refused'} by policy {_text(verdict.policy)}</h1>",
        f"<p>{counts(verdict)}</p>",
        "</header>",
        *_failures(verdict),
        "<h2>What was judged</h2>",
        *_rows("The evidence and what it identifies", summary(verdict, facts)),
    ]
    if explanation is not None:
        parts += _explained(explanation)
    statement = statement_rows(verdict)
    if statement:
        parts += ["<h2>What the machine says it runs</h2>"]
        parts += _rows("The workload statement; the quote covers every word of it", statement)
    parts += ["<h2>Every check</h2>", *_group(verdict.tree, 3)]
    parts += [
        "</main>",
        f"<footer><p>Judged as of {moment(verdict.judged_at)}. {_FOOT}</p></footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _text(value: str) -> str:
    return escape(visible(value))


def _failures(verdict: Verdict) -> Iterator[str]:
    failed = verdict.failed
    if not failed:
        return
    yield "<h2>Why it was refused</h2>"
    yield "<ul>"
    for check in failed:
        hint = f" — {_text(check.hint)}" if check.hint else ""
        yield f"<li><strong>{_text(check.name)}</strong>{hint}</li>"
    yield "</ul>"


def _explained(explanation: Explanation) -> Iterator[str]:
    """The registers beside their prediction; it compares what the evidence says, whether it was accepted or not."""
    yield "<h2>Registers and prediction</h2>"
    yield f"<p>{_text(summary_of(explanation))}</p>"
    yield f"<figure>{render_picture(explanation)}</figure>"
    yield "<details><summary>The same in words</summary><ul>"
    for line in lines_of(explanation):
        if line.strip():
            yield f'<li class="value">{_text(line.strip())}</li>'
    yield "</ul></details>"


def _rows(caption: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f'<table class="facts"><caption>{escape(caption)}</caption><tbody>'
    for name, value in rows:
        yield f'<tr><th scope="row">{_text(name)}</th><td class="value">{_text(value)}</td></tr>'
    yield "</tbody></table>"


def _group(group: CheckGroup, level: int) -> Iterator[str]:
    """A heading, a table of its own checks, then the groups below; order of checks is kept within each."""
    if group.name != "verdict":
        yield f"<h{level}>{_text(group.title)}</h{level}>"
    own = [item for item in group.checks if isinstance(item, Check)]
    if own:
        yield f'<table class="checks"><caption>{_text(group.title)}: {len(own)} checks</caption>'
        yield '<thead><tr><th scope="col">Result</th><th scope="col">Check</th><th scope="col">Seen</th>'
        yield '<th scope="col">Required</th></tr></thead><tbody>'
        for check in own:
            yield _check(check)
        yield "</tbody></table>"
    for item in group.checks:
        if isinstance(item, CheckGroup):
            yield from _group(item, min(level + 1, 6) if group.name != "verdict" else level)


def _check(check: Check) -> str:
    state = state_of(check)
    mark, word = _WORDS[state]
    notes = [f'<p class="note">Why it matters: {_text(check.why)}</p>'] if check.why else []
    if check.hint and state == "failed":
        notes.append(f'<p class="note">What to do: {_text(check.hint)}</p>')
    return (
        f'<tr class="{state}"><td class="state"><span aria-hidden="true">{mark}</span> {word}</td>'
        f'<th scope="row">{_text(check.name)}{"".join(notes)}</th>'
        f'<td class="value">{_text(check.seen)}</td><td class="value">{_text(check.expected)}</td></tr>'
    )
