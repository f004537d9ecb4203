"""Targets of the wire: TL objects, frames of the link and of the handshake, HTTP requests in the tunnel."""

from __future__ import annotations

import json
from typing import Any

from fuzz_target import PropertyError, Target

from appliance.errors import RequestError
from appliance.gateway.bodies import agreed_request, response_head
from appliance.wire.codec import decode, encode
from appliance.wire.errors import CodecError
from appliance.wire.messages import HttpHeader, HttpRequest, HttpResponse
from attestation.errors import HandshakeError
from attestation.ratls.frame import AttestationFrame, decode_frame
from attestation.ratls.pow import decode_solution, encode_solution

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True})
REQUEST = encode(
    HttpRequest(
        method="POST",
        url="/v1/chat/completions",
        http_version="HTTP/1.1",
        headers=(HttpHeader(name="Content-Length", value=str(len(BODY))),),
        payload=BODY.encode(),
    )
)
RESPONSE = encode(HttpResponse(http_version="HTTP/1.1", status_code=200, reason="OK", headers=(), payload=b"{}"))

FRAME = AttestationFrame(bytes(384), bytes(64), b"", bytes(32), ("127.0.0.1", 1), ("127.0.0.1", 2))


def _object(data: bytes) -> Any:
    """Text that is no UTF-8 or has control characters is not written as it came; once read, it stays the same."""
    found = decode(data)
    if decode(encode(found)) != found:
        message = f"{found!r} is read otherwise once written"
        raise PropertyError(message)
    return found


TARGETS = (
    Target("tl", _object, (CodecError,), lambda: [REQUEST, RESPONSE]),
    Target("http-request", lambda data: agreed_request(data, 100), (RequestError,), lambda: [REQUEST]),
    Target("http-response", lambda data: response_head(data, 1.0, 2.0), (RequestError,), lambda: [RESPONSE],
           ),
    Target("handshake-frame", decode_frame, (HandshakeError,), lambda: [FRAME.encode()[4:]], max_length=2048),
    Target("proof-of-work", decode_solution, (HandshakeError,), lambda: [encode_solution(7)], max_length=64),
)  # fmt: skip
