"""Two lists of digests side by side: what is equal, changed, inserted, missing. Digests decide, and nothing else.

In: the digests of a predicted register and those of a log, or of two logs. Out: one :class:`Step` for each place. The
equal places are a longest common subsequence, found exactly and at a bounded price: rows of the usual table are the
bits of one long integer each (H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004), so 4096 events against
4096 take some hundredths of a second and two megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from measurements.errors import MeasurementError
from measurements.eventlog import MAX_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Kind = Literal["equal", "changed", "inserted", "missing"]
"""``inserted``: only the second list has it; ``missing``: only the first has it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place of an alignment.

    Attributes:
        kind: What is there.
        left: Position in the first list; None for ``inserted``.
        right: Position in the second list; None for ``missing``.
    """

    kind: Kind
    left: int | None
    right: int | None


def align(left: Sequence[bytes], right: Sequence[bytes]) -> tuple[Step, ...]:
    """Lay two lists of digests side by side.

    Between two equal places, what only one list has is paired in order as ``changed``; the rest of the longer side
    follows as ``missing`` or ``inserted``. So a list and the same list with one other digest differ in exactly one
    step, and so do a list and the same with one digest more or less.

    Args:
        left: The first list, at most :data:`~measurements.eventlog.MAX_EVENTS`.
        right: The second list, as long at most.

    Returns:
        Steps in order; each position of either list is in exactly one.

    Raises:
        MeasurementError: A list is too long.
    """
    longest = max(len(left), len(right))
    if longest > MAX_EVENTS:
        raise MeasurementError(f"{longest} events to be aligned, at most {MAX_EVENTS} are")
    head = _common(left, right)
    tail = _common(left[head:][::-1], right[head:][::-1])
    ends = (len(left) - tail, len(right) - tail)
    pairs = [(i, i) for i in range(head)]
    pairs += [(i + head, j + head) for i, j in _longest(left[head : ends[0]], right[head : ends[1]])]
    pairs += [(ends[0] + i, ends[1] + i) for i in range(tail)]
    return tuple(_steps(pairs, len(left), len(right)))


def pair_by_name(steps: Sequence[Step], left: Sequence[str], right: Sequence[str | None]) -> tuple[Step, ...]:
    """The same alignment with other pairs where one side has more: of what differs, events of one name belong together.

    What is equal stays as it is. Between two equal places, where the sides have different numbers of events, digests
    do not say which of them belong together; names of events that are known by their digests do.

    Args:
        steps: As :func:`align` found them.
        left: Names of the first list's events.
        right: Names of the second list's events; None where nothing that can be relied on names it.
    """
    found: list[Step] = []
    gap: list[Step] = []
    for step in (*steps, None):
        if step is not None and step.kind != "equal":
            gap.append(step)
            continue
        found += _paired(gap, left, right)
        gap = []
        if step is not None:
            found.append(step)
    return tuple(found)


def _paired(gap: Sequence[Step], left: Sequence[str], right: Sequence[str | None]) -> Iterator[Step]:
    ours = [step.left for step in gap if step.left is not None]
    theirs = [step.right for step in gap if step.right is not None]
    shared = {left[i] for i in ours} & {right[j] for j in theirs}
    if len(ours) == len(theirs) or not shared:
        yield from gap
        return
    unnamed = (f"\0{j}" for j in theirs)
    for step in align(
        [left[i].encode() for i in ours],
        [(right[j] or other).encode() for j, other in zip(theirs, unnamed, strict=True)],
    ):
        yield Step(
            "changed" if step.kind == "equal" else step.kind,
            None if step.left is None else ours[step.left],
            None if step.right is None else theirs[step.right],
        )


def _common(left: Sequence[bytes], right: Sequence[bytes]) -> int:
    """How many first items are the same."""
    for count, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return count
    return min(len(left), len(right))


def _longest(left: Sequence[bytes], right: Sequence[bytes]) -> list[tuple[int, int]]:
    """Positions of a longest common subsequence.

    Bit ``i`` of ``rows[j]`` is clear where taking ``left[i]`` into the first ``i`` makes the subsequence with
    ``right[: j + 1]`` longer by one.
    """
    places: dict[bytes, int] = {}
    for i, digest in enumerate(left):
        places[digest] = places.get(digest, 0) | 1 << i
    every = (1 << len(left)) - 1
    row = every
    rows = []
    for digest in right:
        matched = row & places.get(digest, 0)
        row = ((row + matched) | (row - matched)) & every
        rows.append(row)
    found = []
    i, j = len(left), len(right)
    while i and j:
        if rows[j - 1] >> (i - 1) & 1:
            i -= 1
        elif j > 1 and not rows[j - 2] >> (i - 1) & 1:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]


def _steps(pairs: Sequence[tuple[int, int]], left: int, right: int) -> Iterator[Step]:
    i = j = 0
    for one, other in (*pairs, (left, right)):
        changed = min(one - i, other - j)
        yield from (Step("changed", i + k, j + k) for k in range(changed))
        yield from (Step("missing", k, None) for k in range(i + changed, one))
        yield from (Step("inserted", None, k) for k in range(j + changed, other))
        if one < left or other < right:
            yield Step("equal", one, other)
        i, j = one + 1, other + 1
