"""The pure parts: bodies, answers, events, keys, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from client_world import MODEL, head, used
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.accounting.errors import LedgerError, PaymentRefusedError, StoreFullError
from appliance.chain.errors import ChainUnavailableError, StaleError
from appliance.client.access import Access
from appliance.client.answers import Answer
from appliance.client.errors import (
    AccessError,
    AnswerRefusedError,
    BudgetError,
    GatewayFaultError,
    GatewayRefusedError,
    HttpError,
    ModelNotFoundError,
    NoGatewayError,
    WorkerRefusedError,
    to_http,
)
from appliance.client.events import MAX_TAIL, EventCutter
from appliance.client.request import SALT_HEADER, Limits, prepare
from appliance.client.session import GatewaySession
from appliance.errors import ErrorCode, RequestError
from appliance.wire import messages as tl
from appliance.wire.codec import decode
from appliance.wire.errors import CodecError, FrameTooLargeError, LinkClosedError, QueryTimeoutError
from attestation.errors import EvidenceError

LIMITS = Limits(4000, 100, 60.0)
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def made(path: str = CHAT, limits: Limits = LIMITS, **body: Any) -> Any:
    base = {"model": MODEL} | ({"messages": []} if path == CHAT else {"prompt": "x"})
    return prepare("POST", path, json.dumps(base | body).encode(), limits, salt="ab" * 32)


def sent(prepared: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(decode(prepared.http, tl.HttpRequest).payload)
    return body


# Bodies ---------------------------------------------------------------------------------------------------------------


def test_the_clients_own_keys_do_not_leave() -> None:
    prepared = made(max_coefficient=1, timeout=3, enable_debug=True, request_guid="x", max_tokens=5)
    assert sent(prepared) == {"model": MODEL, "messages": [], "max_tokens": 5}
    assert (prepared.max_coefficient, prepared.timeout_s, prepared.debug) == (1, 3.0, True)
    request = decode(prepared.http, tl.HttpRequest)
    assert (request.method, request.url, request.http_version) == ("POST", CHAT, "HTTP/1.1")
    assert [(header.name, header.value) for header in request.headers] == [
        ("Content-Type", "application/json"),
        (SALT_HEADER, "ab" * 32),
    ]


@pytest.mark.parametrize(
    ("path", "body", "total", "limits"),
    [
        (CHAT, {}, 100, {"max_completion_tokens": 100}),
        (CHAT, {"max_tokens": 7}, 7, {"max_tokens": 7}),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9}, 9, {"max_completion_tokens": 9}),
        (CHAT, {"max_tokens": 7, "n": 3}, 21, {"max_tokens": 7, "n": 3}),
        (COMPLETIONS, {"max_tokens": 7, "n": 2, "best_of": 3}, 42, {"max_tokens": 7, "n": 2, "best_of": 3}),
        (COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 7}, 14, {"prompt": ["a", "b"], "max_tokens": 7}),
        (COMPLETIONS, {}, 100, {"max_tokens": 100}),
    ],
)
def test_the_body_agrees_with_what_is_reserved(
    path: str, body: dict[str, Any], total: int, limits: dict[str, Any]
) -> None:
    prepared = made(path, **body)
    assert prepared.max_tokens == total
    left = sent(prepared)
    assert {name: left[name] for name in limits} == limits
    assert ("max_tokens" in left) == ("max_tokens" in limits)


@pytest.mark.parametrize(
    ("asked", "limit"),
    [(None, 60.0), (5, 5.0), (59.5, 59.5), (61, 60.0), (10**400, 60.0), (1e308, 60.0)],
)
def test_no_request_takes_longer_than_the_configuration_says(asked: Any, limit: float) -> None:
    assert made(**({} if asked is None else {"timeout": asked})).timeout_s == limit


def test_no_request_costs_more_than_the_configuration_says() -> None:
    assert made().max_coefficient == 4000
    assert made(max_coefficient=10**30).max_coefficient == 4000
    assert made(max_coefficient=0).max_coefficient == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
OWN = ["max_coefficient", "timeout", "enable_debug", "request_guid"]
LIMITING = ["max_tokens", "max_completion_tokens", "n", "best_of"]
OTHERS = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "stop",
    "seed",
    "tools",
    "user",
    "temperature",
    "x",
]
KEYS = st.sampled_from(OWN + LIMITING + OTHERS)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from([CHAT, COMPLETIONS]), body=st.dictionaries(KEYS, JSON, max_size=6), plain=st.booleans())
def test_any_body_is_prepared_or_refused(path: str, body: dict[str, Any], plain: bool) -> None:
    if plain:
        body = {"model": "m", "messages" if path == CHAT else "prompt": "x" if path != CHAT else []} | body
    try:
        prepared = prepare("POST", path, json.dumps(body).encode(), LIMITS, salt="x")
    except RequestError as error:
        assert error.code == ErrorCode.PROTOCOL_VIOLATION  # noqa: PT017 - either outcome is fine
    else:
        assert 0 < prepared.max_tokens < 2**31
        assert 0 <= prepared.max_coefficient <= LIMITS.max_coefficient
        assert 0 < prepared.timeout_s <= LIMITS.timeout_s


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=64))
def test_any_bytes_are_refused_as_a_body(payload: bytes) -> None:
    with pytest.raises(RequestError):
        prepare("POST", CHAT, payload, LIMITS, salt="x")


# Answers --------------------------------------------------------------------------------------------------------------


async def test_what_has_arrived_is_read_in_one_piece() -> None:
    answer = Answer(bytes(32))
    answer.begin(head(payload=b"a"))
    for part in (b"b", b"", b"c"):
        answer.part(part)
    assert (await answer.head()).streams
    assert await answer.read() == b"abc"
    answer.part(b"d")
    answer.finish(used(), 300, None)
    answer.part(b"too late")
    answer.begin(head())
    assert [part async for part in answer.parts()] == [b"d"]
    assert (answer.cost, answer.error) == (300, None)


async def test_a_failure_comes_after_what_was_received_before_it() -> None:
    answer = Answer(bytes(32))
    answer.begin(head())
    answer.part(b"a")
    answer.fail(LinkClosedError("gone"))
    answer.fail(LinkClosedError("again"))
    assert await answer.read() == b"a"
    with pytest.raises(LinkClosedError, match="gone"):
        await answer.read()


async def test_a_buffer_that_runs_over_is_given_free() -> None:
    answer = Answer(bytes(32), buffer_bytes=10)
    answer.begin(head())
    answer.part(b"x" * 10)
    assert not answer.finished
    answer.part(b"x")
    with pytest.raises(RequestError, match="more than 10 bytes"):
        await answer.read()


async def test_a_reader_that_waits_is_woken_by_whatever_comes() -> None:
    for happen in (
        lambda answer: answer.part(b"x"),
        lambda answer: answer.fail(LinkClosedError("gone")),
        lambda answer: answer.finish(used(), 0, None),
        lambda answer: answer.cancel(),
    ):
        answer = Answer(bytes(32))
        answer.begin(head())
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        happen(answer)
        done, _ = await asyncio.wait([reading], timeout=5)
        assert done
        reading.exception()


async def test_giving_up_happens_once() -> None:
    told: list[Exception] = []
    answer = Answer(bytes(32), abandon=lambda _, error: told.append(error))
    ends: list[int] = []
    answer.on_end(lambda: ends.append(1))
    answer.cancel()
    answer.cancel()
    answer.on_end(lambda: ends.append(2))
    assert (len(told), ends) == (1, [1, 2])
    with pytest.raises(RequestError, match="the caller has gone"):
        await answer.head()


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
async def test_any_head_is_read_or_is_the_gateways_fault(data: bytes) -> None:
    for candidate in (data, head() + data, head()[: len(data)]):
        answer = Answer(bytes(32))
        answer.begin(candidate)
        assert answer.error is None or isinstance(answer.error, GatewayFaultError)
        assert (answer.error is None) == (candidate == head())


# Events ---------------------------------------------------------------------------------------------------------------


@given(events=st.lists(st.binary(max_size=20), max_size=8), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_only_whole_events_leave_and_nothing_is_lost(events: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(event + b"\n\n" for event in events)
    cutter, out, start = EventCutter(), b"", 0
    for cut in [*sorted(min(cut, len(whole)) for cut in cuts), len(whole)]:
        left = cutter.cut(whole[start:cut])
        assert not left or left.endswith((b"\n\n", b"\r\r"))
        out, start = out + left, cut
    assert out + cutter.rest() == whole


def test_an_event_without_end_is_passed_on() -> None:
    cutter = EventCutter()
    assert cutter.cut(b"x" * MAX_TAIL) == b""
    assert len(cutter.cut(b"x")) == MAX_TAIL + 1
    assert cutter.rest() == b""


# Keys and errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "fits"),
    [("x" * 16, True), ("x" * 15, False), ("x" * 15 + "ü", False), ("x" * 15 + "\n", False), ("x" * 15 + " y", False)],
)
def test_a_bearer_key_can_be_sent_in_a_header(key: str, fits: bool) -> None:
    if fits:
        assert key not in repr(Access(key))
    else:
        with pytest.raises(AccessError):
            Access(key)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BudgetError("x"), 402, "budget_exhausted"),
        (ModelNotFoundError("x"), 404, "model_not_found"),
        (NoGatewayError("x"), 503, "no_gateway"),
        (GatewayRefusedError("x"), 502, "gateway_refused"),
        (GatewayFaultError("x"), 502, "gateway_fault"),
        (WorkerRefusedError("x"), 502, "worker_refused"),
        (EvidenceError("x"), 502, "evidence_refused"),
        (PaymentRefusedError("x"), 502, "payment_refused"),
        (StoreFullError("x"), 503, "ledger_error"),
        (LedgerError("x"), 503, "ledger_error"),
        (FrameTooLargeError(2, 1), 413, "request_too_large"),
        (QueryTimeoutError("x"), 504, "gateway_silent"),
        (LinkClosedError("x"), 502, "gateway_lost"),
        (CodecError("x"), 502, "gateway_error"),
        (StaleError("x"), 503, "chain_unavailable"),
        (ChainUnavailableError("x", {}), 503, "chain_unavailable"),
        (AccessError("x", status=401), 401, "invalid_api_key"),
        (AccessError("x", status=403), 403, "foreign_origin"),
        (RequestError("x"), 400, "invalid_request"),
        (AnswerRefusedError("x"), 503, "gateway_declined"),
        (RequestError("x", code=ErrorCode.TIMEOUT), 504, "timeout"),
        (RequestError("x", retry_after=0.2), 429, "busy"),
        (RuntimeError("secret"), 500, "internal_error"),
    ],
)
def test_every_error_has_a_status_and_a_cause(error: Exception, status: int, code: str) -> None:
    told = to_http(error)
    assert isinstance(told, HttpError)
    assert (told.status, told.body["error"]["code"]) == (status, code)
    assert "secret" not in json.dumps(told.body)
    assert told.headers == ({"Retry-After": "1"} if status == 429 else {})


async def test_an_answer_lost_on_its_last_step_is_not_sent_again() -> None:
    """The gateway counted it, though its last part did not fit the buffer."""

    class Money:
        def settle(self, _key: bytes, _used: object) -> int:
            return 300

    session: Any = GatewaySession.__new__(GatewaySession)
    session._money = Money()
    for small, lost in ((True, True), (False, False)):
        answer = Answer(bytes(32), buffer_bytes=10 if small else 100)
        session._open = {answer.request_id: answer}
        session.message_received(None, tl.ClientQueryAnswerEx(answer.request_id, head(), 0))
        info = tl.ClientQueryFinalInfo(0, used())
        session.message_received(None, tl.ClientQueryAnswerPartEx(answer.request_id, b"x" * 50, 1, info))
        assert (answer.finished, answer.unsettled, not session._open) == (True, lost, True)
