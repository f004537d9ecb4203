"""The gateway program between a real worker, a real client and real contracts; only the engine is a stub.

What unit tests cannot show: the long authorisation over the chain, markers and payouts executed by the contracts, a
kill -9 in the middle of a stream, and SIGTERM while a request runs.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from appliance.accounting.gateway_ledger import GatewayLedger
from appliance.chain import admin
from appliance.keys import new_key
from appliance.lab.processes import Child, Processes, stop, until_file, until_healthy
from appliance.lab.stub_engine import StubEngine, serve
from appliance.lab.tee_service import collateral_path
from appliance.lab.world import TON, Economy, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = "stub/model@main:" + "ab" * 32
START_S = 90.0
QUESTION = {"model": "stub/model", "messages": [{"role": "user", "content": "hello there"}]}


class Network:
    """The programs of one network and how to speak to them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes = Processes(directory)
        self.engine = StubEngine("stub/model", delay_s=0.05)
        self.ports: dict[str, int] = {}
        self.children: dict[str, Child] = {}

    async def found(self, stack: AsyncExitStack) -> None:
        """Chain, contracts, money, files."""
        await stack.enter_async_context(self.processes)
        chain = await self.processes.start(
            "chain", ["appliance.lab.chain", "--directory", str(self.directory / "chain")]
        )
        facts = self.directory / "chain" / "network.json"
        await until_file(chain, facts, timeout=START_S)
        control = str(json.loads(facts.read_text())["control"])
        await until_healthy(chain, control + "/status", timeout=START_S)
        runner = await serve(self.engine, 0)
        stack.push_async_callback(runner.cleanup)
        prices = Economy(price_per_token=1_200_000, worker_fee_per_token=1_000_000)
        world = await stack.enter_async_context(World(self.directory, facts, control, prices))
        root = await world.deploy_root()
        measured = {
            "worker": world.measured(MODEL, {"kind": "openai", "max_tokens": 256, "max_active_requests": 8}),
            "gateway": world.measured(),
        }
        images = {name: (await world.machine(name, measured[name])).image for name in measured}
        self.ports = {name: world.ports.take() for name in ("workers", "clients", "client", "worker", "gateway")}
        await world.order(
            admin.register_proxy(root, f"127.0.0.1:{self.ports['workers']} 127.0.0.1:{self.ports['clients']}"),
            admin.add_proxy_image(root, images["gateway"]),
            admin.add_image(root, images["worker"]),
            admin.add_model(root, MODEL),
        )
        await world.faucet(world.owner.address, 10 * TON)
        for name in ("api.key", "client.secret"):
            world.secret(name)
        for name, amount in (("worker", 10), ("gateway", 10), ("client", 100)):
            await world.faucet(world.wallet_of(f"{name}-wallet.key"), amount * TON)
        new_key(self.directory / "gateway.key")
        self._write(world, measured, f"http://127.0.0.1:{runner.addresses[0][1]}")
        world.ports.release()

    def _write(self, world: World, measured: dict[str, Any], engine: str) -> None:
        here, ports = self.directory, self.ports
        owner = {"address": world.owner.address.friendly(testnet=True)}
        pays = {"payout_min_nanotons": TON // 100, "payout_max_fee_share": 0.5}
        gas = {"coefficient": 1000, "gas_key_file": str(here / "worker-wallet.key")}
        collateral = str(collateral_path(world.quotes("gateway")))
        common = {"collateral": collateral, "wallet_key_file": str(here / "gateway-wallet.key")}
        world.write_config(
            "worker",
            measured["worker"],
            owner | pays | gas,
            {
                "status": f"127.0.0.1:{ports['worker']}",
                "quote_source": str(world.quotes("worker")),
                "collateral": collateral,
                "engine_url": engine,
            },
        )
        world.write_config(
            "gateway",
            measured["gateway"],
            owner,
            common
            | {
                "status": f"127.0.0.1:{ports['gateway']}",
                "listen_workers": f"127.0.0.1:{ports['workers']}",
                "listen_clients": f"127.0.0.1:{ports['clients']}",
                "quote_source": str(world.quotes("gateway")),
                "key_file": str(here / "gateway.key"),
                "pow_difficulty": 8,
                "commit_interval_s": 1.0,
            },
        )
        world.write_config(
            "client",
            measured["gateway"],
            owner,
            {
                "listen": f"127.0.0.1:{ports['client']}",
                "collateral": collateral,
                "wallet_key_file": str(here / "client-wallet.key"),
                "api_key_file": str(here / "api.key"),
                "secret_file": str(here / "client.secret"),
                "top_up_nanotons": 20 * TON,
                "max_coefficient": 1000,
            },
        )

    async def start(self, name: str) -> None:
        """Run a program and wait until it is healthy."""
        config = str(self.directory / f"{name}.toml")
        child = await self.processes.start(name, ["appliance.cli", name, "run", "--config", config])
        self.children[name] = child
        await until_healthy(child, f"http://127.0.0.1:{self.ports[name]}/health", timeout=START_S)

    async def status(self) -> dict[str, Any]:
        """The gateway's status."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.ports['gateway']}/status") as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a state of the gateway."""
        async with asyncio.timeout(START_S):
            while not holds(status := await self.status()):  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.2)
        return status

    async def ask(self, tokens: int, *, stream: bool = False) -> tuple[int, str]:
        """One request of a user; status 0 when the answer broke off."""
        key = (self.directory / "api.key").read_text().strip()
        body = QUESTION | {"max_tokens": tokens, "stream": stream}
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.ports['client']}/v1/chat/completions"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=START_S)) as http:
            try:
                async with http.post(url, headers=headers, json=body) as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientError:
                return 0, ""


def ready(status: dict[str, Any]) -> bool:
    return bool(status["clients"]) and any(worker["offered"] for worker in status["workers"])


def settled(status: dict[str, Any]) -> bool:
    money = status["money"]
    return bool(money["earned"] and money["earned_committed"] == money["earned"])


@pytest.mark.slow
async def test_kill_and_drain_in_the_middle_of_work(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        network = Network(tmp_path)
        await network.found(stack)
        for name in ("gateway", "worker", "client"):
            await network.start(name)
        await network.until(ready)

        code, text = await network.ask(10)
        assert code == 200, text
        before = (await network.until(settled))["money"]
        # 2 prompt tokens and 10 of the answer at multiplier 8: the stub engine counts words.
        assert before["earned"] == 2 + 8 * 10
        assert before["reserved"] == before["foreign_markers"] == 0

        # kill -9 in the middle of a stream: the user's request ends, nothing that was written is lost.
        streaming = asyncio.create_task(network.ask(200, stream=True))
        await network.until(lambda status: status["requests_open"] == 1)
        await stop(network.children["gateway"], kill=True)
        code, text = await streaming
        assert code != 200 or "[DONE]" not in text
        await network.start("gateway")
        after = (await network.status())["money"]
        assert after["earned"] >= before["earned_written"]
        assert after["earned_committed"] == before["earned_committed"]
        assert after["foreign_markers"] == after["reserved"] == 0
        await network.until(ready)
        assert (await network.ask(10))[0] == 200

        # SIGTERM: the running request is answered, then the program ends well and the ledger holds it.
        known = (await network.status())["money"]["earned"]
        running = asyncio.create_task(network.ask(30))
        await network.until(lambda status: status["requests_open"] == 1)
        assert await stop(network.children["gateway"]) == 0
        code, text = await running
        assert code == 200, text
        ledger = GatewayLedger(tmp_path / "gateway-state" / "gateway.sqlite")
        (instance,) = ledger.instances()
        assert sum(row.tokens for row in ledger.workers(instance.contract)) == known + 2 + 8 * 30
        ledger.close()
