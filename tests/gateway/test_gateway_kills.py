"""A gateway that is killed at each durable-write boundary in turn, and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gateway_killed import Life, read

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The directories of all lives, and the number of the one that was not killed."""
    root = tmp_path_factory.mktemp("lives")
    done = subprocess.run(
        [sys.executable, str(HERE / "gateway_killed.py"), str(root)],
        env={"PYTHONPATH": f"{ROOT}:{HERE}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root, int(done.stdout.split()[-1])


async def test_no_boundary_loses_what_was_told_or_repeats_a_sequence(lives: tuple[Path, int]) -> None:
    root, last = lives
    assert last > 15, "there are fewer durable writes than there should be"
    for number in range(1, last + 1):
        directory = root / str(number)
        told_db, told_signed = _highest(directory, "db"), _highest(directory, "signed")
        life = Life(directory, die_at=None)
        try:
            await life.settlement.start()
            worker = next(iter(life.book.workers), None)
            assert (worker.db if worker else 0) >= told_db, f"life {number} lost acknowledged usage"
            assert (worker.committed if worker else 0) >= told_signed, f"life {number} would sign lower"
            assert life.book.foreign_markers == 0, f"life {number} did not know its own marker"
        finally:
            life.ledger.close()
        again = Life(directory, die_at=None)
        await again.work()
        markers = [tuple(told["marker"]) for told in read(directory) if "marker" in told]  # type: ignore[arg-type]
        by_seqno: dict[int, set[str]] = {}
        for seqno, session in markers:
            by_seqno.setdefault(seqno, set()).add(session)
        assert all(len(sessions) == 1 for sessions in by_seqno.values()), f"life {number} used a sequence twice"
        final = read(directory)[-1]
        assert final["db"] == final["signed"], f"life {number} did not settle in the end"


def _highest(directory: Path, name: str) -> int:
    return max((int(str(told[name])) for told in read(directory) if name in told), default=0)
