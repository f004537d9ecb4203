"""A real SGLang with the tiny model: everything the worker relies on. It starts once for the file, and once more in it.

Run these alone with ``pytest -m engine tests/engine``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from engine_waiting import until, until_true

from appliance.engine.checks import SelfCheck
from appliance.engine.errors import EngineUnavailableError, RouteRefusedError
from appliance.engine.models import PreparedModel, prepare
from appliance.engine.remote import RemoteEngine
from appliance.engine.settings import EngineSettings
from appliance.engine.state import EngineState
from appliance.engine.supervisor import EngineSupervisor, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).resolve().parents[2]
LONG = " ".join(["the river runs under the mountain and the house stands by the road"] * 8)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> PreparedModel:
    return await prepare("tiny")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(model: PreparedModel) -> AsyncIterator[EngineSupervisor]:
    settings = EngineSettings(
        model_dir=model.directory,
        model_name=model.base_name,
        self_check_pattern=model.self_check_pattern or ".",
        max_active_requests=8,
    )
    supervisor = EngineSupervisor(settings, model.environment.python, timing=Timing(restarts=2, generate_every=5.0))
    async with supervisor:
        yield supervisor


def body(text: str = "Tell me a story.", **options: Any) -> bytes:
    message = {"role": "user", "content": text}
    return json.dumps({"model": "tiny", "messages": [message], "max_tokens": 8, "temperature": 0, **options}).encode()


async def ask(engine: EngineSupervisor, text: str = "Tell me a story.", **options: Any) -> dict[str, Any]:
    async with await engine.client.open(CHAT, body(text, **options), timeout=120) as response:
        assert response.status == 200
        answer: dict[str, Any] = json.loads(await response.read(1 << 20))
        return answer


async def events(engine: EngineSupervisor, payload: bytes) -> list[dict[str, Any]]:
    async with await engine.client.open(CHAT, payload, timeout=120) as response:
        assert response.status == 200
        assert dict(response.headers)["Content-Type"].startswith("text/event-stream")
        text = (await response.read(1 << 22)).decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def group(pgid: int) -> list[psutil.Process]:
    """The processes of a group that run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


async def empty(pgid: int) -> None:
    """Wait until nothing of a group runs."""
    await until(lambda: not group(pgid), every=0.1)


async def test_is_healthy_after_its_self_check(engine: EngineSupervisor) -> None:
    assert engine.status.state is EngineState.HEALTHY
    assert engine.healthy.is_set()
    assert engine.base_url.startswith("http://127.0.0.1:")


async def test_models(engine: EngineSupervisor) -> None:
    async with await engine.client.open("/v1/models", timeout=30, method="GET") as response:
        listed = json.loads(await response.read(1 << 16))
    assert [entry["id"] for entry in listed["data"]] == ["tiny"]


async def test_chat_and_completion_carry_usage(engine: EngineSupervisor) -> None:
    answer = await ask(engine)
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] > 8
    assert answer["choices"][0]["message"]["content"]
    payload = json.dumps({"model": "tiny", "prompt": "The river", "max_tokens": 5, "temperature": 0}).encode()
    async with await engine.client.open("/v1/completions", payload, timeout=60) as response:
        completion = json.loads(await response.read(1 << 16))
    assert completion["usage"]["completion_tokens"] == 5


async def test_a_stream_ends_with_its_usage(engine: EngineSupervisor) -> None:
    found = await events(engine, body(stream=True, stream_options={"include_usage": True}, max_tokens=20))
    assert len(found) > 5
    usage = found[-1]["usage"]
    assert found[-1]["choices"] == []
    assert usage["completion_tokens"] == 20
    assert all(event.get("usage") is None for event in found[:-1])


async def test_the_tools_and_schemas_of_the_allow_list_work(engine: EngineSupervisor) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"enum": ["a"]}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    answer = await ask(
        engine,
        max_tokens=200,
        temperature=1,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        logprobs=True,
        top_logprobs=2,
    )
    choice = answer["choices"][0]
    if choice["finish_reason"] == "stop":
        assert json.loads(choice["message"]["content"]) == {"yes": "a"}
    assert choice["logprobs"]["content"]


async def test_the_prefix_cache_is_shared_within_a_salt_only(engine: EngineSupervisor) -> None:
    one, other = secrets.token_hex(), secrets.token_hex()

    async def cached(salt: str) -> int:
        usage = (await ask(engine, LONG, cache_salt=salt))["usage"]
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    assert await cached(one) == 0
    assert await cached(one) > 50
    assert await cached(other) == 0


async def test_its_counters_agree_with_what_answers_say(engine: EngineSupervisor) -> None:
    before = await engine.counters()
    salt = secrets.token_hex()
    usages = [(await ask(engine, LONG, cache_salt=salt))["usage"] for _ in range(2)]
    streamed = await events(engine, body(LONG, stream=True, stream_options={"include_usage": True}, cache_salt=salt))
    usages.append(streamed[-1]["usage"])

    async def counted() -> bool:
        return (await engine.counters()).requests >= before.requests + 3

    await until_true(counted)
    after = await engine.counters()
    assert after.prompt_tokens - before.prompt_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert after.generation_tokens - before.generation_tokens == sum(usage["completion_tokens"] for usage in usages)
    said = sum((usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"] for usage in usages)
    assert after.cached_tokens - before.cached_tokens == said


async def nothing_runs(engine: EngineSupervisor) -> bool:
    """Whether the engine runs no request now, by its own metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"{engine.base_url}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("sglang:num_running_reqs{")]
    return bool(lines) and not any(float(line.rpartition(" ")[2]) for line in lines)


async def test_a_client_that_goes_ends_its_request(engine: EngineSupervisor) -> None:
    before = await engine.counters()
    payload = body(stream=True, max_tokens=1900, ignore_eos=True)
    response = await engine.client.open(CHAT, payload, timeout=120)
    parts = response.body()
    assert await anext(parts)
    response.close()
    await until_true(lambda: nothing_runs(engine))
    after = await engine.counters()
    assert after.generation_tokens - before.generation_tokens < 1900


async def test_no_key_shows_in_any_process(engine: EngineSupervisor) -> None:
    assert engine.pid is not None
    key = engine.headers["Authorization"].removeprefix("Bearer ")
    members = group(engine.pid)
    assert len(members) >= 4  # launcher, guard, scheduler, detokenizer
    for process in members:
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert key.encode() not in shown
        assert b"api-key" not in shown
        assert b"api_key" not in shown


async def test_it_listens_on_loopback_only(engine: EngineSupervisor) -> None:
    assert engine.pid is not None
    listening = [
        connection.laddr.ip
        for process in group(engine.pid)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


async def status_of(engine: EngineSupervisor, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, engine.base_url + path, headers=headers, json={} if method == "POST" else None
        ) as answer,
    ):
        return answer.status


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/server_info"), ("POST", "/flush_cache"), ("POST", "/configure_logging"), ("GET", "/v1/loads")],
)
async def test_administrative_routes_are_out_of_reach(engine: EngineSupervisor, method: str, path: str) -> None:
    with pytest.raises(RouteRefusedError):
        await engine.client.open(path, timeout=10, method=method)
    assert await status_of(engine, method, path) == 401  # nor for a neighbour on loopback without the key


async def test_state_changes_need_the_admin_key_that_no_one_holds(engine: EngineSupervisor) -> None:
    assert await status_of(engine, "GET", "/v1/models", engine.headers) == 200  # the control: this key is good
    assert await status_of(engine, "POST", "/flush_cache", engine.headers) == 401
    assert await status_of(engine, "POST", "/configure_logging", engine.headers) == 401


async def test_nothing_of_a_request_is_in_the_engines_output(engine: EngineSupervisor) -> None:
    process = engine._process
    assert process is not None
    word = secrets.token_hex()
    await ask(engine, word)
    async with await engine.client.open(CHAT, body(word, max_tokens="many"), timeout=30) as response:
        assert response.status == 400
        await response.read(1 << 16)
    assert process.output.tail() == ()
    assert all(word not in name for name in process.output.exceptions)


async def test_a_remote_engine_with_a_key(engine: EngineSupervisor) -> None:
    endpoint = engine.endpoint()
    check = SelfCheck("tiny", "Hello", ".")
    async with RemoteEngine(f"{endpoint.base_url}/v1", endpoint.api_key, self_check=check) as remote:
        async with await remote.client.open(CHAT, body(), timeout=60) as response:
            assert response.status == 200
        assert (await remote.counters()).prompt_tokens > 0
    wrong = RemoteEngine(endpoint.base_url, "wrong", poll_s=0.1)
    reasons: list[str] = []
    wrong.subscribe(lambda status: reasons.append(status.reason))
    start = asyncio.create_task(wrong.start())
    await until(lambda: len(reasons) > 1)
    start.cancel()
    await wrong.stop()
    assert reasons[1] == "GET /v1/models answered 401, expected 200"


_WORKER = """
import asyncio, sys
from pathlib import Path
from appliance.engine.process import EngineProcess
from appliance.engine.settings import EngineSettings

async def main():
    settings = EngineSettings(model_dir=Path(sys.argv[1]), model_name="tiny")
    process = await EngineProcess.start(settings, Path(sys.argv[2]))
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""


async def test_nothing_outlives_a_worker_that_is_killed(model: PreparedModel) -> None:
    command = [sys.executable, "-c", _WORKER, str(model.directory), str(model.environment.python)]
    worker = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None
    pgid = int(await worker.stdout.readline())
    await until(lambda: scheduler_of(pgid) is not None, seconds=300, every=0.3)
    assert len(group(pgid)) >= 4
    worker.kill()
    await worker.wait()
    await empty(pgid)


def scheduler_of(pgid: int) -> psutil.Process | None:
    """The scheduler among the group's processes."""
    for process in group(pgid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "scheduler" in " ".join(process.cmdline()):
                return process
    return None


async def test_a_killed_engine_is_started_again(engine: EngineSupervisor) -> None:
    old_pid, old_headers = engine.pid, engine.headers
    assert old_pid is not None
    seen: list[EngineState] = []
    end = engine.subscribe(lambda status: seen.append(status.state))
    scheduler = scheduler_of(old_pid)
    assert scheduler is not None
    scheduler.send_signal(signal.SIGKILL)
    await until(lambda: not engine.healthy.is_set(), seconds=60)
    with pytest.raises(EngineUnavailableError):
        await engine.client.open(CHAT, body(), timeout=5)
    await empty(old_pid)
    async with asyncio.timeout(300):
        await engine.healthy.wait()
    end()
    assert seen[0] is EngineState.UNHEALTHY
    assert EngineState.STARTING in seen
    assert seen[-1] is EngineState.HEALTHY
    assert engine.pid != old_pid
    assert engine.headers != old_headers
    assert (await ask(engine))["usage"]["completion_tokens"] == 8


async def test_draining_lets_running_answers_end_and_takes_no_more(engine: EngineSupervisor) -> None:
    payload = body(stream=True, max_tokens=300, ignore_eos=True, stream_options={"include_usage": True})
    running_answer = asyncio.create_task(events(engine, payload))
    await until(lambda: engine.client.active > 0)
    pid = engine.pid
    assert pid is not None
    drained = asyncio.create_task(engine.drain(120))
    await asyncio.sleep(0)
    with pytest.raises(EngineUnavailableError, match="draining"):
        await engine.client.open(CHAT, body(), timeout=5)
    assert await drained
    assert (await running_answer)[-1]["usage"]["completion_tokens"] == 300
    await engine.stop()
    assert engine.status.state is EngineState.STOPPED
    await empty(pid)
