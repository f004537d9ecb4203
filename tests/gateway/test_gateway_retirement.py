"""The end of a contract when the parameters change: the steps in order, each once, from any point on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gateway_chain import FakeChain, FakeWallet
from gateway_world import KEY, address, terms

from appliance.accounting.gateway_ledger import GatewayLedger, InstanceRow
from appliance.chain.layouts import ProxyData
from appliance.chain.messages import Op
from appliance.chain.signed import payment_from_cell
from appliance.chain.types import AccountState
from appliance.gateway.admission import Checks
from appliance.gateway.book import Book, Sequence
from appliance.gateway.desk import DeskLimits
from appliance.gateway.epoch import Parts, Session
from appliance.gateway.retirement import (
    STEP_VALUE,
    Close,
    Complete,
    Done,
    LastPayout,
    Refund,
    Retirement,
    Wait,
    next_step,
)

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf
    from pathlib import Path

    from appliance.chain.addresses import Address
    from appliance.chain.envelopes import OutgoingMessage


class ClosingChain(FakeChain):
    """The old contract obeys: it closes, and ends when it is told to after its delay."""

    def __init__(self) -> None:
        super().__init__(terms())
        self.absent: set[Address] = set()

    async def account(self, where: Address) -> AccountState:
        state = await super().account(where)
        if where != self.terms.contract:
            status = "absent" if where in self.absent else "active"
            return AccountState(where, status, 0, None, None, 0, bytes(32), state.head)  # type: ignore[arg-type]
        assert state.data is not None
        data = replace(ProxyData.from_cell(state.data), unlock_ts=100)
        return replace(state, data=data.to_cell())


class ClosingWallet(FakeWallet):
    """Executes orders to the old contract."""

    async def transfer(self, messages: SequenceOf[OutgoingMessage]) -> Any:
        done = await super().transfer(messages)
        for operation in self.operations()[-len(messages) :]:
            if operation == Op.PROXY_CLOSE:
                self.chain.status = 1  # type: ignore[attr-defined]
            if operation == Op.PROXY_COMPLETE_CLOSE:
                self.chain.status = 2  # type: ignore[attr-defined]
        return done


def parts(path: Path, chain: ClosingChain) -> Parts:
    ledger = GatewayLedger(path)
    unused: Any = None
    return Parts(
        ledger=ledger,
        session=Session.open(ledger),
        key=KEY,
        chain=chain,
        wallet=ClosingWallet(chain),
        checks=Checks(images=True, models=True),
        evidence=unused,
        limits=DeskLimits(),
        commit_interval=1.0,
        payout_min=1,
        own_evidence=None,
        newer_config=lambda: None,
        sequence=Sequence(ledger.seqno),
        writing=asyncio.Lock(),
    )


def fill(made: Parts, chain: ClosingChain) -> Book:
    """Two clients and three workers with totals on disk; the third worker is paid up."""
    book = made.book(InstanceRow(chain.terms.contract.raw(), 3))
    clients = [
        book.observe_client(
            address(number),
            chain.terms.client_contract(address(number)),
            status=0,
            balance=10**10,
            stake=10**10,
            used=0,
            secret_hash=bytes(32),
        )
        for number in (1, 2)
    ]
    workers = [book.worker(address(number), chain.terms.worker_contract(address(number))) for number in (11, 12, 13)]
    for client, worker, tokens in zip([*clients, clients[0]], workers, (100, 200, 300), strict=True):
        book.charge(client, worker, tokens)
    book.observe_worker(address(13), workers[2].contract, 300)
    batch = book.batch("usage")
    assert batch is not None
    made.ledger.write(batch)
    book.written(batch)
    return book


async def test_the_whole_retirement(tmp_path: Path) -> None:
    chain = ClosingChain()
    made = parts(tmp_path / "gateway.sqlite", chain)
    book = fill(made, chain)
    await Retirement(made, book, wall=lambda: 10.0**9).run()
    wallet = made.wallet
    assert isinstance(wallet, FakeWallet)
    assert wallet.operations() == [
        Op.PROXY_CLOSE,
        Op.CLIENT_GRANT_REFUND,
        Op.CLIENT_GRANT_REFUND,
        Op.WORKER_LAST_PAYOUT,
        Op.WORKER_LAST_PAYOUT,
        Op.PROXY_COMPLETE_CLOSE,
    ]
    assert {message.value for message in wallet.sent} == {STEP_VALUE}
    assert all(message.body is not None for message in wallet.sent)
    totals = [
        payment_from_cell(message.body, op=op).tokens
        for message, op in zip(wallet.sent, wallet.operations(), strict=True)
        if message.body is not None and op in {Op.CLIENT_GRANT_REFUND, Op.WORKER_LAST_PAYOUT}
    ]
    assert totals == [400, 200, 100, 200]
    assert made.ledger.instances()[0].stage == "closed"
    made.ledger.close()


async def test_nothing_unforeseen_ends_a_retirement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = ClosingChain()
    made = parts(tmp_path / "gateway.sqlite", chain)
    retirement = Retirement(made, fill(made, chain), wall=lambda: 10.0**9, retry=0.0)
    advance, failures = retirement.advance, iter([RuntimeError("unforeseen"), KeyError("x")])

    async def failing() -> bool:
        for failure in failures:
            raise failure
        return await advance()

    monkeypatch.setattr(retirement, "advance", failing)
    await retirement.run()
    assert made.ledger.instances()[0].stage == "closed"


@pytest.mark.parametrize("done", range(7))
async def test_a_restart_goes_on_where_it_was(tmp_path: Path, done: int) -> None:
    chain = ClosingChain()
    made = parts(tmp_path / "gateway.sqlite", chain)
    first = Retirement(made, fill(made, chain), wall=lambda: 10.0**9)
    for _ in range(done):
        await first.advance()
    wallet = made.wallet
    assert isinstance(wallet, FakeWallet)
    before = wallet.operations()
    made.ledger.close()
    again = parts(tmp_path / "gateway.sqlite", chain)
    (instance,) = again.ledger.instances()
    await Retirement(again, again.book(instance), wall=lambda: 10.0**9).run()
    assert isinstance(again.wallet, FakeWallet)
    assert len(before) + len(again.wallet.operations()) == 6
    assert again.ledger.instances()[0].stage == "closed"
    again.ledger.close()


async def test_contracts_that_are_not_there_get_no_message(tmp_path: Path) -> None:
    chain = ClosingChain()
    made = parts(tmp_path / "gateway.sqlite", chain)
    book = fill(made, chain)
    chain.absent = {chain.terms.worker_contract(address(11)), chain.terms.client_contract(address(2))}
    await Retirement(made, book, wall=lambda: 10.0**9).run()
    assert isinstance(made.wallet, FakeWallet)
    assert made.wallet.operations().count(Op.WORKER_LAST_PAYOUT) == 1
    assert made.wallet.operations().count(Op.CLIENT_GRANT_REFUND) == 1
    made.ledger.close()


def test_steps_follow_from_the_state() -> None:
    book = Book(InstanceRow("x", 1), sequence=Sequence(0), session=bytes(32), sessions=frozenset())
    worker = book.worker(address(1), address(2))
    assert next_step(book, None, 0, 0.0) == Done()
    assert next_step(book, 2, 0, 0.0) == Done()
    assert next_step(book, 0, 0, 0.0) == Close()
    assert next_step(book, 1, 50, 10.0) == Wait(51.0)
    assert next_step(book, 1, 50, 51.0) == Complete()
    worker.tokens = 5
    assert next_step(book, 1, 50, 99.0) == LastPayout(worker)
    client = book.observe_client(address(3), address(4), status=0, balance=1, stake=1, used=0, secret_hash=bytes(32))
    assert next_step(book, 1, 50, 99.0) == Refund(client)
    book.settle(client)
    book.settle(worker)
    assert next_step(book, 1, 50, 99.0) == Complete()
