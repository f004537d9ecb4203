"""The attack table of ``docs/threat-model.md`` is true: its tests exist, its checks are in the code and in them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
CODE = ("attestation", "appliance", "measurements")
CLASSES = range(1, 16)
NOT_STAGED = {"an interposer on the memory bus (WireTap, Battering RAM, TEE.fail)"}
"""Attacks that need hardware in hand. Every other row has a test, and a row more here is a decision."""

NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`(?: \[([^\]]+)\])?")
MIN_LETTERS = 5
"""How many characters of a formatted name have to stand in the source for it to count as found there."""


@dataclass(frozen=True)
class Row:
    """One attack. ``tests`` are file (below ``tests/``), function, and the words that name a row of it."""

    number: int
    attack: str
    refused_by: str
    test: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(re.findall(r"`([^`]+)`", self.refused_by))

    @property
    def tests(self) -> list[tuple[str, str, str]]:
        return NAMED.findall(self.test)


def rows(page: str) -> list[Row]:
    """The table between its two marks; a line of another form is an error."""
    table = page.split("<!-- attacks -->\n", 1)[1].split("<!-- end -->", 1)[0]
    head, rule, *lines = table.strip().splitlines()
    assert head == "| class | attack | refused by | test |"
    assert set(rule) <= set("|-")
    found = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        found.append(Row(int(cells[0]), *cells[1:]))
    return found


ROWS = rows(PAGE)


@dataclass(frozen=True)
class Words:
    """What a source says: texts as they stand, texts with holes as patterns, and names."""

    texts: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def say(self, name: str) -> bool:
        return name in self.texts or any(pattern.fullmatch(name) for pattern in self.patterns)


def words(source: str) -> Words:
    texts, patterns = set(), []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str() as text):
                texts.add(text)
            case ast.ClassDef(name=text) | ast.Name(id=text) | ast.Attribute(attr=text):
                texts.add(text)
            case ast.JoinedStr(values=values):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in values]
                if sum(len(str(part).strip()) for part in parts if part is not None) >= MIN_LETTERS:
                    patterns.append(re.compile("".join(".+" if p is None else re.escape(str(p)) for p in parts)))
    return Words(frozenset(texts), tuple(patterns))


@cache
def code() -> Words:
    found = [words(path.read_text()) for package in CODE for path in (ROOT / package).rglob("*.py")]
    return Words(frozenset().union(*(one.texts for one in found)), tuple(p for one in found for p in one.patterns))


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_class_is_there_in_order() -> None:
    numbers = [row.number for row in ROWS]
    assert set(numbers) == set(CLASSES)
    assert numbers == sorted(numbers)
    assert len({(row.number, row.attack) for row in ROWS}) == len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number} {row.attack}"[:60])
def test_a_row_is_true(row: Row) -> None:
    """No empty cell; the test is there; the check is the code's; the test asserts the check by its name."""
    assert row.attack
    assert row.refused_by
    assert row.tests, "a stageable attack needs a test"
    assert ("not staged" in row.test) is (row.attack in NOT_STAGED)
    said = []
    for file, function, named in row.tests:
        assert (ROOT / "tests" / file).is_file(), file
        assert function in functions(file), f"{file}::{function}"
        text = (ROOT / "tests" / file).read_text()
        assert named in text, f"{file} says nothing of {named!r}"
        said.append(words(text))
    for name in row.names:
        assert code().say(name), f"no check of the code is called {name!r}"
        if row.attack not in NOT_STAGED:
            assert any(one.say(name) for one in said), f"no test of this row names {name!r}"


def test_every_test_of_this_room_is_in_the_table() -> None:
    named = {(file, function) for row in ROWS for file, function, _ in row.tests}
    here = Path(__file__)
    for path in here.parent.glob("test_attack_*.py"):
        for function in functions(f"attacks/{path.name}") if path != here else ():
            if function.startswith("test_"):
                assert (f"attacks/{path.name}", function) in named


def test_what_the_page_says_of_worlds_is_there() -> None:
    defined = {name for path in (ROOT / "tests").rglob("test_*.py") for name in _defined(path)}
    rest = PAGE.split("<!-- end -->", 1)[1]
    assert len(set(re.findall(r"`(test_\w+)`", rest))) >= 3
    assert set(re.findall(r"`(test_\w+)`", rest)) <= defined


def _defined(path: Path) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("`nonce`, `freshness path`", "`nonsense`, `freshness path`"), "no check of the code"),
        (("::test_a_leaked_key_answers_no_nonce", "::test_of_nothing"), "test_of_nothing"),
        (("attacks/test_attack_relay.py::test_a_leaked", "attacks/test_absent.py::test_a_leaked"), "test_absent"),
        (("| `attacks/test_attack_relay.py::test_a_leaked_key_answers_no_nonce` |", "| |"), "needs a test"),
        (("[reserved_bytes]", "[no_such_attack]"), "no_such_attack"),
        (("`nonce`, `freshness path`", "`gpu nonce`, `freshness path`"), "no test of this row names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_is_not_true_is_found(change: tuple[str, str], said: str) -> None:
    """Control: what is checked above can fail."""
    assert PAGE.count(change[0]) >= 1
    wrong = [row for row in rows(PAGE.replace(change[0], change[1], 1)) if row not in ROWS]
    assert len(wrong) == 1
    with pytest.raises(AssertionError, match=said):
        test_a_row_is_true(wrong[0])
