"""One request on its way through the gateway: what is known about it, and the messages that are made of it. Pure.

A request has one :class:`Exchange` from the moment its reservation stands until everything it held is given back.
What it holds is on its ``cleanup`` stack; :meth:`Exchange.close` is the only way out.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from appliance.gateway.observe import NOTHING, AnswerObserver
from appliance.wire.messages import (
    ClientQueryAnswerError,
    ClientQueryAnswerErrorEx,
    ClientQueryAnswerPartError,
    ClientQueryFinalInfo,
    ProxyRunQuery,
    ProxyRunQueryEx,
)

if TYPE_CHECKING:
    from contextlib import ExitStack

    from appliance.chain.addresses import Address
    from appliance.gateway.book import ClientAccount, Reservation
    from appliance.gateway.fleet import WorkerConnection
    from appliance.wire.base import TLObject
    from appliance.wire.messages import (
        ProxyQueryFinalInfo,
        ProxySignedPayment,
        ProxySignedPaymentEmpty,
        TokensUsed,
    )

HAS_FINAL_INFO = 1
_DEBUG = 1
_TIMES = 2
_ERROR_LIMIT = 4096
_DEBUG_LIMIT = 8192
"""Characters of a worker's texts that a client gets: a few numbers need a hundred."""
WORKER_TIME_SHARE = 0.95
"""A worker gets this part of the time that is left, so that its own refusal still arrives (section 2.4)."""


class Phase(Enum):
    """How far a request is."""

    WAITING = auto()
    SENT = auto()
    STREAMING = auto()


class ClientPort(Protocol):
    """The way to a client: what the pure part needs of a link."""

    def send(self, message: TLObject, size: int = 0) -> None:
        """Queue a message with ``size`` bytes of an answer in it; a link that is gone is not an error."""
        ...

    def post(self, exchange: Exchange, message: TLObject, size: int) -> bool:
        """Queue a part of ``size`` bytes; False when the request's buffer is full, and nothing was queued."""
        ...


class ClientConnection:
    """One authorised connection of a client.

    Attributes:
        number: Order of arrival.
        owner: The client's node wallet, which is who is served fairly and who pays.
        version: Protocol version agreed on.
        exchanges: Its open requests, by the id it gave them.
    """

    __slots__ = ("account", "exchanges", "number", "owner", "port", "version")

    def __init__(self, number: int, port: ClientPort, owner: Address, account: ClientAccount, version: int) -> None:
        self.number = number
        self.port = port
        self.owner = owner
        self.account = account
        self.version = version
        self.exchanges: dict[bytes, Exchange] = {}


class Exchange:
    """One request. Times are monotonic seconds except ``started_wall`` and ``head_wall`` (Unix seconds).

    Attributes:
        client: Where answers go; None when that connection is gone.
        request_id: The client's id.
        worker_id: The id the worker knows it by, random.
        muted: The client has had its last message: what still comes is only counted.
        billable: What the worker reports after ``muted`` is charged: the end was the client's own doing.
        buffered: Bytes that wait in the client's outbox.
        waiting_bytes: Bytes of its body that wait in the queue.
    """

    __slots__ = (
        "account",
        "arrived",
        "billable",
        "buffered",
        "cleanup",
        "client",
        "coefficient",
        "deadline",
        "debug",
        "dispatched",
        "head_wall",
        "max_coefficient",
        "max_tokens",
        "model",
        "muted",
        "observer",
        "phase",
        "query",
        "request_id",
        "reservation",
        "size",
        "started_wall",
        "version",
        "waiting_bytes",
        "worker",
        "worker_id",
    )

    def __init__(
        self,
        client: ClientConnection,
        *,
        request_id: bytes,
        worker_id: bytes,
        model: str,
        query: bytes,
        size: int,
        max_tokens: int,
        max_coefficient: int,
        debug: bool,
        reservation: Reservation,
        arrived: float,
        deadline: float,
        started_wall: float,
    ) -> None:
        self.client: ClientConnection | None = client
        self.account = client.account
        self.version = client.version
        self.request_id = request_id
        self.worker_id = worker_id
        self.model = model
        self.query = query
        self.size = size
        self.max_tokens = max_tokens
        self.max_coefficient = max_coefficient
        self.debug = debug
        self.reservation = reservation
        self.arrived = arrived
        self.deadline = deadline
        self.started_wall = started_wall
        self.head_wall = 0.0
        self.dispatched = 0.0
        self.coefficient = 0
        self.worker: WorkerConnection | None = None
        self.phase = Phase.WAITING
        self.muted = False
        self.billable = True
        self.buffered = 0
        self.waiting_bytes = 0
        self.observer = AnswerObserver()
        self.cleanup: ExitStack | None = None

    def close(self) -> None:
        """Give everything back that the request holds; a second call does nothing."""
        stack, self.cleanup = self.cleanup, None
        if stack is not None:
            stack.close()

    def order(self, payment: ProxySignedPayment | ProxySignedPaymentEmpty, version: int, now: float) -> TLObject:
        """The message that gives the request to its worker (section 2.4)."""
        limit = WORKER_TIME_SHARE * max(0.0, self.deadline - now)
        if version < 1:
            return ProxyRunQuery(self.query, payment, self.coefficient, limit, self.worker_id)
        return ProxyRunQueryEx(self.query, payment, self.coefficient, limit, self.worker_id, 1, self.debug)

    def own_error(self, code: int, message: str) -> TLObject:
        """A failure of the gateway itself: the old shapes, before or after the head (section 4.4)."""
        text = message[:_ERROR_LIMIT]
        if self.phase is Phase.STREAMING:
            return ClientQueryAnswerPartError(code, text, self.request_id, NOTHING)
        return ClientQueryAnswerError(code, text, self.request_id, NOTHING)

    def worker_error(self, code: int, message: str, info: ProxyQueryFinalInfo | None, now_wall: float) -> TLObject:
        """A failure that the worker reported; it costs nothing."""
        final = self.final_info(NOTHING, info, now_wall)
        return ClientQueryAnswerErrorEx(self.request_id, code, message[:_ERROR_LIMIT], HAS_FINAL_INFO, final)

    def final_info(self, tokens: TokensUsed, info: ProxyQueryFinalInfo | None, now_wall: float) -> ClientQueryFinalInfo:
        """The worker's final info as the client gets it (section 4.2)."""
        times = self.version >= _TIMES
        worker_start = (info.worker_start_time if info else None) or 0.0
        worker_end = (info.worker_end_time if info else None) or 0.0
        return ClientQueryFinalInfo(
            flags=_DEBUG * self.debug | _TIMES * times,
            tokens_used=tokens,
            worker_debug=((info.worker_debug if info else None) or "")[:_DEBUG_LIMIT] if self.debug else None,
            proxy_debug=self._debug_text(now_wall) if self.debug else None,
            proxy_start_time=self.started_wall if times else None,
            proxy_end_time=now_wall if times else None,
            worker_start_time=worker_start if times else None,
            worker_end_time=worker_end if times else None,
        )

    def _debug_text(self, now_wall: float) -> str:
        stats = {
            "type": "proxy_stats",
            "start_time": self.started_wall,
            "answer_receive_start_at": self.head_wall,
            "answer_receive_end_at": now_wall,
        }
        return json.dumps(stats, separators=(",", ":"))
