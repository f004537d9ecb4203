"""A lab chain as a process, and a real worker on it: contracts, quoting service, engine stub, the attested port."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web
from attest_cli_support import ROOT

from appliance.chain import admin
from appliance.lab.processes import Processes
from appliance.lab.stub_engine import StubEngine
from appliance.lab.tee_service import collateral_path, root_path
from appliance.lab.world import TON, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = "stub/model@main:" + "ab" * 32
LIMIT_S = 90.0


class LabChain:
    """A running lab chain; its files are in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = directory / "network.json"
        command = [sys.executable, "-m", "appliance.cli", "lab", "chain", "-d", str(directory), "--block-time", "0.5"]
        with (directory / "log").open("w") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + LIMIT_S
        while not self.network.exists():
            assert self._process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, "the lab chain did not start"
            time.sleep(0.1)

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.network.read_text())
        return found

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(LIMIT_S) == 0


class Worker:
    """A real worker process: where it can be asked, and what it is."""

    def __init__(self, address: str, image: bytes, root: Path, config: Path) -> None:
        self.address = address
        self.image = image
        self.root = root
        self.config = config


@asynccontextmanager
async def running_worker(directory: Path, chain: LabChain) -> AsyncIterator[Worker]:
    """A worker of a private network, until its attested port answers."""
    engine = web.AppRunner(StubEngine("stub/model", delay_s=0.01).application(), access_log=None, shutdown_timeout=0.01)
    await engine.setup()
    await web.TCPSite(engine, "127.0.0.1", 0).start()
    processes = Processes(directory)
    try:
        async with World(directory, chain.network, chain.facts["control"]) as world:
            root = await world.deploy_root()
            measured = world.measured(MODEL, {"kind": "openai", "max_tokens": 64, "max_active_requests": 2})
            machine = await world.machine("worker", measured)
            await world.order(admin.add_image(root, machine.image), admin.add_model(root, MODEL))
            port, status = world.ports.take(), world.ports.take()
            quotes = world.quotes("worker")
            host = {
                "attested": f"127.0.0.1:{port}",
                "status": f"127.0.0.1:{status}",
                "quote_source": str(quotes),
                "collateral": str(collateral_path(quotes)),
                "engine_url": f"http://127.0.0.1:{engine.addresses[0][1]}",
            }
            await world.faucet(world.wallet_of("worker-wallet.key"), 10 * TON)
            owner = {
                "address": world.owner.address.friendly(testnet=True),
                "coefficient": 1000,
                "gas_key_file": str(directory / "worker-wallet.key"),
            }
            config = world.write_config("worker", measured, owner, host)
            world.ports.release()
            child = await processes.start("worker", ["appliance.cli", "worker", "run", "--config", str(config)])
            async with asyncio.timeout(LIMIT_S):
                while not await _open(port):
                    assert child.alive, child.tail()
                    await asyncio.sleep(0.1)
            yield Worker(f"127.0.0.1:{port}", machine.image, root_path(quotes), config)
    finally:
        await processes.stop()
        await engine.cleanup()


async def _open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
