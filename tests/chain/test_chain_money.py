"""From a signed total to the owner's balance: deployment, payouts, relay, watching, and every nanoton explained."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientSession, web
from chain_support import TON, fund, key, live

from appliance.chain.addresses import Address
from appliance.chain.contracts import load
from appliance.chain.deploy import (
    WorkerContract,
    client_deploy_message,
    deploy_worker,
    proxy_deploy_message,
)
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainError, FundsError, LayoutError, TransportError, WalletError
from appliance.chain.layouts import ClientData, ContractStatus, Params, ProxyData, WorkerData
from appliance.chain.messages import Op
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.payouts import PayoutTerms, PayoutView, Verdict, decide, payout_message
from appliance.chain.relay import (
    MAX_ORDER_BYTES,
    FileRelay,
    HttpRelay,
    PayoutOrder,
    relay_application,
    relay_once,
    send_order,
)
from appliance.chain.rewards import Kind, explain, statement, worker_payouts
from appliance.chain.signed import SignedPayment, sign_payment
from appliance.chain.wallet import NodeWallet
from appliance.chain.watch import AccountWatcher
from appliance.lab.chain.faucet import Grant

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.chain.client import ChainClient
    from appliance.lab.chain.devnet import DevNet

FEE = 100_000
ROOT = Address(0, b"\x0c" * 32)


def params() -> Params:
    codes = load()
    return Params(
        params_version=1,
        unique_id=7,
        is_test=True,
        price_per_token=1_000_000,
        worker_fee_per_token=FEE,
        proxy_delay_before_close=60,
        client_delay_before_close=30,
        proxy_code=codes.proxy,
        worker_code=codes.worker,
        client_code=codes.client,
    )


@dataclass
class Market:
    """A gateway's contract with money on it, a worker's contract, the worker's owner and node wallet."""

    net: DevNet
    client: ChainClient
    owner: OwnerWallet
    wallet: NodeWallet
    contract: WorkerContract
    proxy: Address

    def payment(self, tokens: int, *, query_id: int = 1) -> SignedPayment:
        return sign_payment(
            key("proxy"), Op.WORKER_PAYOUT, query_id, tokens, self.contract.address, self.wallet.address
        )

    async def paid(self, tokens: int) -> None:
        """Wait until the worker contract shows the total and its messages have arrived."""
        head = await self.client.head()
        while True:
            account = await self.client.account(self.contract.address)
            if account.data is not None and WorkerData.from_cell(account.data).tokens >= tokens:
                break
            head = await self.client.wait_head(head.block.seqno, timeout=20)
        await self.settled()

    async def settled(self) -> None:
        """Wait until no message is under way."""
        head = await self.client.head()
        while self.net.has_work:
            head = await self.client.wait_head(head.block.seqno, timeout=20)
        await self.client.wait_head(head.block.seqno, timeout=20)


async def market(net: DevNet, client: ChainClient) -> Market:
    owner = OwnerWallet(client, key("owner"))
    wallet = NodeWallet(client, key("node"), owner.address, load().wallet)
    public_key = key("proxy").public_key().public_bytes_raw()
    await fund(net, client, owner.address, 300 * TON)
    deploy = proxy_deploy_message(ROOT, params(), owner.address, public_key, stake=TON, excesses=owner.address)
    await owner.transfer([deploy, OutgoingMessage(wallet.address, 20 * TON, bounce=False)])
    net.grant(Grant(deploy.destination, 50 * TON))
    contract = WorkerContract(params(), owner.address, deploy.destination, public_key)
    head = await client.head()
    while (await client.account(wallet.address)).balance < 19 * TON:
        head = await client.wait_head(head.block.seqno, timeout=20)
    made = Market(net, client, owner, wallet, contract, deploy.destination)
    await made.settled()
    return made


async def test_a_worker_earns(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        stored = await deploy_worker(client, m.wallet, m.contract)
        assert (stored.owner, stored.proxy, stored.tokens) == (m.owner.address, m.proxy, 0)
        sent = (await m.wallet.report()).seqno
        assert (await deploy_worker(client, m.wallet, m.contract)) == stored
        assert (await m.wallet.report()).seqno == sent
        await m.owner.transfer([m.contract.register_message()])
        await m.settled()
        since = await client.account(m.owner.address)
        await m.wallet.transfer([payout_message(m.payment(5000), m.wallet.address)])
        await m.paid(5000)
        (received,) = await client.transactions(m.owner.address, after_lt=since.last_lt)
        assert received.inbound is not None
        assert (received.inbound.source, received.inbound.value) == (m.proxy, 5000 * FEE)
        # Receiving costs the owner's own wallet a little gas.
        balance = (await client.account(m.owner.address)).balance
        assert balance - since.balance == 5000 * FEE - received.total_fees
        proxy = await client.account(m.proxy)
        assert proxy.data is not None
        assert ProxyData.from_cell(proxy.data).balance == 5000 * (1_000_000 - FEE)


async def test_every_nanoton_is_explained(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        await deploy_worker(client, m.wallet, m.contract)
        since = await client.account(m.owner.address)
        await m.owner.transfer([m.contract.register_message()])
        await m.wallet.transfer([payout_message(m.payment(5000, query_id=11), m.wallet.address)])
        await m.paid(5000)
        net.advance_clock(30 * 86400)  # a month of storage fees
        await m.settled()
        await m.owner.transfer([payout_message(m.payment(7000, query_id=12), m.owner.address)])
        await m.paid(7000)
        closed = sign_payment(key("proxy"), Op.WORKER_LAST_PAYOUT, 13, 7001, m.contract.address, m.owner.address)
        await m.owner.transfer([payout_message(closed, m.owner.address)])
        await m.paid(7001)
        # Refused by the closed contract: the value comes back, less what it cost.
        await m.owner.transfer([payout_message(m.payment(9000, query_id=14), m.owner.address)])
        await m.settled()
        net.grant(Grant(m.owner.address, 12_345))
        await asyncio.sleep(0.1)
        await m.settled()
        found = await explain(client, m.owner.address, [m.contract.address], since=since)
        assert found.difference == 0, "\n".join(found.lines())
        assert found.observed == (await client.account(m.owner.address)).balance - since.balance
        tokens = [(item.query_id, item.tokens) for item in found.items if item.kind is Kind.PAYOUT and item.tokens]
        assert tokens == [(11, 5000), (12, 2000), (13, 1)]
        assert {item.amount for item in found.items if item.kind is Kind.RECEIVED} == {12_345}
        assert found.total(Kind.BOUNCED) > 0
        assert found.total(Kind.EXCESSES) > 0
        assert found.total(Kind.FEES) < 0
        assert found.unpaid == ()
        assert any("5000 tokens of worker contract" in line for line in found.lines())
        whole = await explain(client, m.owner.address, [m.contract.address])
        assert whole.difference == 0
        assert whole.opening == 0


async def test_a_missing_transaction_is_a_difference(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        await deploy_worker(client, m.wallet, m.contract)
        await m.wallet.transfer([payout_message(m.payment(5000), m.wallet.address)])
        await m.paid(5000)
        transactions = await client.transactions(m.owner.address)
        payouts = worker_payouts(await client.transactions(m.contract.address))
        closing = (await client.account(m.owner.address)).balance
        assert statement(transactions, opening=0, closing=closing, payouts=payouts).difference == 0
        short = statement(transactions[:-1], opening=0, closing=closing, payouts=payouts)
        assert short.difference == 5000 * FEE - transactions[-1].total_fees
        assert [payout.tokens for payout in short.unpaid] == [5000]
        assert "not received yet: 0.5 TON for 5000 tokens" in short.lines()[-1]


async def test_a_payout_the_proxy_cannot_pay_is_undone(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        await deploy_worker(client, m.wallet, m.contract)
        too_much = 10**6  # 100 TON of the 52 that are there
        await m.wallet.transfer([payout_message(m.payment(too_much, query_id=5), m.wallet.address)])
        await m.settled()
        await m.wallet.transfer([payout_message(m.payment(1000, query_id=6), m.wallet.address)])
        await m.paid(1000)
        payouts = worker_payouts(await client.transactions(m.contract.address))
        assert [(payout.query_id, payout.tokens) for payout in payouts] == [(6, 1000)]


async def test_a_relay_pays_the_gas(net: DevNet, tmp_path: Path) -> None:
    async with live(net) as client:
        m = await market(net, client)
        await deploy_worker(client, m.wallet, m.contract)
        relay = FileRelay(tmp_path / "payouts")
        await relay.hand_over(PayoutOrder(m.payment(3000)))
        await relay.hand_over(PayoutOrder(m.payment(4000, query_id=2)))
        (tmp_path / "payouts" / "junk.payout.json").write_text("{")
        assert [order.payment.tokens for _, order in relay.orders()] == [4000]
        assert await relay_once(client, m.owner, relay) == 1
        await m.paid(4000)
        assert relay.orders() == []
        # The same order again is done already; an order of a stranger's key would only cost gas and is refused.
        assert not await send_order(client, m.owner, PayoutOrder(m.payment(4000)))
        forged = sign_payment(key("stranger"), Op.WORKER_PAYOUT, 3, 9000, m.contract.address, m.owner.address)
        with pytest.raises(ChainError, match="does not verify"):
            await send_order(client, m.owner, PayoutOrder(forged))
        elsewhere = sign_payment(key("proxy"), Op.WORKER_PAYOUT, 3, 9000, ROOT, m.owner.address)
        with pytest.raises(LayoutError, match="is absent"):
            await send_order(client, m.owner, PayoutOrder(elsewhere))
        await relay.hand_over(PayoutOrder(forged))
        assert await relay_once(client, m.owner, relay) == 0
        assert len(relay.orders()) == 1


async def test_deployment_needs_money_and_the_right_contract(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        poor = NodeWallet(client, key("poor"), m.owner.address, load().wallet)
        with pytest.raises(FundsError, match=poor.address.friendly()):
            await deploy_worker(client, poor, m.contract)
        await deploy_worker(client, m.wallet, m.contract)
        other = replace(m.contract, owner=m.wallet.address)

        class SameAddress(WorkerContract):
            @property
            def address(self) -> Address:
                return m.contract.address

        impostor = SameAddress(other.params, other.owner, other.proxy, other.proxy_public_key)
        with pytest.raises(WalletError, match="stores another owner"):
            await deploy_worker(client, m.wallet, impostor)


async def test_a_client_contract(net: DevNet) -> None:
    async with live(net) as client:
        m = await market(net, client)
        message = client_deploy_message(
            params(), m.wallet.address, m.proxy, m.contract.proxy_public_key, amount=2 * TON, secret_hash=b"\x05" * 32
        )
        await m.wallet.transfer([message])
        await m.settled()
        account = await client.account(message.destination)
        assert account.data is not None
        stored = ClientData.from_cell(account.data)
        assert (stored.balance, stored.secret_hash) == (2 * TON, b"\x05" * 32)


async def test_watching_an_account(net: DevNet) -> None:
    shop = Address(0, b"\x77" * 32)
    async with live(net) as client:
        for amount in (1, 2, 3):
            net.grant(Grant(shop, amount))
        await fund(net, client, shop, 1)
        watcher = AccountWatcher(client, shop)
        seen: list[int] = []

        async def follow() -> None:
            async for transaction in watcher:
                assert transaction.inbound is not None
                seen.append(transaction.inbound.value)

        task = asyncio.create_task(follow())
        for amount in (4, 5, 6):
            net.grant(Grant(shop, amount))
            await asyncio.sleep(0.03)
        async with asyncio.timeout(20):
            while len(seen) < 7:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        task.cancel()
        assert sorted(seen) == [1, 1, 2, 3, 4, 5, 6]
        later = AccountWatcher(client, shop)
        await later.skip()
        assert await later.poll() == ()
        assert later.after_lt == watcher.after_lt


async def test_a_watcher_that_slept_misses_nothing(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.chain.watch._FIRST_LIMIT", 4)
    shop = Address(0, b"\x77" * 32)
    async with live(net) as client:
        watcher = AccountWatcher(client, shop)
        assert await watcher.poll() == ()
        for _ in range(23):
            net.grant(Grant(shop, 1))
        head = await client.head()
        while (await client.account(shop)).balance < 23:
            head = await client.wait_head(head.block.seqno, timeout=20)
        found = await watcher.poll()
        assert len(found) == 23
        assert [transaction.lt for transaction in found] == sorted(transaction.lt for transaction in found)


VIEW = PayoutView(signed=0, paid=0, requested=0, worker_fee_per_token=FEE, status=ContractStatus.OPEN)
TERMS = PayoutTerms(minimum=TON, max_fee_share=0.05, fee=30_000_000)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict.WAIT),
        ({"signed": 9_999}, Verdict.WAIT),
        ({"signed": 10_000}, Verdict.SEND),
        ({"signed": 10_000, "paid": 1}, Verdict.WAIT),
        ({"signed": 10_000, "requested": 10_000}, Verdict.WAIT),
        ({"signed": 10_000, "paid": 20_000}, Verdict.WAIT),
        ({"signed": 10_000, "status": None}, Verdict.DEPLOY),
        ({"signed": 10_000, "status": ContractStatus.CLOSED}, Verdict.DROP),
        ({"signed": 10_000, "status": ContractStatus.CLOSING}, Verdict.SEND),
        ({"signed": 301, "retiring": True}, Verdict.SEND),
        ({"signed": 300, "retiring": True}, Verdict.DROP),
        ({"signed": 301, "retiring": True, "status": None}, Verdict.DEPLOY),
        ({"signed": 10_000, "worker_fee_per_token": 0}, Verdict.WAIT),
    ],
)
def test_when_a_payout_is_worth_it(change: dict[str, object], verdict: Verdict) -> None:
    decision = decide(replace(VIEW, **change), TERMS)  # type: ignore[arg-type]  # named fields
    assert decision.verdict is verdict
    assert decision.reason


def test_the_owner_s_terms_are_money() -> None:
    view = replace(VIEW, signed=10_000)
    assert decide(view, replace(TERMS, max_fee_share=0.02)).verdict is Verdict.WAIT
    assert "3.0% of 1 TON, allowed is 2.0%" in decide(view, replace(TERMS, max_fee_share=0.02)).reason
    assert (
        decide(replace(view, signed=5_000), replace(TERMS, minimum=TON // 2, max_fee_share=0.1)).verdict is Verdict.SEND
    )
    assert decide(view, TERMS).due == TON


def order() -> PayoutOrder:
    return PayoutOrder(sign_payment(key("proxy"), Op.WORKER_PAYOUT, 1, 5, ROOT, ROOT))


def test_orders_round_trip_and_explain_themselves() -> None:
    text = order().to_json()
    assert PayoutOrder.from_json(text) == order()
    assert f"send 0.5 TON from any wallet to {ROOT.friendly(bounceable=True)}" in json.loads(text)["instructions"]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"value": 10**9},
        {"value": 0},
        {"value": True},
        {"value": "1"},
        {"value": None},
        {"body": "!"},
        {"body": "AAAA"},
        {"body": 5},
        {"contract": Address(0, bytes(32)).raw()},
        {"contract": "nowhere"},
        {"contract": 7},
    ],
)
def test_orders_from_a_guest_are_not_trusted(change: dict[str, object]) -> None:
    with pytest.raises(LayoutError):
        PayoutOrder.from_json(json.dumps(json.loads(order().to_json()) | change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 5000, " " * (MAX_ORDER_BYTES + 1), b"\xff\xfe"])
def test_noise_is_no_order(text: str | bytes) -> None:
    with pytest.raises(LayoutError):
        PayoutOrder.from_json(text)


def test_an_order_can_carry_nothing_but_a_worker_payout() -> None:
    charge = PayoutOrder(sign_payment(key("proxy"), Op.CLIENT_CHARGE, 1, 5, ROOT, ROOT))
    with pytest.raises(LayoutError):
        PayoutOrder.from_json(charge.to_json())


async def test_a_relay_over_http(tmp_path: Path) -> None:
    folder = FileRelay(tmp_path / "payouts")
    runner = web.AppRunner(relay_application(folder))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    await HttpRelay(f"{url}/payout").hand_over(order())
    assert [found for _, found in folder.orders()] == [order()]
    async with ClientSession() as session:
        for body, status in ((b"{", 400), (b"x" * (MAX_ORDER_BYTES + 1), 413)):
            async with session.post(f"{url}/payout", data=body) as answer:
                assert answer.status == status
        async with session.get(f"{url}/payout") as answer:
            assert answer.status == 405
    with pytest.raises(TransportError, match="answered 404"):
        await HttpRelay(f"{url}/elsewhere").hand_over(order())
    (tmp_path / "payouts").rename(tmp_path / "away")
    (tmp_path / "payouts").write_text("")
    with pytest.raises(TransportError, match="answered 503"):
        await HttpRelay(f"{url}/payout").hand_over(order())
    await runner.cleanup()
    with pytest.raises(TransportError, match="cannot be reached"):
        await HttpRelay(f"{url}/payout").hand_over(order())


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportError, match="cannot be written"):
        await FileRelay(tmp_path / "file").hand_over(order())
