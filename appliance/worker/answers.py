"""The shapes of an answer for each protocol version (protocol specification, sections 2.4 and 3.3). Pure.

In: head, parts and end of one answer. Out: the messages, in the order the gateway demands: head once, parts, an end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from appliance.wire.codec import encode
from appliance.wire.messages import (
    HttpHeader,
    HttpResponse,
    ProxyQueryAnswer,
    ProxyQueryAnswerError,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerEx,
    ProxyQueryAnswerPart,
    ProxyQueryAnswerPartError,
    ProxyQueryAnswerPartEx,
    ProxyQueryFinalInfo,
    TokensUsed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.wire.base import TLObject

NO_TOKENS = TokensUsed(0, 0, 0, 0, 0)
MAX_PART_BYTES = 4 * 2**20
"""Longest part: a quarter of a frame."""
MAX_ERROR_CHARS = 500

_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""RFC 9110, section 7.6.1."""


def response_head(
    status: int, reason: str, headers: Iterable[tuple[str, str]], *, started: float, now: float, has_body: bool
) -> HttpResponse:
    """The head a gateway gets: end-to-end headers of the model server and the worker's two times.

    Args:
        status: HTTP status code.
        reason: Its phrase.
        headers: As the model server sent them; hop-by-hop ones, those ``Connection`` names and the length are dropped.
        started: When the request arrived, Unix seconds.
        now: When the head arrived, Unix seconds.
        has_body: Whether parts follow.
    """
    sent = list(headers)
    named = {
        token.strip().lower() for name, value in sent if name.lower() == "connection" for token in value.split(",")
    }
    dropped = _HOP_BY_HOP | named | {"content-length"}
    kept = [HttpHeader(name, value) for name, value in sent if name.lower() not in dropped]
    kept += [
        HttpHeader("X-Cocoon-Worker-Start", f"{started:.6f}"),
        HttpHeader("X-Cocoon-Worker-End", f"{now:.6f}"),
        HttpHeader("Transfer-Encoding", "chunked") if has_body else HttpHeader("Content-Length", "0"),
    ]
    return HttpResponse("HTTP/1.1", status, reason, tuple(kept), b"")


class Answer:
    """The messages of one answer.

    Args:
        protocol: 0, 1 or 2, as the handshake chose.
        request_id: The gateway's, 32 bytes.
        debug: Whether times are wanted as text.
        started: When the request arrived, Unix seconds.
    """

    __slots__ = ("_debug", "_head_at", "_protocol", "_request_id", "ended", "head_sent", "started")

    def __init__(self, protocol: int, request_id: bytes, *, debug: bool, started: float) -> None:
        self._protocol = protocol
        self._request_id = request_id
        self._debug = debug
        self.started = started
        self._head_at = started
        self.head_sent = False
        self.ended = False

    def head(self, response: HttpResponse, now: float, *, last: bool = False) -> TLObject:
        """The first message; ``last`` when the response has no body."""
        if self.head_sent or self.ended:
            raise RuntimeError("an answer has one head, and it comes first")
        boxed = encode(response)
        self.head_sent, self.ended, self._head_at = True, last, now
        if self._protocol == 0:
            return ProxyQueryAnswer(boxed, last, self._request_id, NO_TOKENS)
        final = self._final(NO_TOKENS, now) if last else None
        return ProxyQueryAnswerEx(self._request_id, boxed, int(last), final)

    def parts(self, data: bytes, used: TokensUsed) -> Iterable[TLObject]:
        """Body bytes as they come, cut to fit frames. ``used`` so far (sent by protocol 0 only)."""
        self._check_open()
        if len(data) <= MAX_PART_BYTES:
            return (self._part(data, used),) if data else ()
        return [self._part(data[at : at + MAX_PART_BYTES], used) for at in range(0, len(data), MAX_PART_BYTES)]

    def last(self, data: bytes, used: TokensUsed, now: float) -> Iterable[TLObject]:
        """The rest of the body, which may be empty, and the final tokens."""
        self._check_open()
        whole = (len(data) - 1) // MAX_PART_BYTES * MAX_PART_BYTES if data else 0
        messages = list(self.parts(data[:whole], used))
        rest = data[whole:]
        self.ended = True
        if self._protocol == 0:
            messages.append(
                ProxyQueryAnswerPart(rest, is_completed=True, request_id=self._request_id, tokens_used=used)
            )
        else:
            messages.append(ProxyQueryAnswerPartEx(self._request_id, rest, 1, self._final(used, now)))
        return messages

    def error(self, code: int, text: str, used: TokensUsed, now: float) -> TLObject:
        """Ends the request unsuccessfully, at any point before its end."""
        if self.ended:
            raise RuntimeError("the answer has ended")
        self.ended = True
        text = text.replace("\0", " ")[:MAX_ERROR_CHARS]
        if self._protocol > 0:
            return ProxyQueryAnswerErrorEx(self._request_id, code, text, 1, self._final(used, now))
        shape = ProxyQueryAnswerPartError if self.head_sent else ProxyQueryAnswerError
        return shape(code, text, self._request_id, used)

    def _check_open(self) -> None:
        if self.ended or not self.head_sent:
            raise RuntimeError("parts come after the head and before the end")

    def _part(self, data: bytes, used: TokensUsed) -> TLObject:
        if self._protocol == 0:
            return ProxyQueryAnswerPart(data, is_completed=False, request_id=self._request_id, tokens_used=used)
        return ProxyQueryAnswerPartEx(self._request_id, data, 0)

    def _final(self, used: TokensUsed, now: float) -> ProxyQueryFinalInfo:
        timed = self._protocol > 1
        debug = None
        if self._debug:
            times = {
                "type": "worker_stats",
                "start_time": self.started,
                "answer_receive_start_at": self._head_at,
                "answer_receive_end_at": now,
            }
            debug = json.dumps(times, separators=(",", ":"))
        return ProxyQueryFinalInfo(
            flags=int(self._debug) | (2 if timed else 0),
            tokens_used=used,
            worker_debug=debug,
            worker_start_time=self.started if timed else None,
            worker_end_time=now if timed else None,
        )
