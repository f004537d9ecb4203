"""The program as a process: its files and ports, kills at any moment, restarts, and what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
from lab_support import TestWallet, account, tonlib
from nacl.signing import SigningKey
from pytoniq import LiteClient, WalletV3R2
from pytoniq_core import Address as CellAddress

from appliance.chain.boc import encode_boc
from appliance.config.models import LiteserverConfig, NetworkConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

TON = 10**9
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60


class Program:
    """A running program and its control port."""

    def __init__(
        self, process: asyncio.subprocess.Process, network: dict[str, Any], http: aiohttp.ClientSession
    ) -> None:
        self.process = process
        self.network = network
        self._http = http
        self.node = psutil.Process(process.pid).children()

    async def post(self, path: str, body: dict[str, Any] | None = None, *, status: int = 200) -> dict[str, Any]:
        async with self._http.post(self.network["control"] + path, json=body) as response:
            assert response.status == status, await response.text()
            return dict(await response.json())

    async def status(self) -> dict[str, Any]:
        async with self._http.get(self.network["control"] + "/status") as response:
            return dict(await response.json())


@asynccontextmanager
async def running(directory: Path, *options: str) -> AsyncIterator[Program]:
    command = [sys.executable, "-m", "appliance.lab.chain", "--directory", str(directory), "--block-time", "0.2"]
    process = await asyncio.create_subprocess_exec(*command, *options, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
    (directory / "network.json").unlink(missing_ok=True)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (directory / "network.json").exists():
                assert process.returncode is None, "the program ended"
                await asyncio.sleep(0.02)
        async with aiohttp.ClientSession() as http:
            yield Program(process, json.loads((directory / "network.json").read_text()), http)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def ended(processes: list[psutil.Process]) -> None:
    async with asyncio.timeout(START_SECONDS):
        while any(map(_alive, processes)):  # noqa: ASYNC110 - nothing tells of a stranger's end
            await asyncio.sleep(0.02)


async def test_the_whole_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "chain"
    wallet = TestWallet(9)
    async with running(directory) as program:
        network = program.network
        # what it writes is what the programs' own configuration takes
        NetworkConfig(
            global_id=network["global_id"],
            zerostate=network["zerostate"],
            key_block=network["key_block"],
            root_contract=network["faucet"]["address"],
        )
        LiteserverConfig(**network["liteservers"][0])
        seed_file = Path(network["faucet"]["seed_file"])
        for path in (seed_file, directory / "network.json", directory / "chain.sqlite3"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

        await program.post("/faucet", {"address": account(1).raw(), "amount": 3 * TON})
        deployed = await program.post(
            "/deploy",
            {"state_init": base64.b64encode(encode_boc(wallet.state_init)).decode(), "value": 5 * TON},
        )
        assert deployed["address"] == wallet.address.raw()
        before = await program.status()
        assert before["accounts"] == 3
        assert (await program.post("/time", {"advance_s": 86400}))["utime"] >= before["utime"] + 86400
        ticked = await program.post("/tick")
        assert ticked["seqno"] > before["seqno"]
        assert (await program.status())["utime"] >= before["utime"] + 86400
        assert (await program.post("/key-block", {"rotate_validator": True}))["seqno"] > ticked["seqno"]

        # the faucet's seed is an ordinary wallet's
        client = LiteClient.from_config(network["global_config"], 0, trust_level=0)
        await client.connect()
        seed = base64.b64decode(seed_file.read_text())
        faucet = await WalletV3R2.from_private_key(client, seed + bytes(SigningKey(seed).verify_key))
        assert CellAddress(network["faucet"]["address"]) == faucet.address
        assert (await client.get_account_state(account(1).raw())).balance >= 3 * TON - 10**6
        await client.close()
        async with tonlib(network["global_config"], tmp_path) as oracle:
            assert (await oracle("sync"))["@type"] == "ton.blockIdExt"

        for path, body in (
            ("/faucet", {"address": "nobody", "amount": TON}),
            ("/faucet", {"address": account(1).raw(), "amount": 0}),
            ("/faucet", {"address": account(1).raw(), "amount": TON, "more": 1}),
            ("/deploy", {"state_init": "AAAA", "value": TON}),
            ("/deploy", {"state_init": "?", "value": TON}),
            ("/send", {"boc": base64.b64encode(encode_boc(wallet.state_init)).decode()}),
            ("/time", {"advance_s": -1}),
        ):
            refused = await program.post(path, body, status=400)
            assert refused["error"]

        children = program.node
        assert len(children) == 1
        program.process.terminate()
        assert await program.process.wait() == 0
        await ended(children)


async def test_a_killed_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    heads: list[dict[str, Any]] = []
    granted = 0
    for round_number in range(3):
        async with running(directory, "--block-delay", "0") as program:
            if heads:
                assert program.network["zerostate"] == heads[-1]["zerostate"]
                assert program.network["key_block"] == heads[-1]["key_block"]
                assert program.network["liteservers"][0]["key"] == heads[-1]["liteservers"][0]["key"]
                now = await program.status()
                assert now["seqno"] >= heads[-1]["status"]["seqno"]
                assert now["transactions"] >= heads[-1]["status"]["transactions"]
            target = account(round_number + 1)
            for _ in range(3):
                await program.post("/faucet", {"address": target.raw(), "amount": TON})
                granted += 1
            status = await program.status()
            # grants under way when the kill comes are lost or made, never half made
            pending = [
                asyncio.ensure_future(program.post("/faucet", {"address": account(200).raw(), "amount": TON}))
                for _ in range(4)
            ]
            await asyncio.sleep(0.01 * round_number)
            children = program.node
            os.kill(program.process.pid, signal.SIGKILL)
            await program.process.wait()
            await asyncio.gather(*pending, return_exceptions=True)
            await ended(children)
            heads.append({**program.network, "status": status})
    async with running(directory) as program, tonlib(program.network["global_config"], tmp_path) as oracle:
        assert (await oracle("sync"))["@type"] == "ton.blockIdExt"
        for number in range(1, 4):
            state = await oracle(
                "raw.getAccountState",
                account_address={"@type": "accountAddress", "account_address": account(number).friendly()},
            )
            assert 3 * TON - 100 <= int(state["balance"]) <= 3 * TON


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    command = "[sys.executable, '-m', 'appliance.lab.chain', '--watch-parent', '--directory', sys.argv[1]]"
    script = f"import subprocess, sys, time\nchild = subprocess.Popen({command})\ntime.sleep(600)\n"
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(directory), cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (directory / "network.json").exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == 2
    finally:
        parent.kill()
        await parent.wait()
    await ended(family)


async def test_a_wrong_directory_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "chain.sqlite3").write_bytes(b"not a database" * 100)
    command = [sys.executable, "-m", "appliance.lab.chain", "--directory", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(START_SECONDS):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"cannot be opened" in errors
