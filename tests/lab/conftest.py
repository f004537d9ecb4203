"""One TVM process for the room's tests, chains in temporary directories, and independent clients."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.chain.addresses import Address
from appliance.lab.chain.devnet import DevNet
from appliance.lab.chain.liteserver import LiteServer
from appliance.lab.chain.machine import TvmMachine
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import prepare_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pytoniq_core.boc.cell import Cell

TONLIB_SECONDS = 60


@pytest.fixture(scope="session")
def base_config() -> Cell:
    return prepare_tools().slim_config()


@pytest.fixture(scope="session")
def tvm(base_config: Cell) -> Iterator[Tvm]:
    with Tvm(base_config) as machine:
        yield machine


@pytest.fixture
def make_net(tvm: Tvm, base_config: Cell, tmp_path: Path) -> Iterator[Callable[..., DevNet]]:
    """Makes chains that share the one TVM; only one of them may be at work at a time (the configuration is shared)."""
    made: list[DevNet] = []

    def make(name: str = "chain", **options: Any) -> DevNet:
        net = DevNet(TvmMachine(tvm), tmp_path / name, base_config=base_config, **options)
        made.append(net)
        return net

    yield make
    for net in made:
        net.close()


@pytest.fixture
def net(make_net: Callable[..., DevNet]) -> DevNet:
    return make_net()


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
