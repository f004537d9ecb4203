"""Errors of the client, and how each is told to a program that speaks the OpenAI-style API.

In: any error of the project's tree. Out: an HTTP status, headers and an error object with a cause. Nothing of a request
or an answer is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from appliance.chain.errors import ChainError, FundsError, NotListedError
from appliance.errors import ApplianceError, ErrorCode, RequestError
from appliance.wire.errors import FrameTooLargeError, LinkClosedError, QueryTimeoutError, WireError
from attestation.errors import AttestationError
from measurements.errors import ChrysalisError

HTTP_BAD_REQUEST = 400
HTTP_UNAUTHORIZED = 401
HTTP_PAYMENT_REQUIRED = 402
HTTP_FORBIDDEN = 403
HTTP_NOT_FOUND = 404
HTTP_TOO_LARGE = 413
HTTP_TOO_MANY = 429
HTTP_INTERNAL = 500
HTTP_BAD_GATEWAY = 502
HTTP_UNAVAILABLE = 503
HTTP_GATEWAY_TIMEOUT = 504


class ClientError(ApplianceError):
    """Root of the client's own errors."""


class NoGatewayError(ClientError):
    """No gateway is verified and ready."""


class GatewayRefusedError(ClientError):
    """A gateway's evidence, parameters or addresses are not what they have to be."""


class WorkerRefusedError(ClientError):
    """No worker of the model could be verified through the gateway."""


class BudgetError(ClientError):
    """The request may cost more than the budget, the stake or the accepted price leave."""


class AccessError(ClientError):
    """The caller of the local endpoint is not allowed in: no key, a wrong one, or a foreign web page.

    Args:
        message: What is missing or wrong; never the key itself.
        status: 401 or 403.
        hint: What to do.
    """

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error as the API tells it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def to_http(error: Exception) -> HttpError:
    """The status and the OpenAI-style error object of any error; an unforeseen one tells its type only."""
    if isinstance(error, RequestError):
        return _request_error(error)
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            shown = error.status if isinstance(error, AccessError) else status
            return HttpError(shown, _object(str(error), name, kind.__name__))
    if isinstance(error, ChrysalisError):
        return HttpError(HTTP_INTERNAL, _object(str(error), "server_error", type(error).__name__))
    return HttpError(HTTP_INTERNAL, _object("internal error", "server_error", type(error).__name__))


# The first kind that fits wins, so a class stands before its bases.
_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (AccessError, HTTP_UNAUTHORIZED, "authentication_error"),
    (BudgetError, HTTP_PAYMENT_REQUIRED, "insufficient_quota"),
    (FundsError, HTTP_PAYMENT_REQUIRED, "insufficient_quota"),
    (NoGatewayError, HTTP_UNAVAILABLE, "service_unavailable"),
    (GatewayRefusedError, HTTP_BAD_GATEWAY, "attestation_error"),
    (WorkerRefusedError, HTTP_BAD_GATEWAY, "attestation_error"),
    (AttestationError, HTTP_BAD_GATEWAY, "attestation_error"),
    (NotListedError, HTTP_BAD_GATEWAY, "attestation_error"),
    (FrameTooLargeError, HTTP_TOO_LARGE, "invalid_request_error"),
    (QueryTimeoutError, HTTP_GATEWAY_TIMEOUT, "timeout_error"),
    (LinkClosedError, HTTP_BAD_GATEWAY, "gateway_lost"),
    (WireError, HTTP_BAD_GATEWAY, "gateway_error"),
    (ChainError, HTTP_UNAVAILABLE, "chain_unavailable"),
)


def _request_error(error: RequestError) -> HttpError:
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        return HttpError(HTTP_TOO_MANY, _object(str(error), "rate_limit_error", "busy"), headers)
    status, name = {
        ErrorCode.PROTOCOL_VIOLATION: (HTTP_BAD_REQUEST, "invalid_request_error"),
        ErrorCode.ERROR: (HTTP_BAD_REQUEST, "invalid_request_error"),
        ErrorCode.NOT_READY: (HTTP_UNAVAILABLE, "service_unavailable"),
        ErrorCode.TIMEOUT: (HTTP_GATEWAY_TIMEOUT, "timeout_error"),
        ErrorCode.CANCELLED: (HTTP_UNAVAILABLE, "cancelled"),
    }.get(error.code, (HTTP_BAD_GATEWAY, "upstream_error"))
    return HttpError(status, _object(str(error), name, f"code_{int(error.code)}"), headers)


def _object(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
