"""A link: one connection as a program uses it, over an asyncio transport.

Comes in: messages and queries to send, and what the transport delivers (through ``appliance.wire.transport``). Goes
out: answers, and calls of a :class:`LinkHandler`. What is sent within one turn of the event loop leaves in one write.

Order: what a peer sends behind an answer is handled after whoever awaits :meth:`Link.query` has gone on (up to its next
wait), so a handshake has moved to its next state before the message that relies on it is seen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from appliance.wire.errors import LinkClosedError, QueryError, QueryTimeoutError, SlowPeerError, WireError
from appliance.wire.events import (
    AnswerReceived,
    Event,
    Failed,
    MessageReceived,
    QueryFailed,
    QueryReceived,
    Ready,
)
from appliance.wire.handler import guarded
from appliance.wire.serving import Serving

if TYPE_CHECKING:
    from appliance.wire.base import TLFunction, TLObject
    from appliance.wire.connection import Connection
    from appliance.wire.events import Counters
    from appliance.wire.extensions import Extension
    from appliance.wire.handler import LinkHandler
    from attestation.ratls.peer import Peer

log = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")


class Link:
    """One connection to a peer. Made by ``LinkProtocol``; usable from ``link_ready`` on.

    Attributes:
        peer: Who the transport says the peer is; ``None`` over plain TCP.
    """

    def __init__(self, handler: LinkHandler, connection: Connection, transport: asyncio.Transport) -> None:
        self.peer: Peer | None = transport.get_extra_info("peer")
        self._handler = handler
        self._connection = connection
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._events_deferred = False
        self._flush_scheduled = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._answers: dict[int, asyncio.Future[TLObject]] = {}
        self._serving = Serving(self, handler, connection, self._schedule_flush)
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._reason: Exception | None = None
        self._closing = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ready" if self._connection.ready else "greeting"
        return f"<Link {self._connection.role.value} {state}>"

    @property
    def extensions(self) -> frozenset[Extension]:
        """What both peers agreed to; empty until negotiated."""
        return self._connection.extensions

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._connection.closed

    @property
    def counters(self) -> Counters:
        """What passed this link."""
        return self._connection.counters

    @property
    def waiting(self) -> int:
        """Bytes sent that have not left yet."""
        return self._connection.waiting + self._transport.get_write_buffer_size()

    async def negotiate(self, *, timeout: float = 10.0) -> frozenset[Extension]:  # noqa: ASYNC109 -- as query()
        """Agree on extensions; for the connecting side, once the link is ready.

        Args:
            timeout: Seconds to wait; a peer that does not answer knows none.

        Returns:
            What both have; empty for a reference peer.

        Raises:
            LinkClosedError: The link is or was closed.
        """
        try:
            await self._result(self._connection.send_hello(), "ChrysalisHello", timeout)
        except (QueryError, QueryTimeoutError):
            return frozenset()
        return self.extensions

    def send(self, message: TLObject) -> None:
        """Send a one-way message; it is queued, see :meth:`drain`.

        Raises:
            LinkClosedError: The link is closed.
            FrameTooLargeError: The message does not fit into a frame.
            ExtensionNotAgreedError: The peer did not agree to the message's extension.
            EncodeError: A field of the message is wrong.
        """
        self._connection.send_message(message)
        self._schedule_flush()

    async def query(self, query: TLFunction[ResultT], *, timeout: float) -> ResultT:  # noqa: ASYNC109 -- see below
        """Ask the peer; cancelling forgets the query.

        Args:
            query: The function.
            timeout: Seconds to wait for the answer. (An argument, because a late answer has to be told apart from a
                caller's own deadline.)

        Returns:
            An answer of one of the classes the function may have.

        Raises:
            QueryError: The peer answered with an error; its code and text are in it.
            QueryTimeoutError: The peer did not answer in time.
            CodecError: The answer is not one.
            LinkClosedError: The link is closed, or was while waiting.
            WireError: As for :meth:`send`, or too many queries are open.
        """
        answer: Any = await self._result(self._connection.send_query(query), type(query).__name__, timeout)
        return answer  # type: ignore[no-any-return]  # the connection has checked it against RESULT_OF

    async def drain(self) -> None:
        """Wait until what waits for the peer is below its mark.

        Raises:
            LinkClosedError: The link is closed, so it will never leave.
        """
        self._flush()
        if not self._writable.is_set():
            await self._writable.wait()
        if self.closed:
            raise LinkClosedError("the link was closed while data waited to be sent")

    def close(self, reason: WireError | None = None) -> None:
        """Close the link; what was sent still leaves, for the time ``limits.linger`` at most.

        Args:
            reason: Why, if something is wrong; the handler gets it.
        """
        if self._closing:
            return
        self._closing = True
        self._reason = reason
        self._flush()
        self._connection.close()
        self._transport.close()
        self._linger = self._loop.call_later(self._connection.limits.linger, self._transport.abort)
        self._settle(reason)

    async def wait_ready(self) -> None:
        """Wait for the handshake.

        Raises:
            WireError: The link was lost before.
        """
        await asyncio.shield(self._ready)

    async def wait_closed(self) -> None:
        """Wait until the transport is gone and the handler was told."""
        await asyncio.shield(self._lost)

    # What the protocol object calls

    def begin(self) -> None:
        """The pipe is up: greet and start the timer."""
        limits = self._connection.limits
        self._transport.set_write_buffer_limits(high=limits.write_high, low=limits.write_low)
        self._connection.start()
        self._flush()
        self._watch()

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        self._handle(self._connection.receive_data(data))

    def pause(self) -> None:
        """The transport holds more than its high mark."""
        self._writable.clear()

    def resume(self) -> None:
        """The transport is below its low mark."""
        self._writable.set()

    def lost(self, error: Exception | None) -> None:
        """The transport is gone."""
        while self._events and not self._closing:
            self._handle_queued()
        if not self._closing:
            self._closing = True
            self._reason = error or LinkClosedError("the peer closed the connection")
            self._connection.close()
            self._settle(self._reason)
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        guarded(self._handler.link_lost, self, self._reason)
        self._lost.set_result(None)

    # Inside

    def _handle(self, events: list[Event]) -> None:
        self._events.extend(events)
        if not self._events_deferred:
            self._handle_queued()
        self._schedule_flush()

    def _handle_queued(self) -> None:
        self._events_deferred = False
        while self._events and not self._closing:
            match self._events.popleft():
                case MessageReceived(message):
                    guarded(self._handler.message_received, self, message)
                case QueryReceived(query_id, query):
                    self._serving.serve(query_id, query)
                case AnswerReceived(query_id, answer):
                    self._resolve(query_id, answer)
                    return
                case QueryFailed(query_id, error):
                    self._resolve(query_id, error)
                    return
                case Ready():
                    guarded(self._handler.link_ready, self)
                    if not self._ready.done():
                        self._ready.set_result(None)
                case Failed(error):
                    log.info("link failed", error=type(error).__name__, reason=error.message)
                    self.close(error)

    def _resolve(self, query_id: int, outcome: TLObject | WireError) -> None:
        """Wake whoever asked, and only then go on with what came behind the answer."""
        future = self._answers.pop(query_id, None)
        if future is not None and not future.done():
            if isinstance(outcome, WireError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._events_deferred = True
        self._loop.call_soon(self._handle_deferred)

    def _handle_deferred(self) -> None:
        self._handle_queued()
        self._schedule_flush()

    async def _result(self, query_id: int, name: str, seconds: float) -> TLObject:
        future: asyncio.Future[TLObject] = self._loop.create_future()
        self._answers[query_id] = future
        self._schedule_flush()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise QueryTimeoutError(f"no answer to {name} within {seconds:g} s") from None
        finally:
            self._answers.pop(query_id, None)
            self._connection.forget_query(query_id)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._connection.waiting:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if not self._connection.waiting or self._transport.is_closing():
            return
        self._transport.write(self._connection.data_to_send())
        waiting = self._transport.get_write_buffer_size()
        if waiting > self._connection.limits.max_waiting and not self._closing:
            self._give_up(waiting)

    def _give_up(self, waiting: int) -> None:
        self.close(
            SlowPeerError(
                f"{waiting} bytes wait for a peer that does not read, at most"
                f" {self._connection.limits.max_waiting} are allowed"
            )
        )
        self._transport.abort()

    def _watch(self) -> None:
        """Keep one timer for the connection's next deadline.

        Frames move the deadline, not the timer: it is looked at again when the timer fires. That it fires at least
        once in ``ping_after`` is for the one way a deadline can come nearer, a pong.
        """
        self._handle(self._connection.handle_timeout())
        if self._closing:
            return
        latest = self._loop.time() + self._connection.limits.ping_after
        self._timer = self._loop.call_at(min(self._connection.deadline(), latest), self._watch)

    def _settle(self, reason: Exception | None) -> None:
        """Nothing will come any more: end whoever waits."""
        self._writable.set()
        self._serving.cancel()
        if isinstance(reason, WireError):
            error = reason
        else:
            error = LinkClosedError(f"the connection was lost: {reason}" if reason else "the link was closed")
        for future in self._answers.values():
            if not future.done():
                future.set_exception(LinkClosedError(f"the link was closed before the answer came: {error.message}"))
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # seen, so that an unawaited one is no warning
