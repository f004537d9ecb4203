"""Words of strangers' files on a terminal: shown, never acted on."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from appliance.cli.output import Output

EVIL = "\x1b[2J\x1b[Hreproduced\x1b[8m\x9b2J\u202e"
SHOWN = "\\x1b[2J\\x1b[Hreproduced\\x1b[8m\\x9b2J\\u202e"


def outputs() -> tuple[Output, StringIO]:
    said = StringIO()
    console = Console(file=said, highlight=False, width=200)
    return Output(console=console, plain=console), said


@pytest.mark.parametrize("kind", ["say", "progress", "failure", "hint", "table"])
def test_escape_sequences_are_written_out(kind: str) -> None:
    def tell(text: str) -> str:
        output, said = outputs()
        match kind:
            case "failure":
                output.failure(text)
            case "hint":
                output.failure("it failed", text)
            case "table":
                output.table("rows", ("column",), [(text,)])
            case _:
                getattr(output, kind)(text)
        return said.getvalue()

    found = tell(f"before {EVIL} after")
    assert f"before {SHOWN} after" in found
    assert not {"\x1b", "\x9b", "\u202e"} & set(found)
    assert "‘plain’ text – ü" in tell("‘plain’ text – ü"), "the control"


def test_line_ends_stay() -> None:
    output, said = outputs()
    output.say("two lines\nof text")
    assert said.getvalue() == "two lines\nof text\n"


def test_json_keeps_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True, console=Console(file=StringIO())).failure(EVIL)
    line = capsys.readouterr().out
    assert "\x1b" not in line
    assert json.loads(line)["error"] == EVIL
