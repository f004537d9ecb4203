"""Requests through the desk: the order of checks, both error families, relaying, accounts, every way out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from gateway_world import (
    FULL_MODEL,
    MODEL,
    PRICE,
    STAKE,
    ClientBox,
    World,
    final,
    head,
    http_request,
    part,
    root_state,
    run_query,
    usage_body,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import ErrorCode
from appliance.gateway.answers import LARGEST_PIECE
from appliance.gateway.bodies import AgreedRequest, agreed_request
from appliance.gateway.desk import DeskLimits
from appliance.gateway.fleet import NAMED_MODELS
from appliance.wire.codec import decode, encode
from appliance.wire.messages import (
    ChrysalisCancel,
    ClientQueryAnswerError,
    ClientQueryAnswerErrorEx,
    ClientQueryAnswerEx,
    ClientQueryAnswerPartError,
    ClientQueryAnswerPartEx,
    HttpRequest,
    HttpResponse,
    ProxyClientRequestPayment,
    ProxyQueryAnswer,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerPart,
    ProxyRunQuery,
    ProxyRunQueryEx,
    ProxyWorkerRequestPayment,
    TokensUsed,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
)


def only(sent: list[object], kind: type) -> object:
    found = [message for message in sent if isinstance(message, kind)]
    assert len(found) == 1, f"{kind.__name__}: {sent}"
    return found[0]


def order(worker: object) -> ProxyRunQueryEx:
    return only(worker.port.take(), ProxyRunQueryEx)  # type: ignore[attr-defined,return-value]


def test_a_request_is_relayed_paid_and_forgotten() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    request_id = world.ask(client)
    sent = order(worker)
    assert sent.flags == 1
    assert sent.enable_debug is False
    assert sent.coefficient == 1000
    assert sent.timeout == pytest.approx(95.0)
    assert sent.request_id != request_id
    assert world.reserved() > 0

    world.desk.worker_message(worker, head(sent.request_id))
    body = usage_body(20, 10)
    world.desk.worker_message(worker, part(sent.request_id, body))
    world.desk.worker_message(worker, part(sent.request_id, b"", final(40, prompt=20)))

    first, second, last, payment = client.port.take()  # type: ignore[attr-defined]
    response = decode(first.answer, HttpResponse)
    assert [header.name for header in response.headers][-2:] == ["X-Cocoon-Proxy-Start", "X-Cocoon-Proxy-End"]
    assert response.headers[-1].value == "1000.000000"
    assert second == ClientQueryAnswerPartEx(request_id, body, 0, None)
    assert last.flags == 1
    assert last.final_info.flags == 2
    assert last.final_info.tokens_used == TokensUsed(20, 0, 20, 0, 40)
    assert (last.final_info.worker_start_time, last.final_info.proxy_start_time) == (1.5, 1000.0)
    assert isinstance(payment, ProxyClientRequestPayment)
    assert (payment.db_tokens, payment.max_tokens, payment.request_tokens) == (0, 40, 40)
    earned = only(worker.port.take(), ProxyWorkerRequestPayment)
    assert (earned.max_tokens, earned.request_tokens) == (40, 40)  # type: ignore[attr-defined]
    assert world.reserved() == 0
    assert world.desk.open == 0
    assert not client.exchanges
    assert not worker.running
    assert client.account.tokens == worker.account.tokens == 40


def test_the_body_is_made_to_agree_with_the_reservation() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    body = {"model": MODEL, "messages": [], "max_tokens": 900, "n": 3}
    world.ask(client, query=http_request(body), max_tokens=60)
    request = decode(order(worker).query, HttpRequest)
    assert json.loads(request.payload)["max_tokens"] == 20
    headers = {header.name: header.value for header in request.headers}
    assert headers["content-length"] == str(len(request.payload))
    agreeing = http_request({"model": MODEL, "messages": [], "max_tokens": 20, "n": 3})
    world.ask(client, query=agreeing, max_tokens=60)
    assert order(worker).query == agreeing


PRICE_OF_100 = 2_000
"""Nanotons that a hundred adjusted tokens cost."""

REFUSALS = {
    "tokens": ({"max_tokens": 2**31 - 1}, ErrorCode.ERROR, "available"),
    "config": ({"min_config_version": 6}, ErrorCode.ERROR, "root contract version 6"),
    "model": ({"model_name": "no/such"}, ErrorCode.PROTOCOL_VIOLATION, "unknown model no/such"),
    "price": ({"max_coefficient": 999}, ErrorCode.NOT_READY, "coefficient 1000"),
    "negative price": ({"max_coefficient": -1}, ErrorCode.PROTOCOL_VIOLATION, "max_coefficient"),
    "absurd price": ({"max_coefficient": 10**9}, ErrorCode.PROTOCOL_VIOLATION, "max_coefficient"),
    "negative tokens": ({"max_tokens": -5}, ErrorCode.PROTOCOL_VIOLATION, "max_tokens"),
    "timeout": ({"timeout": float("nan")}, ErrorCode.PROTOCOL_VIOLATION, "timeout"),
    "zero timeout": ({"timeout": 0.0}, ErrorCode.PROTOCOL_VIOLATION, "timeout"),
    "no http": ({"query": b"1234"}, ErrorCode.PROTOCOL_VIOLATION, "http.request"),
    "url": ({"query": http_request(url="/v1/files")}, ErrorCode.PROTOCOL_VIOLATION, "unsupported method"),
    "many answers": (
        {"query": http_request({"model": MODEL, "messages": [], "n": 99})},
        ErrorCode.PROTOCOL_VIOLATION,
        "99 answers",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_why_and_holds_nothing(name: str) -> None:
    changes, error_code, text = REFUSALS[name]
    world = World()
    client, worker = world.client(1), world.worker(1)
    request_id = world.ask(client, **changes)
    error = only(client.port.take(), ClientQueryAnswerError)  # type: ignore[attr-defined]
    assert (error.error_code, error.request_id) == (error_code, request_id)  # type: ignore[attr-defined]
    assert text in error.error  # type: ignore[attr-defined]
    assert not worker.port.take()  # type: ignore[attr-defined]
    assert world.reserved() == world.desk.open == 0
    # Control: the same request without the one change is served.
    world.ask(client)
    assert order(worker)


def test_checks_come_in_the_order_of_the_protocol() -> None:
    world = World()
    client = world.client(1)
    client.account.status = 1
    wrong = {"max_tokens": 2 * 10**9, "min_config_version": 9, "model_name": "none"}
    for text, cure in (
        ("available", "max_tokens"),
        ("root contract version", "min_config_version"),
        ("state 1", ""),
        ("unknown model", "model_name"),
    ):
        world.ask(client, **wrong)
        assert text in client.port.take()[0].error  # type: ignore[attr-defined]
        wrong.pop(cure, None)
        if not cure:
            client.account.status = 0
    worker = world.worker(1)
    world.ask(client, **wrong)
    assert order(worker)


def test_a_client_without_cover_gets_the_whole_sum() -> None:
    world = World()
    client, worker = world.client(1, balance=PRICE_OF_100, stake=STAKE), world.worker(1)
    world.ask(client, max_tokens=50)
    error = only(client.port.take(), ClientQueryAnswerError)  # type: ignore[attr-defined]
    assert "adjusted tokens" in error.error  # type: ignore[attr-defined]
    world.fund(client.owner, balance=STAKE)
    world.ask(client, max_tokens=50)
    assert order(worker)


def test_answers_that_cost_more_than_their_tokens_are_covered_before_they_run() -> None:
    """Requests side by side: all together may cost no more than the client has."""
    for multiplier in (10_000, 80_000):
        world = World(params=replace(root_state().params, completion_tokens_price_multiplier=multiplier))
        client, worker = world.client(1, balance=20_000 * PRICE, stake=STAKE), world.worker(1, limit=1000)
        for _ in range(100):
            world.ask(client, max_tokens=1000, max_coefficient=1000)
        orders = [message for message in worker.port.take() if isinstance(message, ProxyRunQueryEx)]  # type: ignore[attr-defined]
        assert 0 < len(orders) * (1000 * multiplier // 10_000) <= 20_000


def test_a_body_whose_length_is_not_covered_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def reading(query: bytes, max_tokens: int) -> AgreedRequest:
        read.append(len(query))
        return agreed_request(query, max_tokens)

    monkeypatch.setattr("appliance.gateway.desk.agreed_request", reading)
    world = World()
    client = world.client(1, balance=PRICE_OF_100, stake=STAKE)
    world.worker(1)
    world.ask(client, max_tokens=50)
    assert "adjusted tokens" in client.port.take()[0].error  # type: ignore[attr-defined]
    assert not read
    assert client.account.reserved == 0
    world.fund(client.owner, balance=STAKE)
    world.ask(client, max_tokens=50)
    assert len(read) == 1


def test_a_refusal_names_models_that_can_be_had_and_not_too_many() -> None:
    world = World()
    client = world.client(1)
    for number in range(1, 40):
        world.worker(number, model=f"model-{number:02}").cleared = number != 7
    world.ask(client, model_name="nobody/has-it")
    text = client.port.take()[0].error  # type: ignore[attr-defined]
    assert "model-01" in text
    assert "model-07" not in text, "nobody knows whether it is true what an unproven worker says"
    assert text.count("model-") == NAMED_MODELS


def test_stake_counts_up_to_the_gateways_cap() -> None:
    capped = World(limits=DeskLimits(stake_cap=PRICE_OF_100))
    client = capped.client(1)
    capped.worker(1)
    capped.ask(client)
    assert "adjusted tokens" in client.port.take()[0].error  # type: ignore[attr-defined]
    open_world = World(limits=DeskLimits(stake_cap=STAKE))
    other, worker = open_world.client(1), open_world.worker(1)
    open_world.ask(other)
    assert order(worker)


def test_the_least_loaded_worker_is_chosen() -> None:
    world = World()
    client = world.client(1)
    slow, fast = world.worker(1, limit=10), world.worker(2, limit=10)
    slow.average.add(10.0, world.clock.now)
    fast.average.add(1.0, world.clock.now)
    for _ in range(4):
        world.ask(client)
    assert (len(slow.running), len(fast.running)) == (1, 3)


def test_disabled_dear_and_unproven_workers_get_nothing() -> None:
    world = World()
    client = world.client(1)
    worker = world.worker(1)
    for attribute, value in (("disabled", True), ("cleared", False), ("listed", False), ("shaken", False)):
        before = getattr(worker, attribute)
        setattr(worker, attribute, value)
        world.ask(client)
        assert client.port.take()[0].error_code == ErrorCode.NOT_READY  # type: ignore[attr-defined]
        setattr(worker, attribute, before)
    world.desk.worker_message(worker, WorkerNewCoefficient(5000))
    world.ask(client)
    assert "coefficient 5000" in client.port.take()[0].error  # type: ignore[attr-defined]
    world.desk.worker_message(worker, WorkerNewCoefficient(4000))
    world.desk.worker_message(worker, WorkerEnabledDisabled(0))
    world.ask(client)
    assert order(worker).coefficient == 4000


def test_protocol_0_is_translated() -> None:
    world = World()
    client, worker = world.client(1, version=1), world.worker(1, version=0)
    request_id = world.ask(client)
    sent = only(worker.port.take(), ProxyRunQuery)  # type: ignore[attr-defined]
    some, all_of_it = TokensUsed(5, 0, 0, 0, 5), TokensUsed(9, 0, 0, 0, 9)
    body = usage_body(9, 0)
    world.desk.worker_message(worker, ProxyQueryAnswer(head(b"").answer, False, sent.request_id, some))  # type: ignore[attr-defined]
    world.desk.worker_message(worker, ProxyQueryAnswerPart(body, True, sent.request_id, all_of_it))  # type: ignore[attr-defined]
    first, last, _ = client.port.take()  # type: ignore[attr-defined]
    assert isinstance(first, ClientQueryAnswerEx)
    assert isinstance(last, ClientQueryAnswerPartEx)
    assert last.request_id == request_id
    assert last.final_info is not None
    assert last.final_info.flags == 0
    assert last.final_info.proxy_start_time is None
    assert last.final_info.tokens_used == all_of_it


def test_debug_texts_appear_only_when_asked() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.ask(client, enable_debug=True)
    sent = order(worker)
    assert sent.enable_debug is True
    world.desk.worker_message(worker, head(sent.request_id, final=final(0)))
    answer = client.port.take()[0]  # type: ignore[attr-defined]
    assert answer.final_info.flags == 3
    assert json.loads(answer.final_info.proxy_debug)["type"] == "proxy_stats"
    assert answer.final_info.worker_debug == ""


def test_a_workers_debug_text_is_bounded() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.ask(client, flags=1, enable_debug=True)
    asked = order(worker).request_id
    long = replace(final(0), flags=3, worker_debug="x" * 10**6)
    world.desk.worker_message(worker, head(asked, final=long))
    answer = only(client.port.take(), ClientQueryAnswerEx)  # type: ignore[attr-defined]
    assert 0 < len(answer.final_info.worker_debug) < 10**5  # type: ignore[attr-defined]


def test_a_workers_error_costs_nothing_and_needs_no_final_info() -> None:
    for info in (final(30), None):
        world = World()
        client, worker = world.client(1), world.worker(1)
        request_id = world.ask(client)
        sent = order(worker)
        failure = ProxyQueryAnswerErrorEx(sent.request_id, 621, "no", int(info is not None), info)
        world.desk.worker_message(worker, failure)
        error, payment = client.port.take()  # type: ignore[attr-defined]
        assert isinstance(error, ClientQueryAnswerErrorEx)
        assert (error.request_id, error.error_code, error.error) == (request_id, 621, "no")
        assert payment.request_tokens == 0
        assert client.account.tokens == worker.account.tokens == world.reserved() == 0


def test_order_violations_end_the_request() -> None:
    for messages in (["part"], ["head", "head"], ["bad head"]):
        world = World()
        client, worker = world.client(1), world.worker(1)
        world.ask(client)
        sent = order(worker)
        for message in messages:
            made = {
                "part": part(sent.request_id, b"x"),
                "head": head(sent.request_id),
                "bad head": type(head(b""))(sent.request_id, b"nonsense", 0, None),
            }[message]
            world.desk.worker_message(worker, made)
        error = client.port.take()[-1]  # type: ignore[attr-defined]
        assert isinstance(error, ClientQueryAnswerPartError if len(messages) > 1 else ClientQueryAnswerError)
        assert error.error_code == 621
        assert only(worker.port.take(), ChrysalisCancel)  # type: ignore[attr-defined]
        assert world.reserved() == 0


def test_a_piece_that_fits_no_frame_ends_its_request_and_no_other() -> None:
    def streaming() -> tuple[World, Any, Any, bytes]:
        world = World()
        client, worker = world.client(1), world.worker(1)
        world.ask(client)
        return world, client, worker, order(worker).request_id

    for size, passes in ((LARGEST_PIECE, True), (LARGEST_PIECE + 1, False)):
        for ending in (None, final(0)):
            world, client, worker, asked = streaming()
            world.desk.worker_message(worker, head(asked))
            client.port.take()
            world.desk.worker_message(worker, part(asked, bytes(size), final=ending))
            first = client.port.take()[0]
            if passes:
                assert isinstance(first, ClientQueryAnswerPartEx)
                # The client's link can carry it.
                assert len(encode(first)) < (1 << 24) - 64
            else:
                assert "can be passed on" in only([first], ClientQueryAnswerPartError).error  # type: ignore[attr-defined]
                assert world.reserved() == 0
    world, client, worker, asked = streaming()
    world.desk.worker_message(worker, head(asked, payload=bytes(LARGEST_PIECE)))
    assert isinstance(client.port.take()[0], ClientQueryAnswerError)


def test_the_gateways_own_time_limit() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.ask(client)
    sent = order(worker)
    world.desk.worker_message(worker, head(sent.request_id))
    world.clock.now += 99.0
    world.desk.tick()
    assert len(client.port.take()) == 1  # type: ignore[attr-defined]
    world.clock.now += 2.0
    world.desk.tick()
    error = only(client.port.take(), ClientQueryAnswerPartError)  # type: ignore[attr-defined]
    assert (error.error_code, error.error) == (652, "timeout in proxy")  # type: ignore[attr-defined]
    assert only(worker.port.take(), ChrysalisCancel)  # type: ignore[attr-defined]
    world.clock.now += 11.0
    world.desk.tick()
    assert world.desk.open == world.reserved() == 0
    assert not worker.running


def test_a_lost_worker_is_an_error_at_once() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.ask(client)
    world.desk.worker_lost(worker)
    assert only(client.port.take(), ClientQueryAnswerError)  # type: ignore[attr-defined]
    assert world.reserved() == world.desk.open == len(world.desk.fleet) == 0


@pytest.mark.parametrize("how", ["gone", "cancel", "overflow"])
def test_work_that_the_client_broke_off_is_paid_as_reported(how: str) -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    request_id = world.ask(client)
    sent = order(worker)
    world.desk.worker_message(worker, head(sent.request_id))
    match how:
        case "gone":
            world.desk.client_lost(client)
        case "cancel":
            world.desk.cancel(client, request_id)
        case "overflow":
            assert isinstance(client.port, ClientBox)
            client.port.full = True
            world.desk.worker_message(worker, part(sent.request_id, b"a"))
            client.port.full = False
    assert only(worker.port.take(), ChrysalisCancel) == ChrysalisCancel(sent.request_id)  # type: ignore[attr-defined]
    assert world.reserved() > 0
    world.desk.worker_message(worker, part(sent.request_id, b"never passed on"))
    world.desk.worker_message(
        worker, ProxyQueryAnswerErrorEx(sent.request_id, 653, "cancelled", 1, final(12, prompt=12))
    )
    assert world.reserved() == world.desk.open == 0
    assert client.account.tokens == worker.account.tokens == 12
    parts = [message for message in client.port.take() if isinstance(message, ClientQueryAnswerPartEx)]  # type: ignore[attr-defined]
    assert not parts


def test_a_worker_that_knows_no_cancel_keeps_its_place_until_it_ends() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1, limit=1)
    worker.can_cancel = False
    world.ask(client)
    sent = order(worker)
    world.desk.client_lost(client)
    assert not worker.port.take()  # type: ignore[attr-defined]
    assert worker.free == 0
    world.desk.worker_message(worker, head(sent.request_id))
    world.desk.worker_message(worker, part(sent.request_id, usage_body(9, 0), final(9)))
    assert worker.free == 1
    assert worker.account.tokens == 9


def test_absurd_reports_are_limited_to_what_passed() -> None:
    for report, paid in ((final(10**9), 40), (final(40, prompt=20), 40), (final(7), 7)):
        world = World()
        client, worker = world.client(1), world.worker(1)
        world.ask(client)
        sent = order(worker)
        world.desk.worker_message(worker, head(sent.request_id))
        world.desk.worker_message(worker, part(sent.request_id, usage_body(20, 10), report))
        assert worker.account.tokens == paid
        assert worker.absurd_reports == int(report.tokens_used.total_tokens_used > 40)


def test_busy_workers_make_a_queue_and_a_full_one_says_when_to_return() -> None:
    world = World(limits=DeskLimits(queue=2, client_share=0.5))
    first, second, worker = world.client(1), world.client(2), world.worker(1, limit=1)
    world.ask(first)
    running = order(worker)
    world.ask(first)
    world.ask(first)
    refused = only(first.port.take(), ClientQueryAnswerError)  # type: ignore[attr-defined]
    assert refused.error_code == ErrorCode.NOT_READY  # type: ignore[attr-defined]
    assert "retry after " in refused.error  # type: ignore[attr-defined]
    world.ask(second)
    assert world.desk.waiting == 2
    world.desk.worker_message(worker, head(running.request_id, final=final(0)))
    assert order(worker)
    assert world.desk.waiting == 1
    world.clock.now += 101.0
    world.desk.tick()
    assert world.desk.waiting == 0
    late = only(second.port.take(), ClientQueryAnswerError)  # type: ignore[attr-defined]
    assert "retry after" in late.error  # type: ignore[attr-defined]


def test_bodies_that_wait_are_bounded_in_bytes() -> None:
    query = run_query(bytes(32))
    size = len(agreed_request(query.query, query.max_tokens).query)
    world = World(limits=DeskLimits(queue=100, client_share=1.0, queue_bytes=2 * size))
    client, worker = world.client(1), world.worker(1, limit=1)
    world.ask(client)
    first = order(worker).request_id
    for _ in range(2):
        world.ask(client)
    assert client.port.take() == []  # type: ignore[attr-defined]
    world.ask(client)
    refusal = only(client.port.take(), ClientQueryAnswerError)
    assert "bytes of requests wait" in refusal.error  # type: ignore[attr-defined]
    assert "retry after" in refusal.error  # type: ignore[attr-defined]
    # One leaves the queue for the worker, one because its client cancels: both places can be taken again.
    world.desk.worker_message(worker, head(first, final=final(0)))
    waiting = next(e for e in client.exchanges.values() if e.waiting_bytes)
    world.desk.cancel(client, waiting.request_id)
    client.port.take()  # type: ignore[attr-defined]
    for _ in range(2):
        world.ask(client)
    assert client.port.take() == []  # type: ignore[attr-defined]
    world.ask(client)
    assert client.port.take()  # type: ignore[attr-defined]


def test_a_closed_desk_takes_nothing() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    world.desk.closed = "the root contract is stale"
    world.ask(client)
    assert client.port.take()[0].error_code == ErrorCode.NOT_READY  # type: ignore[attr-defined]
    world.desk.closed = None
    world.ask(client)
    assert order(worker)


def test_a_second_use_of_an_open_id_does_not_touch_the_first() -> None:
    world = World()
    client, worker = world.client(1), world.worker(1)
    request_id = world.ask(client)
    sent = order(worker)
    world.ask(client, request_id=request_id)
    assert not client.port.take()  # type: ignore[attr-defined]
    world.desk.worker_message(worker, head(sent.request_id, final=final(0)))
    assert isinstance(client.port.take()[0], ClientQueryAnswerEx)  # type: ignore[attr-defined]


EVENTS = st.tuples(
    st.sampled_from(
        [
            *["ask"] * 4,
            *["head"] * 3,
            *["part"] * 3,
            *["end"] * 2,
            "error",
            "stray",
            "cancel",
            "client gone",
            "worker gone",
            "worker joins",
            "worker breaks",
            "client stalls",
            "disable",
            "wait",
            "long wait",
        ]
    ),
    st.integers(0, 7),
    st.integers(0, 3),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_nothing_stays_reserved(  # noqa: PLR0912 - one branch an event
    events: list[tuple[str, int, int]],
) -> None:
    world = World(limits=DeskLimits(queue=4, client_share=0.5, timeout=20.0, grace=3.0))
    clients = [world.client(number % 3) for number in range(4)]
    workers = [world.worker(number, limit=2) for number in range(2)]
    for what, which, other in events:
        client = clients[which % len(clients)]
        worker = workers[which % len(workers)] if workers else None
        running = list(worker.running) if worker else []
        target = running[other % len(running)] if running else bytes(32)
        match what:
            case "ask":
                world.ask(client, max_tokens=10 * (1 + other), timeout=5.0 + which)
            case "head" if worker:
                world.desk.worker_message(worker, head(target))
            case "part" if worker:
                world.desk.worker_message(worker, part(target, b"data: {}\n\n"))
            case "end" if worker:
                world.desk.worker_message(worker, part(target, usage_body(3, 2), final(5 * other)))
            case "error" if worker:
                world.desk.worker_message(worker, ProxyQueryAnswerErrorEx(target, 602, "no", 1, final(other)))
            case "stray" if worker:
                world.desk.worker_message(worker, part(bytes([other]) * 32, b"", final(10**6)))
            case "cancel" if client.exchanges:
                world.desk.cancel(client, next(iter(client.exchanges)))
            case "client gone":
                client.port.gone = True  # type: ignore[attr-defined]
                world.desk.client_lost(client)
                clients[which % len(clients)] = world.client(which % 3)
            case "worker gone" if worker:
                worker.port.gone = True  # type: ignore[attr-defined]
                workers.remove(worker)
                world.desk.worker_lost(worker)
            case "worker joins":
                workers.append(world.worker(which, limit=1 + other))
                world.desk.refill()
            case "worker breaks" if worker:
                worker.port.gone = not worker.port.gone  # type: ignore[attr-defined]
            case "client stalls":
                client.port.full = not client.port.full  # type: ignore[attr-defined]
            case "disable" if worker:
                world.desk.worker_message(worker, WorkerEnabledDisabled(other % 2))
            case "wait" | "long wait":
                world.clock.now += 1.0 if what == "wait" else 30.0
                world.desk.tick()
        assert all(account.reserved >= 0 for account in world.book.clients)
        assert sum(a.tokens for a in world.book.clients) == sum(a.tokens for a in world.book.workers)
        assert all(len(w.running) <= w.admitted.limit for w in workers)
    for _ in range(2):
        world.clock.now += 60.0
        world.desk.tick()
    assert world.desk.open == world.desk.waiting == world.reserved() == 0
    assert all(not worker.running for worker in workers)
    assert all(not client.exchanges for client in clients)
    ids: dict[bytes, int] = {}
    for client in clients:
        for message in client.port.sent:  # type: ignore[attr-defined]
            if _is_end(message):
                ids[message.request_id] = ids.get(message.request_id, 0) + 1  # type: ignore[attr-defined]
    assert all(count == 1 for count in ids.values()), "a request was ended twice"


def _is_end(message: object) -> bool:
    if isinstance(message, ClientQueryAnswerEx | ClientQueryAnswerPartEx):
        return message.flags & 1 == 1
    return isinstance(message, ClientQueryAnswerError | ClientQueryAnswerPartError | ClientQueryAnswerErrorEx)


def test_full_model_names_are_not_what_requests_carry() -> None:
    world = World()
    client = world.client(1)
    world.worker(1)
    world.ask(client, model_name=FULL_MODEL)
    assert client.port.take()[0].error_code == ErrorCode.PROTOCOL_VIOLATION  # type: ignore[attr-defined]
