"""What the client does on chain: stake, secret, charges, refunds; and that no crash deposits twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from client_world import (
    PRICE,
    ROOT,
    STAKE,
    TON,
    WALLET,
    FakeChain,
    FakeWallet,
    Ticks,
    charge,
    client_data,
    code,
    connected,
    random_id,
    root_params,
    root_state,
    terms,
    used,
)

from appliance.accounting.client_ledger import ClientAccount, ClientLedger, Deposit
from appliance.chain.cells import Reader
from appliance.chain.errors import ChainUnavailableError, FundsError, NotConfirmedError
from appliance.chain.layouts import ClientData
from appliance.chain.messages import ClientTopUp, Op
from appliance.chain.signed import parse_payment
from appliance.client import duties as module
from appliance.client.duties import EXPIRY_MARGIN_S, MESSAGE_VALID_S, RESEND_S, Duties
from appliance.client.errors import BudgetError, GatewayRefusedError
from appliance.client.handshake import Self, check
from appliance.client.money import Purse
from appliance.client.refunds import Refunds
from appliance.client.request import Limits, prepare
from appliance.client.stake import RefundStage, charge_due, grace_s, refund_stage, top_up_amount
from appliance.wire.messages import ClientProxyConnectionAuthLong

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT = terms()
EIGHTH = STAKE // PRICE // 8
"""Tokens that are worth an eighth of the stake."""
HUGE = prepare(
    "POST", "/v1/completions", b'{"model":"m","prompt":"x","max_tokens":1000000000}', Limits(4000, 100, 20.0), salt="aa"
)


class Desk:
    """Duties with a chain and a wallet."""

    def __init__(self, directory: Path, *, budget: int | None = None) -> None:
        self.directory = directory
        self.chain = FakeChain()
        self.wallet = FakeWallet(self.chain, AT)
        self.clock = Ticks()
        self.budget = budget
        self.restart()

    def restart(self) -> None:
        """As after a kill: what was not on disk is gone."""
        if hasattr(self, "purse"):
            self.purse._ledger.close()
        self.purse = Purse(ClientLedger(self.directory / "client.sqlite"), budget=self.budget, clock=self.clock)
        self.duties = Duties(
            self.chain,
            self.wallet,
            self.purse,
            secret=b"a secret that the client keeps",
            top_up=TON,
            clock=lambda: float(self.chain.utime),
            monotonic=self.clock,
        )
        self.refunds = Refunds(self.chain, self.wallet, self.purse, monotonic=self.clock)

    def deployed(self, **changes: Any) -> None:
        self.chain.put(AT.client_contract, client_data(AT, **changes))
        self.purse.opened(AT, None, 0)

    def spend(self, tokens: int, *, signed: int = 0) -> None:
        request = random_id()
        self.purse.reserve(AT, request, HUGE)
        self.purse.settle(request, used(tokens, 0))
        if signed:
            self.purse.charged(AT, parse_payment(charge(signed).data, op=Op.CLIENT_CHARGE))

    @property
    def account(self) -> ClientAccount:
        found = self.purse.account(AT.contract)
        assert found is not None
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.purse._ledger.close()


# The contract ---------------------------------------------------------------------------------------------------------


async def test_a_new_contract_is_deployed_with_stake_and_secret(desk: Desk) -> None:
    assert await desk.duties.prepare(AT)
    (message,) = desk.wallet.sent
    assert message.destination == AT.client_contract
    assert message.init is not None
    assert message.init.address() == AT.client_contract
    assert message.value == STAKE + module.DEPLOY_NANOTONS + module.ATTACHED_NANOTONS
    assert desk.wallet.operations() == [Op.CLIENT_CHANGE_SECRET_AND_TOP_UP]
    assert not await desk.duties.prepare(AT)
    assert len(desk.wallet.sent) == 1
    assert (desk.account.deposit, desk.account.topped_up_nanotons) == (None, STAKE)


async def test_a_stake_over_the_budget_is_not_sent(tmp_path: Path) -> None:
    desk = Desk(tmp_path, budget=STAKE - 1)
    with pytest.raises(BudgetError, match=str(STAKE)):
        await desk.duties.prepare(AT)
    assert not desk.wallet.sent
    desk.budget = STAKE
    desk.restart()
    assert await desk.duties.prepare(AT)
    desk.purse.close()


@pytest.mark.parametrize(("state", "name"), [(1, "closing"), (2, "closed")])
async def test_a_closing_contract_is_refused(desk: Desk, state: int, name: str) -> None:
    desk.deployed(state=state)
    with pytest.raises(GatewayRefusedError, match=name):
        await desk.duties.prepare(AT)
    desk.deployed()
    assert not await desk.duties.prepare(AT)


async def test_a_foreign_secret_is_fixed_once_a_minute(desk: Desk) -> None:
    desk.deployed(secret=b"another")
    desk.wallet.when = "sent"
    await desk.duties.maintain(AT)
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_CHANGE_SECRET], "it may still be on its way"
    desk.clock.now += RESEND_S
    desk.wallet.when = "now"
    await desk.duties.maintain(AT)
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_CHANGE_SECRET] * 2


@pytest.mark.parametrize("nonce", [5, -5, -(2**63), 2**63 - 1])
async def test_a_registration_carries_the_nonce_as_the_contract_reads_it(desk: Desk, nonce: int) -> None:
    answer = connected(AT, auth=ClientProxyConnectionAuthLong(nonce))
    found = check(answer, Self(ROOT, WALLET, b"s", True, False), root_state())
    assert not found.short
    await desk.duties.register(found)
    (message,) = desk.wallet.sent
    assert message.body is not None
    reader = Reader(message.body, "register")
    assert (reader.uint(32), reader.uint(64) >= 0, reader.uint(64)) == (Op.CLIENT_REGISTER, True, nonce % 2**64)


# Charges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "signed", "on_chain", "due"),
    [
        (4 * EIGHTH + 8, 4 * EIGHTH, 0, True),
        (4 * EIGHTH, 4 * EIGHTH, 0, False),
        (4 * EIGHTH + 8, EIGHTH, 0, False),
        (9 * EIGHTH, 9 * EIGHTH, 5 * EIGHTH, False),
        (9 * EIGHTH, 5 * EIGHTH, 3 * EIGHTH, True),
    ],
)
def test_a_charge_is_put_on_chain_when_it_is_worth_it(spent: int, signed: int, on_chain: int, due: bool) -> None:
    account = ClientAccount(
        AT.contract, AT.public_key, AT.client_contract, 3, PRICE, signed, b"x", spent, spent * PRICE, spent
    )
    data = client_data(AT, tokens_used=on_chain)
    assert charge_due(data, account) is due
    assert not charge_due(data, replace(account, payment=None))


async def test_a_charge_is_sent_once_while_it_is_on_its_way(desk: Desk) -> None:
    desk.deployed(balance=10 * STAKE)
    desk.spend(6 * EIGHTH, signed=5 * EIGHTH)
    await desk.duties.maintain(AT)
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_CHARGE]
    body = desk.wallet.sent[0].body
    assert body is not None
    signed = parse_payment(charge(5 * EIGHTH).data, op=Op.CLIENT_CHARGE)
    assert body.hash == signed.with_excesses(WALLET).to_cell().hash


# Top-ups --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "spent", "room", "amount"),
    [
        (STAKE, 0, None, 0),
        (STAKE // 2, 0, None, 0),
        (STAKE // 2 - 1, 0, None, STAKE),
        (STAKE, 4 * EIGHTH, None, 0),
        (STAKE, 4 * EIGHTH + 1, None, STAKE),
        (0, 0, STAKE, STAKE),
        (0, 0, STAKE // 2, STAKE // 2),
        (0, 0, STAKE // 4 - 1, 0),
        (0, 0, 0, 0),
    ],
)
def test_how_much_is_deposited(balance: int, spent: int, room: int | None, amount: int) -> None:
    account = ClientAccount(
        AT.contract, AT.public_key, AT.client_contract, 3, PRICE, 0, None, spent, spent * PRICE, spent
    )
    assert top_up_amount(client_data(AT, balance=balance), account, top_up=TON, room=room) == amount
    assert top_up_amount(client_data(AT, balance=balance, state=1), account, top_up=TON, room=room) == 0
    more = 3 * STAKE if amount == STAKE and room is None else amount
    assert top_up_amount(client_data(AT, balance=balance), account, top_up=3 * STAKE, room=room) == more


@pytest.mark.parametrize("when", ["sent", "lost"])
async def test_nothing_is_deposited_twice_while_the_first_may_still_arrive(desk: Desk, when: str) -> None:
    desk.deployed(balance=0)
    desk.wallet.when = when
    await desk.duties.maintain(AT)
    await desk.duties.maintain(AT)
    desk.restart()
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_TOP_UP]
    assert desk.account.deposit is not None
    desk.chain.utime += MESSAGE_VALID_S + EXPIRY_MARGIN_S
    await desk.duties.maintain(AT)
    assert len(desk.wallet.sent) == 1, "the last second of its life is not over"
    desk.chain.utime += 1
    desk.wallet.when = "now"
    await desk.duties.maintain(AT)
    # What the wallet has sent will arrive; what it never sent is sent now.
    assert len(desk.wallet.sent) == (1 if when == "sent" else 2)
    if when == "sent":
        desk.wallet.arrive(desk.wallet.sent[0])
    await desk.duties.maintain(AT)
    assert (desk.account.deposit, desk.account.topped_up_nanotons) == (None, STAKE)
    assert ClientData.from_cell(desk.chain.accounts[AT.client_contract][0]).balance == STAKE  # type: ignore[arg-type]


async def test_a_deposit_that_the_contract_refused_is_made_again(desk: Desk) -> None:
    desk.deployed(balance=0)
    desk.wallet.when = "sent"
    await desk.duties.maintain(AT)
    desk.wallet.arrive(desk.wallet.sent[0], aborted=True)
    desk.wallet.when = "now"
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_TOP_UP] * 2
    await desk.duties.maintain(AT)
    assert desk.account.topped_up_nanotons == STAKE


async def test_somebody_elses_top_up_is_not_taken_for_ours(desk: Desk) -> None:
    desk.deployed(balance=0)
    desk.wallet.when = "sent"
    await desk.duties.maintain(AT)
    assert desk.account.deposit is not None
    desk.chain.happen(AT.client_contract, ClientTopUp(1, STAKE, WALLET).to_cell())
    desk.chain.happen(AT.client_contract, code(1))
    await desk.duties.maintain(AT)
    assert desk.account.deposit is not None


async def test_an_empty_wallet_says_so_and_writes_nothing(desk: Desk) -> None:
    desk.deployed(balance=0)
    desk.wallet.fails = FundsError("the wallet holds 0 TON", balance=0, needed=STAKE, hint="send it some")
    with pytest.raises(FundsError):
        await desk.duties.maintain(AT)
    assert desk.account.deposit is None
    desk.wallet.fails = None
    await desk.duties.maintain(AT)
    assert desk.wallet.operations() == [Op.CLIENT_TOP_UP]


async def test_a_deployment_whose_end_was_not_seen_is_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOW_UP_S", 0.05)

    async def unseen(messages: Any) -> None:
        desk.wallet.sent.extend(messages)
        raise NotConfirmedError("expired unseen")

    with monkeypatch.context() as patch:
        patch.setattr(desk.wallet, "transfer", unseen)
        with pytest.raises(NotConfirmedError):
            await desk.duties.prepare(AT)
    desk.restart()
    with pytest.raises(module.ChainTimeoutError, match="not on chain"):
        await desk.duties.prepare(AT)
    assert len(desk.wallet.sent) == 1
    desk.wallet.arrive(desk.wallet.sent[0])
    assert not await desk.duties.prepare(AT)
    assert len(desk.wallet.sent) == 1
    assert desk.account.topped_up_nanotons == STAKE


async def test_the_budget_bounds_what_stands_at_gateways(tmp_path: Path) -> None:
    desk = Desk(tmp_path, budget=STAKE + STAKE // 2)
    await desk.duties.prepare(AT)
    for _ in range(3):
        desk.chain.put(AT.client_contract, client_data(AT, balance=0))
        await desk.duties.maintain(AT)
        await desk.duties.maintain(AT)
    assert desk.account.topped_up_nanotons == STAKE + STAKE // 2
    desk.purse.close()


def test_due_looks_at_what_was_used_without_asking_the_chain(desk: Desk) -> None:
    assert desk.duties.due(AT)
    desk.deployed()
    desk.duties._seen[AT.contract] = (0, STAKE)
    assert not desk.duties.due(AT)
    desk.spend(2 * EIGHTH)
    assert not desk.duties.due(AT)
    desk.spend(1)
    assert desk.duties.due(AT)


# Refunds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "stage"),
    [
        (None, RefundStage.DONE),
        (client_data(AT), RefundStage.REQUEST),
        (client_data(AT, state=1, unlock_ts=1001), RefundStage.WAIT),
        (client_data(AT, state=1, unlock_ts=1000), RefundStage.FINISH),
        (client_data(AT, state=2), RefundStage.DONE),
    ],
)
def test_what_a_refund_needs_next(data: ClientData | None, stage: RefundStage) -> None:
    assert refund_stage(data, 1000) is stage


async def test_a_refund_takes_two_requests_around_the_unlock_time(desk: Desk) -> None:
    desk.deployed()
    first = await desk.refunds.step(desk.account)
    assert (first.stage, first.sent, first.balance) == (RefundStage.REQUEST, True, STAKE)
    waiting = await desk.refunds.step(desk.account)
    assert (waiting.stage, waiting.sent, waiting.unlock_at) == (RefundStage.WAIT, False, desk.chain.utime + 300)
    desk.chain.utime += 300
    early = await desk.refunds.step(desk.account)
    assert (early.stage, early.sent) == (RefundStage.FINISH, False), "the first is not a minute old"
    desk.clock.now += RESEND_S
    assert (await desk.refunds.step(desk.account)).sent
    done = await desk.refunds.step(desk.account)
    assert (done.stage, done.balance) == (RefundStage.DONE, 0)
    assert desk.account.closed
    assert desk.wallet.operations() == [Op.CLIENT_REQUEST_REFUND] * 2
    assert desk.wallet.sent[0].value == module.ATTACHED_NANOTONS


async def test_contracts_of_older_parameters_are_wound_up_after_their_grace(desk: Desk) -> None:
    desk.deployed()
    newer = root_params(params_version=4)
    await desk.refunds.wind_up(AT.params)
    await desk.refunds.wind_up(newer)
    assert grace_s(newer) == 150
    desk.clock.now += 149
    await desk.refunds.wind_up(newer)
    assert not desk.wallet.sent
    desk.clock.now += 1
    await desk.refunds.wind_up(newer)
    assert desk.wallet.operations() == [Op.CLIENT_REQUEST_REFUND]
    desk.chain.put(AT.client_contract, client_data(AT, state=2, balance=0))
    await desk.refunds.wind_up(newer)
    assert desk.account.closed, "the gateway paid out by itself"
    desk.chain.broken = ChainUnavailableError("reading", {})
    await desk.refunds.wind_up(newer)


async def test_a_deployment_on_its_way_is_not_written_off(desk: Desk) -> None:
    desk.wallet.when = "lost"
    desk.purse.depositing(AT, Deposit(1, STAKE, 0, 0, 2_000_000_000))
    report = await desk.refunds.step(desk.account)
    assert report.stage is RefundStage.DONE
    assert not desk.account.closed
