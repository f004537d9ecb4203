"""What a long preparation tells whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a preparation.

    Attributes:
        step: What is being done, for a person: ``packages``, ``convert weights``.
        done: Units done so far in this step.
        total: Units of the whole step; 0 when that is not known.
        unit: ``bytes``, ``packages`` or ``steps``.
        detail: The package, file or reason that this report is about; may be empty.
    """

    step: str
    done: int
    total: int
    unit: str
    detail: str = ""


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The callback of those who do not watch."""
