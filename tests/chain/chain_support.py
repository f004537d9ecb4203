"""Liteservers, clients and money on the lab's chain, for this room's tests."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.client import ChainClient, TrustPoint
from appliance.chain.transport import LiteserverAddress
from appliance.lab.chain.faucet import Grant
from appliance.lab.chain.liteserver import LiteServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from appliance.chain.addresses import Address
    from appliance.lab.chain.devnet import DevNet

TON = 10**9
BLOCK_S = 0.05


@asynccontextmanager
async def served(net: DevNet, **options: Any) -> AsyncIterator[LiteServer]:
    server = LiteServer(net, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def address_of(server: LiteServer) -> LiteserverAddress:
    return LiteserverAddress("127.0.0.1", server.port, server.public_key)


def trust_of(net: DevNet) -> TrustPoint:
    return TrustPoint(net.zerostate.id, net.key_block.id)


@asynccontextmanager
async def reading(net: DevNet, *servers: LiteServer, **options: Any) -> AsyncIterator[ChainClient]:
    """A client that trusts ``net`` and asks the given servers."""
    async with ChainClient(trust_of(net), [address_of(server) for server in servers], **options) as client:
        yield client


@asynccontextmanager
async def ticking(net: DevNet) -> AsyncIterator[None]:
    """Blocks every few hundredths of a second."""

    async def make_blocks() -> None:
        while True:
            await asyncio.to_thread(net.tick)
            await asyncio.sleep(BLOCK_S)

    task = asyncio.create_task(make_blocks())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def live(net: DevNet) -> AsyncIterator[ChainClient]:
    """A chain that makes blocks, and a client on it."""
    async with served(net) as server, ticking(net), reading(net, server) as client:
        yield client


async def fund(net: DevNet, client: ChainClient, address: Address, amount: int) -> None:
    """Give nanotons and wait until a proof shows them."""
    net.grant(Grant(address, amount))
    head = await client.head()
    while (await client.account(address)).balance < amount:
        head = await client.wait_head(head.block.seqno, timeout=20)


def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
