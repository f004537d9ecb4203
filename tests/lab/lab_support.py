"""Servers, independent clients and small builders for the room's tests."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.lab.chain.faucet import Faucet, Grant
from appliance.lab.chain.liteserver import LiteServer
from appliance.lab.chain.messages import read_account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from appliance.lab.chain.devnet import DevNet

TONLIB_SECONDS = 60


@asynccontextmanager
async def served(net: DevNet, **options: Any) -> AsyncIterator[LiteServer]:
    server = LiteServer(net, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Tonlib:
    """The C++ client in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, kind: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"@type": kind, **fields}).encode() + b"\n")
        async with asyncio.timeout(TONLIB_SECONDS):
            line = await self._process.stdout.readline()
        return dict(json.loads(line))


@asynccontextmanager
async def tonlib(config: dict[str, Any], folder: Path) -> AsyncIterator[Tonlib]:
    """A started and configured libtonlibjson."""
    script = Path(__file__).parent / "tonlib_client.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        client = Tonlib(process)
        keys = folder / "keys"
        keys.mkdir(exist_ok=True)
        chain = {
            "@type": "config",
            "config": json.dumps(config),
            "blockchain_name": "",
            "use_callbacks_for_network": False,
            "ignore_cache": True,
        }
        store = {"@type": "keyStoreTypeDirectory", "directory": str(keys)}
        answer = await client("init", options={"@type": "options", "config": chain, "keystore_type": store})
        assert answer["@type"] == "options.info", answer
        yield client
    finally:
        process.kill()
        await process.wait()


def account(number: int) -> Address:
    """An address that nobody has a key for."""
    return Address(0, bytes([number]) * 32)


def friendly(address: Address) -> dict[str, str]:
    """An address as tonlib takes it."""
    return {"@type": "accountAddress", "account_address": address.friendly(bounceable=True)}


def balance_of(net: DevNet, address: Address) -> int:
    """Nanotons of an account at the newest height."""
    return read_account(net.shard_account(address).refs[0]).balance


def status_of(net: DevNet, address: Address) -> str:
    """The account's status at the newest height."""
    return read_account(net.shard_account(address).refs[0]).status


class TestWallet:
    """A v3r2 wallet of a test: the faucet's contract with another key."""

    __test__ = False

    def __init__(self, seed: int) -> None:
        self._wallet = Faucet(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))
        self.address = self._wallet.address
        self.state_init = self._wallet.state_init

    def order(self, net: DevNet, *grants: Grant) -> bytes:
        """A signed external message for the wallet as it stands."""
        return encode_boc(self._wallet.order(net.shard_account(self.address), grants, net.clock.now()).cell)
