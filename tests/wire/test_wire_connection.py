"""The connection without I/O: handshake, packets, queries, time, extensions, and peers that misbehave."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ErrorCode
from appliance.wire.codec import decode, encode
from appliance.wire.connection import MAX_ERROR_TEXT, Connection, Role
from appliance.wire.errors import (
    CodecError,
    EncodeError,
    ExtensionNotAgreedError,
    FrameTooLargeError,
    LinkClosedError,
    ProtocolError,
    QueryError,
    SilenceError,
    TooManyQueriesError,
    WireError,
)
from appliance.wire.events import (
    AnswerReceived,
    Event,
    Failed,
    MessageReceived,
    QueryFailed,
    QueryReceived,
    Ready,
)
from appliance.wire.extensions import Extension
from appliance.wire.limits import LinkLimits
from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidence,
    ChrysalisGetEvidence,
    ChrysalisHello,
    ProxySignedPaymentEmpty,
    TcpConnect,
    TcpConnected,
    TcpPacket,
    TcpPing,
    TcpPong,
    TcpQuery,
    TcpQueryAnswer,
    TcpQueryError,
    WorkerConnectToProxy,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
    WorkerParams,
    WorkerPaymentStatus,
    WorkerUpdatePaymentStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.wire.base import TLObject

STATUS = WorkerPaymentStatus(ProxySignedPaymentEmpty(), 1, 2)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """The far side, made of frames alone, so that it can also do what no connection would."""

    def __init__(self) -> None:
        self.sequence = 0
        self.heard: list[TLObject] = []
        self._expected = itertools.count()

    def frame(self, packet: TLObject | bytes, sequence: int | None = None) -> bytes:
        payload = packet if isinstance(packet, bytes) else encode(packet)
        number = self.sequence if sequence is None else sequence
        self.sequence += 1
        return struct.pack("<Ii", len(payload), number) + payload

    def read(self, data: bytes) -> list[TLObject]:
        packets, at = [], 0
        while at < len(data):
            length, sequence = struct.unpack_from("<Ii", data, at)
            assert sequence == next(self._expected)
            packets.append(decode(data[at + 8 : at + 8 + length]))
            at += 8 + length
        return packets


def made(role: Role, **options: object) -> tuple[Connection, Peer, Clock]:
    clock, ids = Clock(), itertools.count(1000)
    connection = Connection(role, clock=clock, make_id=lambda: next(ids), **options)  # type: ignore[arg-type]
    connection.start()
    return connection, Peer(), clock


def ready(role: Role, **options: object) -> tuple[Connection, Peer, Clock]:
    connection, peer, clock = made(role, **options)
    peer.read(connection.data_to_send())
    greeting = TcpConnect(5) if role is Role.ACCEPTING else TcpConnected(1000)
    assert connection.receive_data(peer.frame(greeting)) == [Ready()]
    peer.read(connection.data_to_send())
    return connection, peer, clock


BOTH = pytest.mark.parametrize("role", list(Role))


def failure(events: list[Event]) -> WireError:
    assert isinstance(events[-1], Failed)
    return events[-1].error


# Handshake


def test_the_connecting_side_greets_at_once() -> None:
    connection, peer, _ = made(Role.CONNECTING)
    assert peer.read(connection.data_to_send()) == [TcpConnect(1000)]
    assert not connection.ready
    assert connection.receive_data(peer.frame(TcpConnected(77))) == [Ready()]  # the id is not compared (1.2)
    assert connection.ready
    assert connection.data_to_send() == b""


def test_the_accepting_side_answers_with_the_same_id() -> None:
    connection, peer, _ = made(Role.ACCEPTING)
    assert connection.data_to_send() == b""
    assert connection.receive_data(peer.frame(TcpConnect(-9))) == [Ready()]
    assert peer.read(connection.data_to_send()) == [TcpConnected(-9)]


@BOTH
def test_any_other_first_packet_ends_the_connection(role: Role) -> None:
    wrong = TcpConnected(1) if role is Role.ACCEPTING else TcpConnect(1)
    for packet in (wrong, TcpPing(1), TcpPacket(encode(STATUS)), TcpQuery(1, encode(WorkerUpdatePaymentStatus()))):
        connection, peer, _ = made(role)
        error = failure(connection.receive_data(peer.frame(packet)))
        assert isinstance(error, ProtocolError)
        assert connection.closed


@BOTH
def test_later_greetings_are_ignored(role: Role) -> None:
    connection, peer, _ = ready(role)
    assert connection.receive_data(peer.frame(TcpConnect(1)) + peer.frame(TcpConnected(1))) == []
    assert connection.data_to_send() == b""
    assert connection.ready


@BOTH
def test_nothing_is_sent_before_the_handshake(role: Role) -> None:
    connection, _, _ = made(role)
    connection.data_to_send()
    for send in (lambda: connection.send_message(STATUS), lambda: connection.send_query(WorkerUpdatePaymentStatus())):
        with pytest.raises(LinkClosedError, match="not ready"):
            send()
    assert connection.data_to_send() == b""


# Packets


@BOTH
def test_messages_go_both_ways(role: Role) -> None:
    connection, peer, _ = ready(role)
    connection.send_message(WorkerNewCoefficient(5))
    connection.send_message(WorkerEnabledDisabled(1))
    assert peer.read(connection.data_to_send()) == [
        TcpPacket(encode(WorkerNewCoefficient(5))),
        TcpPacket(encode(WorkerEnabledDisabled(1))),
    ]
    data = peer.frame(TcpPacket(encode(STATUS))) + peer.frame(TcpPacket(encode(WorkerEnabledDisabled(0))))
    assert connection.receive_data(data) == [MessageReceived(STATUS), MessageReceived(WorkerEnabledDisabled(0))]
    assert (connection.counters.frames_in, connection.counters.frames_out) == (3, 3)


@BOTH
def test_a_ping_is_answered_and_a_pong_is_not(role: Role) -> None:
    connection, peer, _ = ready(role)
    assert connection.receive_data(peer.frame(TcpPing(-3)) + peer.frame(TcpPong(4))) == []
    assert peer.read(connection.data_to_send()) == [TcpPong(-3)]


@pytest.mark.parametrize(
    "payload",
    [
        bytes(4),
        b"\xff" * 40,
        encode(WorkerEnabledDisabled(1)),
        encode(TcpPing(1)) + bytes(4),
        encode(TcpPacket(b"abc"))[:-1] + b"\x01",
        encode(TcpPacket(b"abc"))[:-4],
    ],
    ids=["zeros", "unknown", "no packet", "trailing", "padding", "cut"],
)
def test_a_frame_that_is_no_packet_ends_the_connection_after_what_came_before(payload: bytes) -> None:
    connection, peer, _ = ready(Role.ACCEPTING)
    good = peer.frame(TcpPacket(encode(STATUS)))
    events = connection.receive_data(good + peer.frame(payload) + peer.frame(TcpPacket(encode(STATUS))))
    assert events[0] == MessageReceived(STATUS)
    assert isinstance(failure(events), CodecError | ProtocolError)
    assert len(events) == 2
    assert connection.receive_data(peer.frame(TcpPing(1))) == []
    assert connection.data_to_send() == b""
    with pytest.raises(LinkClosedError, match="closed"):
        connection.send_message(STATUS)


def test_a_wrong_sequence_number_ends_the_connection() -> None:
    connection, peer, _ = ready(Role.ACCEPTING)
    assert connection.receive_data(peer.frame(TcpPing(1))) == []
    assert "sequence number 1, expected 2" in str(failure(connection.receive_data(peer.frame(TcpPing(1), sequence=1))))


def test_an_unknown_message_is_dropped_and_counted() -> None:
    connection, peer, _ = ready(Role.ACCEPTING)
    data = peer.frame(TcpPacket(bytes.fromhex("deadbeef00"))) + peer.frame(TcpPacket(encode(STATUS)))
    assert connection.receive_data(data) == [MessageReceived(STATUS)]
    assert connection.counters.dropped == 1


@pytest.mark.parametrize("data", [b"", b"ab", encode(STATUS)[:-4], encode(STATUS) + bytes(4)])
def test_a_malformed_message_ends_the_connection(data: bytes) -> None:
    connection, peer, _ = ready(Role.ACCEPTING)
    assert isinstance(failure(connection.receive_data(peer.frame(TcpPacket(data)))), CodecError)


def test_a_message_over_the_frame_limit_is_refused_to_its_sender() -> None:
    connection, peer, _ = ready(Role.CONNECTING)
    room = (1 << 24) - 4 - 8  # constructor id, length of the data, and the inner object's own
    with pytest.raises(FrameTooLargeError):
        connection.send_message(TcpPacket(bytes(room)))
    with pytest.raises(FrameTooLargeError):
        connection.send_query(ChrysalisHello(("x" * (1 << 24),)))
    with pytest.raises(FrameTooLargeError):
        connection.send_answer(1, TcpPacket(bytes(room)))
    connection.send_message(TcpPacket(bytes(room - 4)))
    (packet,) = peer.read(connection.data_to_send())  # with the next sequence number: none was used up
    assert len(encode(packet)) == 1 << 24


def test_a_message_that_cannot_be_written_is_refused_to_its_sender() -> None:
    connection, _, _ = ready(Role.CONNECTING)
    with pytest.raises(EncodeError):
        connection.send_message(WorkerNewCoefficient(1 << 40))
    assert connection.data_to_send() == b""


# Queries


@BOTH
def test_answers_come_in_any_order(role: Role) -> None:
    connection, peer, _ = ready(role)
    first = connection.send_query(WorkerUpdatePaymentStatus())
    second = connection.send_query(WorkerUpdatePaymentStatus())
    assert first != second
    assert [type(p) for p in peer.read(connection.data_to_send())] == [TcpQuery, TcpQuery]
    data = peer.frame(TcpQueryAnswer(second, encode(STATUS))) + peer.frame(TcpQueryError(first, 651, "not ready"))
    answered, failed = connection.receive_data(data)
    assert answered == AnswerReceived(second, STATUS)
    assert isinstance(failed, QueryFailed)
    assert isinstance(failed.error, QueryError)
    assert (failed.query_id, failed.error.code, failed.error.message) == (first, 651, "not ready")


@BOTH
def test_a_query_of_the_peer_is_answered(role: Role) -> None:
    connection, peer, _ = ready(role)
    events = connection.receive_data(peer.frame(TcpQuery(-5, encode(WorkerUpdatePaymentStatus()))))
    assert events == [QueryReceived(-5, WorkerUpdatePaymentStatus())]
    connection.send_answer(-5, STATUS)
    connection.send_error(6, "no\0\ud800", ErrorCode.NOT_READY)
    connection.send_error(7, "", 1 << 40)
    assert peer.read(connection.data_to_send()) == [
        TcpQueryAnswer(-5, encode(STATUS)),
        TcpQueryError(6, 651, "no ?"),
        TcpQueryError(7, 602, ""),
    ]


def test_late_unknown_and_repeated_answers_are_ignored() -> None:
    connection, peer, _ = ready(Role.CONNECTING)
    query_id = connection.send_query(WorkerUpdatePaymentStatus())
    forgotten = connection.send_query(WorkerUpdatePaymentStatus())
    connection.forget_query(forgotten)
    packets = [
        TcpQueryAnswer(1, encode(STATUS)),
        TcpQueryAnswer(forgotten, encode(STATUS)),
        TcpQueryError(2, 0, ""),
        TcpQueryAnswer(query_id, encode(STATUS)),
        TcpQueryAnswer(query_id, encode(STATUS)),
    ]
    events = connection.receive_data(b"".join(peer.frame(packet) for packet in packets))
    assert events == [AnswerReceived(query_id, STATUS)]
    assert connection.counters.late == 4


@pytest.mark.parametrize(
    "data", [b"", bytes(4), encode(STATUS)[:-1], encode(TcpPing(1))], ids=["empty", "unknown", "cut", "wrong type"]
)
def test_an_answer_that_is_none_fails_its_query_and_nothing_else(data: bytes) -> None:
    connection, peer, _ = ready(Role.CONNECTING)
    query_id = connection.send_query(WorkerUpdatePaymentStatus())
    other = connection.send_query(WorkerUpdatePaymentStatus())
    events = connection.receive_data(
        peer.frame(TcpQueryAnswer(query_id, data)) + peer.frame(TcpQueryAnswer(other, encode(STATUS)))
    )
    assert isinstance(events[0], QueryFailed)
    assert isinstance(events[0].error, CodecError)
    assert events[1] == AnswerReceived(other, STATUS)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes.fromhex("efbeadde"), "Lost promise"),
        (b"", "the query cannot be parsed"),
        (encode(WorkerConnectToProxy(WorkerParams(0, "a", "b", 0)))[:-4], "the query cannot be parsed"),
    ],
)
def test_a_query_that_cannot_be_read_is_answered_with_an_error(data: bytes, text: str) -> None:
    connection, peer, _ = ready(Role.ACCEPTING)
    assert connection.receive_data(peer.frame(TcpQuery(9, data))) == []
    assert peer.read(connection.data_to_send()) == [TcpQueryError(9, 0, text)]
    assert connection.counters.refused == 1
    assert connection.ready


def test_open_queries_are_bounded() -> None:
    connection, peer, _ = ready(Role.CONNECTING, limits=LinkLimits(max_open_queries=2))
    first = connection.send_query(WorkerUpdatePaymentStatus())
    connection.send_query(WorkerUpdatePaymentStatus())
    with pytest.raises(TooManyQueriesError):
        connection.send_query(WorkerUpdatePaymentStatus())
    connection.receive_data(peer.frame(TcpQueryAnswer(first, encode(STATUS))))
    connection.send_query(WorkerUpdatePaymentStatus())


def test_a_query_id_in_use_is_not_taken_again() -> None:
    ids = iter([1, 7, 7, 8])
    connection = Connection(Role.CONNECTING, make_id=lambda: next(ids))
    connection.start()
    connection.receive_data(Peer().frame(TcpConnected(1)))
    assert [connection.send_query(WorkerUpdatePaymentStatus()) for _ in range(2)] == [7, 8]


def test_a_peers_error_text_is_kept_only_so_far() -> None:
    connection, peer, _ = ready(Role.CONNECTING)
    query_id = connection.send_query(WorkerUpdatePaymentStatus())
    (event,) = connection.receive_data(peer.frame(TcpQueryError(query_id, 0, "x" * 100_000)))
    assert isinstance(event, QueryFailed)
    assert event.error.message == "x" * MAX_ERROR_TEXT


# Time (section 1.4)


def test_the_connecting_side_pings_once_in_a_silence_and_gives_up_after_twenty_seconds() -> None:
    connection, peer, clock = ready(Role.CONNECTING)
    start = clock.now
    assert connection.deadline() == start + 10
    clock.now = start + 9.9
    assert connection.handle_timeout() == []
    assert connection.data_to_send() == b""
    clock.now = start + 10
    assert connection.handle_timeout() == []
    assert [type(p) for p in peer.read(connection.data_to_send())] == [TcpPing]
    assert connection.deadline() == start + 20
    clock.now = start + 15
    assert connection.handle_timeout() == []
    assert connection.data_to_send() == b""
    clock.now = start + 20
    assert isinstance(failure(connection.handle_timeout()), SilenceError)
    assert connection.deadline() == float("inf")
    assert connection.handle_timeout() == []


def test_every_complete_frame_starts_the_times_again() -> None:
    connection, peer, clock = ready(Role.CONNECTING)
    clock.now += 10
    connection.handle_timeout()
    connection.data_to_send()
    whole = peer.frame(TcpPong(1))
    clock.now += 5
    connection.receive_data(whole[:5])
    assert connection.deadline() == clock.now + 5  # half a frame is silence
    connection.receive_data(whole[5:])
    assert connection.deadline() == clock.now + 10
    clock.now += 10
    connection.handle_timeout()
    assert connection.waiting > 0


def test_the_accepting_side_never_pings_and_gives_up_after_sixty_seconds() -> None:
    connection, _, clock = ready(Role.ACCEPTING)
    start = clock.now
    assert connection.deadline() == start + 60
    clock.now = start + 59
    assert connection.handle_timeout() == []
    assert connection.data_to_send() == b""
    clock.now = start + 60
    assert isinstance(failure(connection.handle_timeout()), SilenceError)


@pytest.mark.parametrize(("role", "patience"), [(Role.CONNECTING, 20), (Role.ACCEPTING, 60)])
def test_the_handshake_has_the_same_limit_and_no_ping(role: Role, patience: int) -> None:
    connection, _, clock = made(role)
    connection.data_to_send()
    assert connection.deadline() == clock.now + patience
    clock.now += patience - 1
    assert connection.handle_timeout() == []
    assert connection.data_to_send() == b""
    clock.now += 1
    assert isinstance(failure(connection.handle_timeout()), SilenceError)


# Extensions


def agreed(role: Role, names: tuple[str, ...]) -> tuple[Connection, Peer]:
    connection, peer, _ = ready(role)
    if role is Role.CONNECTING:
        query_id = connection.send_hello()
        (query,) = peer.read(connection.data_to_send())
        assert decode(query.data) == ChrysalisHello(("cancel", "evidence"))  # type: ignore[attr-defined]
        # The answer of the accepting side: constructor id, vector.
        other, other_peer, _ = ready(
            Role.ACCEPTING, offered=frozenset(Extension(n) for n in names if n in {*Extension})
        )
        other.receive_data(other_peer.frame(query))
        (answer,) = other_peer.read(other.data_to_send())
        (event,) = connection.receive_data(peer.frame(answer))
        assert isinstance(event, AnswerReceived)
        assert event.query_id == query_id
    else:
        assert connection.receive_data(peer.frame(TcpQuery(1, encode(ChrysalisHello(names))))) == []
        peer.read(connection.data_to_send())
    return connection, peer


@BOTH
def test_extensions_are_what_both_have(role: Role) -> None:
    connection, peer = agreed(role, ("cancel", "time-travel"))
    assert connection.extensions == {Extension.CANCEL}
    connection.send_message(ChrysalisCancel(bytes(32)))
    assert peer.read(connection.data_to_send()) == [TcpPacket(encode(ChrysalisCancel(bytes(32))))]
    with pytest.raises(ExtensionNotAgreedError, match="'evidence'"):
        connection.send_query(ChrysalisGetEvidence(bytes(32)))
    assert connection.receive_data(peer.frame(TcpPacket(encode(ChrysalisCancel(bytes(32)))))) == [
        MessageReceived(ChrysalisCancel(bytes(32)))
    ]
    assert connection.receive_data(peer.frame(TcpQuery(3, encode(ChrysalisGetEvidence(bytes(32)))))) == []
    assert peer.read(connection.data_to_send()) == [TcpQueryError(3, 0, "Lost promise")]


@BOTH
def test_without_an_agreement_no_extension_is_sent_or_heard(role: Role) -> None:
    connection, peer, _ = ready(role)
    for send in (
        lambda: connection.send_message(ChrysalisCancel(bytes(32))),
        lambda: connection.send_query(ChrysalisGetEvidence(bytes(32))),
    ):
        with pytest.raises(ExtensionNotAgreedError):
            send()
    assert connection.data_to_send() == b""
    assert connection.receive_data(peer.frame(TcpPacket(encode(ChrysalisCancel(bytes(32)))))) == []
    assert connection.counters.dropped == 1


def test_a_reference_peer_answers_the_hello_with_an_error_and_nothing_is_agreed() -> None:
    connection, peer, _ = ready(Role.CONNECTING)
    query_id = connection.send_hello()
    (event,) = connection.receive_data(peer.frame(TcpQueryError(query_id, 0, "Lost promise")))
    assert isinstance(event, QueryFailed)
    assert connection.extensions == frozenset()


def test_the_queries_of_an_agreed_extension_work() -> None:
    connection, peer = agreed(Role.CONNECTING, ("evidence",))
    query_id = connection.send_query(ChrysalisGetEvidence(bytes(32)))
    answer = ChrysalisEvidence(b"bundle")
    assert connection.receive_data(peer.frame(TcpQueryAnswer(query_id, encode(answer)))) == [
        AnswerReceived(query_id, answer)
    ]


def test_what_is_not_offered_is_not_agreed() -> None:
    connection, peer, _ = ready(Role.ACCEPTING, offered=frozenset())
    connection.receive_data(peer.frame(TcpQuery(1, encode(ChrysalisHello(("cancel", "evidence"))))))
    assert connection.extensions == frozenset()


# Anything


def feed_all(connection: Connection, data: bytes, cut: Callable[[], int]) -> list[Event]:
    events, at = [], 0
    while at < len(data):
        size = cut()
        events += connection.receive_data(data[at : at + size])
        at += size
    return events


PACKETS = st.one_of(
    st.builds(TcpPing, st.integers(-9, 9)),
    st.builds(TcpConnect, st.integers(-9, 9)),
    st.builds(TcpConnected, st.integers(-9, 9)),
    st.builds(TcpPacket, st.binary(max_size=40)),
    st.builds(TcpPacket, st.sampled_from([encode(STATUS), encode(ChrysalisCancel(bytes(32)))])),
    st.builds(TcpQuery, st.integers(-9, 9), st.binary(max_size=40)),
    st.builds(TcpQuery, st.integers(-9, 9), st.just(encode(ChrysalisHello(("cancel",))))),
    st.builds(TcpQueryAnswer, st.integers(1000, 1004), st.one_of(st.binary(max_size=40), st.just(encode(STATUS)))),
    st.builds(TcpQueryError, st.integers(1000, 1004), st.integers(-9, 9), st.just("no")),
)


@given(st.sampled_from(list(Role)), st.booleans(), st.lists(PACKETS, max_size=12), st.binary(max_size=40), st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_nothing_escapes(
    role: Role, greeted: bool, packets: list[TLObject], tail: bytes, data: st.DataObject
) -> None:
    connection, peer, _ = ready(role) if greeted else made(role)
    if greeted:
        connection.send_query(WorkerUpdatePaymentStatus())
        connection.send_query(WorkerUpdatePaymentStatus())
    stream = b"".join(peer.frame(packet) for packet in packets) + tail
    if stream and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream = stream[:at] + bytes([data.draw(st.integers(0, 255))]) + stream[at + 1 :]
    events = feed_all(connection, stream, lambda: data.draw(st.integers(1, 64)))
    assert connection.closed == any(isinstance(event, Failed) for event in events)
    assert all(isinstance(event.error, WireError) for event in events if isinstance(event, Failed | QueryFailed))
    assert not any(isinstance(event, Failed) for event in events[:-1])
    assert connection.buffered <= len(stream)
    connection.data_to_send()


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    connection, _, _ = made(Role.ACCEPTING)
    for event in connection.receive_data(data):
        assert isinstance(event, Ready | MessageReceived | QueryReceived | Failed)


def test_a_peer_that_only_announces_costs_no_memory() -> None:
    connection, _, _ = made(Role.ACCEPTING)
    tracemalloc.start()
    connection.receive_data(struct.pack("<Ii", 1 << 24, 0) + bytes(1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert connection.buffered == 1008


def test_an_incomplete_frame_never_grows_over_the_limit() -> None:
    connection, _, _ = made(Role.ACCEPTING, limits=LinkLimits(max_frame=1 << 16))
    connection.receive_data(struct.pack("<Ii", 1 << 16, 0))
    for _ in range(15):
        assert connection.receive_data(bytes(4096)) == []
    assert connection.buffered <= (1 << 16) + 8
    assert failure(connection.receive_data(bytes(8192)))
    assert connection.closed


def test_the_default_ids_are_random() -> None:
    greetings = []
    for _ in range(8):
        connection = Connection(Role.CONNECTING)
        connection.start()
        greetings.append(connection.data_to_send())
    assert len(set(greetings)) == 8
