"""Which requests reach the model server, and in what shape (protocol specification, section 3.2 and section 8, item 6).

In: method, URL and body as a stranger sent them. Out: the path and the canonical body for the model server, or a
:class:`~appliance.errors.RequestError` that names the key but repeats no content. Pure; the gateway and the client use
:func:`agree` so that the body says what was reserved.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.engine.options import CHAT_OPTIONS, COMPLETIONS_OPTIONS, count
from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MAX_BODY_BYTES = 8 * 2**20
"""Half a frame (section 1.1): the same body still fits after it was rewritten."""
MAX_STRUCTURE = {b"[": 2**17, b"{": 2**17, b",": 2**19, b":": 2**18}
"""Most of each of JSON's own characters. A long text has few of them for its length; a body made of them alone would
take the parser, and with it everybody's loop, a hundred times as long as a text of the same size."""
MAX_DEPTH = 64
"""Nesting of a body; a JSON schema inside a tool inside a request needs about twenty."""

JsonObject = dict[str, Any]

_BAD_HEADER_NAME = re.compile(r"[\s:\x00-\x1f\x7f]|^$")
_BAD_HEADER_VALUE = re.compile(r"[\r\n\x00]")


def refusal(message: str, *, hint: str = "") -> RequestError:
    """A request that breaks the rules; code 621 as section 3.2 has it."""
    return RequestError(message, code=ErrorCode.PROTOCOL_VIOLATION, hint=hint)


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What goes to the model server: path, body (canonical JSON, UTF-8) and whether it will answer as a stream."""

    path: str
    body: bytes
    stream: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one worker.

    Attributes:
        base_model: The model's name before ``@``; a request must ask for exactly it.
        max_tokens: Most tokens one request may generate over all its choices; None sets no limit.
    """

    base_model: str
    max_tokens: int | None = None

    def rewrite(self, method: str, url: str, payload: bytes, *, cache_salt: str | None = None) -> EngineRequest:
        """Check a request and bring it to the shape the model server gets.

        Args:
            method: HTTP method; only POST does anything at the two paths.
            url: As received; everything before the first ``/`` is ignored.
            payload: The body.
            cache_salt: Isolates the prefix cache; replaces whatever the body says.

        Raises:
            RequestError: Code 621; the message names the key or the rule.
        """
        path = endpoint(method, url)
        body = parse_body(payload)
        check_options(body, path)
        if body["model"] != self.base_model:
            raise refusal("model name mismatch", hint=f"this worker serves {self.base_model!r}")
        with_usage(body)
        if self.max_tokens is not None:
            body = agree(body, self.max_tokens)
        body.pop("cache_salt", None)
        if cache_salt is not None:
            body["cache_salt"] = cache_salt
        return EngineRequest(path, serialise(body), body.get("stream") is True)


def endpoint(method: str, url: str) -> str:
    """The path a request is for.

    Raises:
        RequestError: Not a POST to one of the two paths.
    """
    slash = url.find("/")
    path = url[slash:] if slash >= 0 else ""
    if path not in (CHAT, COMPLETIONS) or method.upper() != "POST":
        raise refusal("unsupported method", hint=f"POST to {CHAT} or {COMPLETIONS}, without a query string")
    return path


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_body(payload: bytes) -> JsonObject:
    """Read strict JSON: UTF-8, one object, no NaN or infinities, bounded in size and depth.

    Of equal keys the last wins, as in the reference.

    Raises:
        RequestError: Says which of these it is not.
    """
    if len(payload) > MAX_BODY_BYTES:
        raise refusal(f"body has {len(payload)} bytes, expected at most {MAX_BODY_BYTES}")
    for character, limit in MAX_STRUCTURE.items():
        if payload.count(character) > limit:
            raise refusal(
                f"body has more than {limit} times '{character.decode()}'", hint="ask for less in one request"
            )
    try:
        body = json.loads(payload.decode("utf-8"), parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # The parser's own text is not passed on: it may quote the body.
        raise refusal("body is not strict JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise refusal("expected json object")
    _check_depth(body)
    return body


def _check_depth(body: JsonObject) -> None:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise refusal(f"body is nested deeper than {MAX_DEPTH} levels")


def serialise(body: Mapping[str, Any]) -> bytes:
    """Compact JSON with sorted keys, as the reference writes it.

    Raises:
        RequestError: A text holds a lone surrogate, which UTF-8 cannot carry.
    """
    try:
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise refusal("body holds a text that is not valid Unicode") from None


def check_options(body: JsonObject, path: str) -> None:
    """Check every key of a body against its rule.

    Raises:
        RequestError: A required key is missing, a key is unknown, or a value breaks its rule.
    """
    options = CHAT_OPTIONS if path == CHAT else COMPLETIONS_OPTIONS
    for name in ("model", "messages" if path == CHAT else "prompt"):
        if name not in body:
            raise refusal(f"missing required field '{name}'")
    for name, value in body.items():
        check = options.get(name)
        if check is None:
            shown = name[:64] if name.isprintable() else ascii(name)[1:65]
            raise refusal(f"unknown option '{shown}' in request")
        check(name, value)


def with_usage(body: JsonObject) -> None:
    """Make a streamed answer end with its usage: what is not counted is not paid (section 3.2, "Rewriting")."""
    if "stream_options" in body:
        body["stream_options"] = {**body["stream_options"], "include_usage": True}
        body.setdefault("stream", True)
    elif body.get("stream") is True:
        body["stream_options"] = {"include_usage": True}


def choices(body: Mapping[str, Any]) -> int:
    """How many answers a body asks for: ``n`` times ``best_of`` times the number of prompts (at least 1)."""
    prompt = body.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt):
        prompts = max(1, len(prompt))
    return prompts * max(1, count(body.get("n"))) * max(1, count(body.get("best_of")))


def agree(body: Mapping[str, Any], max_tokens: int) -> JsonObject:
    """A body that cannot generate more than ``max_tokens`` over all its choices.

    Larger limits are lowered, a missing one is added; everything else stays. This is what makes a reservation of
    ``max_tokens`` (section 3.6) cover the request: the number itself does not reach the worker (section 2.4).

    Raises:
        RequestError: There are more choices than tokens.
    """
    asked = choices(body)
    each = max_tokens // asked
    if asked > 1 and each < 1:
        raise refusal(
            f"{asked} answers are asked for and {max_tokens} tokens are allowed",
            hint="ask for fewer answers (n, best_of, prompts) or more tokens",
        )
    agreed = dict(body)
    limits = [name for name in ("max_tokens", "max_completion_tokens") if name in body]
    for name in limits:
        agreed[name] = min(count(body[name]), each)
    if not limits:
        agreed["max_completion_tokens" if "messages" in body else "max_tokens"] = each
    return agreed


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Refuse header names and values that could split a header (section 3.2).

    None of them is forwarded: the model server gets the headers this worker sets, so no credential, hop-by-hop field
    or routing hint of a stranger reaches it.

    Raises:
        RequestError: Names the rule, not the header.
    """
    for name, value in headers:
        if _BAD_HEADER_NAME.search(name):
            raise refusal("a header name is empty or holds a blank, a control character or ':'")
        if _BAD_HEADER_VALUE.search(value):
            raise refusal("a header value holds a line break or NUL")
