"""Links over real sockets on loopback, on asyncio's loop and on uvloop, both sides ours or one side raw frames."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from appliance.errors import ErrorCode, RequestError
from appliance.wire.codec import decode, encode
from appliance.wire.errors import (
    CodecError,
    DialError,
    EncodeError,
    ExtensionNotAgreedError,
    FrameTooLargeError,
    LinkClosedError,
    ProtocolError,
    QueryError,
    QueryTimeoutError,
    SilenceError,
    SlowPeerError,
)
from appliance.wire.extensions import Extension
from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidence,
    ChrysalisGetEvidence,
    HttpResponse,
    ProxyQueryAnswerPartEx,
    ProxySignedPaymentEmpty,
    TcpConnect,
    TcpConnected,
    TcpPacket,
    TcpPing,
    TcpPong,
    TcpQuery,
    TcpQueryAnswer,
    TcpQueryError,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
    WorkerPaymentStatus,
    WorkerUpdatePaymentStatus,
)
from appliance.wire.transport import Link, LinkLimits, LinkProtocol, TcpDialer, TcpListener, dial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from appliance.wire.base import TLObject

HOST = "127.0.0.1"
STATUS = WorkerPaymentStatus(ProxySignedPaymentEmpty(), 1, 2)
ASK = WorkerUpdatePaymentStatus()
PART = ProxyQueryAnswerPartEx(bytes(32), b"x" * 100, 0)


class Handler:
    """Keeps what it is told; queries are answered by ``answer``."""

    def __init__(self, answer: Callable[[Link, TLObject], Awaitable[TLObject]] | None = None) -> None:
        self.links: list[Link] = []
        self.messages: asyncio.Queue[TLObject] = asyncio.Queue()
        self.lost: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.ready = asyncio.Event()
        self._answer = answer

    def link_ready(self, link: Link) -> None:
        self.links.append(link)
        self.ready.set()

    def message_received(self, link: Link, message: TLObject) -> None:
        self.messages.put_nowait(message)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        return STATUS if self._answer is None else await self._answer(link, query)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        self.lost.put_nowait(reason)


@contextlib.asynccontextmanager
async def listening(handler: Any, **options: Any) -> AsyncIterator[tuple[str, int]]:
    links: list[LinkProtocol] = []

    def factory() -> LinkProtocol:
        links.append(LinkProtocol(handler, connecting=False, **options))
        return links[-1]

    server = await TcpListener().serve(factory, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        for protocol in links:
            protocol.link.close()
            await protocol.link.wait_closed()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def pair(
    near: Any = None, far: Any = None, *, near_limits: LinkLimits | None = None, far_limits: LinkLimits | None = None
) -> AsyncIterator[tuple[Link, Link]]:
    """Both sides ours: the connecting link and the accepting one."""
    far = far or Handler()
    async with listening(far, limits=far_limits) as address:
        link = await dial(TcpDialer(), near or Handler(), address, limits=near_limits)
        await far.ready.wait()
        try:
            yield link, far.links[0]
        finally:
            link.close()
            await link.wait_closed()


class Raw:
    """The far side as a socket that says whatever a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.sequence = reader, writer, 0

    def write(self, *packets: TLObject) -> None:
        for packet in packets:
            payload = encode(packet)
            self.writer.write(struct.pack("<Ii", len(payload), self.sequence) + payload)
            self.sequence += 1

    async def read(self) -> TLObject:
        length, _ = struct.unpack("<Ii", await self.reader.readexactly(8))
        return decode(await self.reader.readexactly(length))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_client(handler: Any, **options: Any) -> AsyncIterator[Raw]:
    """A raw peer that has connected and greeted to a listener of ours."""
    async with listening(handler, **options) as address:
        raw = Raw(*await asyncio.open_connection(*address))
        raw.write(TcpConnect(1))
        assert await raw.read() == TcpConnected(1)
        try:
            yield raw
        finally:
            await raw.close()


@contextlib.asynccontextmanager
async def raw_server(behave: Callable[[Raw], Awaitable[None]]) -> AsyncIterator[tuple[str, int]]:
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await behave(raw)
        await raw.close()
        done.set()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        await done.wait()
        server.close()
        await server.wait_closed()


# Messages and queries


async def test_messages_arrive_in_order_both_ways() -> None:
    near, far = Handler(), Handler()
    async with pair(near, far) as (link, other):
        for n in range(500):
            link.send(WorkerNewCoefficient(n))
            other.send(WorkerNewCoefficient(-n))
        assert [await far.messages.get() for _ in range(500)] == [WorkerNewCoefficient(n) for n in range(500)]
        assert [await near.messages.get() for _ in range(500)] == [WorkerNewCoefficient(-n) for n in range(500)]


async def test_queries_both_ways_at_once() -> None:
    async with pair() as (link, other):
        answers = await asyncio.gather(*(side.query(ASK, timeout=5) for side in (link, other) * 40))
        assert answers == [STATUS] * 80
        assert answers[0].max_tokens == 2  # the type checker knows the answer's class


async def test_a_message_of_the_largest_frame_and_one_byte_more() -> None:
    far = Handler()
    async with pair(far=far) as (link, _):
        room = (1 << 24) - 4 - 4 - (4 + 32 + 4 + 4)  # packet: id, length; message: id, request, length, flags
        link.send(ProxyQueryAnswerPartEx(bytes(32), b"y" * room, 0))
        with pytest.raises(FrameTooLargeError):
            link.send(ProxyQueryAnswerPartEx(bytes(32), b"y" * (room + 1), 0))
        link.send(WorkerNewCoefficient(1))
        big = await far.messages.get()
        assert isinstance(big, ProxyQueryAnswerPartEx)
        assert len(big.answer) == room
        assert await far.messages.get() == WorkerNewCoefficient(1)


async def test_what_is_sent_in_one_turn_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as (link, _):
        writes: list[int] = []
        transport = link._transport

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                writes.append(len(data))
                transport.write(data)

        monkeypatch.setattr(link, "_transport", Counting())
        for _ in range(50):
            link.send(PART)
        assert writes == []
        await asyncio.sleep(0)
        assert len(writes) == 1
        link.send(PART)
        await link.drain()
        assert len(writes) == 2


async def test_the_handlers_errors_become_error_answers() -> None:
    errors: list[Exception] = [
        QueryError("busy", code=ErrorCode.NOT_READY),
        RequestError("no such model", code=ErrorCode.PROTOCOL_VIOLATION),
        ValueError("the prompt was: secret"),
        QueryError("odd", code=12345),
        QueryTimeoutError("of another link"),
    ]
    seen = list(errors)

    async def answer(link: Link, query: TLObject) -> TLObject:
        raise seen.pop(0)

    with structlog.testing.capture_logs() as logs:
        async with pair(far=Handler(answer)) as (link, _):
            answers = []
            for _ in errors:
                with pytest.raises(QueryError) as caught:
                    await link.query(ASK, timeout=5)
                answers.append((caught.value.code, caught.value.message))
            assert answers == [
                (651, "busy"),
                (621, "no such model"),
                (0, "Lost promise"),
                (12345, "odd"),
                (0, "Lost promise"),
            ]
            assert not link.closed
    assert "secret" not in str(logs)
    assert [entry["error"] for entry in logs if entry["event"] == "link handler failed"] == [
        "ValueError",
        "QueryTimeoutError",
    ]


@pytest.mark.parametrize(
    "bad", [WorkerPaymentStatus(ProxySignedPaymentEmpty(), 1 << 70, 2), HttpResponse("", 1, "", (), bytes(1 << 24))]
)
async def test_an_answer_that_cannot_be_sent_is_an_error_to_the_peer(bad: TLObject) -> None:
    async def answer(link: Link, query: TLObject) -> TLObject:
        return bad

    async with pair(far=Handler(answer)) as (link, _):
        with pytest.raises(QueryError, match="cannot be sent") as caught:
            await link.query(ASK, timeout=5)
        assert caught.value.code == ErrorCode.ERROR
        assert not link.closed


async def test_an_answer_of_a_wrong_class_fails_the_query_only() -> None:
    answers: list[TLObject] = [WorkerNewCoefficient(1), STATUS]

    async def answer(link: Link, query: TLObject) -> TLObject:
        return answers.pop(0)

    async with pair(far=Handler(answer)) as (link, _):
        with pytest.raises(CodecError, match="expected WorkerPaymentStatus"):
            await link.query(ASK, timeout=5)
        assert await link.query(ASK, timeout=5) == STATUS


async def test_a_query_times_out_and_its_late_answer_is_ignored() -> None:
    go = asyncio.Event()

    async def answer(link: Link, query: TLObject) -> TLObject:
        await go.wait()
        return STATUS

    async with pair(far=Handler(answer)) as (link, _):
        with pytest.raises(QueryTimeoutError, match="WorkerUpdatePaymentStatus"):
            await link.query(ASK, timeout=0.02)
        go.set()
        assert await link.query(ASK, timeout=5) == STATUS
        assert link.counters.late == 1
        assert not link._answers


async def test_a_cancelled_query_leaves_nothing_behind() -> None:
    go = asyncio.Event()

    async def answer(link: Link, query: TLObject) -> TLObject:
        await go.wait()
        return STATUS

    async with pair(far=Handler(answer), near_limits=LinkLimits(max_open_queries=1)) as (link, _):
        task = asyncio.create_task(link.query(ASK, timeout=5))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        assert await link.query(ASK, timeout=5) == STATUS
        assert not link._answers


async def test_a_callers_own_deadline_is_not_taken_for_the_querys() -> None:
    async def answer(link: Link, query: TLObject) -> TLObject:
        return await asyncio.Future()

    async with pair(far=Handler(answer)) as (link, _):
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await link.query(ASK, timeout=60)
        assert not isinstance(caught.value, QueryTimeoutError)


async def test_the_queries_a_peer_may_have_served_are_bounded() -> None:
    go = asyncio.Event()

    async def answer(link: Link, query: TLObject) -> TLObject:
        await go.wait()
        return STATUS

    async with pair(far=Handler(answer), far_limits=LinkLimits(max_served_queries=3)) as (link, other):
        waiting = [asyncio.create_task(link.query(ASK, timeout=5)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueryError, match="too many") as caught:
            await link.query(ASK, timeout=5)
        assert caught.value.code == ErrorCode.NOT_READY
        assert other.counters.refused == 1
        go.set()
        assert await asyncio.gather(*waiting) == [STATUS] * 3
        assert await link.query(ASK, timeout=5) == STATUS


# Extensions


async def test_extensions_are_negotiated() -> None:
    async def answer(link: Link, query: TLObject) -> TLObject:
        return ChrysalisEvidence(b"bundle")

    far = Handler(answer)
    async with pair(far=far) as (link, other):
        with pytest.raises(ExtensionNotAgreedError):
            link.send(ChrysalisCancel(bytes(32)))
        assert await link.negotiate() == other.extensions == link.extensions == {*Extension}
        link.send(ChrysalisCancel(bytes(32)))
        assert await far.messages.get() == ChrysalisCancel(bytes(32))
        assert (await link.query(ChrysalisGetEvidence(bytes(32)), timeout=5)).bundle == b"bundle"


async def test_a_reference_peer_agrees_to_nothing() -> None:
    async def reference(raw: Raw) -> None:
        greeting = await raw.read()
        raw.write(TcpConnected(greeting.id))  # type: ignore[attr-defined]
        query = await raw.read()
        raw.write(TcpQueryError(query.id, 0, "Lost promise"))  # type: ignore[attr-defined]
        await raw.read()

    async with raw_server(reference) as address:
        link = await dial(TcpDialer(), Handler(), address)
        assert await link.negotiate() == frozenset()
        with pytest.raises(ExtensionNotAgreedError):
            link.send(ChrysalisCancel(bytes(32)))
        link.close()
        await link.wait_closed()


async def test_a_peer_that_never_answers_the_hello_agrees_to_nothing() -> None:
    async with raw_client(near := Handler()):
        await near.ready.wait()
        assert await near.links[0].negotiate(timeout=0.02) == frozenset()


# Handlers that misbehave


async def test_a_handler_that_raises_costs_nothing() -> None:
    class Broken(Handler):
        def link_ready(self, link: Link) -> None:
            super().link_ready(link)
            raise RuntimeError("ready: secret")

        def message_received(self, link: Link, message: TLObject) -> None:
            super().message_received(link, message)
            raise KeyError("message: secret")

        def link_lost(self, link: Link, reason: Exception | None) -> None:
            super().link_lost(link, reason)
            raise OSError("lost: secret")

    far = Broken()
    with structlog.testing.capture_logs() as logs:
        async with pair(far=far) as (link, _):
            link.send(WorkerNewCoefficient(1))
            link.send(WorkerNewCoefficient(2))
            assert [await far.messages.get() for _ in range(2)] == [WorkerNewCoefficient(1), WorkerNewCoefficient(2)]
            assert await link.query(ASK, timeout=5) == STATUS
        await far.lost.get()
    failures = [entry for entry in logs if entry["event"] == "link handler failed"]
    assert [entry["error"] for entry in failures] == ["RuntimeError", "KeyError", "KeyError", "OSError"]
    assert all(entry["detail"] for entry in failures)
    assert "secret" not in str(logs)


async def test_what_came_before_a_bad_frame_is_handled_and_cannot_be_answered() -> None:
    class Echo(Handler):
        def message_received(self, link: Link, message: TLObject) -> None:
            super().message_received(link, message)
            link.send(message)

    far = Echo()
    with structlog.testing.capture_logs() as logs:
        async with raw_client(far, limits=LinkLimits(max_served_queries=0)) as raw:
            raw.write(TcpQuery(1, encode(ASK)), TcpPacket(encode(PART)))
            assert await raw.read() == TcpQueryError(1, 651, "too many open queries")  # control: without the bad frame
            assert await raw.read() == TcpPacket(encode(PART))
            raw.write(TcpQuery(2, encode(ASK)), TcpPacket(encode(PART)))
            raw.writer.write(bytes(8))
            assert isinstance(await far.lost.get(), ProtocolError)
            assert far.messages.qsize() == 2
            assert await raw.reader.read() == b""
    assert [entry["event"] for entry in logs] == ["link failed"]


async def test_a_handler_may_close_its_link_from_inside() -> None:
    class Closing(Handler):
        def message_received(self, link: Link, message: TLObject) -> None:
            super().message_received(link, message)
            link.close()

    far = Closing()
    async with pair(far=far) as (link, _):
        for n in range(3):
            link.send(WorkerNewCoefficient(n))
        await link.wait_closed()
        assert await far.lost.get() is None
        assert far.messages.qsize() == 1


# Closing


async def test_closing_lets_what_was_sent_leave_and_ends_whoever_waits() -> None:
    async def answer(link: Link, query: TLObject) -> TLObject:
        served.set()
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    served, cancelled = asyncio.Event(), asyncio.Event()
    near, far = Handler(), Handler(answer)
    async with pair(near, far) as (link, other):
        waiting = asyncio.create_task(link.query(ASK, timeout=60))
        await served.wait()
        link.send(WorkerNewCoefficient(9))
        link.close()
        link.close()
        with pytest.raises(LinkClosedError, match="before the answer"):
            await waiting
        assert await far.messages.get() == WorkerNewCoefficient(9)
        assert await near.lost.get() is None
        assert isinstance(await far.lost.get(), LinkClosedError)
        await cancelled.wait()
        assert link.closed
        assert other.closed
        for side in (link, other):
            with pytest.raises(LinkClosedError):
                side.send(PART)
            with pytest.raises(LinkClosedError):
                await side.query(ASK, timeout=1)
            with pytest.raises(LinkClosedError):
                await side.drain()
    assert near.lost.empty()


async def test_a_peer_that_never_closes_its_side_is_cut_off_after_the_linger() -> None:
    async def deaf(raw: Raw) -> None:
        greeting = await raw.read()
        raw.write(TcpConnected(greeting.id))  # type: ignore[attr-defined]
        await released.wait()

    released = asyncio.Event()
    near = Handler()
    async with raw_server(deaf) as address:
        link = await dial(TcpDialer(), near, address, limits=LinkLimits(linger=0.05))
        for _ in range(300):
            link.send(ProxyQueryAnswerPartEx(bytes(32), bytes(1 << 16), 0))
        link.close()
        await link.wait_closed()
        assert await near.lost.get() is None
        released.set()


# Peers that misbehave


async def test_a_bad_frame_closes_that_link_and_no_other() -> None:
    far = Handler()
    async with listening(far) as address:
        good = await dial(TcpDialer(), Handler(), address)
        raw = Raw(*await asyncio.open_connection(*address))
        raw.write(TcpConnect(1))
        await raw.read()
        raw.write(TcpPacket(encode(WorkerNewCoefficient(1))))
        raw.sequence += 1
        raw.write(TcpPacket(encode(WorkerNewCoefficient(2))))
        assert await raw.reader.read() == b""
        assert await far.messages.get() == WorkerNewCoefficient(1)
        assert far.messages.empty()
        assert isinstance(await far.lost.get(), ProtocolError)
        assert await good.query(ASK, timeout=5) == STATUS
        good.close()
        await good.wait_closed()
        await raw.close()


async def test_garbage_before_the_handshake_is_refused() -> None:
    far = Handler()
    async with listening(far) as address:
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
            bytes(8),
        ):
            raw = Raw(*await asyncio.open_connection(*address))
            raw.writer.write(garbage)
            assert await raw.reader.read() == b""
            assert isinstance(await far.lost.get(), ProtocolError)
            await raw.close()
    assert not far.ready.is_set()


async def test_a_peer_that_asks_and_does_not_read_is_given_up() -> None:
    far = Handler()
    limits = LinkLimits(max_waiting=1 << 20)
    async with raw_client(far, limits=limits) as raw:
        await far.ready.wait()
        link = far.links[0]
        raw.write(TcpPing(1))
        assert await raw.read() == TcpPong(1)  # control: one that reads is served
        block = ProxyQueryAnswerPartEx(bytes(32), bytes(1 << 18), 0)
        while not link.closed:
            link.send(block)
            await asyncio.sleep(0)
        assert isinstance(await far.lost.get(), SlowPeerError)
        assert link.waiting <= limits.max_waiting + (1 << 19)


async def test_drain_waits_for_a_slow_reader_and_bounds_what_waits() -> None:
    far = Handler()
    async with raw_client(far) as raw:
        await far.ready.wait()
        link = far.links[0]
        total, peak = 0, 0

        async def produce() -> None:
            nonlocal total, peak
            for _ in range(400):
                link.send(ProxyQueryAnswerPartEx(bytes(32), bytes(1 << 15), 0))
                peak = max(peak, link.waiting)
                await link.drain()
                total += 1

        producer = asyncio.create_task(produce())
        await asyncio.sleep(0.1)
        assert not producer.done()  # nobody reads: it waits, and the link is still heard
        raw.write(TcpPing(4))
        for _ in range(400):
            packet = await raw.read()
            assert isinstance(packet, TcpPacket | TcpPong)
        await raw.read()
        await producer
        assert total == 400
        assert peak <= LinkLimits().write_high + (1 << 17)


async def test_drain_ends_when_the_link_is_lost() -> None:
    far = Handler()
    async with raw_client(far) as raw:
        await far.ready.wait()
        link = far.links[0]
        for _ in range(200):
            link.send(ProxyQueryAnswerPartEx(bytes(32), bytes(1 << 16), 0))
        draining = asyncio.create_task(link.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        raw.writer.transport.abort()
        with pytest.raises(LinkClosedError):
            await draining


# Time


async def test_the_connecting_side_keeps_an_idle_link_alive() -> None:
    limits = LinkLimits(ping_after=0.02, connecting_silence=20)
    async with pair(near_limits=limits) as (link, other):
        before = other.counters.frames_in
        for _ in range(500):
            if other.counters.frames_in >= before + 3:
                break
            await asyncio.sleep(0.01)
        assert other.counters.frames_in >= before + 3
        assert not link.closed


async def test_a_silent_peer_is_given_up() -> None:
    far = Handler()
    async with raw_client(far, limits=LinkLimits(accepting_silence=0.5)) as raw:
        assert isinstance(await far.lost.get(), SilenceError)
        assert await raw.reader.read() == b""


# Dialling


async def test_dialling_nobody_is_an_error_that_names_the_address() -> None:
    async with listening(Handler()) as address:
        pass
    with pytest.raises(DialError, match=f"no connection to {HOST}:{address[1]}") as caught:
        await dial(TcpDialer(), Handler(), address)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_peer_that_accepts_and_says_nothing_is_an_error_too() -> None:
    async def silent(raw: Raw) -> None:
        await raw.read()
        await raw.read()

    async with raw_server(silent) as address:
        with pytest.raises(DialError, match="no link with") as caught:
            await dial(TcpDialer(), Handler(), address, limits=LinkLimits(connecting_silence=0.5))
        assert isinstance(caught.value.__cause__, SilenceError)


async def test_a_peer_that_hangs_up_is_an_error_too() -> None:
    async def rude(raw: Raw) -> None:
        await raw.read()

    near = Handler()
    async with raw_server(rude) as address:
        with pytest.raises(DialError, match="the peer closed the connection"):
            await dial(TcpDialer(), near, address)
    assert not near.ready.is_set()
    assert isinstance(await near.lost.get(), LinkClosedError)


async def test_a_dialler_that_hangs_is_given_up() -> None:
    class Hanging:
        async def connect(self, protocol_factory: Any, host: str, port: int) -> Any:
            return await asyncio.Future()

    with pytest.raises(DialError, match=r"within 0\.02 s"):
        await dial(Hanging(), Handler(), (HOST, 1), limits=LinkLimits(connecting_silence=0.02))


async def test_a_cancelled_dial_leaves_no_connection() -> None:
    async def silent(raw: Raw) -> None:
        await raw.read()
        greeted.set()
        await raw.read()

    greeted = asyncio.Event()
    near = Handler()
    async with raw_server(silent) as address:
        task = asyncio.create_task(dial(TcpDialer(), near, address))
        await greeted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await near.lost.get() is None


@pytest.mark.parametrize("lost", [False, True], ids=["open", "lost at once"])
async def test_whoever_asked_goes_on_before_what_came_behind_the_answer(lost: bool) -> None:
    """A gateway may send the first request right behind the end of the handshake, in one segment."""
    story: list[str] = []

    class Telling(Handler):
        def message_received(self, link: Link, message: TLObject) -> None:
            story.append(type(message).__name__)
            super().message_received(link, message)

        def link_lost(self, link: Link, reason: Exception | None) -> None:
            story.append("lost")
            super().link_lost(link, reason)

    far = Telling()

    async def handshake() -> None:
        await far.links[0].query(ASK, timeout=5)
        story.append("first answer")
        with pytest.raises(QueryError):
            await far.links[0].query(ASK, timeout=5)
        story.append("second answer")

    async with raw_client(far) as raw:
        await far.ready.wait()
        asking = asyncio.create_task(handshake())
        first = await raw.read()
        assert isinstance(first, TcpQuery)
        before, after = TcpPacket(encode(WorkerEnabledDisabled(1))), TcpPacket(encode(PART))
        raw.write(before, TcpQueryAnswer(first.id, encode(STATUS)), after)
        second = await raw.read()
        assert isinstance(second, TcpQuery)
        raw.write(TcpQueryError(second.id, 0, ""), before, after)
        if lost:
            raw.writer.write_eof()
            assert isinstance(await far.lost.get(), LinkClosedError)
        await asking
        for _ in range(4):
            await far.messages.get()
    one, two = "WorkerEnabledDisabled", "ProxyQueryAnswerPartEx"
    assert story == [one, "first answer", two, "second answer", one, two, "lost"]


async def test_a_link_says_who_its_peer_is_and_shows_no_content() -> None:
    async with pair() as (link, other):
        assert link.peer is None
        assert (repr(link), repr(other)) == ("<Link connecting ready>", "<Link accepting ready>")
        with pytest.raises(EncodeError):
            link.send(WorkerNewCoefficient(1 << 50))
    assert repr(link) == "<Link connecting closed>"
