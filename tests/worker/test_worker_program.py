"""The program: start, serve over RA-TLS, status page, SIGTERM. The chain is a stand-in; everything else is real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from worker_world import (
    FULL_MODEL,
    MODEL,
    OWNER,
    ROOT,
    Accounts,
    Chain,
    Gateway,
    ModelServer,
    Registry,
    make_params,
    until,
)

from appliance.chain.errors import TransportError
from appliance.config import WorkerConfig
from appliance.errors import ConfigError
from appliance.wire.messages import ProxyQueryAnswerPartEx, WorkerEnabledDisabled
from appliance.wire.transport import LinkProtocol
from appliance.worker import program
from appliance.worker.engine import ForeignEngine, LocalEngine, open_engine
from attestation.policy import for_name
from attestation.ratls import Identity, RatlsListener
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ZERO = {"seqno": 0, "root_hash": "0" * 64, "file_hash": "0" * 64}


def config(path: Path, engine_url: str | None, gateway: str = "127.0.0.1:1", **host: Any) -> WorkerConfig:
    host = {
        "state_dir": path / "state",
        "liteservers": [{"address": "127.0.0.1:1", "key": "AAAA"}],
        "status": "127.0.0.1:0",
        "gateways": [gateway],
        "engine_url": engine_url,
    } | host
    return WorkerConfig.model_validate({
        "measured": {
            "network": {
                "global_id": 1, "zerostate": ZERO, "key_block": ZERO, "root_contract": ROOT.raw(), "is_test": True,
            },
            "trust": {"policy": "any", "development": True},
            "model": FULL_MODEL,
            "engine": {"kind": "openai"},
        },
        "owner": {"address": OWNER.raw()},
        "host": host,
    })  # fmt: skip


class StartedRegistry(Registry):
    """A registry that can be read only after it failed once."""

    root_address = ROOT
    failures = 1

    async def start(self) -> None:
        if self.failures:
            self.failures -= 1
            raise TransportError("no liteserver answers", hint="wait")

    async def close(self) -> None:
        """Nothing to stop."""


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    server = ModelServer()

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


async def test_a_whole_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = Accounts(make_params())
    registry = StartedRegistry(accounts.params)

    @asynccontextmanager
    async def chain(*_: object) -> AsyncIterator[Chain]:
        yield Chain()

    monkeypatch.setattr(program, "open_chain", chain)
    monkeypatch.setattr(program, "open_registry", lambda *_: registry)
    gateway = Gateway(accounts)
    listener = RatlsListener(await Identity.create(None), Verifier(for_name("any"), None), 4)
    server = await listener.serve(lambda: LinkProtocol(gateway, connecting=False), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with model_server() as model:
        settings = config(tmp_path, f"http://127.0.0.1:{model.port}", f"127.0.0.1:{port}")
        running = asyncio.create_task(program.run(settings))
        await until(lambda: gateway.completed.is_set() or running.done())
        if running.done():
            running.result()
        await until(lambda: bool(model.bodies))
        messages = await gateway.ask({})
        assert isinstance(messages[-1], ProxyQueryAnswerPartEx)
        assert "cache_salt" not in model.bodies[-1], "not an SGLang"
        out = capsys.readouterr().out
        page = next(word for line in out.splitlines() if "status page" in line for word in line.split() if "=" in word)
        key = (tmp_path / "state" / "control.key").read_text().strip()
        assert (tmp_path / "state" / "control.key").stat().st_mode & 0o777 == 0o600
        async with ClientSession(f"http://{page.partition('=')[2]}") as session:
            async with session.get("/status") as answer:
                status = json.loads(await answer.text())
            async with session.post(
                "/coefficient", json={"coefficient": 7}, headers={"Authorization": f"Bearer {key}"}
            ):
                pass
        assert status["working"] is True
        assert [stage["state"] for stage in status["stages"]] == ["done"] * 5
        assert status["requests"]["succeeded"] == 1
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(20):
            await running
        assert WorkerEnabledDisabled(1) in gateway.messages, "the gateway was told"
    server.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_status_page_for_strangers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        await program.run(config(tmp_path, None, status="0.0.0.0:0"))


def test_which_engine(tmp_path: Path) -> None:
    assert isinstance(open_engine(config(tmp_path, "http://127.0.0.1:1/v1")), ForeignEngine)
    with pytest.raises(ConfigError, match=r"needs host\.engine_url"):
        open_engine(config(tmp_path, None))
    own = config(tmp_path, None, model_dir=tmp_path)
    sglang = own.measured.engine.model_copy(update={"kind": "sglang"})  # type: ignore[union-attr]  # config() has one
    measured = own.measured.model_copy(update={"engine": sglang})
    assert isinstance(open_engine(own.model_copy(update={"measured": measured})), LocalEngine)
    trust = own.measured.trust.model_copy(update={"development": False})
    sealed = config(tmp_path, "http://127.0.0.1:1")
    sealed = sealed.model_copy(update={"measured": sealed.measured.model_copy(update={"trust": trust})})
    with pytest.raises(ConfigError, match="not a development configuration"):
        open_engine(sealed)
