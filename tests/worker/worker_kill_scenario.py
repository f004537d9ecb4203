"""A worker's money life, killed at every durable-write boundary: run as a program by ``test_worker_kill.py``.

``python worker_kill_scenario.py DIRECTORY`` first lives the life once and writes the boundaries it passes to
``boundaries``; then it forks once for each of them, and the child kills itself with SIGKILL there. Each life writes
what was acknowledged, one JSON line an acknowledgement, to ``NUMBER.acks``, and its ledger to
``NUMBER/worker.sqlite``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from worker_world import Accounts, make_params

from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.worker_ledger import WorkerLedger
from appliance.worker.book import Book

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNTS = Accounts(make_params())
OTHER = Accounts(make_params(2))


def fresh(accounts: Accounts) -> ProxyRecord:
    return ProxyRecord(accounts.contract, accounts.public_key, accounts.worker_contract, accounts.params.params_version)


async def life(directory: Path, acknowledge: Callable[[ProxyRecord], None], boundary: Callable[[str], None]) -> None:
    """Handshakes, payments, a payout, a gateway that is done with."""
    book = Book(WorkerLedger(directory / "worker.sqlite", on_boundary=boundary))
    writer = asyncio.create_task(book.run())

    async def heard(accounts: Accounts) -> None:
        await book.settled(accounts.contract)
        acknowledge(book.durable[accounts.contract])

    await book.keep(fresh(OTHER))
    acknowledge(book.durable[OTHER.contract])
    await book.keep(fresh(ACCOUNTS))
    acknowledge(book.durable[ACCOUNTS.contract])
    for committed, db, maximum in ((0, 40, 60), (100, 120, 150), (100, 150, 151), (300, 300, 310)):
        book.hear(ACCOUNTS.contract, ACCOUNTS.payment(committed), (db, maximum))
        await heard(ACCOUNTS)
    await book.keep(book.requested(ACCOUNTS.contract, 300, 2**63 + 5, 1_700_000_000))
    acknowledge(book.durable[ACCOUNTS.contract])
    await book.forget(book.durable[OTHER.contract])
    lost = book.durable[ACCOUNTS.contract]
    await book.keep(replace(lost, counters=Counters(400, 400, 410), payment=ACCOUNTS.payment(400).data))
    acknowledge(book.durable[ACCOUNTS.contract])
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await book.close()


def live(root: Path, name: str, boundary: Callable[[str], None]) -> None:
    directory = root / name
    directory.mkdir()
    acks = os.open(root / f"{name}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def acknowledge(record: ProxyRecord) -> None:
        totals = record.counters
        line = [record.contract.raw(), totals.committed, totals.db, totals.max, record.requested]
        os.write(acks, json.dumps(line).encode() + b"\n")

    asyncio.run(life(directory, acknowledge, boundary))


def main(root: Path) -> None:
    passed: list[str] = []
    live(root, "whole", passed.append)
    for number in range(len(passed)):
        child = os.fork()
        if child == 0:
            count = 0

            def die(_boundary: str, number: int = number) -> None:
                nonlocal count
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

            live(root, str(number), die)
            os._exit(3)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"life {number} was not killed at {passed[number]}: status {status}")
    (root / "boundaries").write_text("\n".join(passed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
