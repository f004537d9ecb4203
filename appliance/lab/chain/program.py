"""The lab's chain as a program: TVM, chain, liteserver, control port, and the files that tell others where they are.

In: :class:`Settings`. Out, in the directory: ``chain.sqlite3``, ``faucet.seed`` (base64, mode 0600), ``network.json``
(written last, in one step, when everything answers). Ends on SIGTERM and SIGINT, and with its parent if asked to; the
TVM's process ends with it in every case, also when this one is killed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.lab.chain.control import Control
from appliance.lab.chain.devnet import DEFAULT_BLOCK_LIMIT, DEFAULT_GLOBAL_ID, DevNet
from appliance.lab.chain.liteserver import LiteServer
from appliance.lab.chain.machine import TvmMachine
from appliance.lab.chain.producer import Producer
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import prepare_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.lab.chain.layout import Block

NETWORK_FILE = "network.json"
SEED_FILE = "faucet.seed"
_LITESERVER_SEED = "liteserver_seed"
_PARENT_POLL_S = 0.5
_SHUTDOWN_S = 1.0  # a request that waits for a block would wait for ever

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the program runs. Times in seconds; port 0 lets the system choose."""

    directory: Path
    liteserver_port: int = 0
    control_port: int = 0
    block_time: float = 2.0
    block_delay: float = 0.05
    global_id: int = DEFAULT_GLOBAL_ID
    block_limit: int = DEFAULT_BLOCK_LIMIT
    watch_parent: bool = False


async def serve(settings: Settings) -> None:
    """Run until told to stop.

    Raises:
        ApplianceError: The tools are missing, or the directory holds something else or a damaged chain.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _chain(settings) as net:
            await _serve(settings, net, stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _chain(settings: Settings) -> AsyncIterator[DevNet]:
    tools = await asyncio.to_thread(prepare_tools)
    tvm = await asyncio.to_thread(Tvm, tools=tools)
    try:
        net = DevNet(
            TvmMachine(tvm),
            settings.directory,
            base_config=tools.slim_config(),
            global_id=settings.global_id,
            block_limit=settings.block_limit,
        )
        try:
            yield net
        finally:
            net.close()
    finally:
        tvm.close()


async def _serve(settings: Settings, net: DevNet, stop: asyncio.Event) -> None:
    (settings.directory / NETWORK_FILE).unlink(missing_ok=True)  # a former run's ports
    server = LiteServer(net, key=_liteserver_key(net))
    producer = Producer(net, block_time=settings.block_time, block_delay=settings.block_delay)
    runner = web.AppRunner(Control(net, producer).application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await server.start(settings.liteserver_port)
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", settings.control_port)
        await site.start()
        control_port = int(runner.addresses[0][1])
        seed = base64.b64encode(net.faucet.key.private_bytes_raw()) + b"\n"
        _write(settings.directory / SEED_FILE, seed)
        network = describe(net, server, control_port, settings.directory / SEED_FILE)
        _write(settings.directory / NETWORK_FILE, json.dumps(network, indent=1).encode() + b"\n")
        _log.info("lab chain ready", port=server.port, seqno=net.view.seqno)
        await _until_stopped(producer, stop, watch_parent=settings.watch_parent)
    finally:
        await runner.cleanup()
        await server.close()


async def _until_stopped(producer: Producer, stop: asyncio.Event, *, watch_parent: bool) -> None:
    waits = [asyncio.create_task(stop.wait()), asyncio.create_task(producer.run())]
    if watch_parent:
        waits.append(asyncio.create_task(_parent_gone()))
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not stop.is_set():  # what fails after an interrupt fails because of it: the TVM's process gets it too
                task.result()
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _parent_gone() -> None:
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - the system tells nobody of a parent's death
        await asyncio.sleep(_PARENT_POLL_S)


def describe(net: DevNet, server: LiteServer, control_port: int, seed_file: Path) -> dict[str, Any]:
    """What ``network.json`` says; blocks and liteservers as in the programs' own configuration files."""
    return {
        "global_id": net.view.ledger.global_id,
        "zerostate": _block(net.zerostate),
        "key_block": _block(net.key_block),
        "liteservers": [
            {"address": f"127.0.0.1:{server.port}", "key": base64.b64encode(server.public_key).decode()},
        ],
        "control": f"http://127.0.0.1:{control_port}",
        "faucet": {"address": net.faucet.address.raw(), "seed_file": str(seed_file)},
        "global_config": server.global_config(),
    }


def _block(block: Block) -> dict[str, int | str]:
    return {
        "workchain": block.id.workchain,
        "shard": block.id.shard,
        "seqno": block.id.seqno,
        "root_hash": block.id.root_hash.hex(),
        "file_hash": block.id.file_hash.hex(),
    }


def _liteserver_key(net: DevNet) -> Ed25519PrivateKey:
    """The server's key, which stays the same over restarts."""
    seed = net.store.meta(_LITESERVER_SEED)
    if seed is None:
        seed = Ed25519PrivateKey.generate().private_bytes_raw()
        net.store.set_meta(_LITESERVER_SEED, seed)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, mode 0600."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
    fresh.replace(path)
