"""Wallets on the lab's chain: one message at a time, confirmed by proof, refused with a cure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from chain_support import TON, fund, key, live

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc
from appliance.chain.contracts import load
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainUnavailableError, FundsError, NotConfirmedError, SendRefusedError, WalletError
from appliance.chain.messages import WalletReplaceKey
from appliance.chain.owner_wallet import OwnerWallet, owner_wallet_state, seed_of_mnemonic
from appliance.chain.wallet import REFERENCE_WALLET_MINIMUM, NodeWallet, tons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.chain.client import ChainClient
    from appliance.chain.types import AccountState, Head, Transaction
    from appliance.lab.chain.devnet import DevNet

OWNER = Address(0, b"\x0a" * 32)
SHOP = Address(0, b"\x77" * 32)


def node_wallet(client: Any, *, owner: Address = OWNER, **options: Any) -> NodeWallet:
    return NodeWallet(client, key("node"), owner, load().wallet, **options)


async def balance(client: ChainClient, address: Address) -> int:
    return (await client.account(address)).balance


async def arrived(client: ChainClient, address: Address, amount: int) -> None:
    head = await client.head()
    while await balance(client, address) < amount:
        head = await client.wait_head(head.block.seqno, timeout=20)


async def test_the_first_transfer_deploys(net: DevNet) -> None:
    async with live(net) as client:
        wallet = node_wallet(client)
        report = await wallet.report()
        assert (report.deployed, report.balance, report.seqno, report.funded) == (False, 0, 0, False)
        await fund(net, client, wallet.address, 3 * TON)
        sent = await wallet.transfer([OutgoingMessage(SHOP, TON, bounce=False)])
        assert sent.inbound is not None
        assert sent.inbound.source is None
        # Mode 0, as the reference runner sends: the forwarding fee comes out of the amount.
        await arrived(client, SHOP, sent.outbound[0].value)
        assert TON - TON // 1000 < sent.outbound[0].value < TON
        report = await wallet.report()
        assert (report.deployed, report.seqno) == (True, 1)
        assert await wallet.deploy() is None


async def test_four_messages_and_a_queue(net: DevNet) -> None:
    async with live(net) as client:
        wallet = node_wallet(client)
        await fund(net, client, wallet.address, 10 * TON)
        shops = [Address(0, bytes([n]) * 32) for n in range(1, 8)]
        batches = [[OutgoingMessage(shop, TON // 10, bounce=False) for shop in part] for part in (shops[:4], shops[4:])]
        first, second = await asyncio.gather(*(wallet.transfer(batch) for batch in batches))
        assert (len(first.outbound), len(second.outbound)) == (4, 3)
        assert first.lt < second.lt
        for shop in shops:
            await arrived(client, shop, 1)
        with pytest.raises(WalletError, match="5 messages"):
            await wallet.transfer([OutgoingMessage(SHOP, 1)] * 5)
        with pytest.raises(WalletError, match="0 messages"):
            await wallet.transfer([])


async def test_deploying_without_sending(net: DevNet) -> None:
    async with live(net) as client:
        wallet = node_wallet(client)
        await fund(net, client, wallet.address, TON)
        assert await wallet.deploy() is not None
        assert (await wallet.report()).deployed


async def test_too_little_money_says_what_to_send_to_whom(net: DevNet) -> None:
    async with live(net) as client:
        wallet = node_wallet(client, minimum=REFERENCE_WALLET_MINIMUM)
        with pytest.raises(FundsError, match=r"send at least 2\.1 TON to") as refused:
            await wallet.transfer([OutgoingMessage(SHOP, 1)])
        assert wallet.address.friendly() in refused.value.hint
        assert (refused.value.balance, refused.value.needed) == (0, REFERENCE_WALLET_MINIMUM)
        await fund(net, client, wallet.address, 3 * TON)
        await wallet.require_funds()
        with pytest.raises(FundsError, match=r"send at least 2\.1 TON"):
            await wallet.require_funds(5 * TON)
        with pytest.raises(FundsError):
            await wallet.transfer([OutgoingMessage(SHOP, 2 * TON), OutgoingMessage(SHOP, TON)])
        assert (await wallet.report()).seqno == 0


async def test_the_same_key_in_two_programs(net: DevNet) -> None:
    async with live(net) as client:
        wallets = [node_wallet(client), node_wallet(client)]
        await fund(net, client, wallets[0].address, 5 * TON)
        await wallets[0].deploy()
        messages = [OutgoingMessage(Address(0, bytes([n]) * 32), TON // 10, bounce=False) for n in (1, 2)]
        results = await asyncio.gather(
            *(wallet.transfer([message]) for wallet, message in zip(wallets, messages, strict=True)),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        # Whichever comes second in the same block is overtaken; one block apart both go through.
        assert all(isinstance(error, (NotConfirmedError, SendRefusedError)) for error in errors)
        assert len(errors) <= 1


async def test_a_replaced_key(net: DevNet) -> None:
    async with live(net) as client:
        owner = OwnerWallet(client, key("owner"))
        wallet = node_wallet(client, owner=owner.address)
        await fund(net, client, owner.address, 5 * TON)
        await fund(net, client, wallet.address, 5 * TON)
        await wallet.deploy()
        new_key = key("other").public_key().public_bytes_raw()
        order = WalletReplaceKey(1, new_key).to_cell()
        await owner.transfer([OutgoingMessage(wallet.address, TON // 10, order)])
        with pytest.raises(WalletError, match="replaced the key"):
            await _look_often(client, wallet)


async def _look_often(client: ChainClient, wallet: NodeWallet) -> None:
    head = await client.head()
    for _ in range(200):
        await wallet.report()
        head = await client.wait_head(head.block.seqno, timeout=20)


async def test_a_blocked_wallet(net: DevNet) -> None:
    from appliance.chain.cells import Writer

    async with live(net) as client:
        owner = OwnerWallet(client, key("owner"))
        wallet = node_wallet(client, owner=owner.address)
        await fund(net, client, owner.address, 5 * TON)
        await fund(net, client, wallet.address, 5 * TON)
        await wallet.deploy()
        block = Writer("comment").uint(0, 32).uint(ord("b"), 8).end()
        await owner.transfer([OutgoingMessage(wallet.address, TON // 10, block)])
        with pytest.raises(WalletError, match="blocked by its owner"):
            await _look_often(client, wallet)


async def test_a_message_that_cannot_be_sent_is_noticed(net: DevNet) -> None:
    """The contract skips what it cannot send; that must not pass for sent."""
    async with live(net) as client:
        wallet = node_wallet(client)
        await fund(net, client, wallet.address, 3 * TON)
        nowhere = OutgoingMessage(Address(42, b"\1" * 32), TON // 10)
        with pytest.raises(WalletError, match="sent 1 of 2"):
            await wallet.transfer([OutgoingMessage(SHOP, TON // 10, bounce=False), nowhere])
        assert (await wallet.report()).seqno == 1


class Lossy:
    """A chain whose first messages are lost on the way."""

    def __init__(self, client: ChainClient, lost: int) -> None:
        self._client = client
        self._lost = lost
        self.bocs: list[bytes] = []
        self.outage = 0

    async def head(self) -> Head:
        return await self._client.head()

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - the protocol's
        if self.outage:
            self.outage -= 1
            raise ChainUnavailableError("waiting", {})
        return await self._client.wait_head(after_seqno, timeout=timeout)

    async def account(self, address: Address) -> AccountState:
        return await self._client.account(address)

    async def transactions(self, address: Address, *, after_lt: int = 0, limit: int = 256) -> Sequence[Transaction]:
        return await self._client.transactions(address, after_lt=after_lt, limit=limit)

    async def send(self, boc: bytes) -> None:
        self.bocs.append(boc)
        if len(self.bocs) > self._lost:
            await self._client.send(boc)


async def test_a_lost_message_is_handed_over_again(net: DevNet) -> None:
    async with live(net) as client:
        lossy = Lossy(client, 2)
        wallet = node_wallet(lossy, resend=0.2)
        await fund(net, client, wallet.address, 3 * TON)
        await wallet.transfer([OutgoingMessage(SHOP, TON, bounce=False)])
        assert len(lossy.bocs) >= 3
        assert len(set(lossy.bocs)) == 1
        assert (await wallet.report()).seqno == 1


async def test_an_outage_does_not_send_twice(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.chain.wallet._OUTAGE_PAUSE_S", 0.05)
    async with live(net) as client:
        lossy = Lossy(client, 0)
        wallet = node_wallet(lossy)
        await fund(net, client, wallet.address, 3 * TON)
        lossy.outage = 3
        await wallet.transfer([OutgoingMessage(SHOP, TON, bounce=False)])
        assert lossy.outage == 0
        assert (await wallet.report()).seqno == 1
        assert len(await client.transactions(SHOP)) == 1


async def test_an_outage_longer_than_the_message_s_life(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.chain.wallet._OUTAGE_PAUSE_S", 0.01)
    async with live(net) as client:
        lossy = Lossy(client, 0)
        late = iter([float(net.view.ledger.utime)] + [2e10] * 1000)
        wallet = node_wallet(lossy, clock=lambda: next(late))
        await fund(net, client, wallet.address, 3 * TON)
        lossy.outage = 10**6
        with pytest.raises(NotConfirmedError, match="is not known"):
            await wallet.transfer([OutgoingMessage(SHOP, TON, bounce=False)])


async def test_a_message_that_never_arrives_expires(net: DevNet) -> None:
    async with live(net) as client:
        wallet = node_wallet(Lossy(client, 10**6), resend=0.1, valid=5)
        await fund(net, client, wallet.address, 3 * TON)

        async def later() -> None:
            await asyncio.sleep(0.2)
            net.advance_clock(60)

        task = asyncio.create_task(later())
        with pytest.raises(NotConfirmedError, match="expired"):
            await wallet.transfer([OutgoingMessage(SHOP, TON, bounce=False)])
        await task


async def test_an_owner_s_wallet(net: DevNet) -> None:
    async with live(net) as client:
        owner = OwnerWallet(client, key("owner"))
        await fund(net, client, owner.address, 3 * TON)
        sent = await owner.transfer(
            [OutgoingMessage(SHOP, TON, bounce=False), OutgoingMessage(SHOP, TON, bounce=False)]
        )
        assert len(sent.outbound) == 2
        await owner.transfer([OutgoingMessage(SHOP, TON // 10, bounce=False)])
        await arrived(client, SHOP, 2 * TON + TON // 10)
        assert (await owner.report()).seqno == 2


def test_the_owner_s_address_is_the_wallet_applications_one(shared: Any) -> None:
    import json

    vectors = json.loads((shared / "vectors" / "ton.json").read_text())
    public_key = bytes.fromhex(vectors["pubkeys"]["wallet"])
    assert owner_wallet_state(public_key).address().raw() == vectors["std_wallets"]["v4r2"]


def test_secret_words() -> None:
    from pytoniq_core.crypto.keys import mnemonic_new, private_key_to_public_key

    words = mnemonic_new()
    seed = seed_of_mnemonic(words)
    assert len(seed) == 32
    assert private_key_to_public_key is not None
    with pytest.raises(WalletError, match="24 words"):
        seed_of_mnemonic([*words[:-1], "zoo" if words[-1] != "zoo" else "zone"])


@pytest.mark.parametrize(
    ("nanotons", "text"),
    [(0, "0 TON"), (1, "0.000000001 TON"), (TON, "1 TON"), (21 * TON // 10, "2.1 TON"), (-5 * TON // 10, "-0.5 TON")],
)
def test_amounts_for_people(nanotons: int, text: str) -> None:
    assert tons(nanotons) == text


def test_the_body_s_golden_form(shared: Any) -> None:
    """The reference's external payout of the vectors is what our builder writes for the same values."""
    import json

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from appliance.chain.envelopes import WalletRequest, external_message

    vectors = json.loads((shared / "vectors" / "ton.json").read_text())
    golden = decode_boc(bytes.fromhex(vectors["cocoon"]["func"]["messages"]["ext_payout_boc"]))
    request = WalletRequest.from_cell(golden.refs[0])
    node = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vectors["seeds"]["wallet_key"]))
    body = WalletRequest(request.seqno, request.valid_until, request.messages).sign(node).to_cell()
    wallet = Address.parse(vectors["cocoon"]["func"]["wallet"]["address"])
    assert external_message(wallet, body).hash == golden.hash
