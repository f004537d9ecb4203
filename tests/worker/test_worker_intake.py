"""Hostile requests: whatever bytes a gateway tunnels, there is a request or a refusal and nothing else."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.engine.rules import Rules
from appliance.errors import RequestError
from appliance.wire.codec import encode
from appliance.wire.messages import HttpHeader, HttpRequest
from appliance.worker.intake import INVALID, CacheSalts, engine_request

RULES, SALTS = Rules("m", 100), CacheSalts(b"k" * 32)
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "SECRET"}]}).encode()
GOOD = encode(
    HttpRequest("POST", "/v1/chat/completions", "HTTP/1.1", (HttpHeader("content-type", "application/json"),), BODY)
)


def judged(query: bytes) -> bytes | str:
    try:
        return engine_request(query, RULES, SALTS).body
    except RequestError as error:
        return error.message


def test_the_control_passes() -> None:
    body = json.loads(judged(GOOD))
    assert body["messages"][0]["content"] == "SECRET"
    assert body["max_completion_tokens"] == 100
    assert len(body["cache_salt"]) == 32
    assert b"cache_salt" not in engine_request(GOOD, RULES, None).body


@given(st.binary(max_size=300))
@example(b"")
def test_any_bytes(query: bytes) -> None:
    verdict = judged(query)
    assert isinstance(verdict, str)
    assert verdict.startswith(INVALID)


@given(position=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255))
def test_any_changed_byte(position: int, value: int) -> None:
    changed = bytearray(GOOD)
    changed[position] = value
    verdict = judged(bytes(changed))
    if isinstance(verdict, str):
        assert verdict.startswith(INVALID)
        assert "SECRET" not in verdict


@given(end=st.integers(0, len(GOOD) - 1))
def test_any_cut(end: int) -> None:
    assert isinstance(judged(GOOD[:end]), str)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(method=texts, url=texts, headers=st.lists(st.tuples(texts, texts), max_size=4), body=st.binary(max_size=50))
def test_any_request(method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> None:
    request = HttpRequest(method, url, "HTTP/1.1", tuple(HttpHeader(n, v) for n, v in headers), body)
    assert isinstance(judged(encode(request)), str), "none of these is a chat request"


@given(secret=st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=400))
def test_a_secret_is_never_its_salt(secret: str) -> None:
    header = (HttpHeader("X-Chrysalis-Cache-Salt", secret),)
    request = encode(HttpRequest("POST", "/v1/chat/completions", "HTTP/1.1", header, BODY))
    salts = {json.loads(judged(request))["cache_salt"] for _ in range(2)}
    assert len(salts) == 1
    assert secret not in salts
