"""The HTTP objects that pass: requests made to agree with what was reserved, response heads with the gateway's times.

In: TL bytes from a peer. Out: TL bytes for the other, or a ``RequestError``. Pure.
Protocol specification, sections 3.1, 3.6 and 8 (items 5 and 8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from appliance.engine.rules import agree, endpoint, parse_body, serialise
from appliance.errors import ErrorCode, RequestError
from appliance.wire.codec import decode, encode
from appliance.wire.errors import CodecError
from appliance.wire.messages import HttpHeader, HttpRequest, HttpResponse

_CONTENT_LENGTH = "content-length"
_START = "X-Cocoon-Proxy-Start"
_END = "X-Cocoon-Proxy-End"
_OURS = frozenset({_START.lower(), _END.lower()})


@dataclass(frozen=True, slots=True)
class AgreedRequest:
    """A request as the worker gets it. ``size``: bytes that the reservation counts (the larger of both forms)."""

    query: bytes
    size: int


def agreed_request(query: bytes, max_tokens: int) -> AgreedRequest:
    """Make the body's own limits agree with the reservation; a body that does already passes byte for byte.

    Raises:
        RequestError: 621 when it is no ``http.request``, not for one of the two paths, or not JSON that can be capped.
    """
    try:
        request = decode(query, HttpRequest)
    except CodecError as error:
        message = f"the query is no http.request: {error.message}"
        raise RequestError(message, code=ErrorCode.PROTOCOL_VIOLATION) from error
    endpoint(request.method, request.url)
    body = parse_body(request.payload)
    capped = agree(body, max_tokens)
    if capped == body:
        return AgreedRequest(query, len(query))
    payload = serialise(capped)
    headers = tuple(
        HttpHeader(header.name, str(len(payload))) if header.name.lower() == _CONTENT_LENGTH else header
        for header in request.headers
    )
    changed = encode(replace(request, headers=headers, payload=payload))
    return AgreedRequest(changed, max(len(query), len(changed)))


@dataclass(frozen=True, slots=True)
class Head:
    """A response head for the client, and the first body bytes that came with it."""

    answer: bytes
    payload: bytes


def response_head(answer: bytes, start: float, end: float) -> Head:
    """Add the gateway's two time headers (Unix seconds, six decimals) to a boxed ``http.response``.

    Raises:
        RequestError: 621 when the worker's head does not parse.
    """
    try:
        response = decode(answer, HttpResponse)
    except CodecError as error:
        text = f"the worker's answer does not begin with an http.response: {error.message}"
        raise RequestError(text, code=ErrorCode.PROTOCOL_VIOLATION) from error
    kept = tuple(header for header in response.headers if header.name.lower() not in _OURS)
    headers = (*kept, HttpHeader(_START, f"{start:.6f}"), HttpHeader(_END, f"{end:.6f}"))
    return Head(encode(replace(response, headers=headers)), response.payload)
