"""Programs that cannot start or go on: each says what is wrong, where, and what to send or do; none leaves a trace."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import TYPE_CHECKING

from e2e_network import Network, command, until, until_async

if TYPE_CHECKING:
    from pathlib import Path

    from e2e_network import LabChain


async def fails(network: Network, name: str) -> str:
    """Run a program that has to end with status 1; what it said, without line breaks."""
    status, _, err = await command(name, "run", "--config", str(network.directory / f"{name}.toml"))
    assert status == 1, err
    assert "Traceback" not in err
    return " ".join(err.split())


async def test_faults_of_files_keys_and_ports_are_named(chain: LabChain, tmp_path: Path) -> None:
    async with Network(tmp_path, chain) as network:
        path = network.write("gateway", pow_difficulty=99, no_such_key=1)
        line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "pow_difficulty" in text)
        said = (await fails(network, "gateway")).replace(" ", "")
        assert f"gateway.toml:{line}:host.pow_difficulty" in said
        assert "host.no_such_key:unknownkey" in said

        network.write("gateway")
        key = tmp_path / "gateway.key"
        key.chmod(0o644)
        assert "has mode 0644, expected 0600" in await fails(network, "gateway")
        key.chmod(0o600)
        good = key.read_bytes()
        key.write_bytes(b"not a key\n")
        assert "does not hold 32 bytes in base64" in await fails(network, "gateway")
        key.write_bytes(good)

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", network.ports["workers"]))
            taken.listen()
            assert f"cannot listen on 127.0.0.1:{network.ports['workers']}" in await fails(network, "gateway")
        # The control: with everything as it has to be, it starts.
        await network.start("gateway")


async def test_empty_wallets_say_what_to_send_to_whom(chain: LabChain, tmp_path: Path) -> None:
    async with Network(tmp_path, chain, funds={"gateway": 0, "client": 0}) as network:
        wallet = network.wallets["gateway"]
        said = await fails(network, "gateway")
        assert "TON" in said
        assert any(text in said for text in (wallet.raw(), wallet.friendly(), wallet.friendly(testnet=True))), said
        await network.world.faucet(wallet, 10 * 10**9)
        await network.start("gateway", "worker")
        await network.launch("client")
        wallet = network.wallets["client"]
        told = await network.until("client", lambda s: any("TON" in g["reason"] for g in s["gateways"]), "no hint")
        reason = " ".join(gateway["reason"] for gateway in told["gateways"])
        assert any(text in reason for text in (wallet.raw(), wallet.friendly(), wallet.friendly(testnet=True))), reason
        refused = await network.ask(5)
        assert refused.status in {402, 503}, refused
        await network.world.faucet(wallet, 100 * 10**9)
        await network.ready()


async def test_a_full_disk_stops_work_and_loses_nothing(chain: LabChain, tmp_path: Path) -> None:
    async with Network(tmp_path, chain) as network:
        await network.start_all()
        ledger = tmp_path / "worker-state" / "worker.sqlite-wal"
        before = (await network.get("worker"))["accounts"][0]
        pid = network.children["worker"].process.pid
        # No file of this process may grow beyond what the log of the ledger has now (RLIMIT_FSIZE: EFBIG).
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (ledger.stat().st_size, hard))

        async def noticed() -> bool:
            await network.ask(5)
            return any(reason["name"] == "ledger" for reason in (await network.get("worker"))["reasons"])

        await until_async(noticed, "the worker does not notice")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        await network.until("worker", lambda s: s["working"], "the worker does not resume")
        await network.ready()
        after = (await network.get("worker"))["accounts"][0]
        assert after["max"] > before["max"]
        assert after["lost"] == 0


async def test_the_chain_goes_away_and_comes_back(tmp_path: Path) -> None:
    from e2e_network import LabChain

    chain = LabChain(tmp_path / "chain")
    chain.start()
    try:
        network_directory = tmp_path / "network"
        network_directory.mkdir()
        async with Network(network_directory, chain) as network:
            await network.start_all()
            await asyncio.to_thread(chain.stop)
            # What is known of the chain is fresh for hours: work goes on without it.
            assert (await network.ask(10)).complete
            await asyncio.sleep(3.0)
            assert (await network.ask(10)).complete
            assert all(child.alive for child in network.children.values())
            await asyncio.to_thread(chain.start)
            assert (await network.ask(10)).complete
            await until(lambda: "set aside" in network.log("gateway"), "the gateway did not notice")
            assert await network.settle() == network.used
    finally:
        chain.stop()
