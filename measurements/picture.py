"""An explanation as a picture: every register a chain of events, equal parts grey, the differences marked.

In: an :class:`~measurements.explanation.Explanation`. Out: one SVG document, to stand alone or inside a page: no
script, no font, no address that anything would fetch; light and dark; the same bytes for the same explanation.
Differences are told by sign and words as well as by colour, and every box has its whole content as a title, which a
screen reader reads.

Lengths are pixels of the picture's own grid. Text is set in a fixed pitch so that what fits can be counted.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from measurements.explain_text import summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from measurements.explanation import Cause, Chain, Explanation, Finding, Link, LinkKind

WIDTH: Final = 1000
MARGIN: Final = 24
PITCH: Final = 7.4
"""Width of a character at 12 pixels; fixed-pitch fonts have 0.55 to 0.605 of their size."""

BOX: Final = (172, 64)
GAP: Final = 23
PER_LINE: Final = (WIDTH - 2 * MARGIN + GAP) // (BOX[0] + GAP)
LINE: Final = 17
MAX_BOXES: Final = 40
"""Boxes that a register may have in the picture; runs of equal events are one box."""

MAX_RUN: Final = 6
"""Boxes that a run of differences of one kind may have; the rest of it is one box."""

MAX_SQUARES: Final = 48
MAX_CAUSES: Final = 2

_SIGNS: Final[dict[LinkKind, str]] = {"equal": "=", "changed": "≠", "inserted": "+", "missing": "−", "unknown": "?"}
_WORDS: Final[dict[LinkKind, str]] = {
    "equal": "as predicted",
    "changed": "another event than predicted",
    "inserted": "an event that was not predicted",
    "missing": "a predicted event that is missing",
    "unknown": "cannot be told",
}
_RUNS: Final[dict[LinkKind, str]] = {
    "equal": "as predicted",
    "changed": "others than predicted",
    "inserted": "not predicted",
    "missing": "missing",
    "unknown": "cannot be told",
}
_STYLE: Final = """
.mp{--page:#fff;--text:#1a1a1a;--soft:#5c5c5c;--line:#bdbdbd;--fill:#eeeeee;--bad:#a6140e;--badfill:#fdecea;
--new:#7a4300;--newfill:#fff3e0;--good:#0b6b2e;font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}
@media(prefers-color-scheme:dark){.mp{--page:#161616;--text:#ececec;--soft:#b0b0b0;--line:#5a5a5a;--fill:#2a2a2a;
--bad:#ff9088;--badfill:#3a1512;--new:#ffc37a;--newfill:#35240d;--good:#6fd394}}
.mp .page{fill:var(--page)}.mp text{fill:var(--text);white-space:pre}.mp .soft{fill:var(--soft)}
.mp .head{font-weight:700}.mp .good{fill:var(--good)}.mp .bad{fill:var(--bad)}
.mp rect.box{fill:var(--fill);stroke:var(--line);stroke-width:1}.mp .is-equal text{fill:var(--soft)}
.mp .is-changed rect.box,.mp .is-missing rect.box,.mp .is-value rect.box{fill:var(--badfill);stroke:var(--bad);
stroke-width:2.5}
.mp .is-missing rect.box{stroke-dasharray:7 4}.mp .is-inserted rect.box{fill:var(--newfill);stroke:var(--new);
stroke-width:2.5}.mp .is-unknown rect.box{stroke-dasharray:3 3;stroke:var(--soft)}
.mp path{stroke:var(--soft);stroke-width:1.5;fill:none}.mp .square{fill:var(--line)}
"""


@dataclass(slots=True)
class _Canvas:
    """Elements in order, and how far down they reach."""

    y: float = MARGIN
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, content: str, style: str = "") -> None:
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{kind}>{escape(content)}</text>')

    def lines(self, content: str, style: str = "", *, indent: int = 0) -> None:
        """A paragraph, broken where it is too long."""
        room = int((WIDTH - 2 * MARGIN - indent) / PITCH)
        for line in wrapped(content, room):
            self.y += LINE
            self.text(MARGIN + indent, self.y, line, style)


def render(explanation: Explanation) -> str:
    """The picture.

    Returns:
        An ``<svg>`` element with its name space, for a file of its own or inside HTML.
    """
    canvas = _Canvas()
    canvas.lines(summary(explanation), f"head {'good' if explanation.equal else 'bad'}")
    canvas.lines(
        f"platform {explanation.platform}, {explanation.boot} boot, shape {explanation.shape}"
        + (f"; {explanation.log}" if explanation.log else ""),
        "soft",
    )
    canvas.y += 10
    for chain in explanation.chains:
        if chain.equal:
            _equal(canvas, chain)
        else:
            findings = [finding for finding in explanation.findings if finding.register == chain.register]
            _differing(canvas, chain, findings)
    canvas.y += 14
    legend = "; ".join(f"{_SIGNS[kind]} {_WORDS[kind]}" for kind in ("equal", "changed", "inserted", "missing"))
    canvas.lines(legend, "soft")
    return _document(canvas, explanation)


def wrapped(content: str, room: int) -> list[str]:
    """Lines of at most ``room`` columns, broken between words, or within one that is longer than a line."""
    found: list[str] = []
    line = ""
    for word in content.split(" "):
        rest = word
        while columns(rest) > room:
            head = fitted(rest, room, mark="")
            if line:
                found.append(line)
                line = ""
            found.append(head)
            rest = rest[len(head) :]
        joined = f"{line} {rest}" if line else rest
        if columns(joined) > room:
            found.append(line)
            joined = rest
        line = joined
    return [*found, line]


def fitted(content: str, room: int, mark: str = "…") -> str:
    """The first part of a text that has at most ``room`` columns; the mark says that there is more."""
    if columns(content) <= room:
        return content
    kept = ""
    for char in content:
        if columns(kept + char) > room - len(mark):
            break
        kept += char
    return kept + mark


def columns(content: str) -> int:
    """How many columns a text takes in a fixed pitch; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in content)


def _document(canvas: _Canvas, explanation: Explanation) -> str:
    body = "\n".join(canvas.parts)
    height = round(canvas.y + MARGIN)
    mark = hashlib.sha256(body.encode()).hexdigest()[:12]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mp" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" style="max-width:100%;height:auto" role="img" aria-labelledby="t{mark} d{mark}">\n'
        f'<title id="t{mark}">{escape(summary(explanation))}</title>\n'
        f'<desc id="d{mark}">{escape(" ".join(_described(explanation)))}</desc>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n{body}\n</svg>\n'
    )


def _described(explanation: Explanation) -> Iterator[str]:
    """The picture in words, for who does not see it."""
    for chain in explanation.chains:
        if chain.equal:
            yield f"{chain.register}: as predicted."
        elif chain.differing:
            told = (f"{link.name} {_WORDS[link.kind]}" for link in chain.differing[:MAX_BOXES])
            yield f"{chain.register} differs: {'; '.join(told)}."
        else:
            yield f"{chain.register} differs; which event does cannot be told."


def _equal(canvas: _Canvas, chain: Chain) -> None:
    """One line: a small square for each event, and the value."""
    canvas.y += LINE + 5
    y = canvas.y
    canvas.text(MARGIN, y, fitted(chain.register, 12), "soft head")
    x = MARGIN + 100.0
    for link in chain.links[:MAX_SQUARES]:
        title = f"<title>{escape(link.name)}</title>"
        canvas.parts.append(f'<rect class="square" x="{x:g}" y="{y - 10:g}" width="9" height="11">{title}</rect>')
        x += 12
    left = len(chain.links) - MAX_SQUARES
    more = f"+{left} " if left > 0 else ""
    canvas.text(max(x + 8, MARGIN + 110), y, f"{more}= as predicted, {chain.seen[:6].hex()}…", "soft")


def _differing(canvas: _Canvas, chain: Chain, findings: Sequence[Finding]) -> None:
    """The chain as boxes, its value at the end, causes below."""
    canvas.y += 14
    canvas.lines(f"{chain.register} differs", "head bad")
    if chain.why:
        canvas.lines(f"compared with {chain.why}" if chain.basis else chain.why, "soft")
    boxes = [*_boxes(chain), _value_box(chain)]
    top = canvas.y + 12
    for i, box in enumerate(boxes):
        x = MARGIN + i % PER_LINE * (BOX[0] + GAP)
        y = top + i // PER_LINE * (BOX[1] + 16)
        if i:
            start, middle = (x - GAP if i % PER_LINE else x - 14), y + BOX[1] / 2
            head = f"M{x - 8:g} {middle - 4:g}L{x - 3:g} {middle:g}L{x - 8:g} {middle + 4:g}"
            canvas.parts.append(f'<path d="M{start:g} {middle:g}H{x - 3:g}{head}"/>')
        _draw(canvas, x, y, box)
        canvas.y = y + BOX[1]
    canvas.y += 6
    for finding in findings:
        for cause in finding.causes[:MAX_CAUSES]:
            _cause(canvas, finding, cause)
    canvas.y += 8


@dataclass(frozen=True, slots=True)
class _Box:
    """One box: its look, three lines, and everything as a title."""

    style: str
    lines: tuple[str, ...]
    title: str


def _boxes(chain: Chain) -> list[_Box]:
    """A box for each link that differs and the equal ones beside it; longer runs of equal ones are one box."""
    shown = [any(near.kind != "equal" for near in chain.links[max(0, i - 1) : i + 2]) for i in range(len(chain.links))]
    found: list[_Box] = []
    i = 0
    while i < len(chain.links):
        end = i
        while end < len(chain.links) and not shown[end]:
            end += 1
        if len(found) >= MAX_BOXES:
            left = chain.links[i:]
            differ = sum(link.kind not in {"equal", "unknown"} for link in left)
            found.append(_Box("unknown", (f"{len(left)} more events", f"{differ} of them differ"), "left out here"))
            break
        if end - i > 2:
            found.append(_run_box(chain.links[i:end]))
            i = end
            continue
        kind = chain.links[i].kind
        last = next((k for k in range(i, len(chain.links)) if chain.links[k].kind != kind), len(chain.links))
        if kind not in {"equal", "unknown"} and last - i > MAX_RUN:
            found += [_link_box(link) for link in chain.links[i : i + MAX_RUN - 1]]
            found.append(_run_box(chain.links[i + MAX_RUN - 1 : last]))
            i = last
        else:
            found.append(_link_box(chain.links[i]))
            i += 1
    return found


def _run_box(run: Sequence[Link]) -> _Box:
    """Several links of one kind as one box."""
    names = ", ".join(link.name for link in run[:MAX_SQUARES])
    kind = run[0].kind
    return _Box(kind, (f"{_SIGNS[kind]} {len(run)} events", _RUNS[kind]), names)


def _link_box(link: Link) -> _Box:
    lines = [f"{_SIGNS[link.kind]} {link.name}"]
    if link.kind in {"equal", "unknown"}:
        lines.append(_short(link.expected))
    else:
        lines += [f"− {_short(link.expected)}"] if link.expected is not None else []
        lines += [f"+ {_short(link.seen)}"] if link.seen is not None else []
    title = [f"{link.name}: {_WORDS[link.kind]}"]
    title += [f"predicted {link.expected.hex()}"] if link.expected is not None else []
    title += [f"seen {link.seen.hex()}"] if link.seen is not None else []
    if link.said:
        title.append(f"{'it is' if link.covered else 'the log says, and nothing confirms'}: {link.said}")
    return _Box(link.kind, tuple(lines), "\n".join(title))


def _value_box(chain: Chain) -> _Box:
    lines = (f"≠ value of {chain.register}", f"− {_short(chain.expected)}", f"+ {_short(chain.seen)}")
    return _Box("value", lines, f"predicted {chain.expected.hex()}\nreported {chain.seen.hex()}")


def _draw(canvas: _Canvas, x: float, y: float, box: _Box) -> None:
    room = int((BOX[0] - 16) / PITCH)
    canvas.parts.append(f'<g class="is-{box.style}"><title>{escape(box.title)}</title>')
    canvas.parts.append(f'<rect class="box" x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="5"/>')
    for i, line in enumerate(box.lines):
        canvas.text(x + 8, y + 18 + i * 18, fitted(line, room), "head" if i == 0 else "")
    canvas.parts.append("</g>")


def _cause(canvas: _Canvas, finding: Finding, cause: Cause) -> None:
    where = f"{finding.event}: " if finding.event else ""
    canvas.lines(
        f"{'certain' if cause.certain else 'likely'}: {where}{cause.sentence}", "head" if cause.certain else ""
    )
    canvas.lines(f"do: {cause.remedy}", "soft", indent=22)


def _short(digest: bytes | None) -> str:
    return "" if digest is None else f"{digest[:8].hex()}…"
