"""The worker's stages in the machine's table, and the guest's engine behind its key."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from boot_machine import MEASURED, eventually, members

from appliance.boot import configuration, engine, worker
from appliance.boot.configuration import Handed
from appliance.boot.engine import GuestEngine
from appliance.boot.stages import WORKER_STAGES, StageTable, read_stages
from appliance.boot.worker import Reporter
from appliance.errors import ConfigError, StageError
from appliance.keys import write_secret
from appliance.worker.stages import Stages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from appliance.config import WorkerConfig

KEY = "k" * 64


@pytest.fixture
def table(tmp_path: Path) -> StageTable:
    (tmp_path / "stages").mkdir()
    return StageTable(tmp_path / "stages", WORKER_STAGES)


def states(tmp_path: Path) -> dict[str, tuple[str, str]]:
    return {record.name: (record.state, record.reason) for record in read_stages(tmp_path / "stages")}


def test_stages_of_the_worker_are_the_machine_s(tmp_path: Path, table: StageTable) -> None:
    stages = Stages("chain", "identity", "ledger", "links", "engine", report=Reporter(table).report)
    with stages.stage("chain"):
        stages.note("chain", "no liteserver answers")
        assert states(tmp_path)["chain"] == ("running", "no liteserver answers")
    assert states(tmp_path)["chain"][0] == "done"
    with pytest.raises(StageError), stages.stage("identity"):
        raise StageError("refused", hint="see the policy")
    assert states(tmp_path)["evidence"] == ("failed", "refused (see the policy)")
    with stages.stage("ledger"):
        assert states(tmp_path)["links"][0] == "running"
    with stages.stage("links"):
        pass
    # A worker that is put together is not linked yet: the watch says when it is.
    assert states(tmp_path)["links"][0] == "running"
    with stages.stage("engine"):
        pass
    assert states(tmp_path)["engine"][0] == "pending"


async def test_links_follow_the_links(tmp_path: Path, table: StageTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "WATCH_S", 0.01)
    link = SimpleNamespace(ready=False)
    standing: list[Any] = [SimpleNamespace(text="this machine's image is not in the root contract's list")]
    seen: Any = SimpleNamespace(links=[link], look=lambda: standing, troubles={"10.0.2.2:7": "refused"})

    async def until(state: str, reason: str) -> None:
        await eventually(lambda: states(tmp_path)["links"] == (state, reason))

    watching = asyncio.create_task(Reporter(table).watch(seen))
    await until("running", "10.0.2.2:7: refused; this machine's image is not in the root contract's list")
    link.ready = True
    await until("done", "")
    link.ready, standing[:], seen.troubles = False, [], {}
    await until("running", "no gateway is connected yet")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


class Server:
    """A model server on loopback."""

    answer = "Paris."
    url = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({}, status=200 if request.headers.get("Authorization") == f"Bearer {KEY}" else 401)

    async def chat(self, _request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": self.answer}}]})


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/v1/models", server.models)
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def config(tmp_path: Path, url: str) -> WorkerConfig:
    measured = MEASURED | {"engine": {"kind": "sglang", "self_check_pattern": "Paris"}}
    found = configuration.check(Handed("volume", members(measured=measured))).worker(gas_key=False)
    key = tmp_path / "engine.key"
    if not key.exists():
        write_secret(key, KEY.encode())
    return found.model_copy(update={"host": found.host.model_copy(update={"engine_url": url, "engine_key_file": key})})


async def test_the_engine_answers_and_is_sane(tmp_path: Path, table: StageTable) -> None:
    async with serving() as server:
        guest = GuestEngine(config(tmp_path, server.url), table)
        await guest.start()
        assert guest.ready()
        assert states(tmp_path)["engine"][0] == states(tmp_path)["self-check"][0] == "done"
        await guest.stop()


async def test_an_insane_answer_fails_the_self_check_until_it_is_sane(tmp_path: Path, table: StageTable) -> None:
    async with serving() as server:
        server.answer = "!!!!"
        guest = GuestEngine(config(tmp_path, server.url), table)
        starting = asyncio.create_task(guest.start())
        await eventually(lambda: states(tmp_path)["self-check"][0] == "failed")
        assert not guest.ready()
        assert "expected a match of 'Paris'" in states(tmp_path)["self-check"][1]
        server.answer = "Paris."
        await starting
        assert states(tmp_path)["self-check"][0] == "done"
        await guest.stop()


async def test_an_engine_that_is_not_there_is_waited_for(
    tmp_path: Path, table: StageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POLL_S", 0.01)
    guest = GuestEngine(config(tmp_path, "http://127.0.0.1:1"), table)
    starting = asyncio.create_task(guest.start())
    await eventually(lambda: states(tmp_path)["engine"][1] != "")
    assert states(tmp_path)["engine"] == ("running", "GET /v1/models failed: ClientConnectorError")
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await guest.stop()


async def test_the_service_s_own_reason_fails_the_stage_until_the_engine_answers(
    tmp_path: Path, table: StageTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POLL_S", 0.01)
    trouble = tmp_path / "trouble"
    async with serving() as server:
        guest = GuestEngine(config(tmp_path, server.url), table, trouble)
        await guest.start()  # the control: no trouble, no failure
        assert states(tmp_path)["engine"][0] == "done"
        await guest.stop()
    guest = GuestEngine(config(tmp_path, "http://127.0.0.1:1"), table, trouble)
    starting = asyncio.create_task(guest.start())
    trouble.write_text("the model volume was altered")
    await eventually(lambda: states(tmp_path)["engine"] == ("failed", "the model volume was altered"))
    trouble.write_text("out of memory")
    await eventually(lambda: states(tmp_path)["engine"] == ("failed", "out of memory"))
    trouble.unlink()
    await eventually(lambda: states(tmp_path)["engine"][0] == "running")
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await guest.stop()


def test_a_configuration_of_a_host_is_no_guest_s(tmp_path: Path, table: StageTable) -> None:
    found = config(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="names its engine"):
        GuestEngine(found.model_copy(update={"host": found.host.model_copy(update={"engine_url": None})}), table)
