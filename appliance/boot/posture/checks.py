"""A named check of the machine: what was seen, what was expected. The pure half of the posture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class PostureCheck:
    """One thing that holds or does not.

    Attributes:
        name: A short name, as in the table of ``docs/security.md``.
        passed: Whether it holds.
        seen: What is there.
        expected: What should be.
        hint: What to do where it does not hold.
    """

    name: str
    passed: bool
    seen: str
    expected: str
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def equal(name: str, seen: str | None, expected: str, hint: str = "") -> PostureCheck:
    """A value that has to be exactly that; None where it cannot be read."""
    return PostureCheck(name, seen == expected, "unreadable" if seen is None else shown(seen), shown(expected), hint)


def within(name: str, seen: Iterable[str], allowed: Iterable[str], hint: str = "") -> PostureCheck:
    """Things of which none may be there that is not allowed."""
    permitted = set(allowed)
    found = sorted(set(seen))
    extra = [item for item in found if item not in permitted]
    text = ", ".join(extra or found) or "none"
    return PostureCheck(
        name, not extra, shown(text), shown("only " + ", ".join(sorted(permitted)) if permitted else "none"), hint
    )


def none(name: str, seen: Iterable[str], hint: str = "") -> PostureCheck:
    """Things of which there may be none."""
    return within(name, seen, (), hint)


def shown(text: str) -> str:
    """A value as it is shown: bounded."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
