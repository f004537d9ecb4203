"""The registry's view: versions, staleness, subscribers, refusals that say what to send, and orders that work."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from chain_support import TON, fund, key, live

from appliance.chain import admin
from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc
from appliance.chain.contracts import load
from appliance.chain.deploy import root_deploy_message
from appliance.chain.errors import (
    ChainUnavailableError,
    LayoutError,
    NotListedError,
    RegistryError,
    StaleError,
)
from appliance.chain.layouts import Params, RegisteredProxy, RootState, build_root
from appliance.chain.messages import RootAddModelHash, RootAddWorkerHash
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.registry import Registry
from appliance.chain.types import AccountState, BlockId, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.types import Transaction
    from appliance.lab.chain.devnet import DevNet

ROOT = Address(0, b"\x0c" * 32)
OWNER = Address(0, b"\x0a" * 32)
MODEL = "Qwen/Qwen3-0.6B@c1899de:" + "ab" * 32
PARAMS = Params(
    params_version=1,
    unique_id=7,
    is_test=True,
    price_per_token=20,
    worker_fee_per_token=17,
    proxy_delay_before_close=60,
    client_delay_before_close=30,
)


def root_state(version: int = 1, **parts: object) -> RootState:
    state = RootState(OWNER, version, frozenset(), (), 0, frozenset(), frozenset(), PARAMS)
    return replace(state, **parts)  # type: ignore[arg-type]  # tests change named fields


class FakeChain:
    """A chain that holds one account."""

    def __init__(self) -> None:
        self.data: Cell | None = build_root(root_state())
        self.utime = 1000
        self.error: Exception | None = None

    async def head(self) -> Head:
        return Head(BlockId(-1, -(1 << 63), self.utime, bytes(32), bytes(32)), self.utime)

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - the protocol's
        return await self.head()

    async def account(self, address: Address) -> AccountState:
        if self.error is not None:
            raise self.error
        status = "absent" if self.data is None else "active"
        return AccountState(address, status, 1, self.data, self.data, 1, bytes(32), await self.head())  # type: ignore[arg-type]  # literal

    async def transactions(
        self,
        address: Address,
        *,
        after_lt: int = 0,
        limit: int = 256,
    ) -> Sequence[Transaction]:
        return []

    async def send(self, boc: bytes) -> None:
        raise NotImplementedError


async def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    chain = FakeChain()
    registry = Registry(chain, ROOT, clock=lambda: 1000.0)
    seen: list[int] = []
    end = registry.subscribe(lambda state: seen.append(state.version))
    await registry.refresh()
    await registry.refresh()
    chain.data = build_root(root_state(3))
    await registry.refresh()
    chain.data = build_root(root_state(2, last_proxy_seqno=9))
    await registry.refresh()
    assert (registry.state.version, registry.state.last_proxy_seqno, seen) == (3, 0, [1, 3])
    end()
    chain.data = build_root(root_state(4))
    await registry.refresh()
    assert (registry.state.version, seen) == (4, [1, 3])
    capsys.readouterr()


async def test_a_lower_version_does_not_renew_the_time() -> None:
    chain = FakeChain()
    now = [1000.0]
    registry = Registry(chain, ROOT, clock=lambda: now[0])
    chain.data = build_root(root_state(5))
    await registry.refresh()
    now[0], chain.utime = 5000.0, 5000
    chain.data = build_root(root_state(4))
    await registry.refresh()
    assert registry.age() == 4000.0
    chain.data = build_root(root_state(5))
    await registry.refresh()
    assert registry.age() < 1


async def test_staleness_is_by_the_chain_s_time() -> None:
    chain = FakeChain()
    now = [1000.0]
    registry = Registry(chain, ROOT, 7200, clock=lambda: now[0])
    assert registry.age() == float("inf")
    with pytest.raises(RegistryError, match="not read yet"):
        _ = registry.state
    await registry.refresh()
    registry.require_fresh()
    now[0] = 8200.0
    registry.require_fresh()
    now[0] = 8201.0
    with pytest.raises(StaleError, match="7201 s old, allowed are 7200"):
        registry.require_fresh()
    # A server that keeps showing the same old block does not make the state fresh.
    await registry.refresh()
    with pytest.raises(StaleError):
        registry.require_fresh()
    chain.utime = 8201
    await registry.refresh()
    registry.require_fresh()


async def test_the_wrong_account_or_network() -> None:
    chain = FakeChain()
    with pytest.raises(RegistryError, match="is_test True, the configuration False"):
        await Registry(chain, ROOT, is_test=False).start()
    registry = Registry(chain, ROOT, is_test=True)
    await registry.start()
    await registry.close()
    chain.data = None
    with pytest.raises(RegistryError, match="is absent"):
        await Registry(chain, ROOT).start()
    chain.data = load().root
    with pytest.raises(LayoutError):
        await Registry(chain, ROOT).start()


async def test_the_background_keeps_the_old_state_and_says_why() -> None:
    chain = FakeChain()
    now = [1000.0]
    registry = Registry(chain, ROOT, 10, refresh_interval=(0.01, 0.01), clock=lambda: now[0])
    broken: list[int] = []

    def fails(state: RootState) -> None:
        broken.append(state.version)
        raise ValueError

    registry.subscribe(fails)
    async with registry:
        chain.data = build_root(root_state(2))
        await _until(lambda: registry.state.version == 2)
        chain.error = ChainUnavailableError("reading", {"here": "gone"})
        await asyncio.sleep(0.05)
        assert registry.state.version == 2
        now[0] = 2000.0
        with pytest.raises(StaleError, match="here: gone"):
            registry.require_fresh()
        chain.error, chain.utime = None, 2000
        await _until(lambda: registry.age() < 10)
        registry.require_fresh()
    assert broken == [1, 2]


async def test_a_refusal_is_the_message_to_send() -> None:
    chain = FakeChain()
    image = b"\x11" * 32
    registry = Registry(chain, ROOT)
    await registry.refresh()
    for refuse in (
        lambda: registry.require_image(image),
        lambda: registry.require_proxy_image(image),
        lambda: registry.require_model(MODEL),
    ):
        with pytest.raises(NotListedError) as refused:
            refuse()
        text = str(refused.value)
        assert OWNER.friendly() in text
        assert ROOT.friendly(bounceable=True) in text
        assert "0.1 TON" in text
    with pytest.raises(NotListedError, match="0xe34b1c60") as refused:
        registry.require_image(image)
    body = decode_boc(base64.b64decode(refused.value.hint.rsplit(" ", 1)[1]))
    assert RootAddWorkerHash.from_cell(body).hash == image
    with pytest.raises(NotListedError, match="0xc146134d") as refused:
        registry.require_model(MODEL)
    body = decode_boc(base64.b64decode(refused.value.hint.rsplit(" ", 1)[1]))
    assert RootAddModelHash.from_cell(body).hash == admin.model_hash(MODEL)
    with pytest.raises(RegistryError, match="no gateway is registered"):
        registry.gateways()
    chain.data = build_root(
        root_state(
            2,
            worker_hashes=frozenset({image}),
            proxy_hashes=frozenset({image}),
            model_hashes=frozenset({admin.model_hash(MODEL)}),
            registered_proxies=(RegisteredProxy.of(1, "127.0.0.1:4001"),),
        )
    )
    await registry.refresh()
    registry.require_image(image)
    registry.require_proxy_image(image)
    registry.require_model(MODEL)
    assert not registry.image_listed(bytes(32))
    assert not registry.model_listed(MODEL + "0")
    assert registry.gateways()[0].worker_address == "127.0.0.1:4001"


async def test_the_owner_s_orders_on_the_chain(net: DevNet) -> None:
    image = b"\x11" * 32
    async with live(net) as client:
        owner = OwnerWallet(client, key("root owner"))
        await fund(net, client, owner.address, 20 * TON)
        message = root_deploy_message(load().root, root_state(owner=owner.address))
        await owner.transfer([message])
        root = message.destination
        registry = Registry(client, root, refresh_interval=(0.02, 0.05), is_test=True)
        head = await client.head()
        while (await client.account(root)).status != "active":
            head = await client.wait_head(head.block.seqno, timeout=20)
        async with registry:
            orders = [
                admin.add_image(root, image),
                admin.add_proxy_image(root, image),
                admin.add_model(root, MODEL),
                admin.register_proxy(root, "127.0.0.1:4001 127.0.0.1:4002"),
            ]
            await owner.transfer([order.message() for order in orders])
            await _until(lambda: registry.state.version == 5)
            registry.require_image(image)
            registry.require_proxy_image(image)
            registry.require_model(MODEL)
            assert registry.gateways()[0].client_address == "127.0.0.1:4002"
            seqno = registry.gateways()[0].seqno
            orders = [
                admin.remove_image(root, image),
                admin.remove_proxy_image(root, image),
                admin.remove_model(root, MODEL),
                admin.update_proxy(root, seqno, "127.0.0.1:5001"),
            ]
            await owner.transfer([order.message() for order in orders])
            await _until(lambda: registry.state.version == 9)
            assert not registry.image_listed(image)
            assert registry.gateways()[0].worker_address == "127.0.0.1:5001"
            orders = [admin.unregister_proxy(root, seqno), admin.change_prices(root, 40, 34)]
            await owner.transfer([order.message() for order in orders])
            await _until(lambda: registry.state.version == 11)
            assert registry.state.registered_proxies == ()
            assert registry.state.params.params_version == 2
            assert registry.state.params.worker_fee_per_token == 34


async def _until(holds: object) -> None:
    async with asyncio.timeout(20):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110 - a condition on a state that has no event
            await asyncio.sleep(0.01)
