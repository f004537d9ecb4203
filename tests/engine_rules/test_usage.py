"""Counting an answer while it passes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.accounting.tokens import Multipliers, Usage
from appliance.engine.usage import UsageCounter
from appliance.errors import RequestError
from appliance.wire.messages import TokensUsed

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Multipliers()
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}


def counter(**keys: Any) -> UsageCounter:
    return UsageCounter(1000, PLAIN, 2, **keys)


def passed(subject: UsageCounter, slices: list[bytes]) -> list[bytes]:
    return [*(subject.feed(part) for part in slices), subject.finish()]


def test_vectors(shared: Path) -> None:
    cases = json.loads((shared / "vectors" / "cocoon.json").read_text())["tokens"]["stream"]["cases"]
    exact = 0
    for case in cases:
        given_, expected = case["in"], case["out"]
        subject = UsageCounter(given_["coef"], Multipliers(*given_["mults"]), given_["price"])
        slices = [part.encode() for part in given_["slices"]]
        out = passed(subject, slices)
        if slices[0].startswith(b"data:"):
            # The reference neither streams nor counts these: here is the better behaviour.
            assert out[1:] == [slices[1], b""]
            assert subject.used() == TokensUsed(3, 0, 1, 0, 4)
        elif slices[0][:1] != b"{":
            assert b"".join(out) == b"".join(slices)
            assert subject.used() == TokensUsed(*expected["tokens_used"])
        else:
            exact += 1
            assert [part.decode() for part in out] == [*expected["outs"], expected["finalize"]], case
            assert subject.used() == TokensUsed(*expected["tokens_used"])
    assert exact >= 4


def test_events_pass_untouched_as_they_come_until_the_one_with_usage() -> None:
    first = b'data: {"choices":[{"delta":{"content":"\\"usage\\":{ a"}}]}\n\n'
    last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    subject = counter()
    assert subject.feed(first) == first
    out = subject.feed(last)
    assert out.startswith(b"data: ")
    assert out.endswith(b"}\n\n")
    assert json.loads(out[6:])["usage"] == {
        **USAGE,
        "prompt_total_cost": 6,
        "completion_total_cost": 2,
        "total_cost": 8,
    }
    assert subject.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert subject.finish() == b""
    assert subject.usage == Usage(3, 0, 1, 0)


def test_an_event_without_usage_is_not_even_copied() -> None:
    subject = counter(events=True)
    event = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    assert subject.feed(event) is event


def test_null_usage_and_unchanged_usage_leave_the_line_as_it_is() -> None:
    subject = counter(events=True)
    for line in (b'data: {"usage":null, "x":1}\n\n', b'data: {"usage": {}, "b":1}\n\n', b'data: {"usage":{"a"\n\n'):
        assert subject.feed(line) == line
    assert subject.usage == Usage()


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_any_line_ending(newline: bytes) -> None:
    body = b'data: {"usage":{"prompt_tokens":3}}' + newline * 2 + b"data: [DONE]" + newline * 2
    subject = counter(events=True)
    out = b"".join(passed(subject, [body]))
    assert subject.usage.prompt == 3
    assert out.endswith(newline * 2 + b"data: [DONE]" + newline * 2)


STREAM = (
    b": hello\n\n"
    + b'data: {"choices":[{"delta":{"content":"h\xc3\xa9 \\"usage\\":{"}}]}\n\n' * 3
    + b'data: {"choices":[],"usage":{"prompt_tokens":11,"prompt_tokens_details":{"cached_tokens":4},'
    + b'"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":2}}}\n\ndata: [DONE]\n\n'
)
BODY = (
    b'{"choices":[{"message":{"content":"h\xc3\xa9 } ] \\" {"}}],"usage":{"prompt_tokens":11,'
    b'"prompt_tokens_details":{"cached_tokens":4},"completion_tokens":9,"reasoning_tokens":2}}'
)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=30), stream=st.booleans())
def test_how_a_body_is_cut_changes_nothing(cuts: list[int], stream: bool) -> None:
    body = STREAM if stream else BODY
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    slices = [body[a:b] for a, b in pairwise(edges)]
    whole, subject = counter(), counter()
    expected = b"".join(passed(whole, [body]))
    assert b"".join(passed(subject, slices)) == expected
    assert subject.usage == whole.usage == Usage(11, 4, 9, 2)


def test_a_json_body_in_many_slices_is_not_parsed_with_each() -> None:
    inner = b'{"a":[' + b",".join(b'{"token":{"x":1}}' for _ in range(20_000)) + b'],"usage":{"prompt_tokens":1}}'
    subject = counter()
    out = b"".join(passed(subject, [inner[i : i + 17] for i in range(0, len(inner), 17)]))
    assert subject.usage.prompt == 1
    assert json.loads(out)["usage"]["prompt_total_cost"] == 2


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_that_mean_nothing_pass_and_cost_nothing(slices: list[bytes]) -> None:
    subject = counter()
    out = b"".join(passed(subject, slices))
    assert subject.usage == Usage()
    if b"{" not in out and b"[" not in out:
        assert out == b"".join(slices)


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", None, 2**60, {}, []])
def test_counts_that_are_none_do_not_count(value: object) -> None:
    subject = counter()
    b"".join(passed(subject, [json.dumps({"usage": {"prompt_tokens": value, "completion_tokens": 4}}).encode()]))
    assert subject.usage == Usage(0, 0, 4, 0)


@pytest.mark.parametrize(
    "body", [b'{"a":1e999,"usage":{"prompt_tokens":1}}', b'{"a":NaN}', b"{" * 5000, b'{"a":"\xff"}']
)
def test_a_body_that_is_no_json_passes_as_it_is(body: bytes) -> None:
    subject = counter()
    assert b"".join(passed(subject, [body])) == body
    assert subject.usage == Usage()


def test_what_is_held_back_is_bounded() -> None:
    for start in (b'{"a":"', b'data: {"a":"'):
        subject = counter(max_held=1000)
        subject.feed(start + b"x" * 900)
        with pytest.raises(RequestError, match="in one piece"):
            subject.feed(b"x" * 100)
    text = counter(max_held=10)
    assert b"".join(passed(text, [b"x" * 1000])) == b"x" * 1000


def test_totals_in_a_stream_only_grow() -> None:
    subject = counter(events=True)
    for n in (5, 9, 7):
        subject.feed(b'data: {"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n' % (n, n))
    assert subject.usage == Usage(9, 0, 9, 0)


def test_more_cached_than_prompt_is_not_believed() -> None:
    subject = counter()
    subject.feed(json.dumps({"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 50}}}).encode())
    assert subject.used() == TokensUsed(0, 5, 0, 0, 5)
