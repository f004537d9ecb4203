"""What is believed of a worker's report."""

from __future__ import annotations

import json

import pytest
from gateway_world import usage_body
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounting.tokens import Multipliers, Usage, adjusted
from appliance.gateway.observe import NOTHING, TAIL_BYTES, AnswerObserver, judge
from appliance.wire.messages import TokensUsed

PLAIN = Multipliers()


def observer(*parts: bytes) -> AnswerObserver:
    made = AnswerObserver()
    for part in parts:
        made.feed(part)
    return made


def judged(report: TokensUsed, seen: AnswerObserver, max_tokens: int = 100, size: int = 200) -> object:
    return judge(report, seen, coefficient=1000, multipliers=PLAIN, max_tokens=max_tokens, request_bytes=size)


@given(st.integers(1, 400), st.binary(max_size=3 * TAIL_BYTES))
def test_usage_is_found_however_the_body_is_cut(step: int, noise: bytes) -> None:
    body = noise.replace(b'"', b"'") + usage_body(31, 7, cached=3)
    seen = observer(*(body[start : start + step] for start in range(0, len(body), step)))
    assert seen.size == len(body)
    assert seen.usage() == Usage(31, 3, 7, 0)


def test_the_last_usage_of_a_stream_counts() -> None:
    def event(prompt: int, completion: int) -> bytes:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"

    seen = observer(event(5, 1), b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n', event(5, 2))
    assert seen.usage() == Usage(5, 0, 2, 0)
    assert observer(event(5, 2), b"data: [DONE]\n\n").usage() == Usage(5, 0, 2, 0)


def test_a_mention_in_a_text_is_not_usage() -> None:
    text = json.dumps({"choices": [{"text": 'say "usage": {"prompt_tokens": 9}'}]}).encode()
    assert observer(text).usage() is None
    assert observer(b'{"a":"usage","b":{"c":1}}').usage() is None
    assert observer(b'{"usage":{"prompt_tokens":').usage() is None
    assert observer(b"5").usage() is None


def test_memory_for_a_long_answer_is_bounded() -> None:
    seen = observer(*[b"x" * 1000] * 2000)
    assert seen.size == 2_000_000
    assert sum(map(len, seen._tail)) <= TAIL_BYTES + 1000


def test_honest_reports_pass_unchanged() -> None:
    honest = adjusted(Usage(31, 3, 7, 0), 1000, PLAIN)
    found = judged(honest, observer(usage_body(31, 7, cached=3)))
    assert (found.tokens, found.flaw) == (honest, "")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("report", "paid"),
    [
        (TokensUsed(31, 0, 8, 0, 39), 38),
        (TokensUsed(0, 0, 10**9, 0, 10**9), 38),
        (TokensUsed(-1, 0, 2, 0, 1), 0),
        (TokensUsed(10, 0, 10, 0, 99), 0),
        (TokensUsed(2**62, 2**62, 2**62, 2**62, 2**64), 38),
    ],
)
def test_what_contradicts_the_answer_is_cut(report: TokensUsed, paid: int) -> None:
    found = judged(report, observer(usage_body(31, 7)))
    assert found.tokens.total_tokens_used == paid  # type: ignore[attr-defined]
    assert found.flaw  # type: ignore[attr-defined]


def test_forged_usage_is_held_to_reservation_and_bytes() -> None:
    forged = usage_body(10**6, 10**6)
    report = adjusted(Usage(10**6, 0, 10**6, 0), 1000, PLAIN)
    found = judged(report, observer(b'{"usage":' + forged[forged.rindex(b'{"prompt') :]), max_tokens=100, size=200)
    assert found.tokens.total_tokens_used <= 200 + 1024 + 100 + 16  # type: ignore[attr-defined]
    assert found.flaw  # type: ignore[attr-defined]


def test_without_usage_the_bytes_are_the_bound() -> None:
    fair, greedy = TokensUsed(150, 0, 30, 0, 180), TokensUsed(150, 0, 3000, 0, 3150)
    stream = observer(b"data: words\n\n" * 10)
    assert judged(fair, stream).tokens == fair  # type: ignore[attr-defined]
    limited = judged(greedy, stream)
    assert limited.tokens.total_tokens_used == 200 + 1024 + 100 + 16  # type: ignore[attr-defined]
    assert limited.flaw  # type: ignore[attr-defined]
    assert judged(NOTHING, stream).tokens == NOTHING  # type: ignore[attr-defined]


NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.binary(max_size=300), st.booleans())
def test_no_report_is_charged_beyond_the_bound(
    numbers: tuple[int, int, int, int, int], body: bytes, seen: bool
) -> None:
    passed = observer(body, usage_body(5, 3) if seen else b"")
    tokens = judged(TokensUsed(*numbers), passed, max_tokens=50, size=80).tokens  # type: ignore[attr-defined]
    assert 0 <= tokens.total_tokens_used <= 80 + 1024 + 50 + 16
    parts = (
        tokens.prompt_tokens_used,
        tokens.cached_tokens_used,
        tokens.completion_tokens_used,
        tokens.reasoning_tokens_used,
    )
    assert min(parts) >= 0
    assert sum(parts) == tokens.total_tokens_used
