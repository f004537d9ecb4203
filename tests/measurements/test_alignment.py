"""Alignment: a longest common subsequence, exactly; and what one mutation looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measurements.alignment import Step, align, pair_by_name
from measurements.errors import MeasurementError
from measurements.eventlog import MAX_EVENTS

LISTS = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=14)


def longest(left: list[bytes], right: list[bytes]) -> int:
    """By the usual table."""
    row = [0] * (len(right) + 1)
    for one in left:
        before = row
        row = [0]
        for j, other in enumerate(right):
            row.append(before[j] + 1 if one == other else max(before[j + 1], row[j]))
    return row[-1]


@given(LISTS, LISTS)
def test_equal_steps_are_a_longest_common_subsequence(left: list[bytes], right: list[bytes]) -> None:
    steps = align(left, right)
    assert [step.left for step in steps if step.left is not None] == list(range(len(left)))
    assert [step.right for step in steps if step.right is not None] == list(range(len(right)))
    for step in steps:
        if step.left is None or step.right is None:
            assert step.kind == ("inserted" if step.left is None else "missing")
        else:
            assert (left[step.left] == right[step.right]) == (step.kind == "equal")
    assert sum(step.kind == "equal" for step in steps) == longest(left, right)


@given(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=40), st.data())
def test_one_mutation_is_one_step(left: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(left) - 1))
    changed = [*left[:place], b"new", *left[place + 1 :]]
    assert [step for step in align(left, changed) if step.kind != "equal"] == [Step("changed", place, place)]
    inserted = [*left[:place], b"new", *left[place:]]
    assert [step for step in align(left, inserted) if step.kind != "equal"] == [Step("inserted", None, place)]
    removed = [*left[:place], *left[place + 1 :]]
    (missing,) = [step for step in align(left, removed) if step.kind != "equal"]
    assert missing.kind == "missing"
    assert left[missing.left or 0] == left[place], "one of several equal digests cannot be told from the other"


def test_equal_and_empty_lists() -> None:
    assert align([], []) == ()
    assert align([b"a"], [b"a"]) == (Step("equal", 0, 0),)
    assert align([b"a"], []) == (Step("missing", 0, None),)
    assert align([], [b"a"]) == (Step("inserted", None, 0),)


def test_more_on_one_side_follows_the_pairs() -> None:
    kinds = [step.kind for step in align([b"1", b"x", b"y", b"2"], [b"1", b"p", b"2"])]
    assert kinds == ["equal", "changed", "missing", "equal"]
    kinds = [step.kind for step in align([b"1", b"x", b"2"], [b"1", b"p", b"q", b"2"])]
    assert kinds == ["equal", "changed", "inserted", "equal"]


def test_the_longest_lists_are_aligned_and_longer_ones_refused() -> None:
    left = [bytes([i % 251, i // 251]) for i in range(MAX_EVENTS)]
    right = left[::-1]
    assert len(align(left, left)) == MAX_EVENTS
    assert sum(step.kind == "equal" for step in align(left, right)) == 1
    with pytest.raises(MeasurementError, match="4097 events"):
        align([*left, b"x"], left)


def test_events_of_one_name_are_paired_where_the_sides_differ_in_number() -> None:
    left = [b"0", b"a", b"b", b"c", b"1"]
    right = [b"0", b"C", b"1"]
    names = ["", "tables", "pointer", "order", ""]
    steps = align(left, right)
    assert [(step.kind, step.left) for step in steps[1:-1]] == [("changed", 1), ("missing", 2), ("missing", 3)]
    paired = pair_by_name(steps, names, ["", "order", ""])
    assert [(step.kind, step.left) for step in paired[1:-1]] == [("missing", 1), ("missing", 2), ("changed", 3)]
    for unknown in (["", None, ""], ["", "another", ""]):
        assert pair_by_name(steps, names, unknown) == steps, "control: nothing names it"
    same = align([b"a", b"b"], [b"B", b"A"])
    assert pair_by_name(same, ["x", "y"], ["y", "x"]) == same, "as many on either side: by place"


@given(LISTS, LISTS, st.data())
def test_names_move_no_equal_step_and_lose_no_position(
    left: list[bytes], right: list[bytes], data: st.DataObject
) -> None:
    names = st.sampled_from(["p", "q", "r"])
    ours = data.draw(st.lists(names, min_size=len(left), max_size=len(left)))
    theirs = data.draw(st.lists(st.none() | names, min_size=len(right), max_size=len(right)))
    steps = align(left, right)
    paired = pair_by_name(steps, ours, theirs)
    assert [step for step in paired if step.kind == "equal"] == [step for step in steps if step.kind == "equal"]
    assert [step.left for step in paired if step.left is not None] == list(range(len(left)))
    assert [step.right for step in paired if step.right is not None] == list(range(len(right)))
