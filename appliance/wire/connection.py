"""One connection between two peers, without I/O: bytes and times in, bytes and events out.

The owner feeds :meth:`Connection.receive_data`, writes what :meth:`Connection.data_to_send` gives, and calls
:meth:`Connection.handle_timeout` when :meth:`Connection.deadline` has come. Handshake, packets, queries, pings and
silence are as in sections 1.1 to 1.4 of the protocol specification; extensions as in ``appliance.wire.extensions``.

What a bad peer meets: a frame, handshake or packet that breaks the protocol ends the connection, and so does a one-way
message that is cut or malformed (dropping it could leave a request waiting for ever); an unknown one-way message is
dropped; a query that cannot be read is answered with an error; an answer that cannot be read fails its query.
"""

from __future__ import annotations

import secrets
import time
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

from appliance.errors import ErrorCode
from appliance.wire import extensions as ext
from appliance.wire.codec import decode, encode
from appliance.wire.errors import (
    CodecError,
    ExtensionNotAgreedError,
    LinkClosedError,
    ProtocolError,
    QueryError,
    SilenceError,
    TooManyQueriesError,
    UnknownConstructorError,
    WireError,
)
from appliance.wire.events import (
    AnswerReceived,
    Counters,
    Event,
    Failed,
    MessageReceived,
    QueryFailed,
    QueryReceived,
    Ready,
)
from appliance.wire.frames import HEADER_SIZE, FrameReader, FrameWriter
from appliance.wire.limits import LinkLimits
from appliance.wire.messages import (
    RESULT_OF,
    ChrysalisHello,
    ChrysalisHelloAnswer,
    TcpConnect,
    TcpConnected,
    TcpPacket,
    TcpPing,
    TcpPong,
    TcpQuery,
    TcpQueryAnswer,
    TcpQueryError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.wire.base import TLFunction, TLObject

LOST_PROMISE: Final = "Lost promise"  # what the reference answers to a query nobody handles (section 1.3)
MAX_ERROR_TEXT: Final = 4096  # characters kept of a peer's error text

ResultT = TypeVar("ResultT")


class Role(Enum):
    """Which side of a connection we are."""

    CONNECTING = "connecting"
    ACCEPTING = "accepting"


class _State(Enum):
    NEW = "new"
    GREETING = "greeting"
    READY = "ready"
    CLOSED = "closed"


def random_id() -> int:
    """A random signed 64-bit id."""
    return int.from_bytes(secrets.token_bytes(8), "little", signed=True)


class Connection:
    """The state machine of one connection.

    Args:
        role: Which side we are.
        limits: The bounds of this link.
        offered: The extensions we are willing to use.
        clock: Seconds that never run backwards.
        make_id: Source of ids for ``tcp.connect``, pings and queries.
    """

    def __init__(
        self,
        role: Role,
        *,
        limits: LinkLimits | None = None,
        offered: frozenset[ext.Extension] = ext.ALL,
        clock: Callable[[], float] = time.monotonic,
        make_id: Callable[[], int] = random_id,
    ) -> None:
        self.role = role
        self.limits = limits or LinkLimits()
        self.counters = Counters()
        self.extensions: frozenset[ext.Extension] = frozenset()
        self._offered = offered
        self._clock = clock
        self._make_id = make_id
        self._state = _State.NEW
        self._reader = FrameReader(self.limits)
        self._writer = FrameWriter(self.limits)
        self._outgoing: list[bytes] = []
        self._waiting = 0
        self._queries: dict[int, tuple[type[TLObject], ...]] = {}
        self._heard = clock()
        self._pinged = False

    @property
    def ready(self) -> bool:
        """Whether the handshake is done and the connection open."""
        return self._state is _State.READY

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._state is _State.CLOSED

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete frame held; never more than a frame and one read."""
        return self._reader.buffered

    @property
    def waiting(self) -> int:
        """Bytes that :meth:`data_to_send` would give."""
        return self._waiting

    def start(self) -> None:
        """Begin, once the pipe is up: the timers restart, and the connecting side greets (section 1.2)."""
        self._heard = self._clock()
        self._state = _State.GREETING
        if self.role is Role.CONNECTING:
            self._put(TcpConnect(self._make_id()))

    def close(self) -> None:
        """Nothing is read or sent any more; what :meth:`data_to_send` holds may still leave."""
        self._state = _State.CLOSED
        self._queries.clear()

    def data_to_send(self) -> bytes:
        """What is to be written now; the next call gives only what came after."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        self._waiting = 0
        return data

    # Receiving

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Take bytes from the peer, in pieces of any size.

        Returns:
            What happened, in order. :class:`Failed` comes last if the peer broke the protocol; nothing is raised for
            anything the bytes may hold. Bytes after the end are ignored.
        """
        events: list[Event] = []
        if self._state is _State.CLOSED:
            return events
        self.counters.bytes_in += len(data)
        frames = self.counters.frames_in
        try:
            for payload in self._reader.feed(data):
                self.counters.frames_in += 1
                self._packet(decode(payload), events)
        except WireError as error:
            self._fail(error, events)
        if self.counters.frames_in != frames:
            self._heard = self._clock()
            self._pinged = False
        return events

    def _packet(self, packet: TLObject, events: list[Event]) -> None:
        if self._state is not _State.READY:
            self._greeting(packet, events)
            return
        match packet:
            case TcpPacket(data):
                self._message(data, events)
            case TcpQuery(query_id, data):
                self._query(query_id, data, events)
            case TcpQueryAnswer(query_id, data):
                self._answer(query_id, data, events)
            case TcpQueryError(query_id, code, message):
                if self._queries.pop(query_id, None) is None:
                    self.counters.late += 1
                else:
                    events.append(QueryFailed(query_id, QueryError(message[:MAX_ERROR_TEXT], code=code)))
            case TcpPing(ping_id):
                self._put(TcpPong(ping_id))
            case TcpPong() | TcpConnect() | TcpConnected():
                pass
            case _:
                raise ProtocolError(f"a frame holds {type(packet).__name__}, expected a tcp.Packet")

    def _greeting(self, packet: TLObject, events: list[Event]) -> None:
        match self.role, packet:
            case Role.ACCEPTING, TcpConnect(connect_id):
                self._put(TcpConnected(connect_id))
            case Role.CONNECTING, TcpConnected():
                pass
            case _:
                expected = "tcp.connect" if self.role is Role.ACCEPTING else "tcp.connected"
                raise ProtocolError(f"the first packet is {type(packet).__name__}, expected {expected}")
        self._state = _State.READY
        events.append(Ready())

    def _message(self, data: bytes, events: list[Event]) -> None:
        try:
            message = decode(data)
        except UnknownConstructorError:
            self.counters.dropped += 1
            return
        if self._is_agreed(message):
            events.append(MessageReceived(message))
        else:
            self.counters.dropped += 1

    def _query(self, query_id: int, data: bytes, events: list[Event]) -> None:
        try:
            query = decode(data)
        except UnknownConstructorError:
            self._refuse(query_id, LOST_PROMISE)
            return
        except CodecError:
            self._refuse(query_id, "the query cannot be parsed")
            return
        if isinstance(query, ChrysalisHello):
            self.extensions = ext.agree(self._offered, query.extensions)
            self.send_answer(query_id, ChrysalisHelloAnswer(_names(self.extensions)))
        elif self._is_agreed(query):
            events.append(QueryReceived(query_id, query))
        else:
            self._refuse(query_id, LOST_PROMISE)

    def _answer(self, query_id: int, data: bytes, events: list[Event]) -> None:
        expected = self._queries.pop(query_id, None)
        if expected is None:
            self.counters.late += 1
            return
        try:
            answer = decode(data, expected)
        except CodecError as error:
            events.append(QueryFailed(query_id, error))
            return
        if isinstance(answer, ChrysalisHelloAnswer):
            self.extensions = ext.agree(self._offered, answer.extensions)
        events.append(AnswerReceived(query_id, answer))

    def _refuse(self, query_id: int, message: str) -> None:
        self.counters.refused += 1
        self.send_error(query_id, message, ErrorCode.PLAIN)

    def _is_agreed(self, message: TLObject) -> bool:
        needed = ext.NEEDS.get(type(message))
        return needed is None or needed in self.extensions

    # Sending

    def send_message(self, message: TLObject) -> None:
        """Queue a one-way message.

        Raises:
            LinkClosedError: The connection is closed or not ready.
            ExtensionNotAgreedError: The peer did not agree to the message's extension.
            FrameTooLargeError: The message does not fit into a frame.
            EncodeError: A field of the message is wrong.
        """
        self._require(message)
        self._put(TcpPacket(encode(message)))

    def send_query(self, query: TLFunction[ResultT]) -> int:
        """Queue a query.

        Returns:
            Its id; an :class:`AnswerReceived` or :class:`QueryFailed` will carry it.

        Raises:
            TooManyQueriesError: As many queries as are allowed are open.
            WireError: As for :meth:`send_message`.
        """
        self._require(query)
        expected = RESULT_OF[type(query)]
        if len(self._queries) >= self.limits.max_open_queries:
            raise TooManyQueriesError(f"{len(self._queries)} queries are open, which is as many as are allowed")
        query_id = self._make_id()
        while query_id in self._queries:
            query_id = self._make_id()
        self._put(TcpQuery(query_id, encode(query)))
        self._queries[query_id] = expected
        return query_id

    def send_hello(self) -> int:
        """Queue the query that asks for extensions; the answer sets :attr:`extensions`."""
        return self.send_query(ChrysalisHello(_names(self._offered)))

    def forget_query(self, query_id: int) -> None:
        """Wait no longer for an answer; if it comes it is ignored."""
        self._queries.pop(query_id, None)

    def send_answer(self, query_id: int, answer: TLObject) -> None:
        """Queue the answer to a query of the peer.

        Raises:
            WireError: As for :meth:`send_message`; nothing was sent then, and the peer still waits.
        """
        self._require(answer)
        self._put(TcpQueryAnswer(query_id, encode(answer)))

    def send_error(self, query_id: int, message: str, code: int) -> None:
        """Queue an error as the answer to a query; what the protocol cannot carry is replaced."""
        if not self.ready:
            raise LinkClosedError("the link is closed, so a query's error was not sent")
        text = message[:MAX_ERROR_TEXT].replace("\0", " ").encode("utf-8", "replace").decode()
        number = code if -(1 << 31) <= code < 1 << 31 else ErrorCode.ERROR
        self._put(TcpQueryError(query_id, number, text))

    def _require(self, message: TLObject) -> None:
        if self._state is not _State.READY:
            state = "closed" if self._state is _State.CLOSED else "not ready yet"
            raise LinkClosedError(f"the link is {state}, so {type(message).__name__} was not sent")
        if not self._is_agreed(message):
            name = ext.NEEDS[type(message)].value
            raise ExtensionNotAgreedError(f"{type(message).__name__} needs extension '{name}', which is not agreed")

    def _put(self, packet: TLObject) -> None:
        payload = encode(packet)
        header = self._writer.header(len(payload))
        self._outgoing += (header, payload)
        size = HEADER_SIZE + len(payload)
        self._waiting += size
        self.counters.frames_out += 1
        self.counters.bytes_out += size

    # Time

    def deadline(self) -> float:
        """When :meth:`handle_timeout` has to be called, on the scale of the clock; infinite once closed."""
        if self.closed:
            return float("inf")
        if self._pings_after_silence:
            return self._heard + min(self.limits.ping_after, self._patience)
        return self._heard + self._patience

    def handle_timeout(self) -> list[Event]:
        """Ping or give up if it is time (section 1.4); calling it early does no harm."""
        events: list[Event] = []
        silence = self._clock() - self._heard
        if self.closed:
            return events
        if silence >= self._patience:
            error = SilenceError(
                f"nothing was heard for {silence:.1f} s, at most {self._patience:.1f} s are allowed",
                hint="the peer or the network between is gone",
            )
            self._fail(error, events)
        elif self._pings_after_silence and silence >= self.limits.ping_after:
            self._pinged = True
            self._put(TcpPing(self._make_id()))
        return events

    @property
    def _patience(self) -> float:
        limits = self.limits
        return limits.connecting_silence if self.role is Role.CONNECTING else limits.accepting_silence

    @property
    def _pings_after_silence(self) -> bool:
        return self.role is Role.CONNECTING and self.ready and not self._pinged

    def _fail(self, error: WireError, events: list[Event]) -> None:
        self.close()
        events.append(Failed(error))


def _names(extensions: frozenset[ext.Extension]) -> tuple[str, ...]:
    return tuple(sorted(extension.value for extension in extensions))
