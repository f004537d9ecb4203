"""A client that is killed at each durable-write boundary in turn, and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from client_killed import AT, Life, read
from client_world import STAKE, is_top_up

from appliance.accounting.client_ledger import ClientLedger
from appliance.chain.boc import decode_boc

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The directories of all lives, and the number of the one that was not killed."""
    root = tmp_path_factory.mktemp("lives")
    done = subprocess.run(
        [sys.executable, str(HERE / "client_killed.py"), str(root)],
        env={"PYTHONPATH": f"{ROOT}:{HERE}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root, int(done.stdout.split()[-1])


async def test_no_kill_lets_more_out_than_the_disk_knows_or_deposits_twice(lives: tuple[Path, int]) -> None:
    root, last = lives
    assert last > 20, "there are fewer durable writes than there should be"
    for number in range(1, last + 1):
        directory = root / str(number)
        told = read(directory)
        ledger = ClientLedger(directory / "client.sqlite")
        account = ledger.accounts().get(AT.contract)
        ledger.close()
        asked = sum(line.get("asked", 0) for line in told)
        spent = sum(line.get("used", 0) for line in told)
        deposits = _deposits(directory)
        if account is None:
            assert (asked, deposits) == (0, 0), f"life {number} sent something that no disk knows"
            continue
        settled = account.spent_tokens
        assert account.authorized_tokens >= spent, f"life {number} authorised less than was used"
        open_requests = asked - _answered(told)
        assert account.authorized_tokens >= settled + open_requests, f"life {number} let out more than it wrote"
        assert account.topped_up_nanotons >= deposits * STAKE, f"life {number} sent a deposit before it was written"

        # The next life: what was in flight has expired or shows up; then everything is settled once.
        again = Life(directory, die_at=None, age=1)
        await again.work()
        final = ClientLedger(directory / "client.sqlite")
        account = final.accounts()[AT.contract]
        final.close()
        assert _deposits(directory) == 1, f"life {number} deposited more than once"
        assert account.topped_up_nanotons == STAKE
        assert account.deposit is None
        counted = sum(line.get("used", 0) for line in read(directory))
        assert account.spent_tokens == counted, f"life {number} lost or invented usage"
        assert account.signed_tokens <= account.spent_tokens


def _answered(told: list[dict[str, int]]) -> int:
    """What was held for requests whose cost was told."""
    asked = next((line["asked"] for line in told if "asked" in line), 0)
    return asked * sum("used" in line for line in told)


def _deposits(directory: Path) -> int:
    bodies = [line["sent"] for line in read(directory) if "sent" in line]
    return sum(is_top_up(decode_boc(bytes.fromhex(body), max_bytes=4096, max_cells=16)) for body in bodies)
