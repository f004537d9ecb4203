"""A kill at any durable-write boundary loses nothing that was acknowledged (design, principle 6)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from worker_kill_scenario import ACCOUNTS, OTHER, life

from appliance.accounting.worker_ledger import WorkerLedger
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment

if TYPE_CHECKING:
    from appliance.accounting.records import ProxyRecord
    from appliance.chain.addresses import Address

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lives")
    environment = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    done = subprocess.run(
        [sys.executable, str(HERE / "worker_kill_scenario.py"), str(root)],
        env=environment, check=False, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root


def reopened(directory: Path) -> dict[Address, ProxyRecord]:
    ledger = WorkerLedger(directory / "worker.sqlite")
    records = ledger.records()
    ledger.close()
    return records


def test_every_boundary_was_tried(lives: Path) -> None:
    boundaries = (lives / "boundaries").read_text().splitlines()
    names = {boundary.rpartition(":")[0] for boundary in boundaries}
    assert names == {"migration-1", "migration-2", "count-open", "record", "forget"}
    assert len(boundaries) >= 24
    assert all((lives / str(number)).is_dir() for number in range(len(boundaries)))


def test_nothing_acknowledged_is_lost_at_any_of_them(lives: Path) -> None:
    boundaries = (lives / "boundaries").read_text().splitlines()
    for number, boundary in enumerate(boundaries):
        records = reopened(lives / str(number))
        seen: dict[str, list[int]] = {}
        for line in (lives / f"{number}.acks").read_text().splitlines():
            contract, *totals = json.loads(line)
            before = seen.get(contract, [0, 0, 0, 0])
            assert all(new >= old for new, old in zip(totals, before, strict=True)), "totals never go down"
            seen[contract] = totals
        for contract, acknowledged in seen.items():
            found = [record for address, record in records.items() if address.raw() == contract]
            if not found:
                # Only the gateway that the life forgets may be gone, and only once that was committed.
                assert contract == OTHER.contract.raw()
                assert number >= boundaries.index("forget:after-commit")
                continue
            record = found[0]
            kept = [record.counters.committed, record.counters.db, record.counters.max, record.requested]
            assert all(have >= said for have, said in zip(kept, acknowledged, strict=True)), (boundary, kept)
        for record in records.values():
            if record.payment is not None:
                payment = parse_payment(record.payment, op=Op.WORKER_PAYOUT)
                payment.verify(record.public_key, record.worker_contract)
                assert payment.tokens == record.counters.committed, "the newest payment is kept whole"


def test_after_a_commit_what_it_wrote_is_there(lives: Path) -> None:
    """The control: each after-commit kill shows one record more than its before-commit kill acknowledged."""
    boundaries = (lives / "boundaries").read_text().splitlines()
    changed = 0
    for number, boundary in enumerate(boundaries):
        if boundary == "record:before-commit" and boundaries[number + 1] == "record:after-commit":
            before, after = reopened(lives / str(number)), reopened(lives / str(number + 1))
            changed += before != after
    assert changed >= 7


async def test_a_killed_life_goes_on_after_a_restart(lives: Path) -> None:
    count = len((lives / "boundaries").read_text().splitlines())
    for number in range(0, count, 3):
        known = reopened(lives / str(number)).get(ACCOUNTS.contract)
        if known is not None and known.counters.db > 0:
            continue  # the scripted life begins at zero, which such a record rightly refuses
        acks: list[ProxyRecord] = []
        await life(lives / str(number), acks.append, lambda _boundary: None)
        assert acks[-1].counters.max == 410
        await asyncio.sleep(0)
    whole = reopened(lives / "whole")
    assert set(whole) == {ACCOUNTS.contract}
    assert whole[ACCOUNTS.contract].counters.committed == 400
