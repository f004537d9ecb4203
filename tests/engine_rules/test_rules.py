"""What reaches the model server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.rules import (
    CHAT,
    COMPLETIONS,
    MAX_DEPTH,
    MAX_STRUCTURE,
    Rules,
    agree,
    check_headers,
    choices,
    parse_body,
    serialise,
)
from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from pathlib import Path

RULES = Rules("m")
NOW_ALLOWED = ("unknown option 'tools'", "unknown option 'seed'")
"""Refusals of the reference that section 8, item 6 lifts."""


def chat(**keys: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [], **keys}).encode()


def rewritten(body: bytes, path: str = CHAT, rules: Rules = RULES) -> dict[str, Any]:
    parsed = json.loads(rules.rewrite("POST", path, body).body)
    assert isinstance(parsed, dict)
    return parsed


def test_vectors(shared: Path) -> None:
    items = json.loads((shared / "vectors" / "cocoon.json").read_text())["request_rewriting"]["items"]
    assert len(items) > 20
    for item in items:
        sent = item["in"]
        rules = Rules(item.get("model", "m"), sent.get("limit"))
        if error := item.get("error"):
            if error.startswith(NOW_ALLOWED):
                rules.rewrite("POST", sent["url"], sent["body"].encode())
                continue
            with pytest.raises(RequestError) as caught:
                rules.rewrite("POST", sent["url"], sent["body"].encode())
            assert caught.value.message == error
            assert caught.value.code == item["error_code"]
        else:
            request = rules.rewrite("POST", sent["url"], sent["body"].encode())
            assert request.body.decode() == item["out"], item


def test_a_stream_always_asks_for_its_usage() -> None:
    request = RULES.rewrite("POST", CHAT, chat(stream=True))
    assert request.stream
    assert json.loads(request.body)["stream_options"] == {"include_usage": True}
    kept = rewritten(chat(stream=True, stream_options={"include_usage": False, "include_obfuscation": True}))
    assert kept["stream_options"] == {"include_usage": True, "include_obfuscation": True}
    assert not RULES.rewrite("POST", CHAT, chat()).stream


@pytest.mark.parametrize("method", ["GET", "PUT", "", "POSTS"])
def test_only_posts_are_served(method: str) -> None:
    with pytest.raises(RequestError, match="unsupported method"):
        RULES.rewrite(method, CHAT, chat())
    RULES.rewrite("POST", CHAT, chat())


@pytest.mark.parametrize("url", ["", "/", "/v1/models", "/flush_cache", CHAT + "/", CHAT + "?x", "//v1/completions"])
def test_only_two_paths_are_served(url: str) -> None:
    with pytest.raises(RequestError, match="unsupported method"):
        RULES.rewrite("POST", url, chat())


def test_another_model_is_refused_without_repeating_its_name() -> None:
    with pytest.raises(RequestError, match="model name mismatch") as caught:
        RULES.rewrite("POST", CHAT, json.dumps({"model": "secret-name", "messages": []}).encode())
    assert "secret-name" not in str(caught.value)


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}}


@pytest.mark.parametrize(
    "keys",
    [
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"logprobs": True, "top_logprobs": 5},
        {"logit_bias": {"42": -100, "7": 1.5}},
        {"seed": -3},
        {"user": "someone"},
        {"metadata": {"a": "b"}},
        {"top_k": -1},
        {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
        {"response_format": SCHEMA},
        {"response_format": {"type": "json_object"}},
        {"stop": ["x"]},
        {"stop": None},
        {"reasoning_effort": "low", "verbosity": "low", "prediction": 1, "parallel_tool_calls": False},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,"}}]}]},
    ],
)
def test_the_wider_list_passes_unchanged(keys: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [], **keys}
    assert rewritten(serialise(body)) == body


def test_completions_have_their_own_list() -> None:
    body = {"model": "m", "prompt": ["a"], "logprobs": 5, "echo": True, "best_of": 2, "top_k": 3, "seed": 1}
    assert rewritten(serialise(body), COMPLETIONS) == body
    for key, value in (("tools", []), ("max_completion_tokens", 1), ("response_format", {"type": "text"})):
        with pytest.raises(RequestError, match=f"unknown option '{key}'"):
            rewritten(serialise({**body, key: value}), COMPLETIONS)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"store": True}, "unknown option 'store'"),
        ({"extra_key": "x"}, "unknown option 'extra_key'"),
        ({"custom_logit_processor": "x"}, "unknown option 'custom_logit_processor'"),
        ({"a\nb": 1}, "unknown option"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"chat_template_kwargs": {"template": "x"}}, "chat_template_kwargs.template"),
        ({"stream": 1}, "stream must be a boolean"),
        ({"n": True}, "n must be an integer"),
        ({"n": 1.5}, "n must be an integer"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"max_tokens": -1}, "max_tokens must be an unsigned integer"),
        ({"max_tokens": 2**64}, "max_tokens must be an unsigned integer"),
        ({"messages": {}}, "messages must be an array"),
        ({"tools": {}}, "tools must be an array"),
        ({"tools": [{"type": "function"}]}, "tools\\[0\\].function"),
        ({"tools": [{**TOOL, "x": 1}]}, "tools\\[0\\].x"),
        ({"tools": [{"type": "function", "function": {"name": "no blanks"}}]}, "letters, digits"),
        ({"tools": [TOOL] * 129}, "at most 128"),
        ({"tool_choice": "maybe"}, "tool_choice must be one of"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"logit_bias": {"x": 1}}, "token ids"),
        ({"logit_bias": {"1": 101}}, "between"),
        ({"metadata": {"a": 1}}, "must be a string"),
        ({"user": "u" * 513}, "at most 512"),
        ({"top_k": 0}, "top_k must be positive"),
        ({"min_p": 1.1}, "min_p must be between"),
        ({"repetition_penalty": -1}, "repetition_penalty must be between"),
        ({"response_format": {"type": "grammar"}}, "response_format.type must be one of"),
        ({"response_format": {"type": "json_schema"}}, "belongs to type json_schema"),
        ({"response_format": {**SCHEMA, "type": "text"}}, "belongs to type json_schema"),
        ({"response_format": "json"}, "response_format must be an object"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$ref": "http://x"}}}},
            "outside itself",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": [1] * 5000}}}},
            "at most 4096 nodes",
        ),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "http://h/x"}}]}]}, "data: links"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": "/etc/passwd"}]}]}, "data: links"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(70)}}]}, "nested deeper"),
    ],
)
def test_what_breaks_a_rule_is_named(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        RULES.rewrite("POST", CHAT, chat(**keys))
    assert caught.value.code == ErrorCode.PROTOCOL_VIOLATION
    assert "\n" not in caught.value.message
    assert "passwd" not in str(caught.value)
    assert RULES.rewrite("POST", CHAT, chat()).body, "the control differs only in the key"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"model":"m","messages":[],}',
        b'{"model":"m","messages":[]} x',
        b'{"model":"m","messages":[NaN]}',
        b'{"model":"m","messages":[1e999]}',
        b'{"model":"m","messages":[-Infinity]}',
        b'{"model":"m","messages":["\xff"]}',
        b'\xef\xbb\xbf{"model":"m","messages":[]}',
        b'{"model":"m","messages":["\\ud800"]}',
        b'{"model":"m", // no\n"messages":[]}',
        b'{"model":"m","messages":' + b"[" * 100_000,
        b'{"model":"m","messages":[' + b"9" * 5000 + b"]}",
    ],
)
def test_only_strict_json_is_read_and_nothing_of_it_is_repeated(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        RULES.rewrite("POST", CHAT, raw)
    assert caught.value.message in {"body is not strict JSON in UTF-8", "body holds a text that is not valid Unicode"}


def test_depth_and_size_are_bounded() -> None:
    def deep(levels: int) -> bytes:
        return b'{"model":"m","messages":' + b"[" * levels + b"]" * levels + b"}"

    RULES.rewrite("POST", CHAT, deep(MAX_DEPTH - 1))
    with pytest.raises(RequestError, match="nested deeper"):
        RULES.rewrite("POST", CHAT, deep(MAX_DEPTH))
    with pytest.raises(RequestError, match="expected at most"):
        parse_body(b" " * (8 * 2**20 + 1))


@pytest.mark.parametrize(("character", "body"), [("[", b"[],"), ("{", b"{},"), (",", b"1,")])
def test_a_body_made_of_structure_alone_is_not_parsed(character: str, body: bytes) -> None:
    def made(times: int, *, text: bool) -> bytes:
        inner = body * times
        value = b'"' + inner + b'"' if text else b"[" + inner + b"0]"
        return b'{"model":"m","messages":[],"x":' + value + b"}"

    limit = MAX_STRUCTURE[character.encode()]
    for text in (False, True):
        with pytest.raises(RequestError, match=f"more than {limit} times"):
            parse_body(made(limit + 1, text=text))
        assert parse_body(made(limit - 10, text=text))


def test_the_salt_is_ours() -> None:
    assert "cache_salt" not in rewritten(chat(cache_salt="theirs"))
    request = RULES.rewrite("POST", CHAT, chat(cache_salt="theirs"), cache_salt="ours")
    assert json.loads(request.body)["cache_salt"] == "ours"


def test_the_workers_own_maximum_holds_over_all_choices() -> None:
    rules = Rules("m", 100)
    assert rewritten(chat(), rules=rules)["max_completion_tokens"] == 100
    both = rewritten(chat(max_tokens=500, max_completion_tokens=40), rules=rules)
    assert (both["max_tokens"], both["max_completion_tokens"]) == (100, 40)
    assert rewritten(chat(max_tokens=500, n=3), rules=rules)["max_tokens"] == 33
    prompts = serialise({"model": "m", "prompt": ["a", "b"], "best_of": 5})
    assert rewritten(prompts, COMPLETIONS, rules)["max_tokens"] == 10
    with pytest.raises(RequestError, match="101 answers"):
        rewritten(chat(n=101), rules=rules)


def test_choices() -> None:
    assert choices({"messages": []}) == 1
    assert choices({"prompt": "x", "n": 2, "best_of": 3}) == 6
    assert choices({"prompt": [1, 2, 3]}) == 1, "token ids are one prompt"
    assert choices({"prompt": [[1], [2]]}) == 2
    assert choices({"prompt": [], "n": "x"}) == 1


bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.just([])},
    optional={
        "max_tokens": st.integers(0, 10_000),
        "max_completion_tokens": st.integers(0, 10_000),
        "n": st.integers(1, 20),
    },
)


@given(body=bodies, allowed=st.integers(1, 5000))
def test_an_agreed_body_cannot_outrun_its_reservation(body: dict[str, Any], allowed: int) -> None:
    try:
        agreed = agree(body, allowed)
    except RequestError:
        assert choices(body) > allowed
        return
    limit = agreed.get("max_completion_tokens", agreed.get("max_tokens"))
    assert limit is not None
    assert limit * choices(body) <= allowed
    assert agree(agreed, allowed) == agreed, "it is already what it should be"
    assert {k: v for k, v in agreed.items() if "tokens" not in k} == {
        k: v for k, v in body.items() if "tokens" not in k
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*"abc", "model", "messages", "n", "tools", "stop"]), json_values, max_size=6))
def test_any_json_gives_a_canonical_body_or_a_refusal(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    try:
        request = RULES.rewrite("POST", CHAT, raw)
    except RequestError:
        return
    assert serialise(parse_body(request.body)) == request.body


@given(st.binary(max_size=200))
def test_any_bytes_give_a_refusal_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(RequestError):
        RULES.rewrite("POST", CHAT, raw)


@pytest.mark.parametrize("header", [("a b", "v"), ("a:", "v"), ("", "v"), ("a\r\nb", "v"), ("a", "v\r\nx: y")])
def test_headers_that_could_split_are_refused(header: tuple[str, str]) -> None:
    check_headers([("Content-Type", "application/json"), ("X-Any", "té xt")])
    with pytest.raises(RequestError, match="header") as caught:
        check_headers([("Content-Type", "application/json"), header])
    assert caught.value.code == ErrorCode.PROTOCOL_VIOLATION
