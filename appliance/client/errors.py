"""Errors of the client, and how each is told to a program that speaks the OpenAI-style API.

In: any error of the project's tree. Out: an HTTP status, headers and an error object with a cause. Nothing of a request
or an answer is in it.

::

    ApplianceError
    ├── ClientError
    │   ├── NoGatewayError        no gateway is verified and ready
    │   ├── GatewayRefusedError   a gateway's evidence, parameters or addresses are not what they have to be
    │   ├── GatewayFaultError     a gateway broke the protocol
    │   ├── WorkerRefusedError    no worker of the model could be verified through the gateway
    │   ├── ModelNotFoundError    no gateway offers the model
    │   ├── BudgetError           the request may cost more than the budget leaves
    │   └── AccessError           the caller of the local endpoint is not allowed in
    └── RequestError
        └── AnswerRefusedError    a gateway or worker answered the request with an error
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from appliance.accounting.errors import LedgerError, PaymentRefusedError
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


class GatewayFaultError(ClientError):
    """A gateway broke the protocol: heads, parts or numbers that cannot be."""


class WorkerRefusedError(ClientError):
    """No worker of the model could be verified through the gateway."""


class ModelNotFoundError(ClientError):
    """No gateway offers the model."""


class BudgetError(ClientError):
    """The request may cost more than the budget leaves."""


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


class AnswerRefusedError(RequestError):
    """A gateway or a worker behind it answered a request with an error (protocol specification, section 4.4)."""


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
    for kind, status, name, code in _KINDS:
        if isinstance(error, kind):
            return HttpError(status, error_object(str(error), name, code))
    if isinstance(error, AccessError):
        name = "permission_error" if error.status == HTTP_FORBIDDEN else "authentication_error"
        code = "foreign_origin" if error.status == HTTP_FORBIDDEN else "invalid_api_key"
        return HttpError(error.status, error_object(str(error), name, code))
    if isinstance(error, ChrysalisError):
        return HttpError(HTTP_INTERNAL, error_object(str(error), "server_error", "internal_error"))
    message = f"internal error ({type(error).__name__})"
    return HttpError(HTTP_INTERNAL, error_object(message, "server_error", "internal_error"))


# Class, status, type, cause. The first class that fits wins, so a class stands before its bases.
_KINDS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (BudgetError, HTTP_PAYMENT_REQUIRED, "insufficient_quota", "budget_exhausted"),
    (FundsError, HTTP_PAYMENT_REQUIRED, "insufficient_quota", "wallet_empty"),
    (ModelNotFoundError, HTTP_NOT_FOUND, "invalid_request_error", "model_not_found"),
    (NoGatewayError, HTTP_UNAVAILABLE, "service_unavailable", "no_gateway"),
    (GatewayRefusedError, HTTP_BAD_GATEWAY, "attestation_error", "gateway_refused"),
    (GatewayFaultError, HTTP_BAD_GATEWAY, "gateway_error", "gateway_fault"),
    (WorkerRefusedError, HTTP_BAD_GATEWAY, "attestation_error", "worker_refused"),
    (AttestationError, HTTP_BAD_GATEWAY, "attestation_error", "evidence_refused"),
    (NotListedError, HTTP_BAD_GATEWAY, "attestation_error", "not_listed"),
    (PaymentRefusedError, HTTP_BAD_GATEWAY, "gateway_error", "payment_refused"),
    (LedgerError, HTTP_UNAVAILABLE, "service_unavailable", "ledger_error"),
    (FrameTooLargeError, HTTP_TOO_LARGE, "invalid_request_error", "request_too_large"),
    (QueryTimeoutError, HTTP_GATEWAY_TIMEOUT, "timeout_error", "gateway_silent"),
    (LinkClosedError, HTTP_BAD_GATEWAY, "gateway_error", "gateway_lost"),
    (WireError, HTTP_BAD_GATEWAY, "gateway_error", "gateway_error"),
    (ChainError, HTTP_UNAVAILABLE, "service_unavailable", "chain_unavailable"),
)

_OWN_CODES = {
    ErrorCode.PROTOCOL_VIOLATION: (HTTP_BAD_REQUEST, "invalid_request_error", "invalid_request"),
    ErrorCode.ERROR: (HTTP_BAD_REQUEST, "invalid_request_error", "invalid_request"),
    ErrorCode.NOT_READY: (HTTP_UNAVAILABLE, "service_unavailable", "not_ready"),
    ErrorCode.TIMEOUT: (HTTP_GATEWAY_TIMEOUT, "timeout_error", "timeout"),
    ErrorCode.CANCELLED: (HTTP_UNAVAILABLE, "service_unavailable", "cancelled"),
}
_THEIR_CODES = _OWN_CODES | {
    # 602 is said for funds, load and versions alike (sections 2.4 and 4.4): never for the body.
    ErrorCode.ERROR: (HTTP_UNAVAILABLE, "service_unavailable", "gateway_declined"),
}


def _request_error(error: RequestError) -> HttpError:
    if error.retry_after is not None:
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return HttpError(HTTP_TOO_MANY, error_object(str(error), "rate_limit_error", "busy"), headers)
    codes = _THEIR_CODES if isinstance(error, AnswerRefusedError) else _OWN_CODES
    status, name, code = codes.get(error.code, (HTTP_BAD_GATEWAY, "upstream_error", "upstream_error"))
    return HttpError(status, error_object(str(error), name, code))


def error_object(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """The body of an error: ``code`` is its cause in one word for programs, ``message`` the same for people."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
