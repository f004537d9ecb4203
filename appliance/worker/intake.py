"""A gateway's request as the worker takes it in (protocol specification, section 2.4). Pure.

In: ``proxy.runQuery`` or ``proxy.runQueryEx``. Out: checked numbers and the tunnelled HTTP request, or a refusal.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.accounting.tokens import MAX_COEFFICIENT
from appliance.engine.rules import check_headers
from appliance.errors import ErrorCode, RequestError
from appliance.wire.codec import decode
from appliance.wire.errors import CodecError
from appliance.wire.messages import HttpRequest, ProxyRunQueryEx

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from appliance.engine.rules import EngineRequest, Rules
    from appliance.wire.messages import ProxyRunQuery

MAX_TIMEOUT_S = 3600.0
SALT_HEADER = "x-chrysalis-cache-salt"
"""The client's secret; requests with the same one share the prefix cache."""
MAX_SALT_CHARS = 512
INVALID = "worker: invalid http request: "


@dataclass(frozen=True, slots=True)
class CacheSalts:
    """Salts of the prefix cache: a client's secret never becomes the salt itself, and one without gets a fresh one.

    ``key`` is made at start and dies with the process, so salts of two workers, or two starts, tell nothing about
    each other.
    """

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def salt(self, secret: str | None) -> str:
        """The salt for a request whose header said ``secret`` (None or empty: a salt nobody else has)."""
        if not secret:
            return secrets.token_hex(16)
        return hmac.new(self.key, secret.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of a request. ``timeout`` in seconds, ``coefficient`` in thousandths."""

    coefficient: int
    timeout: float
    debug: bool


def limits(query: ProxyRunQuery | ProxyRunQueryEx, offered: Collection[int]) -> Limits:
    """Check a request's numbers.

    Args:
        query: The gateway's message.
        offered: Coefficients this worker has told the gateway and still stands by.

    Raises:
        RequestError: A number is negative, absurd or was never offered.
    """
    if not 0 <= query.coefficient < MAX_COEFFICIENT or query.coefficient not in offered:
        raise RequestError(
            f"worker: coefficient {query.coefficient}, expected {max(offered, default=0)}",
            code=ErrorCode.PROTOCOL_VIOLATION,
            hint="the gateway has to use the coefficient this worker announced",
        )
    if not math.isfinite(query.timeout) or not 0 < query.timeout <= MAX_TIMEOUT_S:
        raise RequestError(
            f"worker: timeout {query.timeout} s, expected more than 0 and at most {MAX_TIMEOUT_S:.0f}",
            code=ErrorCode.PROTOCOL_VIOLATION,
        )
    debug = isinstance(query, ProxyRunQueryEx) and bool(query.enable_debug)
    return Limits(query.coefficient, query.timeout, debug)


def engine_request(query: bytes, rules: Rules, salts: CacheSalts | None) -> EngineRequest:
    """Read the tunnelled HTTP request and bring it to the model server's shape.

    Args:
        query: A boxed ``http.request``.
        rules: This worker's.
        salts: Makes the cache salt; None for a model server that knows none.

    Raises:
        RequestError: Code 621, or 0 when it is no TL object (section 3.2); the text begins with ``INVALID``.
    """
    try:
        request = decode(query, HttpRequest)
    except CodecError:
        raise RequestError(INVALID + "not an http.request object", code=ErrorCode.PLAIN) from None
    try:
        headers = [(header.name, header.value) for header in request.headers]
        check_headers(headers)
        salt = None if salts is None else salts.salt(_secret(headers))
        return rules.rewrite(request.method, request.url, request.payload, cache_salt=salt)
    except RequestError as error:
        raise RequestError(INVALID + error.message, code=error.code, hint=error.hint) from None


def _secret(headers: Iterable[tuple[str, str]]) -> str | None:
    """The value of the salt header, whatever the case of its name."""
    secret = next((value for name, value in headers if name.lower() == SALT_HEADER), None)
    if secret is not None and len(secret) > MAX_SALT_CHARS:
        raise RequestError(
            f"{SALT_HEADER} has {len(secret)} characters, expected at most {MAX_SALT_CHARS}",
            code=ErrorCode.PROTOCOL_VIOLATION,
        )
    return secret
