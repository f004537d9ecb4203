"""Requests over a real link on loopback, for each protocol version (protocol specification, section 2.4)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from worker_world import World, body_of, head_of, make_world, until

from appliance.wire.messages import (
    ChrysalisCancel,
    ProxyQueryAnswer,
    ProxyQueryAnswerError,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerEx,
    ProxyQueryAnswerPart,
    ProxyQueryAnswerPartError,
    ProxyQueryAnswerPartEx,
    TokensUsed,
)

if TYPE_CHECKING:
    from pathlib import Path

USED = TokensUsed(8, 3, 4, 1, 16)


def mood(name: str, **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": name}], **keys}


async def test_a_plain_answer(world: World) -> None:
    messages = await world.gateway.ask(mood("plain"))
    assert [type(message) for message in messages] == [ProxyQueryAnswerEx, ProxyQueryAnswerPartEx]
    head = head_of(messages)
    assert (head.http_version, head.status_code, head.reason, head.payload) == ("HTTP/1.1", 200, "OK", b"")
    names = {header.name.lower(): header.value for header in head.headers}
    assert names["transfer-encoding"] == "chunked"
    assert names["x-model"] == "m"
    assert {"x-cocoon-worker-start", "x-cocoon-worker-end"} <= names.keys()
    assert not {"connection", "keep-alive", "content-length"} & names.keys()
    assert messages[0].flags == 0  # type: ignore[attr-defined]  # known by the line above
    body = json.loads(body_of(messages))
    assert body["usage"]["total_cost"] == 32
    last = messages[-1]
    assert isinstance(last, ProxyQueryAnswerPartEx)
    assert last.final_info is not None
    assert last.final_info.flags == 2
    assert last.final_info.tokens_used == USED
    assert last.final_info.worker_debug is None
    assert last.final_info.worker_start_time is not None
    assert world.requests.tally.succeeded == 1


async def test_a_stream_comes_as_it_is_made_and_is_counted(world: World) -> None:
    messages = await world.gateway.ask(mood("stream", stream=True), debug=True)
    parts = messages[1:]
    assert len(parts) >= 4, "events are not collected"
    assert all(isinstance(part, ProxyQueryAnswerPartEx) for part in parts)
    assert body_of(messages).endswith(b"data: [DONE]\n\n")
    assert b'"total_cost":20' in body_of(messages)
    final = parts[-1].final_info  # type: ignore[attr-defined]  # checked above
    assert final.tokens_used == TokensUsed(7, 0, 3, 0, 10)
    assert final.flags == 3
    debug = json.loads(final.worker_debug)
    assert debug["type"] == "worker_stats"
    assert debug["start_time"] <= debug["answer_receive_start_at"] <= debug["answer_receive_end_at"]


async def test_protocol_1_has_no_times(tmp_path: Path) -> None:
    async with make_world(tmp_path, protocol=1) as world:
        messages = await world.gateway.ask(mood("plain"))
        final = messages[-1].final_info  # type: ignore[attr-defined]  # the last part has it
        assert final.flags == 0
        assert final.worker_start_time is None
        assert final.tokens_used == USED


async def test_protocol_0_has_its_own_shapes(tmp_path: Path) -> None:
    async with make_world(tmp_path, protocol=0) as world:
        messages = await world.gateway.ask(mood("stream", stream=True))
        assert isinstance(messages[0], ProxyQueryAnswer)
        assert not messages[0].is_completed
        last = messages[-1]
        assert isinstance(last, ProxyQueryAnswerPart)
        assert last.is_completed
        assert last.tokens_used == TokensUsed(7, 0, 3, 0, 10)
        refused = await world.gateway.ask(b"{}")
        assert isinstance(refused[0], ProxyQueryAnswerError)
        broken = await world.gateway.ask(mood("die", stream=True))
        assert isinstance(broken[-1], ProxyQueryAnswerPartError)
        empty = await world.gateway.ask(mood("empty"))
        assert isinstance(empty[0], ProxyQueryAnswer)
        assert empty[0].is_completed


async def test_an_answer_without_a_body_ends_with_its_head(world: World) -> None:
    (only,) = await world.gateway.ask(mood("empty"))
    assert isinstance(only, ProxyQueryAnswerEx)
    assert only.flags == 1
    assert only.final_info is not None
    assert head_of([only]).status_code == 204


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_server_that_dies_in_mid_answer(world: World, stream: bool) -> None:
    messages = await world.gateway.ask(mood("die", stream=stream))
    last = messages[-1]
    assert isinstance(last, ProxyQueryAnswerErrorEx)
    assert last.error_code == 601
    assert last.flags == 1
    assert last.final_info is not None, "the gateway needs it"
    assert world.requests.active == 0
    assert isinstance((await world.gateway.ask(mood("plain")))[-1], ProxyQueryAnswerPartEx), "the link lives"


async def test_errors_of_the_model_server_are_answers(world: World) -> None:
    messages = await world.gateway.ask(mood("refuse"))
    assert head_of(messages).status_code == 400
    assert json.loads(body_of(messages)) == {"error": "no"}
    assert body_of(await world.gateway.ask(mood("number"))) == b"123"
    world.model.down = True
    (gone,) = await world.gateway.ask(mood("plain"))
    assert head_of([gone]).status_code == 502
    assert gone.flags == 1  # type: ignore[attr-defined]  # an answer, see head_of
    assert (world.requests.tally.succeeded, world.requests.tally.failed) == (2, 1)


@pytest.mark.parametrize("protocol", [0, 2])
async def test_headers_that_cannot_be_sent_end_that_request_only(tmp_path: Path, protocol: int) -> None:
    async with make_world(tmp_path, protocol=protocol) as world:
        messages = await world.gateway.ask(mood("headers"))
        assert type(messages[-1]) is (ProxyQueryAnswerErrorEx if protocol else ProxyQueryAnswerError)
        assert isinstance((await world.gateway.ask(mood("plain")))[-1], ProxyQueryAnswerPart | ProxyQueryAnswerPartEx)
        assert world.gateway.links == 1


async def test_no_head_in_time_is_a_504_and_no_end_in_time_is_an_error(world: World) -> None:
    (late,) = await world.gateway.ask(mood("silent"), timeout=0.2)
    assert head_of([late]).status_code == 504
    messages = await world.gateway.ask(mood("endless", stream=True), timeout=0.4)
    assert isinstance(messages[-1], ProxyQueryAnswerErrorEx)
    assert messages[-1].error_code == 652
    assert messages[-1].error == "worker: timeout"
    async with asyncio.timeout(10):
        await world.model.aborted.wait()


async def test_a_cancelled_request_ends_at_the_model_server(world: World) -> None:
    query = world.gateway.run_query(mood("endless", stream=True))
    world.gateway.send(query)
    await world.gateway.wait_for(lambda messages: any(isinstance(m, ProxyQueryAnswerPartEx) for m in messages))
    await until(lambda: world.gateway.link is not None and bool(world.gateway.link.extensions))
    world.gateway.send(ChrysalisCancel(query.request_id))
    messages = await world.gateway.ended(query.request_id)
    assert isinstance(messages[-1], ProxyQueryAnswerErrorEx)
    assert messages[-1].error_code == 653
    async with asyncio.timeout(10):
        await world.model.aborted.wait()
    assert world.requests.active == 0
    assert world.requests.tally.cancelled == 1


async def test_a_lost_link_ends_its_requests(world: World) -> None:
    world.gateway.send(world.gateway.run_query(mood("endless", stream=True)))
    await world.gateway.wait_for(lambda messages: any(isinstance(m, ProxyQueryAnswerPartEx) for m in messages))
    assert world.gateway.link is not None
    world.gateway.link.close()
    async with asyncio.timeout(10):
        await world.model.aborted.wait()
        await world.requests.wait_idle()


async def test_no_more_than_the_limit_runs_at_once(world: World) -> None:
    running = [world.gateway.run_query(mood("endless", stream=True)) for _ in range(4)]
    for query in running:
        world.gateway.send(query)
    (refused,) = await world.gateway.ask(mood("plain"))
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == 602
    assert refused.error == "too many active queries"
    assert refused.final_info is not None
    assert refused.final_info.tokens_used == TokensUsed(0, 0, 0, 0, 0)
    world.model.release.set()
    for query in running:
        assert isinstance((await world.gateway.ended(query.request_id))[-1], ProxyQueryAnswerPartEx)
    assert isinstance((await world.gateway.ask(mood("plain")))[-1], ProxyQueryAnswerPartEx)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"coefficient": -1}, 621, "coefficient -1"),
        ({"coefficient": 999}, 621, "coefficient 999, expected 1000"),
        ({"coefficient": 2**40}, 621, "coefficient"),
        ({"timeout": 0.0}, 621, "timeout"),
        ({"timeout": -5.0}, 621, "timeout"),
        ({"timeout": float("nan")}, 621, "timeout nan"),
        ({"timeout": float("inf")}, 621, "timeout inf"),
        ({"timeout": 1e9}, 621, "at most 3600"),
        ({"query": b""}, 0, "not an http.request"),
        ({"query": b"\0" * 64}, 0, "not an http.request"),
        ({"url": "/v1/models"}, 621, "worker: invalid http request: unsupported method"),
        ({"headers": (("a b", "c"),)}, 621, "worker: invalid http request: a header name"),
        ({"headers": (("X-Chrysalis-Cache-Salt", "s" * 600),)}, 621, "at most 512"),
    ],
)
async def test_absurd_requests_get_an_answer(world: World, changes: dict[str, Any], code: int, words: str) -> None:
    (refused,) = await world.gateway.ask(mood("plain"), **changes)
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == code
    assert words in refused.error
    assert refused.final_info is not None
    assert world.model.bodies == []
    assert isinstance((await world.gateway.ask(mood("plain")))[-1], ProxyQueryAnswerPartEx), "the control"


async def test_an_unknown_key_is_named_and_its_value_is_not(world: World) -> None:
    (refused,) = await world.gateway.ask(mood("plain", wrong_key="s3cret"))
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error == "worker: invalid http request: unknown option 'wrong_key' in request"


async def test_the_same_id_twice_is_refused_and_the_first_goes_on(world: World) -> None:
    first = world.gateway.run_query(mood("endless", stream=True))
    world.gateway.send(first)
    world.gateway.send(first)
    await world.gateway.wait_for(lambda messages: any(isinstance(m, ProxyQueryAnswerErrorEx) for m in messages))
    assert world.requests.active == 1


async def test_what_the_model_server_gets(world: World) -> None:
    headers = [
        ("Authorization", "Bearer user-key"),
        ("Cookie", "c=1"),
        ("X-Data-Parallel-Rank", "3"),
        ("x-CHRYSALIS-cache-SALT", "client secret"),
        ("Connection", "Upgrade"),
    ]
    await world.gateway.ask(mood("plain", max_tokens=5000, cache_salt="theirs"), headers=headers)
    await world.gateway.ask(mood("plain"), headers=headers)
    await world.gateway.ask(mood("plain"))
    await world.gateway.ask(mood("plain"))
    salted, again, one, two = (body["cache_salt"] for body in world.model.bodies)
    assert salted == again
    assert len({salted, one, two, "theirs", "client secret"}) == 5
    assert world.model.bodies[0]["max_tokens"] == 100
    assert world.model.bodies[2]["max_completion_tokens"] == 100
    seen = {name.lower(): value for name, value in world.model.headers[0].items()}
    assert seen["authorization"] == "Bearer engine-key"
    assert not {"cookie", "x-data-parallel-rank", "x-chrysalis-cache-salt", "upgrade"} & seen.keys()


async def test_a_refused_standing_answers_not_ready(world: World) -> None:
    world.registry.models.clear()
    (refused,) = await world.gateway.ask(mood("plain"))
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == 651
    world.registry.models.add("tiny@main:" + "0" * 64)
    assert isinstance((await world.gateway.ask(mood("plain")))[-1], ProxyQueryAnswerPartEx)
