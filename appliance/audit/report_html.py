"""The report as one HTML page that a person can send to another.

One file: no script, no font, no address that a browser would fetch, and a content policy that says so.
Light and dark, printable, readable without colours. Every value is text and nothing else: it is escaped, and what does
not print is shown as an escape.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from appliance.audit import machines
from appliance.audit.report import CLOSING, WORDS, took
from attestation.report import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.audit.outcome import Finding, Row, Step
    from appliance.audit.plan import Audit

_MARKS: Final = {"same": "✓", "differs": "✗", "unchecked": "?", "left out": "–"}
_VERDICT_MARKS: Final = {"reproduced": "✓", "differs": "✗", "unchecked": "?"}
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #555; --line: #c9c9c9; --page: #fff; --panel: #f5f5f5;
  --good: #0b6b2e; --bad: #a6140e; --open: #6a5500; }
@media (prefers-color-scheme: dark) { :root { --text: #ececec; --soft: #b0b0b0; --line: #4a4a4a; --page: #161616;
  --panel: #222; --good: #6fd394; --bad: #ff9088; --open: #e3c565; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
header { border: .2rem solid; border-radius: .4rem; padding: 1rem 1.2rem; background: var(--panel); }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.reproduced { border-color: var(--good); } .differs { border-color: var(--bad); }
.unchecked { border-color: var(--open); }
table { border-collapse: collapse; width: 100%; table-layout: fixed; margin: .5rem 0 1rem; }
caption { text-align: left; color: var(--soft); }
th, td { border-top: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th[scope=row] { font-weight: 600; } td.value, pre { font-family: ui-monospace, monospace; font-size: .85rem; }
.steps th:first-child { width: 12rem; } .steps td:nth-child(2) { width: 11rem; } .steps td:last-child { width: 9rem; }
.rows td:nth-child(2) { width: 6rem; } .facts th { width: 12rem; }
figure { margin: 1rem 0; overflow-x: auto; }
pre { background: var(--panel); padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; }
.state-same { color: var(--good); } .state-differs { color: var(--bad); font-weight: 700; }
.state-unchecked { color: var(--open); font-weight: 700; } .soft { color: var(--soft); }
footer { margin-top: 2rem; border-top: 1px solid var(--line); color: var(--soft); }
@media print { body { max-width: none; padding: 0; font-size: 9pt; } tr { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""


def render(audit: Audit) -> str:
    """The page."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Audit) -> Iterator[str]:
    verdict = audit.verdict
    yield "<!DOCTYPE html>"
    yield '<html lang="en">'
    yield "<head>"
    yield '<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>Audit: {_text(verdict.line)}</title>"
    yield f"<style>{_STYLE}</style>"
    yield "</head>"
    yield "<body><main>"
    yield f'<header class="{verdict.kind}"><h1><span aria-hidden="true">{_VERDICT_MARKS[verdict.kind]}</span> '
    yield f"{_text(verdict.line)}</h1></header>"
    yield '<table class="steps"><caption>The steps</caption><thead><tr><th scope="col">Step</th>'
    yield '<th scope="col">Result</th><th scope="col">What</th><th scope="col">Time</th></tr></thead><tbody>'
    for step in audit.steps:
        yield f'<tr><th scope="row">{_text(step.title)}</th><td>{_state(step)}</td>'
        yield f"<td>{_text(step.summary)}</td><td>{_text(took(step))}</td></tr>"
    yield "</tbody></table>"
    for step in audit.steps:
        if step.status != "left out":
            yield from _step(step)
    yield f"</main><footer><p>Audited {audit.begun.isoformat(timespec='seconds')}. {escape(CLOSING)}</p></footer>"
    yield "</body></html>"


def _step(step: Step) -> Iterator[str]:
    yield f"<section><h2>{_text(step.title)}: {_state(step)}</h2>"
    yield f"<p>{_text(step.summary)}</p>"
    for finding in step.findings:
        yield from _finding(finding)
    if step.name == machines.NAME and not step.kept:  # what was read back from a file is text and nothing else
        yield from (f"<figure>{drawn}</figure>" for drawn in step.facts.get(machines.PICTURES, ()))
    if step.notes:
        yield "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in step.notes) + "</ul>"
    if step.inputs:
        yield '<table class="facts"><caption>What it worked on</caption><tbody>'
        for name, value in step.inputs.items():
            yield f'<tr><th scope="row">{_text(name)}</th><td class="value">{_text(value)}</td></tr>'
        yield "</tbody></table>"
    if step.rows:
        yield '<table class="rows"><caption>What was compared</caption><thead><tr><th scope="col">What</th>'
        yield '<th scope="col">Result</th><th scope="col">Stated</th><th scope="col">Seen</th></tr></thead><tbody>'
        yield from (_row(row) for row in step.rows)
        yield "</tbody></table>"
    if step.commands:
        yield '<p class="soft">To repeat it:</p>'
        yield f"<pre>{_block(chr(10).join(step.commands))}</pre>"
    yield "</section>"


def _finding(finding: Finding) -> Iterator[str]:
    yield f'<p><strong class="state-differs">{_text(finding.subject)}</strong>: {_text(finding.text)}</p>'
    if finding.details:
        yield f"<pre>{_block(finding.details)}</pre>"


def _row(row: Row) -> str:
    state, word = ("same", "same") if row.same else ("differs", "differs")
    return (
        f'<tr><th scope="row">{_text(row.name)}</th><td class="state-{state}">{word}</td>'
        f'<td class="value">{_text(row.stated)}</td><td class="value">{_text(row.seen)}</td></tr>'
    )


def _state(step: Step) -> str:
    name = step.status.replace(" ", "-")
    return (
        f'<span class="state-{name}"><span aria-hidden="true">{_MARKS[step.status]}</span> {WORDS[step.status]}</span>'
    )


def _text(text: str) -> str:
    return escape(visible(text))


def _block(text: str) -> str:
    return "\n".join(_text(line) for line in text.splitlines())
