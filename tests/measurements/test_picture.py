"""The picture: geometry that holds, text that cannot break out, the same bytes for the same explanation."""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree as ET

import pytest
from explain_support import Small, around, log_of
from hypothesis import given
from hypothesis import strategies as st

from measurements import picture
from measurements.eventlog import Event, EventLog
from measurements.explain import explain
from measurements.picture import BOX, MARGIN, PITCH, WIDTH, columns, fitted, render, wrapped
from measurements.prediction import PredictedEvent, Prediction, Register

SVG = "{http://www.w3.org/2000/svg}"
BASE = Small()
SEEN = {
    "equal": BASE,
    "certain": Small(memory=4096),
    "two": Small(memory=4096, variables=b"\1"),
    "unknown": Small(memory=5000, command_line=b"x"),
    "inserted": Small(extra=(b"one", b"two")),
    "missing": Small(firmware=b"x", initrd=b"y"),
}


def drawn(seen: Small, *, logged: bool = True) -> str:
    prediction = seen.tdx()
    return render(explain(BASE.tdx(), prediction.values, log_of(prediction) if logged else None, around(BASE)))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - the picture was drawn here


def check_geometry(root: ET.Element) -> None:
    """Every box inside the picture, no two of them over each other, every text inside its box or the picture."""
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width == WIDTH
    boxes = []
    for group in root.iter(f"{SVG}g"):
        (rect,) = group.findall(f"{SVG}rect")
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width - MARGIN + 1
        assert 0 <= y <= y + h <= height
        boxes.append((x, y, w, h))
        for text in group.findall(f"{SVG}text"):
            assert x < float(text.attrib["x"])
            assert float(text.attrib["x"]) + columns(text.text or "") * PITCH <= x + w
            assert y + 10 < float(text.attrib["y"]) < y + h
    for i, (x, y, w, h) in enumerate(boxes):
        for left, top, wide, tall in boxes[:i]:
            assert x >= left + wide or left >= x + w or y >= top + tall or top >= y + h
    lines = []
    for text in root.findall(f"{SVG}text"):
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        assert x >= MARGIN
        assert x + columns(text.text or "") * PITCH <= width
        assert 12 < y < height
        lines.append((y, x))
        assert all(y <= top or y - 11 >= top + tall for _, top, _, tall in boxes), "no line runs through a box"
    assert lines == sorted(lines), "in reading order"
    for square in root.findall(f"{SVG}rect"):
        assert float(square.attrib.get("x", 0)) + float(square.attrib["width"]) <= width


@pytest.mark.parametrize("logged", [True, False], ids=["log", "no log"])
@pytest.mark.parametrize("seen", SEEN)
def test_everything_is_in_its_place(seen: str, logged: bool) -> None:
    check_geometry(parsed(drawn(SEEN[seen], logged=logged)))


def test_what_differs_is_marked_and_what_is_equal_is_grey() -> None:
    root = parsed(drawn(SEEN["two"]))
    kinds = [group.attrib["class"] for group in root.iter(f"{SVG}g")]
    assert kinds == ["is-changed", "is-equal", "is-changed", "is-equal", "is-changed", "is-value"]
    names = [(group.find(f"{SVG}text")).text for group in root.iter(f"{SVG}g")]  # type: ignore[union-attr]  # each has one
    assert names == ["≠ TD HOB", "= firmware volume CFV", "≠ variable SecureBoot", "= separator", "≠ ACPI tables",
                     "≠ value of rtmr0"]  # fmt: skip
    equal = parsed(drawn(BASE))
    assert list(equal.iter(f"{SVG}g")) == []
    squares = [rect for rect in equal.iter(f"{SVG}rect") if rect.attrib.get("class") == "square"]
    assert len(squares) == sum(len(register.events) for register in BASE.tdx().registers.values())


def test_it_is_told_to_who_does_not_see_it() -> None:
    root = parsed(drawn(SEEN["certain"]))
    title, description = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert description is not None
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    assert title.text == "differs in rtmr0; one change explains all of it: memory 4096 MiB"
    assert "rtmr0 differs: TD HOB another event than predicted" in (description.text or "")
    assert "mrtd: as predicted." in (description.text or "")
    seen = Small(memory=4096).tdx().registers["rtmr0"].events[0].digest.hex()
    assert any(seen in (item.text or "") for item in root.iter(f"{SVG}title")), "digests are whole in the titles"


def test_it_is_deterministic_and_two_of_them_share_no_identifier() -> None:
    assert drawn(SEEN["two"]) == drawn(SEEN["two"])
    identifiers = [set(re.findall(r' id="(\w+)"', drawn(SEEN[name]))) for name in ("two", "unknown")]
    assert len(identifiers[0]) == 2
    assert identifiers[0].isdisjoint(identifiers[1])


def test_nothing_is_fetched_and_nothing_runs() -> None:
    for seen in SEEN.values():
        svg = drawn(seen)
        assert svg.count("http") == 1, "the name space alone"
        assert not re.search(r"<script|href|url\(|@import|<image|<use|foreignObject|\son\w+=", svg)


@given(st.text(max_size=80), st.text(max_size=300))
def test_no_name_and_no_log_breaks_out(name: str, said: str) -> None:
    digest = hashlib.sha384(said.encode("utf-8", "replace")).digest()
    clean = "".join(char for char in name if char.isprintable())
    base = Register.replayed("rtmr1", "sha384", [PredictedEvent(bytes(48), clean, "source", ("image",))])
    seen = Register.replayed("rtmr1", "sha384", [PredictedEvent(digest, "x", "source")])
    log = EventLog(("sha384",), (Event(2, 0xD, {"sha384": digest}, said.encode("utf-8", "replace")),))
    found = explain(Prediction("tdx", "direct", "s", {"rtmr1": base}), {"rtmr1": seen.value}, log)
    root = parsed(render(found))
    check_geometry(root)
    assert {item.tag.removeprefix(SVG) for item in root.iter()} <= {
        "svg", "title", "desc", "style", "rect", "text", "g", "path",
    }  # fmt: skip


def test_long_chains_are_shortened_around_what_differs() -> None:
    events = [PredictedEvent(hashlib.sha384(bytes([i])).digest(), f"event {i}", "") for i in range(60)]
    other = [*events[:30], PredictedEvent(bytes(48), "other", ""), *events[31:]]
    base, seen = (
        Prediction("tdx", "direct", "long", {"rtmr2": Register.replayed("rtmr2", "sha384", listed)})
        for listed in (events, other)
    )
    root = parsed(render(explain(base, seen.values, log_of(seen))))
    check_geometry(root)
    shown = [(group.find(f"{SVG}text")).text for group in root.iter(f"{SVG}g")]  # type: ignore[union-attr]  # each has one
    assert shown == ["= 29 events", "= event 29", "≠ event 30", "= event 31", "= 28 events", "≠ value of rtmr2"]
    everything = [PredictedEvent(hashlib.sha384(b"x%d" % i).digest(), "x", "") for i in range(400)]
    many = Prediction("tdx", "direct", "long", {"rtmr2": Register.replayed("rtmr2", "sha384", everything)})
    root = parsed(render(explain(base, many.values, log_of(many))))
    check_geometry(root)
    kinds = [group.attrib["class"] for group in root.iter(f"{SVG}g")]
    assert kinds == ["is-changed"] * picture.MAX_RUN + ["is-inserted"] * picture.MAX_RUN + ["is-value"]
    turns = [event for pair in zip(events, everything, strict=False) for event in pair]
    mixed = Prediction("tdx", "direct", "long", {"rtmr2": Register.replayed("rtmr2", "sha384", turns)})
    root = parsed(render(explain(base, mixed.values, log_of(mixed))))
    check_geometry(root)
    assert len(list(root.iter(f"{SVG}g"))) == picture.MAX_BOXES + 2, "the rest is one box, and the value is one"


@given(st.text(max_size=200), st.integers(4, 60))
def test_lines_are_broken_and_nothing_is_lost(text: str, room: int) -> None:
    for line in wrapped(text, room):
        assert columns(line) <= room
    assert "".join(wrapped(text, room)).replace(" ", "") == text.replace(" ", "")
    assert columns(fitted(text, room)) <= room


def test_wide_characters_take_two_columns() -> None:
    assert columns("abc") == 3
    assert columns("\u6e2c\u5b9a") == 4
    assert fitted("\u6e2c\u5b9a\u5b9a", 5) == "\u6e2c\u5b9a…"
    assert BOX[0] + 2 * MARGIN < WIDTH
