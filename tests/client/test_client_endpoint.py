"""The endpoint over real HTTP, a real link and a scripted gateway: answers, access, failures, and what stays secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest
from client_world import (
    API_KEY,
    MODEL,
    ORIGIN,
    PRICE,
    World,
    chat,
    completion,
    event,
    final,
    head,
    request_body,
    used,
)

from appliance.chain.errors import StaleError
from appliance.client.errors import ClientError
from appliance.client.program import bind, serve
from appliance.wire import messages as tl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BEARER = {"Authorization": f"Bearer {API_KEY}"}
CHAT = "/v1/chat/completions"
TOO_LARGE = b"a body over the limit"


@asynccontextmanager
async def ask(world: World, body: Any = None, path: str = CHAT, **options: Any) -> AsyncIterator[Any]:
    """One request with the key, as a plain HTTP client sends it."""
    options.setdefault("headers", BEARER)
    async with (
        aiohttp.ClientSession() as http,
        http.request("POST" if body is not None else "GET", world.url + path, data=body, **options) as answer,
    ):
        yield answer


async def error_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The error object, which has to have the API's shape."""
    error: dict[str, Any] = (await answer.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    assert error["code"], "an error has a cause"
    return error


@asynccontextmanager
async def scripted(world: World, *steps: Any) -> AsyncIterator[None]:
    """What the gateway does meanwhile."""

    async def play() -> None:
        request = await world.gateway.next()
        for step in steps:
            result = step(world.gateway, request)
            if asyncio.iscoroutine(result):
                await result

    task = asyncio.create_task(play())
    try:
        yield
        await task
    finally:
        task.cancel()


# Answers --------------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_with_its_cost(world: World) -> None:
    await world.start()
    task = asyncio.create_task(world.gateway.answer("Paris."))
    async with ask(world, chat("Where?", max_coefficient=1500, timeout=7)) as answer:
        assert answer.status == 200
        assert (await answer.json())["choices"][0]["message"]["content"] == "Paris."
        assert answer.headers["x-chrysalis-tokens"] == "15"
        assert answer.headers["x-chrysalis-cost-nanotons"] == str(15 * PRICE)
        assert "Access-Control-Allow-Origin" not in answer.headers
    request = await task
    assert (request.model_name, request.max_coefficient, request.max_tokens) == (MODEL, 1500, 50)
    assert request.timeout == pytest.approx(0.95 * 7)
    assert json.loads(request_body(request)) == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Where?"}],
        "max_tokens": 50,
    }
    assert world.account.spent_tokens == 15
    assert world.purse.at_risk(world.at.contract) == 0


async def test_a_streamed_answer_comes_as_it_is_made(world: World) -> None:
    await world.start()
    async with ask_streamed(world) as (answer, request):
        world.gateway.part(request, event({"n": 1}))
        assert await answer.content.readuntil(b"\n\n") == event({"n": 1})
        whole = event({"n": 2})
        world.gateway.part(request, whole[:10])
        world.gateway.part(request, whole[10:] + event({"n": 3}))
        assert await answer.content.readuntil(b"\n\n") == whole
        world.gateway.end(request, b"data: [DONE]\n\n")
        rest = await answer.content.read()
        assert rest == event({"n": 3}) + b"data: [DONE]\n\n" + b": chrysalis cost-nanotons=300 tokens=15\n\n"
        assert answer.headers["Content-Type"].startswith("text/event-stream")


@asynccontextmanager
async def ask_streamed(world: World) -> AsyncIterator[tuple[aiohttp.ClientResponse, tl.ClientRunQueryEx]]:
    """A streaming request whose answer has begun."""
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(world.url + CHAT, data=chat(stream=True), headers=BEARER))
        request = await world.gateway.next()
        world.gateway.head(request)
        world.gateway.part(request, b": start\n\n")
        answer = await asking
        assert await answer.content.readuntil(b"\n\n") == b": start\n\n"
        try:
            yield answer, request
        finally:
            answer.close()


async def test_old_shapes_of_a_reference_gateway(world: World) -> None:
    await world.start()
    zero = used(0, 0)
    async with (
        scripted(
            world,
            lambda gateway, request: gateway.send(
                tl.ClientQueryAnswer(head(stream=False), False, request.request_id, zero),
                tl.ClientQueryAnswerPart(json.dumps(completion("Yes")).encode(), False, request.request_id, used(3, 1)),
                tl.ClientQueryAnswerPart(b"", True, request.request_id, used(10, 5)),
            ),
        ),
        ask(world, chat()) as answer,
    ):
        assert (await answer.json())["choices"][0]["message"]["content"] == "Yes"
    assert world.account.spent_tokens == 15


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_package_asynchronous(world: World, stream: bool) -> None:
    await world.start()
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        task = asyncio.create_task(world.gateway.answer("It is Paris."))
        found = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Where?"}],
            max_tokens=20,
            stream=stream,
            extra_body={"max_coefficient": 1000},
        )
        if stream:
            words = [chunk.choices[0].delta.content async for chunk in found]  # type: ignore[union-attr]
            assert words == ["It", "is", "Paris."]
        else:
            assert found.choices[0].message.content == "It is Paris."  # type: ignore[union-attr]
        await task
    assert world.account.spent_tokens == 15


async def test_the_openai_package_synchronous(world: World) -> None:
    await world.start()

    def talk() -> tuple[list[str], str | None, list[str | None]]:
        with openai.OpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=0) as client:
            models = [model.id for model in client.models.list()]
            message = {"role": "user", "content": "Where?"}
            whole: Any = client.chat.completions.create(model=MODEL, messages=[message])  # type: ignore[list-item]
            chunks: Any = client.chat.completions.create(model=MODEL, messages=[message], stream=True)  # type: ignore[list-item]
            words = [chunk.choices[0].delta.content for chunk in chunks]
            return models, whole.choices[0].message.content, words

    async def serve_two() -> None:
        await world.gateway.answer("Paris.")
        await world.gateway.answer("Paris again.")

    serving = asyncio.create_task(serve_two())
    found = await asyncio.to_thread(talk)
    await serving
    assert found == ([MODEL], "Paris.", ["Paris", "again."])


# Errors, as the package sees them -------------------------------------------------------------------------------------


def refuse(code: int, text: str) -> Any:
    return lambda gateway, request: gateway.send(tl.ClientQueryAnswerError(code, text, request.request_id, used(0, 0)))


def refuse_new(code: int, text: str) -> Any:
    return lambda gateway, request: gateway.send(tl.ClientQueryAnswerErrorEx(request.request_id, code, text, 0))


@pytest.mark.parametrize("family", [refuse, refuse_new])
@pytest.mark.parametrize(
    ("code", "text", "raised", "cause", "may_retry"),
    [
        (621, "unknown option 'x'", openai.BadRequestError, "invalid_request", True),
        (602, "too many active queries", openai.InternalServerError, "gateway_declined", True),
        (651, "all workers are busy; retry after 7 s", openai.RateLimitError, "busy", True),
        (651, "no connection", openai.InternalServerError, "not_ready", True),
        (652, "timeout in proxy", openai.InternalServerError, "timeout", False),
        (653, "cancelled", openai.InternalServerError, "cancelled", False),
        (0, "boom \x1b[31m\n" + "x" * 1000, openai.InternalServerError, "upstream_error", True),
        (-7, "what?", openai.InternalServerError, "upstream_error", True),
    ],
)
async def test_error_classes_of_the_openai_package(  # noqa: PLR0917 - one row of the table
    world: World, family: Any, code: int, text: str, raised: type[openai.APIStatusError], cause: str, may_retry: bool
) -> None:
    await world.start()
    async with (
        scripted(world, family(code, text)),
        openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=0) as client,
    ):
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "?"}])
    assert caught.value.code == cause
    assert len(caught.value.message) < 800
    assert caught.value.message.isprintable()
    assert (caught.value.response.headers.get("x-should-retry") != "false") is may_retry
    if cause == "busy":
        assert caught.value.response.headers["Retry-After"] == "7"
    assert (world.purse.at_risk(world.at.contract) == 0) is may_retry


async def test_the_openai_package_does_not_repeat_what_may_be_charged(world: World) -> None:
    await world.start()
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=2) as client:
        async with scripted(world, refuse(652, "timeout in proxy")):
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "?"}])
        assert world.gateway.heard.empty()
        # The control: what costs nothing is repeated by the package.
        asking = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "?"}])
        )
        refuse(0, "boom")(world.gateway, await world.gateway.next())
        await world.gateway.answer("Second try.")
        assert (await asking).choices[0].message.content == "Second try."


async def test_an_error_in_a_stream_is_its_last_event(world: World) -> None:
    await world.start()
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=0) as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "?"}], stream=True)
        )
        request = await world.gateway.next()
        world.gateway.head(request)
        world.gateway.part(request, event({"choices": [{"index": 0, "delta": {"content": "It"}}]}) + b'data: {"half')
        stream: Any = await asking
        chunk = await anext(stream)
        assert chunk.choices[0].delta.content == "It"
        world.gateway.link.close()
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
    assert caught.value.code == "gateway_lost"
    assert world.purse.at_risk(world.at.contract) > 0, "the gateway may still charge it"


@pytest.mark.parametrize("family", ["new", "old"])
async def test_an_error_answer_after_the_head(world: World, family: str) -> None:
    await world.start()
    async with ask_streamed(world) as (answer, request):
        error: Any = tl.ClientQueryAnswerErrorEx(request.request_id, 601, "the engine died", 0)
        if family == "old":
            error = tl.ClientQueryAnswerPartError(601, "the engine died", request.request_id, used(0, 0))
        world.gateway.send(error)
        (line,) = (await answer.content.read()).split(b"\n\n")[:-1]
    assert json.loads(line.removeprefix(b"data: "))["error"]["message"] == "the engine died"
    assert world.purse.at_risk(world.at.contract) == 0, "an error costs nothing"


async def test_a_gateway_that_goes_away_before_the_head(world: World) -> None:
    await world.start()
    async with scripted(world, lambda gateway, _: gateway.link.close()), ask(world, chat()) as answer:
        assert answer.status == 502
        assert (await error_of(answer))["code"] == "gateway_lost"
        assert answer.headers["x-should-retry"] == "false"
    await world.until(lambda: bool(world.pool.ready()))
    task = asyncio.create_task(world.gateway.answer())
    async with ask(world, chat()) as answer:
        assert answer.status == 200
    await task


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (502, b"", "the worker's model server answered with status 502"),
        (504, b"<html>", "the worker's model server answered with status 504"),
        (400, b'{"object":"error","message":"too long","code":400}', "too long"),
        (422, b'{"error":{"message":"bad","type":"t","param":null,"code":"c"}}', "bad"),
        (500, b"[" * 100_000, "the worker's model server answered with status 500"),
    ],
)
async def test_a_model_servers_own_error_is_an_error_object(
    world: World, status: int, body: bytes, message: str
) -> None:
    await world.start()
    async with (
        scripted(
            world,
            lambda gateway, request: gateway.head(request, stream=False, status=status),
            lambda gateway, request: gateway.end(request, body, used(0, 0)),
        ),
        ask(world, chat()) as answer,
    ):
        assert answer.status == status
        assert (await error_of(answer))["message"] == message


# A gateway that breaks the protocol -----------------------------------------------------------------------------------

HOSTILE = {
    "part before the head": lambda gateway, request: gateway.part(request, b"x"),
    "no http.response": lambda gateway, request: gateway.send(tl.ClientQueryAnswerEx(request.request_id, b"junk", 0)),
    "rest behind the head": lambda gateway, request: gateway.send(
        tl.ClientQueryAnswerEx(request.request_id, head() + bytes(4), 0)
    ),
    "second head": lambda gateway, request: (
        gateway.head(request, stream=False),
        gateway.head(request, stream=False),
    ),
    "status 99999": lambda gateway, request: gateway.head(request, status=99999),
    "status -1": lambda gateway, request: gateway.head(request, status=-1),
    "status 100": lambda gateway, request: gateway.head(request, status=100),
    "end before the head": lambda gateway, request: gateway.send(
        tl.ClientQueryAnswerPartEx(request.request_id, b"", 1, final(used(0, 0)))
    ),
    "old part before the head": lambda gateway, request: gateway.send(
        tl.ClientQueryAnswerPart(b"x", False, request.request_id, used(0, 0))
    ),
}


@pytest.mark.parametrize("attack", HOSTILE)
async def test_a_broken_answer_fails_alone(world: World, attack: str) -> None:
    await world.start()
    async with ask_streamed(world) as (neighbour, other):
        async with scripted(world, HOSTILE[attack]), ask(world, chat()) as answer:
            assert answer.status == 502
            assert (await error_of(answer))["code"] == "gateway_fault"
        if attack != "end before the head":
            assert await world.gateway.next_cancel()
        # The control, on the same link: an answer that keeps the rules.
        world.gateway.end(other, b"data: [DONE]\n\n")
        assert b"cost-nanotons=300" in await neighbour.content.read()


async def test_unknown_ids_and_messages_are_nothing(world: World) -> None:
    await world.start()
    gateway = world.gateway
    stranger = bytes(32)
    gateway.send(
        tl.ClientQueryAnswerEx(stranger, b"junk", 1, final(used(2**40, 0))),
        tl.ClientQueryAnswerPartEx(stranger, b"x", 1, final(used(-1, 0))),
        tl.ClientQueryAnswerErrorEx(stranger, 1, "x", 0),
        tl.ClientQueryAnswerError(1, "x", stranger, used()),
        tl.ClientQueryAnswerPart(b"x", True, stranger, used(2**40, 0)),
        tl.WorkerEnabledDisabled(1),
    )
    gateway.payment(stranger, 2**40)
    task = asyncio.create_task(gateway.answer())
    async with ask(world, chat()) as answer:
        assert answer.status == 200
    await task
    assert world.account.spent_tokens == 15


async def test_headers_of_a_stranger_do_not_reach_the_caller(world: World) -> None:
    await world.start()
    headers = {
        "Set-Cookie": "a=b",
        "Access-Control-Allow-Origin": "*",
        "Content-Length": "3",
        "Transfer-Encoding": "chunked",
        "X-Cocoon-Worker-Start": "1.5",
        "X-Cocoon-Evil": "a\r\nSet-Cookie: c=d",
        "x-cocoon-\r\nset-cookie": "x",
        "x-cocoon-long": "x" * 5000,
        "content-type": "text/html",
    }
    async with (
        scripted(
            world,
            lambda gateway, request: gateway.send(
                tl.ClientQueryAnswerEx(request.request_id, head(stream=False, headers=headers), 0)
            ),
            lambda gateway, request: gateway.end(request, b"<script>"),
        ),
        ask(world, chat()) as answer,
    ):
        assert answer.status == 200
        assert answer.headers["x-cocoon-worker-start"] == "1.5"
        assert answer.content_type == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        names = {name.lower() for name in answer.headers}
        assert not names & {"set-cookie", "access-control-allow-origin", "transfer-encoding", "x-cocoon-evil"}
        assert "x-cocoon-long" not in names


@pytest.mark.parametrize(
    "report",
    [used(-1, 5), used(10, 5, total=1_000_000), used(2**40, 0), tl.TokensUsed(2**62, 2**62, 0, 0, -(2**63))],
)
async def test_a_gateway_that_charges_what_cannot_be_is_not_used_again(world: World, report: tl.TokensUsed) -> None:
    await world.start()
    async with ask_streamed(world) as (neighbour, _other):
        async with (
            scripted(
                world,
                lambda gateway, request: gateway.head(request, stream=False),
                lambda gateway, request: gateway.end(request, b"{}", report),
            ),
            ask(world, chat()) as answer,
        ):
            assert answer.status == 502
            assert (await error_of(answer))["code"] == "payment_refused"
            assert answer.headers["x-should-retry"] == "false"
        assert b'"code": "payment_refused"' in await neighbour.content.read()
    assert world.account.spent_tokens == 0
    await world.until(lambda: "not used any more" in world.pool.states()[0].reason, 15.0)
    assert not world.pool.ready()
    async with ask(world, path="/status") as answer:
        told = await answer.json()
        assert not told["ready"]
        assert "client refund" in told["gateways"][0]["reason"]


async def test_a_charge_for_more_than_was_used_bars_the_gateway(world: World) -> None:
    await world.start()
    task = asyncio.create_task(world.gateway.answer())
    async with ask(world, chat()) as answer:
        assert answer.status == 200
    request = await task
    world.gateway.payment(request.request_id, 15, signed=15)
    await world.until(lambda: world.account.signed_tokens == 15)
    assert world.pool.ready(), "an honest charge is taken"
    world.gateway.payment(request.request_id, 15, signed=16)
    await world.until(lambda: "not used any more" in world.pool.states()[0].reason, 15.0)
    assert world.account.signed_tokens == 15


# Callers who go, wait, or read slowly ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_cancels_the_request_where_it_runs(world: World, stream: bool) -> None:
    await world.start()
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(world.url + CHAT, data=chat(stream=stream), headers=BEARER))
        request = await world.gateway.next()
        if stream:
            world.gateway.head(request)
            world.gateway.part(request, event({"n": 1}))
            answer = await asking
            await answer.content.readuntil(b"\n\n")
            answer.close()
        else:
            asking.cancel()
    assert await world.gateway.next_cancel() == request.request_id
    world.gateway.total += 12
    world.gateway.payment(request.request_id, 12)
    await world.until(lambda: world.account.spent_tokens == 12)
    assert world.purse.at_risk(world.at.contract) == 0
    assert b'chrysalis_client_failures_total{error="CallerGone"} 1.0' in world.metrics.text()


async def test_a_reference_gateway_hears_nothing_of_a_cancellation(world: World) -> None:
    world.gateway.offered = frozenset()
    world.reference_gateways, world.check_workers = True, False
    await world.start()
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(world.url + CHAT, data=chat(), headers=BEARER))
        request = await world.gateway.next()
        asking.cancel()
    await world.until(lambda: world.pool.ready()[0].load == 0)
    world.gateway.head(request)
    world.gateway.end(request)
    task = asyncio.create_task(world.gateway.answer())
    async with ask(world, chat()) as answer:
        assert answer.status == 200, "the link lives on"
    await task
    assert world.gateway.cancelled.empty()


async def test_a_slow_reader_loses_its_own_request_only(world: World) -> None:
    await world.start()
    async with ask_streamed(world) as (neighbour, other), ask_streamed(world) as (_slow, request):
        for _ in range(120):
            world.gateway.send(tl.ClientQueryAnswerPartEx(request.request_id, event({"x": "y" * 100_000}), 0))
            await world.gateway.link.drain()
        assert await world.gateway.next_cancel() == request.request_id
        world.gateway.end(other, b"data: [DONE]\n\n")
        assert b"cost-nanotons=300" in await neighbour.content.read()


async def test_an_answer_that_does_not_come_in_time(world: World) -> None:
    await world.start()
    async with ask(world, chat(timeout=0.3)) as answer:
        assert answer.status == 504
        assert (await error_of(answer))["code"] == "timeout"
        assert answer.headers["x-should-retry"] == "false"
    request = await world.gateway.next()
    assert await world.gateway.next_cancel() == request.request_id


# What is refused before anything leaves -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        (b"", 400, "invalid_request"),
        (b"{", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b'{"model":"x"}', 400, "invalid_request"),
        (b'{"model":5,"messages":[]}', 400, "invalid_request"),
        (b'{"model":"' + b"x" * 300 + b'","messages":[]}', 400, "invalid_request"),
        (chat(unknown_key=1), 400, "invalid_request"),
        (chat(max_tokens=-1), 400, "invalid_request"),
        (chat(max_coefficient=-1), 400, "invalid_request"),
        (chat(max_coefficient="x"), 400, "invalid_request"),
        (chat(timeout=0), 400, "invalid_request"),
        (chat(timeout=True), 400, "invalid_request"),
        (chat(enable_debug="yes"), 400, "invalid_request"),
        (chat(n=10**9), 400, "invalid_request"),
        (b'{"model":"\xff"}', 400, "invalid_request"),
        (TOO_LARGE, 413, "request_entity_too_large"),
        (chat(model="org/unknown"), 404, "model_not_found"),
    ],
)
async def test_bad_requests_never_leave(world: World, body: bytes, status: int, cause: str) -> None:
    await world.start()
    async with ask(world, io.BytesIO(chat(text="x" * (8 << 20))) if body == TOO_LARGE else body) as answer:
        assert answer.status == status, await answer.text()
        assert (await error_of(answer))["code"] == cause
    assert world.gateway.heard.empty()
    assert world.purse.at_risk(world.at.contract) == 0


async def test_an_unknown_model_is_told_what_there_is(world: World) -> None:
    await world.start()
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=API_KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="on offer: org/model"):
            await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "?"}])


async def test_the_budget_is_an_error_of_its_own(world: World) -> None:
    world.budget = 100
    await world.start()
    async with ask(world, chat()) as answer:
        assert answer.status == 402
        error = await error_of(answer)
        assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exhausted")
    assert world.gateway.heard.empty()


async def test_a_stale_root_contract_stops_new_requests(world: World) -> None:
    await world.start()
    world.stale = StaleError("the root contract's state is 9000 s old")
    async with ask(world, chat()) as answer:
        assert answer.status == 503
        assert (await error_of(answer))["code"] == "chain_unavailable"
    assert world.gateway.heard.empty()
    world.stale = None
    task = asyncio.create_task(world.gateway.answer())
    async with ask(world, chat()) as answer:
        assert answer.status == 200
    await task


async def test_no_gateway_is_a_503_with_each_ones_reason(world: World) -> None:
    world.dialer.peer = None
    await world.start(ready=False)
    async with ask(world, chat(timeout=0.5)) as answer:
        assert answer.status in {503, 504}
        await error_of(answer)
    async with ask(world, path="/health") as answer:
        assert (answer.status, await answer.json()) == (503, {"ready": False})


# Who may come in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Authorization": f"bearer  {API_KEY} "}, 200),
        ({"Authorization": "Bearer wrong-key-wrong-key"}, 401),
        ({"Authorization": f"Basic {API_KEY}"}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": b"Bearer \xff\xfe\x80".decode("latin-1")}, 401),
        ({"Origin": ORIGIN}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ORIGIN + ".evil.example"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "rebound.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": ""}, 403),
    ],
)
async def test_who_may_come_in(world: World, headers: dict[str, str], status: int) -> None:
    await world.start()
    async with ask(world, path="/v1/models", headers=BEARER | headers) as answer:
        assert answer.status == status
        if status != 200:
            error = await error_of(answer)
            assert API_KEY not in json.dumps(error)
            assert error["code"] == ("invalid_api_key" if status == 401 else "foreign_origin")
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == (ORIGIN if headers.get("Origin") == ORIGIN else None)


async def test_a_configured_web_page_may_ask_and_read_errors(world: World) -> None:
    await world.start()
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    async with aiohttp.ClientSession() as http:
        async with http.options(world.url + CHAT, headers={"Origin": ORIGIN} | asked) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-stainless-os"
        async with http.options(world.url + CHAT, headers={"Origin": "https://evil.example"} | asked) as answer:
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers
        async with http.post(world.url + CHAT, data=b"{", headers=BEARER | {"Origin": ORIGIN}) as answer:
            assert answer.status == 400
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize("path", ["/v1/models", "/v1/attestation", "/status", "/metrics", "/nothing", CHAT])
async def test_everything_but_health_needs_the_key(world: World, path: str) -> None:
    await world.start()
    async with ask(world, path=path, headers={}) as answer:
        assert answer.status == 401
        await error_of(answer)
    async with ask(world, path="/health", headers={}) as answer:
        assert answer.status == 200
    async with ask(world, path="/health", headers={"Origin": "https://evil.example"}) as answer:
        assert answer.status == 403


async def test_unknown_paths_and_methods_are_error_objects(world: World) -> None:
    await world.start()
    async with ask(world, path="/v1/nothing") as answer:
        assert answer.status == 404
        assert (await error_of(answer))["code"] == "not_found"
    async with ask(world, path=CHAT) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        await error_of(answer)


async def test_an_unforeseen_fault_tells_its_type_only(
    world: World, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    await world.start()

    async def broken() -> None:
        raise ZeroDivisionError("CANARY")

    monkeypatch.setattr(world.client, "models", broken)
    async with ask(world, path="/v1/models") as answer:
        assert answer.status == 500
        error = await error_of(answer)
    assert error["message"] == "internal error (ZeroDivisionError)"
    assert "CANARY" not in json.dumps(logged)
    assert any(line.get("error") == "ZeroDivisionError" for line in logged)


async def test_bytes_that_are_no_http(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.start()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /CANARY HTTP/9.9\r\nCANARY\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.")
    assert b" 400 " in answer.splitlines()[0]
    assert "CANARY" not in caplog.text


async def test_a_port_in_use_is_named(world: World) -> None:
    await world.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClientError, match=f"127.0.0.1:{port}: "):
            bind("127.0.0.1", port)
    async with AsyncExitStack() as stack:
        assert await serve(_endpoint(world), bind("127.0.0.1", port), stack) == port


def _endpoint(world: World) -> Any:
    from appliance.client.access import Access
    from appliance.client.endpoint import Endpoint

    return Endpoint(world.client, Access(API_KEY), world.metrics)


# What there is to know, and what is not -------------------------------------------------------------------------------


async def test_attestation_shows_every_check(world: World) -> None:
    await world.start()
    async with ask(world, path=f"/v1/attestation?model={MODEL}") as answer:
        (found,) = (await answer.json())["gateways"]
    for verdict in (found["gateway"], *found["workers"]):
        assert verdict["accepted"]
        assert verdict["assurance"] == "none"
        assert verdict["explained"][0].startswith("no assurance")
        assert {"nonce", "channel key", "bundle signature"} <= {check["name"] for check in verdict["checks"]}
    assert found["gateway"]["statement"]["role"] == "gateway"
    async with ask(world, path="/v1/attestation") as answer:
        assert "workers" not in (await answer.json())["gateways"][0]


async def test_no_content_and_no_secret_comes_out_anywhere(
    world: World, logged: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await world.start()

    async def both() -> None:
        await world.gateway.answer("ANSWER-CANARY one")
        await world.gateway.answer("ANSWER-CANARY two")
        refuse(621, "ERROR-CANARY")(world.gateway, await world.gateway.next())
        request = await world.gateway.next()
        world.gateway.send(tl.ClientQueryAnswerEx(request.request_id, b"HEAD-CANARY", 0))

    task = asyncio.create_task(both())
    for options in ({}, {"stream": True}, {}, {}):
        async with ask(world, chat("PROMPT-CANARY", user="USER-CANARY", **options)) as answer:
            await answer.read()
    await task
    async with ask(world, b'{"model": "MODEL-CANARY", "KEY-CANARY": 1') as answer:
        assert "CANARY" not in await answer.text()
    async with ask(world, path="/metrics") as answer:
        metrics = await answer.text()
    async with ask(world, path="/status") as answer:
        status = await answer.text()
    world.purse.flush()
    files = b"".join(path.read_bytes() for path in world.directory.iterdir())
    seen = [json.dumps(logged, default=repr), caplog.text, metrics, status, files.decode("latin-1")]
    assert "chrysalis_client_answers_total 2.0" in metrics
    assert "chrysalis_client_adjusted_tokens_total" in metrics
    for text in seen:
        assert "CANARY" not in text
        assert API_KEY not in text
        assert "a secret that the client keeps" not in text
        assert MODEL not in text, "which models are asked for is nobody's business either"


async def test_metrics_have_fixed_names_and_labels(world: World) -> None:
    await world.start()
    async with ask(world, b"{") as answer:
        assert answer.status == 400
    async with ask(world, path="/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if not line.startswith("#")]
    names = {line.split("{")[0].split(" ")[0] for line in lines}
    assert {name.removesuffix("_total").removesuffix("_created") for name in names} <= {
        "chrysalis_client_running_requests",
        "chrysalis_client_answers",
        "chrysalis_client_failures",
        "chrysalis_client_adjusted_tokens",
        "chrysalis_client_cost_nanotons",
    }
    assert any('error="RequestError"' in line for line in lines)
