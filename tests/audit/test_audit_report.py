"""The report: the verdict line first in every form, and nothing from outside is more than text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.audit import report_html, report_markdown
from appliance.audit.outcome import MAX_DETAILS, Finding, Row, Status, Step, judge
from appliance.audit.plan import Audit
from appliance.audit.report import SCHEMA, to_value, write_report

HOSTILE = '<script>alert(1)</script>\x1b[31m\u202e" onload="x" ``` | **bold** [a](http://example/)'
FORMS = {"markdown": report_markdown.render, "html": report_html.render}


def step(name: str, status: Status, *findings: str, **more: object) -> Step:
    kept = Step(name=name, title=name.title(), status=status, summary=f"{name} {status}",
                findings=tuple(Finding(item, f"about {item}") for item in findings))  # fmt: skip
    return replace(kept, **more)


def audit(*steps: Step) -> Audit:
    return Audit(judge(steps, needed="artefacts"), steps, Path("work"), datetime(2026, 11, 23, tzinfo=UTC))


GOOD = (step("manifest", "same"), step("artefacts", "same"), step("registry", "left out"))


@pytest.mark.parametrize(
    ("steps", "line", "status"),
    [
        (GOOD, "reproduced", 0),
        ((*GOOD, step("machines", "differs", "m: pcr4")), "differs: m: pcr4", 1),
        ((*GOOD, step("machines", "differs", "a", "b", "a")), "differs: a (and 1 more)", 1),
        ((*GOOD, step("machines", "differs")), "differs: machines", 1),
        ((*GOOD, step("registers", "unchecked")), "could not be checked: registers unchecked", 2),
        ((step("inputs", "unchecked"), step("published", "differs", "f")), "differs: f", 1),
        ((step("manifest", "same"), step("artefacts", "left out")), "could not be checked: nothing was compared", 2),
        ((), "could not be checked: nothing was compared", 2),
    ],
)
def test_the_verdict_over_all_steps(steps: tuple[Step, ...], line: str, status: int) -> None:
    verdict = judge(steps, needed="artefacts")
    assert verdict.line == line
    assert verdict.exit_status == status


@given(st.lists(st.sampled_from(["same", "differs", "unchecked", "left out"]), max_size=6))
def test_reproduced_only_where_everything_that_was_asked_is_as_stated(states: list[Status]) -> None:
    steps = [step(f"s{number}", state) for number, state in enumerate(states)]
    verdict = judge([*steps, step("artefacts", "same")], needed="artefacts")
    assert (verdict.kind == "reproduced") == (set(states) <= {"same", "left out"})
    assert (verdict.kind == "differs") == ("differs" in states)


def test_what_the_verdict_rests_on_is_said() -> None:
    assert judge(GOOD, needed="artefacts", qualifier="by a build of mine").line == "reproduced (by a build of mine)"


def test_every_form_begins_with_the_verdict(tmp_path: Path) -> None:
    done = audit(*GOOD, step("machines", "differs", "machine.cbor: pcr4"))
    paths = write_report(done, tmp_path / "report", FORMS)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["audit.html", "audit.json", "audit.md"]
    assert paths["markdown"].read_text().splitlines()[0] == "**differs: machine.cbor: pcr4**"
    value = json.loads(paths["json"].read_text())
    assert list(value)[:3] == ["schema", "verdict", "result"]
    assert (value["schema"], value["verdict"], value["result"]) == (SCHEMA, "differs: machine.cbor: pcr4", "differs")
    page = paths["html"].read_text()
    assert page.index("differs: machine.cbor: pcr4") < page.index("<table")


def test_each_step_shows_inputs_results_seconds_and_commands() -> None:
    rows = (Row("file", "aa", "", same=True), Row("other", "bb", "cc", same=False))
    full = step("artefacts", "differs", "other", inputs={"directory": "here"}, rows=rows, notes=("a note",),
                commands=("git clone --quiet x", "make"), seconds=12.34)  # fmt: skip
    kept = step("rebuild", "same", seconds=300.0, kept=True)
    for render in FORMS.values():
        text = render(audit(kept, full))
        for words in ("here", "bb", "cc", "a note", "git clone --quiet x\nmake", "12.3 s", "about other",
                      "300.0 s in an earlier run, kept"):  # fmt: skip
            assert words in text
    value = to_value(audit(kept, full))["steps"][1]
    assert value["rows"][1] == {"name": "other", "stated": "bb", "seen": "cc", "same": False}
    assert value["seconds"] == 12.34


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Audit:
    return audit(
        replace(
            step("artefacts", "differs"),
            title=HOSTILE,
            summary=HOSTILE,
            inputs={HOSTILE: HOSTILE},
            rows=(Row(HOSTILE, HOSTILE, HOSTILE, same=False),),
            findings=(Finding(HOSTILE, HOSTILE, f"{HOSTILE}\n````\n{HOSTILE}"),),
            notes=(HOSTILE,),
            commands=(HOSTILE,),
        )
    )


def test_hostile_text_is_text_on_the_page() -> None:
    page = report_html.render(hostile())
    tags = Tags()
    tags.feed(page)
    plain = Tags()
    plain.feed(report_html.render(audit(*GOOD, step("machines", "differs", "m", rows=(Row("r", "a", "b", same=False),),
                                                   inputs={"a": "b"}, notes=("n",), commands=("c",)))))  # fmt: skip
    assert tags.seen <= plain.seen | {"pre"}
    assert tags.attributes <= plain.attributes
    assert "script" not in tags.seen
    assert "alert(1)" in tags.text, "control: it is shown"
    assert not set(page) & {"\x1b", "\u202e"}
    assert "default-src 'none'" in page
    assert "http" not in page.replace(HOSTILE, "").replace("http://example/", "").replace("http-equiv", "")


def outside_of_blocks(text: str) -> list[str]:
    """Lines that a reader of Markdown takes as more than text."""
    found, fence = [], ""
    for line in text.splitlines():
        mark = line.strip()
        if fence:
            fence = "" if mark == fence else fence
        elif re.fullmatch("`{3,}", mark):
            fence = mark
        else:
            found.append(line)
    assert not fence
    return found


def test_hostile_text_is_text_in_markdown() -> None:
    text = report_markdown.render(hostile())
    assert not set(text) & {"\x1b", "\u202e"}
    lines = outside_of_blocks(text)
    assert any("script" in line for line in lines), "control: it is shown"
    own = re.compile(r"\*\*differs\*\*|^\*\*|\*\*$|^- \*\*|\*\*: ")
    for line in lines:
        assert not re.search(r"(?<!\\)[<>\[\]`]", line)
        assert not re.search(r"(?<!\\)\*", own.sub("", line))
    cells = [line for line in lines if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in cells)


def test_long_details_are_cut_and_say_so() -> None:
    finding = Finding("a", "b", "x" * (MAX_DETAILS + 1))
    assert finding.details.endswith("… (cut here)")
    assert len(finding.details) < MAX_DETAILS + 20
    assert Finding("a", "b", "x" * MAX_DETAILS).details == "x" * MAX_DETAILS
