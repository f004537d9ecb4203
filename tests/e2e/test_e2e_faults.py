"""Programs that die in the middle of work: users get errors, ledgers keep what was acknowledged, the owner is paid."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest
from e2e_network import WORKER_CAP, cost, until_async

from appliance.accounting.gateway_ledger import GatewayLedger

if TYPE_CHECKING:
    from e2e_network import Network

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = (
    ("worker", "record:before-commit"),
    ("worker", "record:after-commit"),
    ("gateway", "usage:before-commit"),
    ("gateway", "usage:after-commit"),
    ("gateway", "marker:before-commit"),
)


async def test_the_engine_dies_in_the_middle_of_an_answer(network: Network) -> None:
    network.engine.die_after = 3
    answer = await network.ask(50, stream=True)
    assert not answer.complete
    assert answer.error["message"]
    network.engine.die_after = None
    asked = await network.streaming(WORKER_CAP)
    await network.engine_stop()
    answer = await asked
    assert not answer.complete
    assert answer.error["message"]
    told = await network.until("worker", lambda s: not s["working"], "the worker goes on without an engine")
    assert [reason["name"] for reason in told["reasons"]] == ["engine"]
    await network.until("gateway", lambda s: not any(w["offered"] for w in s["workers"]), "still offered")
    refused = await network.ask(5)
    assert refused.status in {404, 429, 502, 503}, refused
    await network.engine_start()
    await network.ready()


async def test_the_worker_is_killed_in_the_middle_of_an_answer(network: Network) -> None:
    await network.ready()
    before = (await network.get("worker"))["accounts"][0]
    asked = await network.streaming(WORKER_CAP)
    await network.kill("worker")
    answer = await asked
    assert not answer.complete
    assert answer.error["message"]
    assert answer.error["code"]
    await network.start("worker")
    await network.ready()
    after = (await network.get("worker"))["accounts"][0]
    assert after["max"] >= before["db"]
    assert after["committed"] >= before["committed"]


async def test_the_gateway_is_killed_in_the_middle_of_an_answer(network: Network) -> None:
    before = (await network.get("gateway"))["money"]
    asked = await network.streaming(WORKER_CAP)
    await network.kill("gateway")
    answer = await asked
    assert not answer.complete
    assert answer.error["message"]
    refused = await network.ask(5)
    assert refused.status in {502, 503, 504}, refused
    await network.start("gateway")
    await network.ready()
    after = (await network.get("gateway"))["money"]
    assert after["sequence"] > before["sequence"]
    assert after["earned"] >= before["earned_written"]
    assert after["foreign_markers"] == 0


async def test_the_boundaries_are_those_of_a_recorded_life(network: Network) -> None:
    """The list above is what a life really passes: a change of names does not empty the tests below."""
    for name in ("worker", "gateway"):
        record = network.directory / f"{name}.boundaries"
        await network.stop(name)
        await network.launch(name, "--record", str(record))
    await network.ready()
    wanted = {boundary for _, boundary in PATH}
    record = network.directory

    def seen() -> set[str]:
        return {line for path in record.glob("*.boundaries") for line in path.read_text().splitlines()}

    async def passed() -> bool:
        await network.ask(5)
        return wanted <= seen()

    await until_async(passed, "not every boundary was passed")


@pytest.mark.parametrize(("name", "boundary"), PATH)
async def test_killed_at_a_durable_write(network: Network, name: str, boundary: str) -> None:
    await network.ready()
    sequence = (await network.get("gateway"))["money"]["sequence"]
    before = (await network.get("worker"))["accounts"][0]
    await network.stop(name)
    child = await network.launch(name, "--kill-on", boundary)
    if name == "gateway":
        await network.stop("worker")
        await network.launch("worker")
    while child.alive:
        await network.ask(5)
        await asyncio.sleep(0.1)
    assert child.process.returncode == -9
    await network.gone(child)
    await network.start(name)
    if name == "gateway":
        # A worker that lost its gateway so often waits longer each time; a fresh start does not, and adds a restart.
        await network.stop("worker")
        await network.start("worker")
    await network.ready()
    after = (await network.get("worker"))["accounts"][0]
    assert after["committed"] >= before["committed"]
    assert after["lost"] == before["lost"] or name == "gateway"
    money = (await network.get("gateway"))["money"]
    assert money["sequence"] >= sequence
    assert money["foreign_markers"] == 0


async def test_in_the_end_the_owner_has_what_was_used(network: Network) -> None:
    paid = await network.settle()
    # A kill may take usage that nobody had acknowledged as written, at most one batch a kill; and add what was cut.
    assert 0 < paid <= network.used + 20 * cost(WORKER_CAP)
    worker = (await network.get("worker"))["accounts"][0]
    assert paid + worker["lost"] >= worker["committed"]


async def test_ledgers_hold_totals_and_are_sound(network: Network) -> None:
    for name in ("client", "worker", "gateway"):
        assert await network.stop(name) == 0
    for path in network.directory.rglob("*.sqlite"):
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
    ledger = GatewayLedger(network.directory / "gateway-state" / "gateway.sqlite")
    assert ledger.instances()
    ledger.close()
