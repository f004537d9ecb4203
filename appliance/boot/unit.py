"""The frame of a guest's program that systemd runs: what it says when it ends, and what it never says.

In: the program's work. Out: the exit status. Our own errors are written to the journal; the text of an unforeseen one
may hold content of a request, so the journal gets its kind only.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable


def run_unit(name: str, work: Callable[[], None]) -> int:
    """Run a unit's work to its end.

    Args:
        name: What the journal calls the program.
        work: What it does.

    Returns:
        The exit status: 0, or 1 after an error.
    """
    try:
        work()
    except ChrysalisError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    except Exception as error:  # noqa: BLE001 - the last frame: without it Python would print the text
        sys.stderr.write(f"{name} ended with {type(error).__name__}\n")
        return 1
    return 0
