"""The account book at run time: on disk before it counts, and a disk that fails."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from worker_world import Accounts, make_params, until

from appliance.accounting.errors import LedgerError, PaymentRefusedError, StoreFullError
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.worker_ledger import WorkerLedger
from appliance.wire.messages import ProxySignedPaymentEmpty
from appliance.worker.book import Book

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from appliance.chain.addresses import Address

ACCOUNTS = Accounts(make_params())
RECORD = ProxyRecord(ACCOUNTS.contract, ACCOUNTS.public_key, ACCOUNTS.worker_contract, 1)


@asynccontextmanager
async def running(ledger: WorkerLedger) -> AsyncIterator[Book]:
    book = Book(ledger, retry=0.01)
    task = asyncio.create_task(book.run())
    try:
        yield book
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await book.close()


class FailingLedger(WorkerLedger):
    """A ledger whose disk is full for as long as a test says."""

    full = False
    saves = 0

    def save(self, records: Iterable[ProxyRecord]) -> None:
        self.saves += 1
        if self.full:
            raise StoreFullError("no space left", hint="free some")
        super().save(records)


async def test_kept_means_on_disk(tmp_path: Path) -> None:
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        assert book.durable == {RECORD.contract: RECORD}
        await book.keep(RECORD)
    reopened = WorkerLedger(tmp_path / "w.db")
    assert reopened.records() == {RECORD.contract: RECORD}
    reopened.close()


async def test_what_is_heard_meanwhile_goes_to_disk_together(tmp_path: Path) -> None:
    ledger = FailingLedger(tmp_path / "w.db")
    async with running(ledger) as book:
        await book.keep(RECORD)
        before = ledger.saves
        for tokens in range(1, 200):
            book.hear(RECORD.contract, ACCOUNTS.payment(tokens), (tokens, tokens + 5))
        await book.settled(RECORD.contract)
        assert book.durable[RECORD.contract].counters == Counters(199, 199, 204)
        assert ledger.saves - before < 10


async def test_totals_wait_for_company_and_signed_payments_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.worker.book.GATHER_S", 3600.0)
    ledger = FailingLedger(tmp_path / "w.db")
    async with running(ledger) as book:
        await book.keep(RECORD)
        before = ledger.saves
        book.hear(RECORD.contract, ProxySignedPaymentEmpty(), (1, 2))
        await asyncio.sleep(0.05)
        assert ledger.saves == before
        book.hear(RECORD.contract, ACCOUNTS.payment(1))
        await until(lambda: ledger.saves > before)
        await book.settled(RECORD.contract)
        assert book.durable[RECORD.contract].counters == Counters(1, 1, 2)


async def test_a_repeated_payment_costs_no_signature_check(tmp_path: Path) -> None:
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        payment = ACCOUNTS.payment(5)
        book.hear(RECORD.contract, payment)
        for _ in range(3):
            book.hear(RECORD.contract, payment, (5, 9))
        with pytest.raises(PaymentRefusedError, match="totals went back"):
            book.hear(RECORD.contract, payment, (4, 9))


async def test_a_full_disk_stops_what_must_be_kept_and_heals(tmp_path: Path) -> None:
    ledger = FailingLedger(tmp_path / "w.db")
    async with running(ledger) as book:
        await book.keep(RECORD)
        ledger.full = True
        with pytest.raises(LedgerError, match="no space left"):
            await book.keep(replace(RECORD, counters=Counters(0, 1, 1)))
        assert book.fault == "no space left"
        assert book.durable[RECORD.contract] == RECORD, "nothing is acted on that is not on disk"
        book.hear(RECORD.contract, ACCOUNTS.payment(4))
        ledger.full = False
        await until(lambda: book.fault is None and book.durable[RECORD.contract].counters.committed == 4)


async def test_a_comparison_never_overwrites_what_was_heard_meanwhile(tmp_path: Path) -> None:
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.replace(None, RECORD)
        newer = ACCOUNTS.payment(7)
        book.hear(RECORD.contract, newer, (9, 9))
        with pytest.raises(PaymentRefusedError, match="changed while it was compared"):
            await book.replace(RECORD, replace(RECORD, counters=Counters(0, 1, 1)))
        await book.settled(RECORD.contract)
        known = book.durable[RECORD.contract]
        assert known.payment == newer.data
        await book.replace(known, replace(known, counters=Counters(7, 9, 11)))
        assert book.durable[RECORD.contract].counters == Counters(7, 9, 11)


async def test_the_chain_is_compared_with_the_newest_word(tmp_path: Path) -> None:
    ledger = FailingLedger(tmp_path / "w.db")
    async with running(ledger) as book:
        await book.keep(RECORD)
        newer = ACCOUNTS.payment(7)
        book.hear(RECORD.contract, newer, (9, 9))
        assert await book.level(RECORD.contract, 6) == ()
        (finding,) = await book.level(RECORD.contract, 8)
        assert finding.kind == "disk-behind-chain"
        assert book.durable[RECORD.contract].counters == Counters(8, 9, 9)


async def test_forgotten_is_forgotten(tmp_path: Path) -> None:
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        assert await book.forget(RECORD)
        assert book.durable == {}
        with pytest.raises(PaymentRefusedError, match="closed"):
            book.hear(RECORD.contract, ACCOUNTS.payment(5))
    reopened = WorkerLedger(tmp_path / "w.db")
    assert reopened.records() == {}
    reopened.close()


async def test_what_was_heard_meanwhile_is_not_forgotten(tmp_path: Path) -> None:
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        book.hear(RECORD.contract, ACCOUNTS.payment(5))
        assert not await book.forget(RECORD)
        assert book.durable[RECORD.contract].counters.committed == 5


async def test_an_account_opened_anew_while_the_old_one_leaves_stays(tmp_path: Path) -> None:
    fresh = replace(RECORD, counters=Counters(0, 1, 1))
    async with running(WorkerLedger(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        leaving = asyncio.create_task(book.forget(RECORD))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await book.replace(book.durable.get(RECORD.contract), fresh)
        await leaving
        assert book.durable == {RECORD.contract: fresh}
    reopened = WorkerLedger(tmp_path / "w.db")
    assert reopened.records() == {RECORD.contract: fresh}
    reopened.close()


async def test_a_disk_that_is_full_keeps_an_account_that_was_to_leave(tmp_path: Path) -> None:
    class Stuck(WorkerLedger):
        def forget(self, contract: Address) -> None:
            raise StoreFullError("no space left")

    async with running(Stuck(tmp_path / "w.db")) as book:
        await book.keep(RECORD)
        with pytest.raises(LedgerError, match="no space left"):
            await book.forget(RECORD)
        assert book.durable == {RECORD.contract: RECORD}
        book.hear(RECORD.contract, ACCOUNTS.payment(5))


async def test_what_was_heard_last_is_written_at_the_end(tmp_path: Path) -> None:
    book = Book(WorkerLedger(tmp_path / "w.db"))
    book.take(RECORD)
    await book.close()
    reopened = WorkerLedger(tmp_path / "w.db")
    assert reopened.records() == {RECORD.contract: RECORD}
    reopened.close()
