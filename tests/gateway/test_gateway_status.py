"""The status port: what it shows, and what it never shows."""

from __future__ import annotations

import aiohttp
import pytest
from gateway_world import FULL_MODEL, World, final, head, part, usage_body
from prometheus_client.parser import text_string_to_metric_families

from appliance.gateway import status
from appliance.gateway.errors import GatewayError
from appliance.gateway.status import GatewayStatus, MoneyStatus, WorkerStatus


def snapshot(world: World) -> GatewayStatus:
    worker = next(iter(world.desk.fleet))
    return GatewayStatus(
        taking_work=world.desk.closed is None,
        reason=world.desk.closed or "",
        contract="contract",
        wallet="wallet",
        root_version=5,
        params_version=3,
        root_age_s=1.5,
        clients=1,
        requests_open=world.desk.open,
        requests_waiting=world.desk.waiting,
        totals={"requests": world.desk.tally.requests},
        failures={"602": 3},
        refusals={"worker": 1},
        refused_workers=["image hash … is not listed"],
        workers=[
            WorkerStatus(
                number=worker.number,
                model=worker.admitted.model,
                image_hash=worker.admitted.image_hash.hex(),
                coefficient=worker.coefficient,
                offered=worker.offered,
                proven=worker.cleared,
                running=len(worker.running),
                limit=worker.admitted.limit,
                average_s=worker.average.value,
                absurd_reports=0,
            )
        ],
        money=MoneyStatus(
            sequence=7,
            marker_on_its_way=0,
            earned=worker.account.tokens,
            earned_written=0,
            earned_committed=0,
            earned_on_chain=0,
            reserved=world.reserved(),
            foreign_markers=0,
        ),
    )


async def test_health_status_and_metrics() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.ask(client)
    order = worker.port.take()[0]  # type: ignore[attr-defined]
    world.desk.worker_message(worker, head(order.request_id))
    world.desk.worker_message(worker, part(order.request_id, usage_body(9, 4), final(9)))
    runner = await status.serve(lambda: snapshot(world), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/health") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            world.desk.closed = "the root contract is stale"
            async with http.get(f"{url}/health") as answer:
                assert (answer.status, await answer.text()) == (503, "the root contract is stale\n")
            async with http.get(f"{url}/status") as answer:
                text = await answer.text()
                shown = GatewayStatus.model_validate_json(text)
            async with http.post(f"{url}/status") as answer:
                assert answer.status == 405
            async with http.get(f"{url}/metrics") as answer:
                metrics = await answer.text()
    finally:
        await runner.cleanup()
    assert shown.workers[0].model == FULL_MODEL
    assert shown.money.earned == 9
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    assert families["chrysalis_gateway_tokens_earned"].samples[0].value == 9
    assert families["chrysalis_gateway_failures"].samples[0].labels == {"code": "602"}
    for secret in (client.owner.raw(), client.owner.friendly(), "Hello?", "word word"):
        assert secret not in text
        assert secret not in metrics


async def test_a_taken_port_is_named() -> None:
    world = World()
    world.worker(1)
    runner = await status.serve(lambda: snapshot(world), "127.0.0.1", 0)
    try:
        with pytest.raises(GatewayError, match="cannot listen on"):
            await status.serve(lambda: snapshot(world), "127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()
