"""The operator's page: what it shows, what it never shows, and who may change anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from worker_world import World, until

from appliance.worker.stages import Stages
from appliance.worker.status import StatusPage
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "control-key"
SECRET = "the-secret-of-the-prompt"


@pytest.fixture
async def page(world: World) -> AsyncIterator[tuple[World, ClientSession]]:
    stages = Stages("chain", "engine")
    with stages.stage("chain"):
        pass
    status = StatusPage(lambda: world.worker, stages, lambda: bytes(32), KEY)
    runner = web.AppRunner(status.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield world, session
    await runner.cleanup()


async def get(session: ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


async def post(session: ClientSession, path: str, key: str | None = KEY, body: Any = None) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with session.post(path, headers=headers, data=body) as answer:
        return answer.status


async def test_what_is_shown(page: tuple[World, ClientSession]) -> None:
    world, session = page
    message = {"messages": [{"role": "user", "content": SECRET}], "user": "client-identity"}
    await world.gateway.ask(message)
    await world.gateway.ask({**message, "unknown": SECRET})
    assert (await get(session, "/health"))[0] == 200
    code, text = await get(session, "/status")
    status = json.loads(text)
    assert code == 200
    assert status["working"] is True
    assert status["requests"]["succeeded"] == 1
    assert status["requests"]["failed"] == 1
    assert status["accounts"][0]["worker_contract"] == world.accounts.worker_contract.friendly()
    assert [stage["state"] for stage in status["stages"]] == ["done", "waiting"]
    _, metrics = await get(session, "/metrics")
    assert 'chrysalis_worker_requests_total{end="succeeded"} 1.0' in metrics
    assert 'chrysalis_worker_adjusted_tokens_total{kind="prompt"} 8.0' in metrics
    for shown in (text, metrics):
        assert SECRET not in shown
        assert "client-identity" not in shown


async def test_unwell_is_said_with_its_reason(page: tuple[World, ClientSession]) -> None:
    world, session = page
    world.engine_up[0] = False
    code, text = await get(session, "/health")
    assert code == 503
    assert json.loads(text)["reasons"][0]["name"] == "engine"


@pytest.mark.parametrize("path", ["/enable", "/disable", "/coefficient", "/payout"])
async def test_changes_need_a_post_and_the_key(page: tuple[World, ClientSession], path: str) -> None:
    world, session = page
    before = world.worker.offer, world.worker.look()
    assert (await get(session, path))[0] == 405
    for key in (None, "", "wrong", KEY + "x", "é"):
        assert await post(session, path, key, '{"coefficient": 7}') == 401
    assert (world.worker.offer, world.worker.look()) == before
    assert await post(session, path, KEY, '{"coefficient": 7}') == 200, "the control"


async def test_orders_are_obeyed(page: tuple[World, ClientSession]) -> None:
    world, session = page
    await post(session, "/disable")
    assert [reason.name for reason in world.worker.look()] == ["operator"]
    await post(session, "/enable")
    assert world.worker.look() == ()
    assert await post(session, "/coefficient", body='{"coefficient": 2500}') == 200
    assert world.worker.offer.coefficient == 2500
    absurd = (-1, 10**9, 1.5, "7", None, True)
    for bad in ("", "[]", "{", "x" * 5000, *(json.dumps({"coefficient": value}) for value in absurd)):
        assert await post(session, "/coefficient", body=bad) in {400, 413}
    assert world.worker.offer.coefficient == 2500
    asked = world.chain.asked
    await post(session, "/payout")
    await until(lambda: world.chain.asked > asked)


async def test_before_the_worker_there_are_the_stages() -> None:
    stages = Stages("chain")
    with pytest.raises(ChrysalisError), stages.stage("chain"):
        raise ChrysalisError("no liteserver answers", hint="check the network")
    status = StatusPage(lambda: None, stages, lambda: bytes(32), KEY)
    runner = web.AppRunner(status.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        assert (await get(session, "/health"))[0] == 503
        shown = json.loads((await get(session, "/status"))[1])
        assert shown["stages"][0]["reason"] == "no liteserver answers (check the network)"
        assert "chrysalis_worker_working 0.0" in (await get(session, "/metrics"))[1]
        assert await post(session, "/enable") == 503
    await runner.cleanup()
