"""The way to an engine, against servers on loopback that behave well and badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from engine_waiting import until

from appliance.engine.checks import EngineProbe, SelfCheck
from appliance.engine.counters import EngineCounters, parse_counters
from appliance.engine.endpoint import Endpoint
from appliance.engine.errors import (
    EngineSettingsError,
    EngineTimeoutError,
    EngineUnavailableError,
    RouteRefusedError,
    SelfCheckError,
)
from appliance.engine.proxy import EngineClient
from appliance.engine.remote import RemoteEngine, base_url, read_key
from appliance.engine.state import EngineState

if TYPE_CHECKING:
    from pathlib import Path

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CHAT = "/v1/chat/completions"


class Fixed:
    """An endpoint that never changes, or none."""

    def __init__(self, endpoint: Endpoint | None) -> None:
        self._endpoint = endpoint

    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            raise EngineUnavailableError("the engine is stopped: by the test")
        return self._endpoint


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@asynccontextmanager
async def client_of(handler: Handler, key: str | None = "secret") -> AsyncIterator[EngineClient]:
    async with serving(handler) as url:
        client = EngineClient(Fixed(Endpoint(url, key)))
        try:
            yield client
        finally:
            await client.close()


async def test_forwards_the_body_with_our_key_and_nothing_else() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(
            path=request.path_qs, method=request.method, headers=dict(request.headers), body=await request.read()
        )
        return web.json_response({"ok": True}, headers={"X-Extra": "1", "Keep-Alive": "timeout=5", "Set-Cookie": "a=b"})

    async with client_of(handler) as client:
        async with await client.open(CHAT, b'{"a":1}', timeout=5) as response:
            assert (response.status, response.reason) == (200, "OK")
            names = {name.lower() for name, _ in response.headers}
            assert "x-extra" in names
            assert not names & {"keep-alive", "connection", "content-length", "transfer-encoding", "set-cookie"}
            assert json.loads(await response.read(100)) == {"ok": True}
        assert client.active == 0
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", CHAT, b'{"a":1}')
    assert set(seen["headers"]) == {
        "Host", "Accept", "Accept-Encoding", "User-Agent", "Authorization", "Content-Type", "Content-Length",
    }  # fmt: skip
    assert seen["headers"]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(Endpoint("http://x", "secret"))


async def test_headers_that_the_connection_header_names_are_dropped() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(headers={"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-End": "2"})

    async with client_of(handler) as client, await client.open(CHAT, b"{}", timeout=5) as response:
        names = {name for name, _ in response.headers}
    assert "X-End" in names
    assert "X-Hop" not in names


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/server_info"),
        ("GET", "/metrics"),
        ("GET", "/health"),
        ("GET", "/docs"),
        ("POST", "/flush_cache"),
        ("POST", "/configure_logging"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat/completions?x=1"),
        ("POST", "/v1/../server_info"),
        ("POST", "//v1/completions"),
        ("DELETE", "/v1/completions"),
        ("POST", "/v1/models"),
        ("GET", "/v1/chat/completions"),
    ],
)
async def test_other_routes_never_leave(method: str, path: str) -> None:
    reached = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async with client_of(handler) as client:
        with pytest.raises(RouteRefusedError):
            await client.open(path, timeout=5, method=method)
        async with await client.open("/v1/models", timeout=5, method="GET"):
            pass
    assert reached == ["/v1/models"]


async def test_parts_come_as_they_are_made_and_closing_reaches_the_server() -> None:
    gone = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await go_on.wait()
        try:
            while True:
                await response.write(b"two")
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise

    async with client_of(handler) as client:
        response = await client.open(CHAT, b"{}", timeout=30)
        body = response.body()
        assert await anext(body) == b"one"  # before the server made the second
        go_on.set()
        assert (await anext(body)).startswith(b"two")
        assert client.active == 1
        response.close()
        assert client.active == 0
        async with asyncio.timeout(10):
            await gone.wait()


async def test_cancelling_an_open_reaches_the_server() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        arrived.set()
        try:
            await asyncio.sleep(30)  # the test server cancels a handler whose client has gone
        finally:
            gone.set()
        return web.Response()

    async with client_of(handler) as client:
        task = asyncio.create_task(client.open(CHAT, b"{}", timeout=30))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.active == 0
        async with asyncio.timeout(10):
            await gone.wait()


async def test_no_head_and_no_end_in_time_are_time_outs() -> None:
    async def slow_head(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def slow_body(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await asyncio.sleep(30)
        return response

    async with client_of(slow_head) as client:
        with pytest.raises(EngineTimeoutError):
            await client.open(CHAT, b"{}", timeout=0.1)
        assert client.active == 0
    async with client_of(slow_body) as client:
        response = await client.open(CHAT, b"{}", timeout=0.3)
        with pytest.raises(EngineTimeoutError):
            await response.read(100)
        assert client.active == 0


async def test_an_answer_that_breaks_off_is_an_error_and_not_an_end() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"one")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with client_of(handler) as client:
        response = await client.open(CHAT, b"{}", timeout=5)
        with pytest.raises(EngineUnavailableError, match="broke its answer off"):
            await response.read(1000)
        assert client.active == 0


async def test_too_long_an_answer_is_refused_where_a_limit_is_given() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1000)

    async with client_of(handler) as client:
        with pytest.raises(EngineUnavailableError, match="longer than 999"):
            await (await client.open(CHAT, b"{}", timeout=5)).read(999)
        assert len(await (await client.open(CHAT, b"{}", timeout=5)).read(1000)) == 1000


async def test_nobody_there_and_not_ready_are_told() -> None:
    client = EngineClient(Fixed(Endpoint("http://127.0.0.1:9")))
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        await client.open(CHAT, b"{}", timeout=5)
    await client.close()
    with pytest.raises(EngineUnavailableError, match="stopped"):
        await EngineClient(Fixed(None)).open(CHAT, b"{}", timeout=5)


async def test_redirects_are_not_followed() -> None:
    reached = []

    async def handler(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(status=307, headers={"Location": "/server_info"})

    async with client_of(handler) as client, await client.open(CHAT, b"{}", timeout=5) as response:
        assert response.status == 307
    assert reached == [CHAT]


async def test_waits_until_it_is_idle() -> None:
    go_on = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await go_on.wait()
        return web.Response()

    async with client_of(handler) as client:
        await client.wait_idle()
        task = asyncio.create_task(client.open(CHAT, b"{}", timeout=5))
        await asyncio.sleep(0.05)
        idle = asyncio.create_task(client.wait_idle())
        await asyncio.sleep(0.05)
        assert not idle.done()
        go_on.set()
        (await task).close()
        await idle


METRICS = """# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m",x="1"} 10.0
sglang:prompt_tokens_total{model_name="m",x="2"} 5.0
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="m"} 7.0
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{model_name="m",cache_source="device"} 3.0
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{model_name="m"} 2.0
sglang:other 1.0
"""


def test_counters_are_added_up_over_labels() -> None:
    assert parse_counters(METRICS) == EngineCounters(15, 7, 3, 2)
    assert parse_counters("") == EngineCounters()


@pytest.mark.parametrize("text", ["sglang:prompt_tokens_total nonsense", "{}{", 'sglang:prompt_tokens_total{a="} 1'])
def test_metrics_that_cannot_be_read_are_an_error_of_ours(text: str) -> None:
    with pytest.raises(EngineUnavailableError):
        parse_counters(text)


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_numbers_that_are_none_are_an_error_of_ours(value: str) -> None:
    with pytest.raises(EngineUnavailableError):
        parse_counters(f"sglang:prompt_tokens_total {value}\n")


CHECK = SelfCheck("m", "What is the capital of France?", "Paris")


async def test_the_self_check_judges_the_answer() -> None:
    answers = [
        {"choices": [{"message": {"content": "It is\nParis."}}]},
        {"choices": [{"message": {"content": "Lyon"}}]},
        {"choices": [{"message": {"content": None}}]},
        {"choices": []},
        [1],
    ]

    async def handler(request: web.Request) -> web.Response:
        sent = await request.json()
        assert sent["temperature"] == 0
        assert sent["messages"] == [{"role": "user", "content": CHECK.prompt}]
        return web.json_response(answers.pop(0))

    async with serving(handler) as url:
        probe = EngineProbe(Endpoint(url))
        await probe.self_check(CHECK)
        for _ in range(4):
            with pytest.raises(SelfCheckError):
                await probe.self_check(CHECK)
        with pytest.raises(EngineUnavailableError, match="500"):
            await probe.self_check(CHECK)


async def test_a_remote_engine_follows_its_server() -> None:
    status = 200

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer key"
        if request.path.endswith("/metrics"):
            return web.Response(text=METRICS)
        return web.json_response({"data": []}, status=status)

    seen: list[EngineState] = []
    async with serving(handler) as url:
        engine = RemoteEngine(f"{url}/v1", "key", poll_s=0.02)
        engine.subscribe(lambda change: seen.append(change.state))
        async with asyncio.timeout(20), engine:
            assert await engine.counters() == EngineCounters(15, 7, 3, 2)
            async with await engine.client.open(CHAT, b"{}", timeout=5) as response:
                assert response.status == 200
            status = 503
            await until(lambda: not engine.healthy.is_set())
            with pytest.raises(EngineUnavailableError, match="unhealthy"):
                await engine.client.open(CHAT, b"{}", timeout=5)
            status = 200
            await engine.healthy.wait()
            assert await engine.drain(1.0)
            with pytest.raises(EngineUnavailableError, match="draining"):
                await engine.client.open(CHAT, b"{}", timeout=5)
    assert seen == [
        EngineState.STARTING,
        EngineState.HEALTHY,
        EngineState.UNHEALTHY,
        EngineState.HEALTHY,
        EngineState.DRAINING,
        EngineState.STOPPED,
    ]


def test_the_url_of_a_remote_engine() -> None:
    assert base_url("http://h:1/v1/") == "http://h:1"
    assert base_url("https://h/proxy/") == "https://h/proxy"
    for bad in ("ftp://h", "h:80", "http://", "http://u:p@h", "http://h?x=1", "http://h:99999", "http://[::1"):
        with pytest.raises(EngineSettingsError):
            base_url(bad)


def test_the_key_file_of_a_remote_engine(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-123\n")
    path.chmod(0o600)
    assert read_key(path) == "sk-123"
    path.chmod(0o644)
    with pytest.raises(EngineSettingsError, match="0644"):
        read_key(path)
    path.chmod(0o600)
    for bad in ("", "two words", "x" * 5000, "k\u00e9y", "a\x00b"):
        path.write_text(bad)
        with pytest.raises(EngineSettingsError, match="one key"):
            read_key(path)
    with pytest.raises(EngineSettingsError, match="cannot be read"):
        read_key(tmp_path / "nothing")
