"""The worker's pure parts: targets, standing, answers, payout views, salts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_world import Accounts, make_params

from appliance.accounting.records import Counters, ProxyRecord
from appliance.chain.layouts import ContractStatus
from appliance.chain.payouts import PayoutTerms, Verdict, decide
from appliance.errors import leaf
from appliance.wire.codec import decode, encode
from appliance.wire.messages import HttpHeader, HttpResponse, ProxyQueryAnswerEx, ProxyQueryAnswerPartEx, TokensUsed
from appliance.wire.reconnect import Backoff
from appliance.worker.answers import MAX_PART_BYTES, NO_TOKENS, Answer, response_head
from appliance.worker.intake import CacheSalts
from appliance.worker.payouts import RETRY_AFTER_S, ContractView, payout_view
from appliance.worker.standing import Situation, reasons, refusal
from appliance.worker.targets import GIVE_UP_AFTER_S, Targets

FINE = Situation(
    engine_ready=True,
    enabled=True,
    draining=False,
    ledger_fault=None,
    registry_age=10.0,
    max_age=100.0,
    image=True,
    model=True,
)


@pytest.mark.parametrize(
    ("change", "name", "refuses"),
    [
        ({"engine_ready": False}, "engine", False),
        ({"enabled": False}, "operator", False),
        ({"draining": True}, "draining", True),
        ({"ledger_fault": "disk full"}, "ledger", True),
        ({"registry_age": None}, "registry-unread", True),
        ({"registry_age": 100.5}, "registry-stale", True),
        ({"image": False}, "image-delisted", True),
        ({"model": False}, "model-delisted", True),
    ],
)
def test_each_reason_alone(change: dict[str, Any], name: str, refuses: bool) -> None:
    assert reasons(FINE) == ()
    assert reasons(replace(FINE, image=None, model=None)) == ()
    (reason,) = reasons(replace(FINE, **change))
    assert reason.name == name
    assert reason.hint
    assert (refusal((reason,)) is not None) == refuses


def targets(count: int = 1) -> Targets:
    return Targets(count, random.Random(5))  # noqa: S311 - a test repeats


def test_targets_are_drawn_dialled_and_kept() -> None:
    subject = targets()
    assert subject.tick(0, []).dial == ()
    (drawn,) = subject.tick(1, ["a", "b", "c"]).dial
    assert subject.tick(2, ["a", "b", "c"]).dial == ()
    subject.ready(drawn, 3)
    moves = subject.tick(3 + 10 * GIVE_UP_AFTER_S, [])
    assert moves.drop == (), "a ready one is kept whatever the list says"
    subject.lost(drawn, 4000)
    assert subject.tick(4001, ["z"]).drop == (drawn,), "unlisted and unready"


def test_several_targets_are_different() -> None:
    subject = targets(3)
    dialled: set[str] = set()
    for second in range(100):
        dialled |= set(subject.tick(second, ["a", "b", "c", "d"]).dial)
    assert len(subject.addresses) == len(dialled) == 3


def test_back_off_grows_and_is_forgotten_after_a_steady_link() -> None:
    subject = targets()
    now = 0.0
    delays = []
    for _ in range(12):
        (address,) = subject.tick(now, ["a"]).dial
        delays.append(subject.lost(address, now))
        assert subject.tick(now, ["a"]).dial == ()
        now += delays[-1] + 0.001
        if now > GIVE_UP_AFTER_S - 70:
            break
    assert all(0.5 * min(2**i, 60) <= delay <= min(2**i, 60) for i, delay in enumerate(delays))
    (address,) = subject.tick(now, ["a"]).dial
    subject.ready(address, now)
    assert subject.lost(address, now + Backoff().stable) <= 1.0
    assert subject.lost("unknown", now) == 0.0


def test_a_target_that_is_never_ready_is_given_up() -> None:
    subject = targets()
    (drawn,) = subject.tick(0, ["a"]).dial
    assert subject.tick(GIVE_UP_AFTER_S - 1, ["a"]).drop == ()
    assert subject.tick(GIVE_UP_AFTER_S, ["a"]).drop == (drawn,)


ACCOUNTS = Accounts(make_params())
RECORD = ProxyRecord(
    ACCOUNTS.contract, ACCOUNTS.public_key, ACCOUNTS.worker_contract, 1, Counters(100, 100, 100), b"payment"
)
TERMS = PayoutTerms(minimum=50, max_fee_share=0.5, fee=10)


def verdict(record: ProxyRecord, status: ContractStatus | None, tokens: int, *, retiring: bool = False) -> Verdict:
    view = payout_view(record, ContractView(status, tokens), fee_per_token=1, retiring=retiring, now=1000)
    return decide(view, TERMS).verdict


def test_what_becomes_of_an_account() -> None:
    on_chain = ContractStatus.OPEN
    assert verdict(RECORD, on_chain, 0) is Verdict.SEND
    assert verdict(RECORD, on_chain, 60) is Verdict.WAIT, "below the minimum"
    assert verdict(RECORD, on_chain, 100) is Verdict.WAIT
    assert verdict(RECORD, None, 0) is Verdict.DEPLOY
    assert verdict(RECORD, ContractStatus.CLOSED, 0) is Verdict.DROP
    assert verdict(replace(RECORD, payment=None), on_chain, 0) is Verdict.WAIT
    assert verdict(RECORD, on_chain, 95, retiring=True) is Verdict.DROP
    assert verdict(RECORD, on_chain, 60, retiring=True) is Verdict.SEND


def test_a_payout_under_way_is_waited_for_and_not_for_ever() -> None:
    asked = replace(RECORD, requested=100, requested_at=1000 - RETRY_AFTER_S + 1)
    assert verdict(asked, ContractStatus.OPEN, 0) is Verdict.WAIT
    assert verdict(replace(asked, requested_at=1000 - RETRY_AFTER_S), ContractStatus.OPEN, 0) is Verdict.SEND
    assert verdict(replace(asked, requested=40), ContractStatus.OPEN, 0) is Verdict.SEND


def test_the_head_keeps_end_to_end_headers_only() -> None:
    sent = [("Connection", "X-Hop, close"), ("X-Hop", "1"), ("TRANSFER-ENCODING", "chunked"), ("X-End", "2"),
            ("Content-Length", "5"), ("Upgrade", "h2c")]  # fmt: skip
    head = response_head(200, "OK", sent, started=1.5, now=2.25, has_body=True)
    assert head.headers == (
        HttpHeader("X-End", "2"),
        HttpHeader("X-Cocoon-Worker-Start", "1.500000"),
        HttpHeader("X-Cocoon-Worker-End", "2.250000"),
        HttpHeader("Transfer-Encoding", "chunked"),
    )


def answer(protocol: int = 2) -> Answer:
    return Answer(protocol, bytes(32), debug=False, started=1.0)


@given(data=st.binary(max_size=100), repeat=st.integers(0, MAX_PART_BYTES // 40), protocol=st.integers(0, 2))
def test_parts_put_together_are_the_body(data: bytes, repeat: int, protocol: int) -> None:
    body = data * repeat
    subject = answer(protocol)
    subject.head(HttpResponse("HTTP/1.1", 200, "OK", (), b""), 1.0)
    parts = [*subject.parts(body, NO_TOKENS), *subject.last(body, TokensUsed(1, 2, 3, 4, 10), 2.0)]
    assert b"".join(part.answer for part in parts) == body + body  # type: ignore[attr-defined]  # parts have it
    assert all(len(part.answer) <= MAX_PART_BYTES for part in parts)  # type: ignore[attr-defined]  # as above
    assert [getattr(part, "flags", None) or getattr(part, "is_completed", None) or 0 for part in parts][-1] == 1
    assert all(decode(encode(part)) == part for part in parts)


def test_an_answer_has_one_head_and_one_end() -> None:
    subject = answer()
    head = HttpResponse("HTTP/1.1", 200, "OK", (), b"")
    with pytest.raises(RuntimeError):
        subject.parts(b"x", NO_TOKENS)
    assert isinstance(subject.head(head, 1.0), ProxyQueryAnswerEx)
    with pytest.raises(RuntimeError):
        subject.head(head, 1.0)
    (last,) = subject.last(b"", NO_TOKENS, 2.0)
    assert isinstance(last, ProxyQueryAnswerPartEx)
    assert subject.ended
    for late in (lambda: subject.error(1, "x", NO_TOKENS, 3.0), lambda: subject.parts(b"x", NO_TOKENS)):
        with pytest.raises(RuntimeError):
            late()


def test_salts_are_told_apart_by_secret_and_by_process() -> None:
    one, other = CacheSalts(), CacheSalts()
    assert one.salt("s") == one.salt("s") != other.salt("s")
    assert one.salt("s") != one.salt("t")
    assert one.salt(None) != one.salt(None)
    assert one.salt("") != one.salt("")
    assert "s" * 8 not in one.salt("s" * 8)
    assert repr(one.key) not in repr(one)


def test_what_ended_a_group_of_tasks_is_told_by_its_own_name() -> None:
    one, other = ValueError("one"), ValueError("other")
    assert leaf(ExceptionGroup("group", [ExceptionGroup("inner", [one])])) is one
    both = ExceptionGroup("group", [one, other])
    assert leaf(both) is both
    assert leaf(one) is one
