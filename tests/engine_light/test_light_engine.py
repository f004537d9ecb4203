"""The real light engine with the tiny model, in SGLang's environment (which has transformers): all that is relied on.

Run these alone with ``pytest -m engine tests/engine_light``. It starts once for the file, and once more in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from appliance.engine.endpoint import Door
from appliance.engine.errors import EngineStartError
from appliance.engine.models import PreparedModel, prepare
from appliance.engine.process import EngineProcess, free_port
from appliance.engine.rules import CHAT, COMPLETIONS, Rules
from appliance.engine.settings import EngineSettings
from appliance.engine.state import EngineState
from appliance.engine.supervisor import EngineSupervisor, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

MANY = 1900
DOOR_KEY = "cd" * 32


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> PreparedModel:
    return await prepare("tiny")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(model: PreparedModel) -> AsyncIterator[EngineSupervisor]:
    settings = EngineSettings(
        model_dir=model.directory,
        model_name=model.base_name,
        kind="transformers",
        max_active_requests=2,
        max_queued_requests=2,
    )
    door = Door(free_port(), DOOR_KEY)
    timing = Timing(restarts=2, generate_every=5.0)
    async with EngineSupervisor(settings, model.environment.python, timing=timing, door=door) as supervisor:
        yield supervisor


def body(text: str = "Tell me a story.", **options: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "tiny", "messages": [message], "max_tokens": 8, "temperature": 0, **options}


async def ask(engine: EngineSupervisor, asked: dict[str, Any], path: str = CHAT) -> tuple[int, dict[str, Any]]:
    async with await engine.client.open(path, json.dumps(asked).encode(), timeout=120) as response:
        return response.status, json.loads(await response.read(1 << 20))


async def answer(engine: EngineSupervisor, **options: Any) -> str:
    status, said = await ask(engine, body(**options))
    assert status == 200
    return str(said["choices"][0]["message"]["content"])


async def events(engine: EngineSupervisor, asked: dict[str, Any]) -> list[dict[str, Any]]:
    async with await engine.client.open(CHAT, json.dumps(asked).encode(), timeout=120) as response:
        assert response.status == 200
        assert dict(response.headers)["Content-Type"].startswith("text/event-stream")
        text = (await response.read(1 << 22)).decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- what is waited for has to be asked
            await asyncio.sleep(0.1)


async def get(engine: EngineSupervisor, path: str, key: str = DOOR_KEY, method: str = "GET") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, engine.base_url + path) as response,
    ):
        return response.status, await response.text()


async def idle(engine: EngineSupervisor) -> bool:
    """Whether the model works for nobody."""
    return "transformers:num_running_reqs 0\n" in (await get(engine, "/metrics"))[1]


async def test_it_is_healthy_at_its_door(engine: EngineSupervisor) -> None:
    assert engine.status.state is EngineState.HEALTHY
    assert engine.headers == {"Authorization": f"Bearer {DOOR_KEY}"}
    status, listed = await get(engine, "/v1/models")
    assert status == 200
    assert [entry["id"] for entry in json.loads(listed)["data"]] == ["tiny"]


async def test_chat_and_completion_carry_usage_and_the_models_name(engine: EngineSupervisor) -> None:
    status, said = await ask(engine, body())
    assert status == 200
    assert said["model"] == "tiny"
    assert said["usage"]["completion_tokens"] == 8
    assert said["usage"]["prompt_tokens"] > 8
    assert said["choices"][0]["finish_reason"] == "length"
    status, said = await ask(engine, {"prompt": "The river", "max_tokens": 5, "temperature": 0}, COMPLETIONS)
    assert (status, said["usage"]["completion_tokens"]) == (200, 5)


async def test_a_stream_ends_with_its_usage(engine: EngineSupervisor) -> None:
    rules = Rules("tiny", 20)
    request = rules.rewrite("POST", CHAT, json.dumps(body(stream=True, max_tokens=500)).encode(), cache_salt="salt")
    found = await events(engine, json.loads(request.body))
    assert found[-1]["usage"]["completion_tokens"] == 20
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert all(event.get("usage") is None for event in found[:-1])


async def test_its_own_counters_agree_with_what_answers_say(engine: EngineSupervisor) -> None:
    await until(lambda: idle(engine))
    before = await engine.counters()
    usages = [(await ask(engine, body(f"Story {number}.")))[1]["usage"] for number in range(2)]
    usages.append((await events(engine, body("Another one.", stream=True, max_tokens=11)))[-1]["usage"])
    await until(lambda: idle(engine))
    after = await engine.counters()
    assert after.requests - before.requests == 3
    assert after.prompt_tokens - before.prompt_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert after.generation_tokens - before.generation_tokens == sum(usage["completion_tokens"] for usage in usages)


async def test_health_checks_are_not_counted(engine: EngineSupervisor) -> None:
    before = await engine.counters()
    assert (await get(engine, "/health"))[0] == 200
    assert await engine.counters() == before


async def test_sampling_is_what_the_request_says(engine: EngineSupervisor) -> None:
    assert await answer(engine) == await answer(engine)
    hot = {"temperature": 1, "max_tokens": 16}
    assert await answer(engine, **hot, seed=7) == await answer(engine, **hot, seed=7)
    assert await answer(engine, **hot, seed=7) != await answer(engine, **hot, seed=8)
    assert await answer(engine, **hot) != await answer(engine, **hot)
    assert await answer(engine, **hot, top_k=1) == await answer(engine, max_tokens=16)


async def test_a_stop_text_ends_an_answer(engine: EngineSupervisor) -> None:
    whole = await answer(engine, temperature=1, seed=1, max_tokens=32)
    stop = whole[8:11]
    assert len(await answer(engine, temperature=1, seed=1, max_tokens=32, stop=stop)) < len(whole)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_ends_its_request(engine: EngineSupervisor, stream: bool) -> None:
    await until(lambda: idle(engine))
    before = await engine.counters()
    asked = json.dumps(body(stream=stream, max_tokens=MANY, temperature=1)).encode()
    opening = asyncio.create_task(engine.client.open(CHAT, asked, timeout=120))

    async def working() -> bool:
        return (await engine.counters()).generation_tokens > before.generation_tokens

    await until(working)
    if stream:
        (await opening).close()
    else:
        opening.cancel()
        await asyncio.wait({opening})
    await until(lambda: idle(engine))
    assert (await engine.counters()).generation_tokens - before.generation_tokens < MANY
    assert await answer(engine)  # and the next one is answered


async def test_one_request_too_many_is_told_so(engine: EngineSupervisor) -> None:
    await until(lambda: idle(engine))
    # Without chance: a sampled answer may end early and leave room for one more.
    asked = json.dumps(body(stream=True, max_tokens=MANY)).encode()
    taken = [await engine.client.open(CHAT, asked, timeout=120) for _ in range(4)]
    assert [response.status for response in taken] == [200] * 4
    assert (await ask(engine, body()))[0] == 503
    for response in taken:
        response.close()

    async def room() -> bool:
        return (await ask(engine, body(max_tokens=1)))[0] == 200

    await until(room)
    await until(lambda: idle(engine))


async def test_what_cannot_be_answered_is_refused(engine: EngineSupervisor) -> None:
    long = "river " * 4000
    for asked, expected in (
        (body(n=2), 400),
        (body(messages=[]), 400),
        (body(text=long), 400),
        (body(text=long * 40), 400),
        (body(model="other"), 404),
        (body(max_tokens=MANY * 10, stop="\n"), 200),  # the control: a limit beyond the context is no error
    ):
        status, said = await ask(engine, asked)
        assert status == expected, said.get("error")
    async with await engine.client.open(CHAT, b"{", timeout=30) as response:
        assert response.status == 400


async def test_every_route_wants_the_key_and_others_lead_nowhere(engine: EngineSupervisor) -> None:
    for path in ("/v1/models", "/metrics", "/health", "/docs", "/load_model"):
        assert (await get(engine, path, "wrong"))[0] == 401
    for method, path in (("GET", "/docs"), ("POST", "/load_model"), ("POST", "/reset"), ("POST", "/v1/responses")):
        assert (await get(engine, path, method=method))[0] == 404


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


async def test_it_listens_on_loopback_only_and_shows_no_key(engine: EngineSupervisor) -> None:
    assert engine.pid is not None
    members = group(engine.pid)
    assert len(members) == 2  # the server and its guard
    for process in members:
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert DOOR_KEY.encode() not in shown
    found = [connection for process in members for connection in process.net_connections("inet")]
    assert {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert {connection.raddr.ip for connection in found if connection.raddr} <= {"127.0.0.1"}  # nor asks anyone


async def test_nothing_of_a_request_is_in_its_output(model: PreparedModel) -> None:
    """Its whole output from the first request on, with requests that fail in every way at hand."""
    settings = EngineSettings(model_dir=model.directory, model_name="tiny", kind="transformers")
    process = await EngineProcess.start(settings, model.environment.python)
    lines: list[bytes] = []
    taken = process.output.line
    word = f"canary{secrets.token_hex(8)}"
    try:
        headers = dict(process.endpoint.headers)
        async with aiohttp.ClientSession(headers=headers) as session:

            async def up() -> bool:
                try:
                    async with session.get(f"{process.endpoint.base_url}/health") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(up, 300)
            process.output.line = lambda raw: (lines.append(raw), taken(raw))[1]  # type: ignore[method-assign] # listens in
            call = [{"id": word, "function": {"name": word, "arguments": f"{{{word}"}}]
            template = [{"role": "tool", "content": word, "tool_call_id": word}]
            for asked in (
                body(word),
                body(word, stream=True),
                body(word, stop=word, max_tokens=20),
                body(word, temperature=word),
                body(word, messages=[{"role": "user", "content": [word]}]),
                body(messages=[{"role": "assistant", "tool_calls": call}]),
                body(messages=template),
                body(word, tools=[{"type": "function", "function": {"name": word}}]),
                {**body(word), word: word},
            ):
                async with session.post(process.endpoint.base_url + CHAT, json=asked) as response:
                    await response.read()
            async with session.post(process.endpoint.base_url + CHAT, data=word.encode()) as response:
                assert response.status == 400
            async with session.get(f"{process.endpoint.base_url}/metrics") as response:
                assert word not in await response.text()
        process_id = process.pid
        await process.end(5)
        assert not group(process_id)
    finally:
        await process.end(0)
    assert word.encode() not in b"\n".join(lines)
    assert b"canary" not in b"\n".join(lines)


async def test_a_start_that_fails_says_why(model: PreparedModel, tmp_path: Path) -> None:
    settings = EngineSettings(model_dir=tmp_path, model_name="tiny", kind="transformers")
    supervisor = EngineSupervisor(settings, model.environment.python, timing=Timing(restarts=0))
    with pytest.raises(EngineStartError, match=r"the engine ended with status -9: \w+Error: .*tokenizer"):
        await supervisor.start()
    await supervisor.stop()


async def test_a_killed_server_is_started_again_at_the_same_door(engine: EngineSupervisor) -> None:
    old, url = engine.pid, engine.base_url
    assert old is not None
    os.kill(old, signal.SIGKILL)

    async def noticed() -> bool:
        return not engine.healthy.is_set()

    await until(noticed)
    async with asyncio.timeout(300):
        await engine.healthy.wait()
    assert engine.pid != old
    assert engine.base_url == url
    assert await answer(engine)
