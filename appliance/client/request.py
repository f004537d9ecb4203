"""From an OpenAI-style body to a request whose reservation covers it (protocol specification, section 4.4). Pure.

In: path and body as the caller sent them, and the client's limits. Out: :class:`Prepared`, or a refusal that names the
key. The keys that are the client's own (``max_coefficient``, ``timeout``, ``enable_debug``, ``request_guid``) do not
leave the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.engine.rules import agree, check_options, choices, endpoint, parse_body, refusal, serialise
from appliance.wire.codec import encode
from appliance.wire.messages import HttpHeader, HttpRequest

SALT_HEADER = "x-chrysalis-cache-salt"
MAX_MODEL_CHARACTERS = 256
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What the client allows a request. Times in seconds, coefficients in thousandths, tokens over all choices."""

    max_coefficient: int
    default_max_tokens: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request ready to leave.

    Attributes:
        model: Base name, which the gateway looks up.
        http: The serialised ``http.request``.
        max_tokens: Reserved for all its choices together; the body cannot generate more.
        max_coefficient: Highest accepted price.
        timeout_s: Of the whole request.
        debug: Whether timings of the hops are asked for.
    """

    model: str
    http: bytes
    max_tokens: int
    max_coefficient: int
    timeout_s: float
    debug: bool


def prepare(method: str, path: str, payload: bytes, limits: Limits, *, salt: str) -> Prepared:
    """Check a body, take out the client's own keys, and make the rest agree with what will be reserved.

    Raises:
        RequestError: The body breaks a rule; the message names the key, never a value.
    """
    path = endpoint(method, path)
    body = parse_body(payload)
    coefficient = _integer(body.pop("max_coefficient", None), "max_coefficient", limits.max_coefficient)
    timeout = _seconds(body.pop("timeout", None), limits.timeout_s)
    debug = body.pop("enable_debug", False)
    if not isinstance(debug, bool):
        raise refusal("'enable_debug' must be a boolean")
    body.pop("request_guid", None)
    check_options(body, path)
    model = body["model"]
    if not 0 < len(model) <= MAX_MODEL_CHARACTERS:
        raise refusal(f"'model' has {len(model)} characters, expected 1 to {MAX_MODEL_CHARACTERS}")
    total = _total(body, limits.default_max_tokens)
    body = agree(body, total)
    header = HttpHeader(SALT_HEADER, salt)
    kind = HttpHeader("Content-Type", "application/json")
    http = encode(HttpRequest("POST", path, "HTTP/1.1", (kind, header), serialise(body)))
    return Prepared(
        model=model,
        http=http,
        max_tokens=total,
        max_coefficient=min(coefficient, limits.max_coefficient),
        timeout_s=timeout,
        debug=debug,
    )


def _total(body: dict[str, Any], default: int) -> int:
    """Tokens over all choices: ``max_completion_tokens`` wins over ``max_tokens``, each counted per choice."""
    each = body.get("max_tokens", default)
    if "max_completion_tokens" in body:
        each = body["max_completion_tokens"]
        body.pop("max_tokens", None)
    total = int(each) * choices(body)
    if not 0 < total <= MAX_TOKENS:
        raise refusal(f"max_tokens times the number of choices is {total}, expected 1 to {MAX_TOKENS}")
    return total


def _integer(value: object, name: str, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise refusal(f"'{name}' must be an integer, 0 or more")
    return value


def _seconds(value: object, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise refusal("'timeout' must be a number of seconds above 0")
    # Compared before it is converted: JSON has integers that no float can hold.
    return default if value >= default else float(value)
