"""A whole network around the stub engine, as processes on the production path, for benchmarks.

Lab chain, contracts, simulated TDX machines, mutual RA-TLS, signed payments: all as in the demonstration; only the
engine is the stub, in a process of its own, which can also be asked directly. Limits are wide and payouts too rare to
fall into a measurement; what remains is the path of a request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from appliance.chain import admin
from appliance.keys import new_key
from appliance.lab.processes import Child, Processes, until_file, until_healthy
from appliance.lab.tee_service import collateral_path
from appliance.lab.world import TON, Economy, World

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "stub"
FULL_MODEL = f"{MODEL}@1:{'0' * 64}"
START_S = 120.0
STAKE = 20 * TON
NEVER = 10**15
POLL_S = 15.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Use:
    """What one process used."""

    cpu: float
    rss_mib: float


def use_of(pid: int) -> Use:
    """CPU seconds so far and resident memory now, from proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Use((int(fields[11]) + int(fields[12])) / CLOCK_TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


class Network:
    """The network; a context manager that leaves no process.

    Args:
        directory: For keys, ledgers and logs.
        profile: Where each program's cProfile output goes; None profiles nothing.
    """

    def __init__(self, directory: Path, *, profile: Path | None = None) -> None:
        self._directory = directory
        self._profile = profile
        self._processes = Processes(directory)
        self._stack = AsyncExitStack()
        self._engine: asyncio.subprocess.Process | None = None
        self._children: dict[str, Child] = {}
        self.engine_port = 0
        self.client_port = 0
        self.key = ""

    async def __aenter__(self) -> Self:
        """Start everything; the client endpoint takes requests when this returns."""
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stop everything."""
        await self._processes.stop()
        await self._stack.aclose()
        if self._engine is not None and self._engine.returncode is None and self._engine.stdin is not None:
            self._engine.stdin.close()
            await self._engine.wait()

    def uses(self) -> dict[str, Use]:
        """What each process used so far."""
        pids = {name: child.process.pid for name, child in self._children.items()}
        if self._engine is not None:
            pids["engine"] = self._engine.pid
        return {name: use_of(pid) for name, pid in pids.items()}

    async def pace(self, delay_s: float) -> None:
        """Set the engine's pause before each token."""
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{self.engine_port}/stub/pace"
            async with http.post(url, json={"delay_s": delay_s}) as answer:
                answer.raise_for_status()

    async def _start(self) -> None:
        await self._start_engine()
        chain = self._directory / "chain"
        child = await self._processes.start("chain", ["appliance.lab.chain", "--directory", str(chain)])
        self._children["chain"] = child
        await until_file(child, chain / "network.json", timeout=START_S)
        control = str(json.loads((chain / "network.json").read_text())["control"])
        await until_healthy(child, control + "/status", timeout=START_S)
        economy = Economy(price_per_token=1, worker_fee_per_token=1)
        world = await self._stack.enter_async_context(World(self._directory, chain / "network.json", control, economy))
        ports = await self._found(world)
        await self._run("gateway", ports["gateway"])
        await self._run("worker", ports["worker"])
        await self._until_offered(ports["gateway"])
        await self._run("client", ports["api"])
        self.client_port = ports["api"]
        self.key = (self._directory / "api.key").read_text().strip()

    async def _start_engine(self) -> None:
        command = ("-m", "appliance.lab.stub_engine", "--model", MODEL)
        self._engine = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        if self._engine.stdout is not None:
            self.engine_port = int((await self._engine.stdout.readline()).split()[1])

    async def _found(self, world: World) -> dict[str, int]:
        """Contracts, listings, funds and files; the ports."""
        root = await world.deploy_root()
        worker_measured = world.measured(
            FULL_MODEL, {"kind": "openai", "max_tokens": 4096, "context_length": 8192, "max_active_requests": 4096}
        )
        gateway_measured = world.measured()
        worker = await world.machine("worker", worker_measured)
        gateway = await world.machine("gateway", gateway_measured)
        ports = {name: world.ports.take() for name in ("workers", "clients", "api", "worker", "gateway")}
        await world.order(
            admin.register_proxy(root, f"127.0.0.1:{ports['workers']} 127.0.0.1:{ports['clients']}"),
            admin.add_proxy_image(root, gateway.image),
            admin.add_image(root, worker.image),
            admin.add_model(root, FULL_MODEL),
        )
        world.secret("api.key")
        world.secret("client.secret")
        for name in ("worker", "gateway", "client"):
            await world.faucet(world.wallet_of(f"{name}-wallet.key"), (100 if name == "client" else 10) * TON)
        self._write_configs(world, ports, worker_measured, gateway_measured)
        world.ports.release()
        return ports

    def _write_configs(self, world: World, ports: Mapping[str, int], worker: Any, gateway: Any) -> None:
        directory = self._directory
        owner = {"address": world.owner.address.friendly(testnet=True), "payout_min_nanotons": NEVER}
        common = {"registry_poll_s": POLL_S, "log_level": "warning"}
        proofs = {
            name: {
                "quote_source": str(world.quotes(name)),
                "collateral": str(collateral_path(world.quotes(name))),
                "status": f"127.0.0.1:{ports[name]}",
            }
            for name in ("worker", "gateway")
        }
        new_key(directory / "gateway.key")
        world.write_config(
            "worker",
            worker,
            owner | {"gas_key_file": str(directory / "worker-wallet.key")},
            common | proofs["worker"] | {"engine_url": f"http://127.0.0.1:{self.engine_port}"},
        )
        world.write_config(
            "gateway",
            gateway,
            owner,
            common
            | proofs["gateway"]
            | {
                "listen_workers": f"127.0.0.1:{ports['workers']}",
                "listen_clients": f"127.0.0.1:{ports['clients']}",
                "key_file": str(directory / "gateway.key"),
                "wallet_key_file": str(directory / "gateway-wallet.key"),
                "pow_difficulty": 10,
                "payout_min_nanotons": NEVER,
            },
        )
        world.write_config(
            "client",
            gateway,
            owner,
            common
            | {
                "listen": f"127.0.0.1:{ports['api']}",
                "collateral": str(collateral_path(world.quotes("gateway"))),
                "api_key_file": str(directory / "api.key"),
                "wallet_key_file": str(directory / "client-wallet.key"),
                "secret_file": str(directory / "client.secret"),
                "top_up_nanotons": STAKE,
            },
        )

    async def _run(self, name: str, port: int) -> None:
        command = ["appliance.cli", name, "run", "--config", str(self._directory / f"{name}.toml")]
        if self._profile is not None:
            command = ["cProfile", "-o", str(self._profile / f"{name}.prof"), "-m", *command]
        child = self._children[name] = await self._processes.start(name, command)
        await until_healthy(child, f"http://127.0.0.1:{port}/health", timeout=START_S)

    async def _until_offered(self, port: int) -> None:
        """Wait until the gateway has verified the worker's fresh evidence."""
        async with asyncio.timeout(START_S), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"http://127.0.0.1:{port}/status") as answer:
                    if any(worker["offered"] for worker in (await answer.json())["workers"]):
                        return
                await asyncio.sleep(0.1)
