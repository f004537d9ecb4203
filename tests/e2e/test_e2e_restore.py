"""A gateway whose database was put back from an older backup: no marker is used twice, nothing signed is taken back."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from e2e_network import LIMIT_S, Network, cost, until_async

from appliance.accounting.gateway_ledger import GatewayLedger
from appliance.accounting.reconcile import TOLERATED_LOSS
from appliance.chain.addresses import Address
from appliance.chain.cells import Reader
from appliance.chain.messages import Op
from appliance.chain.watch import AccountWatcher
from appliance.gateway.contract_events import SAVE_STATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from e2e_network import LabChain

    from appliance.lab.processes import Child

pytestmark = pytest.mark.asyncio(loop_scope="module")

KILLS = ("session:after-commit", "marker:after-commit", "payout:after-commit")
LONG = 250
SHORT = 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(chain: LabChain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """A network with an engine that answers at once."""
    async with Network(tmp_path_factory.mktemp("restored"), chain, delay_s=0.0) as running:
        await running.start_all()
        yield running
        for name in ("client", "worker", "gateway"):
            assert await running.stop(name) == 0
            await running.gone(running.children[name])


def unique_and_growing(seen: list[tuple[int, bytes]]) -> None:
    """No marker twice, and sequence numbers only grow."""
    numbers = [seqno for seqno, _ in seen]
    assert numbers == sorted(set(numbers)), [(seqno, session.hex()[:8]) for seqno, session in seen]


def newest(path: Path) -> int:
    """The newest sequence number in a stopped gateway's database."""
    ledger = GatewayLedger(path)
    seqno = ledger.seqno
    ledger.close()
    return seqno


async def markers(network: Network, contract: Address) -> list[tuple[int, bytes]]:
    """Sequence and session of every marker on the chain, oldest first: of proven transactions."""
    found = []
    for transaction in await AccountWatcher(network.world.chain, contract).poll():
        message = transaction.inbound
        if message is None or message.source != network.wallets["gateway"]:
            continue
        reader = Reader(message.body, "marker")
        if reader.uint(32) == Op.DO_NOT_PROCESS and reader.uint(64) is not None and reader.uint(32) == SAVE_STATE:
            found.append((reader.uint(32), reader.raw(32)))
    return found


async def account(network: Network) -> dict[str, Any]:
    """The worker's account with the gateway."""
    found: dict[str, Any] = (await network.get("worker"))["accounts"][0]
    return found


async def signed(network: Network, least: int) -> None:
    """Wait until the worker holds a payment for so many tokens; it hears of newer ones every 10 to 20 seconds."""

    async def heard() -> bool:
        return int((await account(network))["committed"]) >= least

    await until_async(heard, f"nothing is signed for {least} tokens")


async def asked_until_dead(network: Network, child: Child) -> None:
    """Ask until the program dies. A request that the client keeps for half a minute, without a gateway, is left."""

    async def keep_asking() -> None:
        while True:
            await network.ask(SHORT)

    asking = asyncio.create_task(keep_asking())
    try:
        async with asyncio.timeout(LIMIT_S):
            await child.process.wait()
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_backup_is_put_back(network: Network) -> None:
    contract = Address.parse((await network.get("gateway"))["contract"])
    assert (await network.ask(LONG)).complete
    assert await network.stop("gateway") == 0
    path = network.directory / "gateway-state" / "gateway.sqlite"
    backup = network.directory / "backup.sqlite"
    ledger = GatewayLedger(path)
    old = ledger.seqno
    ledger.backup(backup)
    ledger.close()

    await network.start("gateway")
    await network.ready()
    for _ in range(4):
        assert (await network.ask(LONG)).complete
    used = network.used
    await network.until("gateway", lambda s: s["money"]["earned_committed"] >= used, "no marker covers what was used")
    assert (await network.ask(SHORT)).complete
    await signed(network, used)
    # What nobody was paid or signed for is what a restored database may lose: too little for the worker to refuse.
    assert (await network.ask(SHORT)).complete
    before = await account(network)
    assert await network.stop("gateway") == 0
    local = newest(path)
    marked = await markers(network, contract)
    assert local >= marked[-1][0] > old

    # The database alone is put back, as a person would: what lies beside it (``.opens``, ``.lock``) stays.
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    shutil.copyfile(backup, path)
    await network.start("gateway")
    assert "ledger older than its last use" in network.log("gateway")
    money = (await network.get("gateway"))["money"]
    assert money["foreign_markers"] > 0
    # It goes on above all that the chain has seen. Batches between two markers are numbered too and known to nobody
    # but the lost database, so ``local`` may be given out again; a number that was marked
    # is the newest one used, and the next batch gets the one above it.
    assert money["sequence"] >= marked[-1][0]
    await network.ready()
    after = await account(network)
    assert after["committed"] >= before["committed"]
    assert (await network.ask(LONG)).complete

    paid = await network.settle()
    lost = (await account(network))["lost"]
    assert paid + lost == network.used
    assert lost * TOLERATED_LOSS <= paid
    assert paid >= before["committed"]
    unique_and_growing(await markers(network, contract))


async def test_the_gateway_is_killed_where_it_writes_its_money_down(network: Network) -> None:
    """At a session's start, with a marker and with a payout on disk that nobody was sent."""
    contract = Address.parse((await network.get("gateway"))["contract"])
    least = (await account(network))["committed"]
    network.write("gateway", payout_min_nanotons=1)
    for boundary in KILLS:
        assert await network.stop("gateway") == 0
        await network.stop("worker")
        child = await network.launch("gateway", "--kill-on", boundary)
        await network.launch("worker")
        await asked_until_dead(network, child)
        assert child.process.returncode == -9
        await network.gone(child)
        await network.stop("worker")
        await network.start("gateway", "worker")
        await network.ready()
        assert (await network.get("gateway"))["money"]["foreign_markers"] == 0
        committed = (await account(network))["committed"]
        assert committed >= least
        least = committed
    paid = await network.settle()
    lost = (await account(network))["lost"]
    # A request that was under way at a kill may be on one side's books only.
    assert abs(paid + lost - network.used) <= len(KILLS) * cost(SHORT)
    unique_and_growing(await markers(network, contract))
