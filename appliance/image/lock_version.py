"""The order of Debian versions (policy manual 5.6.12), to tell a newer package from an older one.

In: two versions as a lock holds them. Out: which comes first. An archive that is put back to an earlier day is signed
as well as ever; only the order of what it offers tells.
"""

from __future__ import annotations

import re
from functools import cmp_to_key
from itertools import zip_longest

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


def is_older(version: str, than: str) -> bool:
    """Whether a version comes before another."""
    return _compare(version, than) < 0


def newest(versions: tuple[str, ...]) -> str:
    """The last of some versions."""
    return max(versions, key=cmp_to_key(_compare))


def _compare(one: str, other: str) -> int:
    for left, right in zip(_split(one), _split(other), strict=True):
        if left != right and (order := _compare_part(left, right)):
            return order
    return 0


def _split(version: str) -> tuple[str, str, str]:
    """Epoch, upstream version and revision; an absent epoch or revision counts as zero."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return epoch, upstream, revision


def _compare_part(one: str, other: str) -> int:
    """Runs of other characters and of digits, in turn."""
    for (text, number), (others, another) in zip_longest(
        _PARTS.findall(one), _PARTS.findall(other), fillvalue=("", "")
    ):
        if order := _difference(_weights(text), _weights(others)):
            return order
        if order := int(number or 0) - int(another or 0):
            return order
    return 0


def _weights(text: str) -> list[int]:
    """A tilde comes before the end, the end before letters, letters before all else."""
    return [-1 if character == "~" else ord(character) + (0 if character.isalpha() else 256) for character in text]


def _difference(one: list[int], other: list[int]) -> int:
    return next((left - right for left, right in zip_longest(one, other, fillvalue=0) if left != right), 0)
