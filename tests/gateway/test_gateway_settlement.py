"""Money over time: what is written, marked, signed, and what a restart or an old backup makes of it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from gateway_chain import FakeChain, FakeWallet
from gateway_world import KEY, STAKE, WALLET, address, terms

from appliance.accounting.errors import LedgerError
from appliance.accounting.gateway_ledger import GatewayLedger, InstanceRow
from appliance.chain.errors import FundsError
from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.gateway.book import Book, Sequence
from appliance.gateway.contract_events import MarkerSeen, event_of, marker_body
from appliance.gateway.epoch import Session
from appliance.gateway.errors import SettlementError
from appliance.gateway.payments import Payments
from appliance.gateway.settlement import Settlement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.accounting.gateway_ledger import Batch
    from appliance.chain.types import Transaction
    from appliance.gateway.contract_events import Event

CLIENT, WORKER = 1, 2


class Money:
    """Ledger, book and settlement over one chain; ``restart`` makes them anew from disk."""

    def __init__(self, path: Path, chain: FakeChain) -> None:
        self.path = path
        self.chain = chain
        self.wallet = FakeWallet(chain)
        self.events: list[Event] = []
        self.trouble: list[str | None] = []
        self.now = 0.0
        self.open()

    def open(self) -> None:
        self.ledger = GatewayLedger(self.path)
        session = Session.open(self.ledger)
        contract = self.chain.terms.contract.raw()
        known = {row.contract: row for row in self.ledger.instances()}
        self.book = Book(
            known.get(contract, InstanceRow(contract, 3)),
            sequence=Sequence(self.ledger.seqno),
            session=session.hash,
            sessions=session.known,
            workers=self.ledger.workers(contract),
            clients=self.ledger.clients(contract),
        )
        self.payments = Payments(KEY, WALLET)
        self.settlement = Settlement(
            self.ledger,
            self.book,
            self.chain.terms,
            self.payments,
            self.chain,
            self.wallet,
            heard=self.events.append,
            trouble=self.trouble.append,
            monotonic=lambda: self.now,
            commit_interval=0.01,
            payout_min=STAKE,
        )

    def restart(self, backup: Path | None = None) -> None:
        self.ledger.close()
        if backup is not None:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            shutil.copy(backup, self.path)
        self.open()

    @property
    def worker(self) -> Any:
        owner = address(2000 + WORKER)
        return self.book.worker(owner, self.chain.terms.worker_contract(owner))

    @property
    def client(self) -> Any:
        return self.book.client(address(1000 + CLIENT))

    def signed(self) -> int:
        payment = parse_payment(self.payments.worker(self.worker).data, op=Op.WORKER_PAYOUT)
        payment.verify(KEY.public_key().public_bytes_raw(), self.worker.contract)
        return payment.tokens

    async def confirm(self) -> None:
        await self.settlement.mark()
        await self.settlement._read_contract()


@pytest.fixture
def money(tmp_path: Path) -> Iterator[Money]:
    chain = FakeChain(terms())
    chain.client_request(CLIENT)
    made = Money(tmp_path / "gateway.sqlite", chain)
    yield made
    made.ledger.close()


async def test_the_three_counters_move_one_after_another(money: Money) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 500)
    assert (money.worker.tokens, money.worker.db, money.worker.committed) == (500, 0, 0)
    await money.settlement.commit()
    assert (money.worker.tokens, money.worker.db, money.worker.committed) == (500, 500, 0)
    assert money.signed() == 0
    await money.settlement.mark()
    money.book.charge(money.client, money.worker, 70)
    assert money.signed() == 0
    await money.settlement._read_contract()
    assert (money.worker.tokens, money.worker.db, money.worker.committed) == (570, 570, 500)
    assert money.signed() == 500
    assert money.client.committed == 500


async def test_a_restart_goes_on_where_the_disk_is(money: Money) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 500)
    await money.confirm()
    money.book.charge(money.client, money.worker, 70)
    await money.settlement.commit()
    money.book.charge(money.client, money.worker, 9)
    before = money.payments.worker(money.worker)
    seqno = money.book.seqno
    money.restart()
    await money.settlement.start()
    assert (money.worker.tokens, money.worker.db, money.worker.committed) == (570, 570, 500)
    assert money.payments.worker(money.worker) == before
    assert money.book.foreign_markers == 0
    money.book.charge(money.client, money.worker, 1)
    await money.settlement.commit()
    assert money.book.seqno > seqno


async def test_a_marker_that_was_on_its_way_is_not_made_anew(money: Money) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 500)
    money.wallet.lost = True
    await money.settlement.mark()
    first = money.wallet.sent[-1].body
    money.restart()
    money.wallet.lost = False
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 5)
    await money.settlement.mark()
    assert money.wallet.sent[-1].body.hash == first.hash  # type: ignore[union-attr]
    await money.settlement._read_contract()
    assert money.signed() == 500


async def test_an_old_backup_never_repeats_a_sequence_and_learns_what_was_paid(money: Money, tmp_path: Path) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 100)
    await money.confirm()
    money.ledger.backup(tmp_path / "old.sqlite")
    used = set()
    for _ in range(3):
        money.book.charge(money.client, money.worker, 300)
        await money.confirm()
        used.add(money.book.seqno)
    assert money.signed() == 1000
    money.chain.worker_request(WORKER, 1000)
    money.chain.client_request(CLIENT, used=900)

    money.restart(tmp_path / "old.sqlite")
    await money.settlement.start()
    assert money.book.foreign_markers == 3
    assert money.worker.tokens == money.worker.committed == 1000
    assert money.client.tokens == 900
    assert money.signed() == 1000
    money.book.charge(money.client, money.worker, 1)
    await money.confirm()
    assert money.book.seqno > max(used)
    markers = [
        event
        for transaction in money.chain.found
        if isinstance(event := event_of(transaction, money.chain.terms, WALLET), MarkerSeen)
    ]
    assert len({marker.seqno for marker in markers}) == len(markers) == 5
    assert money.signed() == 1001


async def test_what_a_payout_on_chain_proves_lifts_the_account(money: Money) -> None:
    await money.settlement.start()
    money.chain.worker_request(WORKER, 77)
    await money.settlement._read_contract()
    assert money.signed() == 77


async def test_only_messages_of_the_derived_contracts_count(money: Money) -> None:
    await money.settlement.start()
    stranger = address(5)
    money.chain.client_request(3, source=stranger)
    money.chain.worker_request(WORKER, 10**6, source=stranger)
    money.chain.happen(stranger, marker_body(99, bytes(32), 1))
    money.chain.happen(WALLET, marker_body(98, bytes(32), 1), bounced=True)
    money.chain.worker_request(WORKER, 10**6, aborted=True)
    await money.settlement._read_contract()
    assert money.book.client(address(1003)) is None
    assert money.worker.tokens == 0
    assert money.book.foreign_markers == 0
    # Controls: the same from the right sender.
    money.chain.client_request(3)
    money.chain.worker_request(WORKER, 10**6)
    money.chain.happen(WALLET, marker_body(99, bytes(32), 1))
    await money.settlement._read_contract()
    assert money.book.client(address(1003)) is not None
    assert money.worker.tokens == 10**6
    assert money.book.foreign_markers == 1


async def test_registrations_are_handed_on_after_they_are_on_disk(money: Money) -> None:
    await money.settlement.start()
    money.events.clear()
    money.chain.client_request(CLIENT, nonce=2**64 - 3)
    await money.settlement._read_contract()
    (event,) = money.events
    assert event.nonce == 2**64 - 3  # type: ignore[union-attr]
    assert money.ledger.instances()[0].last_lt == money.chain.found[-1].lt


async def test_payouts_are_sent_once_when_they_are_worth_it(money: Money) -> None:
    await money.settlement.start()
    # 15 nanotons a token for the worker, 20 from the client: 10 TON are due at 666 666 667 and 500 000 000 tokens.
    money.book.charge(money.client, money.worker, 600_000_000)
    await money.confirm()
    await money.settlement._pay_out()
    assert money.wallet.operations().count(Op.CLIENT_CHARGE) == 1
    assert money.wallet.operations().count(Op.WORKER_PAYOUT) == 0
    money.book.charge(money.client, money.worker, 100_000_000)
    await money.confirm()
    await money.settlement._pay_out()
    await money.settlement._pay_out()
    assert money.wallet.operations().count(Op.WORKER_PAYOUT) == 1
    money.chain.balance = STAKE
    money.now += 10.0
    await money.settlement._pay_out()
    await money.settlement._pay_out()
    assert money.wallet.operations().count(Op.PROXY_PAYOUT) == 1
    assert money.wallet.operations().count(Op.WORKER_PAYOUT) == 1


async def test_payouts_of_an_empty_wallet_are_sent_when_it_is_funded(
    money: Money, monkeypatch: pytest.MonkeyPatch
) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 700_000_000)
    await money.confirm()

    async def empty(_messages: object) -> None:
        raise FundsError("the wallet is empty", balance=0, needed=1, hint="send 2 TON to it")

    with monkeypatch.context() as patch:
        patch.setattr(money.wallet, "transfer", empty)
        with pytest.raises(FundsError):
            await money.settlement._pay_out()
    await money.settlement._pay_out()
    await money.settlement._pay_out()
    assert money.wallet.operations().count(Op.WORKER_PAYOUT) == 1
    assert money.wallet.operations().count(Op.CLIENT_CHARGE) == 1


async def test_a_missing_contract_is_deployed_first(tmp_path: Path) -> None:
    chain = FakeChain(terms())
    chain.deployed = False
    money = Money(tmp_path / "gateway.sqlite", chain)
    sending = money.wallet.transfer
    known: list[str] = []

    async def transfer(messages: Any) -> Any:
        known.extend(row.contract for row in money.ledger.instances())
        return await sending(messages)

    money.wallet.transfer = transfer  # type: ignore[method-assign]  # to look at the disk at that moment
    await money.settlement.start()
    assert known == [chain.terms.contract.raw()], "a kill from here on loses no stake"
    (message,) = money.wallet.sent
    assert message.init is not None
    assert message.init.address() == chain.terms.contract
    money.ledger.close()


async def test_a_contract_that_was_closed_is_not_worked_for(tmp_path: Path) -> None:
    chain = FakeChain(terms())
    chain.status = 1
    money = Money(tmp_path / "gateway.sqlite", chain)
    with pytest.raises(SettlementError, match="state 1"):
        await money.settlement.start()
    chain.status = 0
    await money.settlement.start()
    money.ledger.close()


async def test_a_ledger_that_cannot_be_written_is_told_and_tried_again(
    money: Money, monkeypatch: pytest.MonkeyPatch
) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 5)

    def full(_batch: object) -> None:
        raise LedgerError("no space left", hint="make room")

    with monkeypatch.context() as patch:
        patch.setattr(money.ledger, "write", full)
        with pytest.raises(LedgerError):
            await money.settlement.commit()
    assert "no space left" in str(money.trouble[-1])
    assert money.worker.db == 0
    await money.settlement.commit()
    assert money.trouble[-1] is None
    assert money.worker.db == 5


async def test_a_write_that_was_begun_ends_before_the_next_one(money: Money, monkeypatch: pytest.MonkeyPatch) -> None:
    await money.settlement.start()
    money.book.charge(money.client, money.worker, 5)
    begun, go_on = threading.Event(), threading.Event()
    write, written = money.ledger.write, []

    def slow(batch: Batch) -> None:
        begun.set()
        go_on.wait(10)
        write(batch)
        written.append(batch.seqno)

    monkeypatch.setattr(money.ledger, "write", slow)
    first = asyncio.create_task(money.settlement.commit())
    await asyncio.to_thread(begun.wait, 10)
    first.cancel()
    second = asyncio.create_task(money.settlement.commit())
    await asyncio.sleep(0.05)
    assert not first.done(), "a thread cannot be called back"
    go_on.set()
    await asyncio.wait((first, second))
    assert first.cancelled()
    assert written == sorted(written)
    assert len(written) == 2
    assert money.worker.db == 5


async def test_a_registration_heard_while_the_disk_is_full_is_handed_on_later(
    money: Money, monkeypatch: pytest.MonkeyPatch
) -> None:
    await money.settlement.start()
    money.events.clear()

    def full(_batch: object) -> None:
        raise LedgerError("no space left", hint="make room")

    money.chain.client_request(CLIENT, nonce=77)
    with monkeypatch.context() as patch:
        patch.setattr(money.ledger, "write", full)
        with pytest.raises(LedgerError):
            await money.settlement._read_contract()
    assert money.events == []
    await money.settlement._read_contract()
    await money.settlement._read_contract()
    assert [getattr(event, "nonce", None) for event in money.events] == [77]


async def test_a_transaction_nobody_understands_stops_nothing(money: Money, monkeypatch: pytest.MonkeyPatch) -> None:
    await money.settlement.start()
    odd = money.chain.worker_request(WORKER, 10)
    money.chain.worker_request(WORKER, 11)

    def event(transaction: Transaction, *rest: Any) -> Event | None:
        if transaction is odd:
            raise RuntimeError("unforeseen")
        return event_of(transaction, *rest)

    monkeypatch.setattr("appliance.gateway.settlement.event_of", event)
    await money.settlement._read_contract()
    assert money.worker.tokens == 11


def test_a_used_sequence_number_is_refused_by_the_file(money: Money) -> None:
    money.book.observe_worker(address(9), address(10), 5)
    batch = money.book.batch("usage")
    assert batch is not None
    money.ledger.write(batch)
    with pytest.raises(LedgerError, match="expected more than"):
        money.ledger.write(batch)


def test_payments_of_equal_totals_are_equal_messages() -> None:
    one, other = Payments(KEY, WALLET), Payments(KEY, WALLET)
    contract = address(1)
    assert one.sign(Op.WORKER_PAYOUT, 5, contract).to_boc() == other.sign(Op.WORKER_PAYOUT, 5, contract).to_boc()
    assert one.sign(Op.WORKER_PAYOUT, 6, contract).query_id != one.sign(Op.WORKER_PAYOUT, 5, contract).query_id
    own = one.sign(Op.WORKER_PAYOUT, 5, contract).to_boc()
    assert one.proven_by(own, contract) == 5
    assert one.proven_by(own, address(2)) is None
    assert one.proven_by(own[:-1], contract) is None
    assert one.proven_by(one.sign(Op.CLIENT_CHARGE, 5, contract).to_boc(), contract) is None
