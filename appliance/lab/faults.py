"""Runs a program of this project and kills it (SIGKILL) at a durable-write boundary of its ledger.

``python -m appliance.lab.faults --record FILE -- worker run --config worker.toml`` writes the name of each boundary
that is reached, one a line. ``--kill-at N`` kills at the N-th boundary; ``--kill-on NAME`` at the first one of a name,
``NAME*K`` at its K-th. Names are those of :class:`~appliance.accounting.store.Store`:
``<transaction>:before-commit`` and ``:after-commit``. The program itself is the unchanged one: only the hook that its
ledger offers is set, as the tests of single rooms set it.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.accounting.store import Store, no_boundary
from appliance.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(slots=True)
class Plan:
    """When to die, and what to write down before.

    Attributes:
        kill_at: Number of the boundary, from 1; None for none.
        kill_on: Name of the boundary and which of that name, from 1; None for none.
        record: File that gets each name before the program may die there.
    """

    kill_at: int | None = None
    kill_on: tuple[str, int] | None = None
    record: Path | None = None
    _seen: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str) -> None:
        """A boundary is reached."""
        self._seen[name] += 1
        if self.record is not None:
            with self.record.open("a") as handle:
                handle.write(name + "\n")
        if self._seen.total() == self.kill_at or (name, self._seen[name]) == self.kill_on:
            os.kill(os.getpid(), signal.SIGKILL)


def install(plan: Plan) -> None:
    """Let every ledger that this process opens from now on tell ``plan`` its boundaries."""
    opened = Store.__init__

    @functools.wraps(opened)
    def opening(store: Store, path: Path, *, on_boundary: Callable[[str], None] = no_boundary, **rest: Any) -> None:
        def both(name: str) -> None:
            on_boundary(name)
            plan(name)

        opened(store, path, on_boundary=both, **rest)

    setattr(Store, "__init__", opening)  # noqa: B010 - the seam: every ledger of every room is a Store


def occurrence(text: str) -> tuple[str, int]:
    """Read ``NAME`` or ``NAME*K``; raises :class:`argparse.ArgumentTypeError` for anything else."""
    name, star, count = text.partition("*")
    if not name or (star and not (count.isdecimal() and int(count))):
        raise argparse.ArgumentTypeError(f"{text!r} is neither NAME nor NAME*K")
    return name, int(count) if star else 1


def run(arguments: Sequence[str]) -> None:
    """Set the hook and become the command line."""
    parser = argparse.ArgumentParser(prog="python -m appliance.lab.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kill-at", type=int, metavar="N", help="die at the N-th boundary")
    parser.add_argument("--kill-on", type=occurrence, metavar="NAME[*K]", help="die at the K-th boundary of that name")
    parser.add_argument("--record", type=Path, metavar="FILE", help="append each boundary's name")
    parser.add_argument("command", nargs="+", help="a command of chrysalis, after --")
    options = parser.parse_args(arguments)
    install(Plan(options.kill_at, options.kill_on, options.record))
    sys.argv = ["chrysalis", *options.command]
    cli.run()


if __name__ == "__main__":
    run(sys.argv[1:])
