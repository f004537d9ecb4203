"""Connections by way of a router in the same machine: it does RA-TLS and says in a frame who the peer is.

The dialer asks the router by SOCKS5; the listener stands behind a reverse port. Both read the attestation frame first
and then hand the plain stream to the application's protocol.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, cast

import structlog

from attestation.errors import AttestationError, HandshakeError
from attestation.ratls import frame as frames
from attestation.ratls import socks5
from attestation.ratls.direct import BACKLOG, HANDSHAKE_TIMEOUT_S
from attestation.ratls.plain import PlainTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.ratls.session import ProtocolFactory

_log = structlog.get_logger(__name__)


class _Opening(asyncio.Protocol):
    """Reads what comes before the application's stream, then steps aside.

    Args:
        factory: Makes the application's protocol.
        target: Where SOCKS5 has to connect to; ``None`` behind a reverse port.
        on_end: Called once, with transport and protocol or with the error.
    """

    def __init__(
        self,
        factory: ProtocolFactory,
        target: tuple[str, int] | None,
        on_end: Callable[[_Opening, PlainTransport | None, asyncio.Protocol | None, Exception | None], None],
    ) -> None:
        self._factory = factory
        self._target = target
        self._on_end: Callable[..., None] | None = on_end
        self._buffer = bytearray()
        self._inner: asyncio.Transport | None = None
        self._steps: list[Callable[[], bool]] = [self._frame]
        if target is not None:
            self._steps = [self._greeting_reply, self._reply, self._frame]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner = cast("asyncio.Transport", transport)  # uvloop's streams do not derive from asyncio's classes
        if self._target is not None:
            self._inner.write(socks5.GREETING)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._steps and self._steps[0]():
                self._steps.pop(0)
        except AttestationError as error:
            self.fail(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        what = "could not reach or verify the peer" if self._target else "closed before its attestation frame"
        self.fail(
            HandshakeError(
                f"router closed the connection: {what}",
                hint="the router's log says why (policy, proof of work, address)",
            )
        )

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if self._inner is not None and self._on_end is not None:
            self._inner.abort()
        self._finish(None, None, error)

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _greeting_reply(self) -> bool:
        reply = self._take(len(socks5.GREETING_REPLY))
        if reply is None or self._target is None or self._inner is None:
            return False
        socks5.check_greeting_reply(reply)
        self._inner.write(socks5.connect_request(*self._target))
        return True

    def _reply(self) -> bool:
        if len(self._buffer) >= 2 and self._buffer[1]:
            socks5.check_reply(bytes(self._buffer[: socks5.REPLY_SIZE]))
        reply = self._take(socks5.REPLY_SIZE)
        if reply is None:
            return False
        socks5.check_reply(reply)
        return True

    def _frame(self) -> bool:
        if len(self._buffer) < frames.HEAD_SIZE:
            return False
        length = frames.frame_length(bytes(self._buffer[: frames.HEAD_SIZE]))
        whole = self._take(frames.HEAD_SIZE + length)
        if whole is None or self._inner is None:
            return False
        peer = frames.decode_frame(whole[frames.HEAD_SIZE :]).peer
        transport = PlainTransport(self._inner, peer)
        protocol = self._factory()
        self._inner.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._buffer:
            protocol.data_received(bytes(self._buffer))
            self._buffer.clear()
        self._finish(transport, protocol, None)
        return True

    def _finish(
        self, transport: PlainTransport | None, protocol: asyncio.Protocol | None, error: Exception | None
    ) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, transport, protocol, error)


class RouterDialer:
    """Connects by way of a router's SOCKS5 port.

    Args:
        host: The router's address.
        port: Its SOCKS5 port.
        timeout: Seconds for everything until the attestation frame (section 1.4).
    """

    def __init__(self, host: str, port: int, *, timeout: float = HANDSHAKE_TIMEOUT_S) -> None:
        self._router = (host, port)
        self._timeout = timeout

    async def connect(
        self, protocol_factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect to ``host:port`` through the router.

        Returns:
            A transport whose ``get_extra_info("peer")`` is the peer as the router told, and the protocol made for it.

        Raises:
            HandshakeError: The router is out of reach, or closes: it could not reach or verify the peer.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[asyncio.Transport, asyncio.Protocol]] = loop.create_future()

        def on_end(
            _: _Opening,
            transport: PlainTransport | None,
            protocol: asyncio.Protocol | None,
            error: Exception | None,
        ) -> None:
            if done.done():
                return
            if transport is not None and protocol is not None:
                done.set_result((transport, protocol))
            else:
                done.set_exception(error or HandshakeError("router ended the connection"))

        opening: _Opening | None = None
        try:
            async with asyncio.timeout(self._timeout):
                target = (await _ipv4(host), port)
                _, opening = await loop.create_connection(
                    lambda: _Opening(protocol_factory, target, on_end), *self._router
                )
                return await done
        except TimeoutError:
            error = HandshakeError(f"no connection to {host}:{port} through the router within {self._timeout:g} s")
            _abandon(opening, done, error)
            raise error from None
        except OSError as failure:
            raise HandshakeError(
                f"cannot reach the router at {self._router[0]}:{self._router[1]}: {failure.strerror or failure}"
            ) from None
        except asyncio.CancelledError:
            _abandon(opening, done, HandshakeError("connecting was cancelled"))
            raise


class RouterListener:
    """Listens behind a router's reverse port.

    Args:
        timeout: Seconds for the attestation frame to come.
        max_openings: Connections at a time that are still without one; more are closed at once.
    """

    def __init__(self, *, timeout: float = 60.0, max_openings: int = 512) -> None:
        self._timeout = timeout
        self._max = max_openings
        self._open: dict[_Opening, asyncio.TimerHandle] = {}

    async def serve(self, protocol_factory: ProtocolFactory, host: str, port: int) -> asyncio.Server:
        """Listen; ``protocol_factory`` is called once for each connection whose frame was read.

        Raises:
            HandshakeError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()

        def accept() -> asyncio.Protocol:
            opening = _Opening(protocol_factory, None, self._ended)
            slow = HandshakeError(f"router sent no attestation frame within {self._timeout:g} s")
            if len(self._open) >= self._max:
                loop.call_soon(opening.fail, HandshakeError("too many connections without attestation frame"))
            self._open[opening] = loop.call_later(self._timeout, opening.fail, slow)
            return opening

        try:
            return await loop.create_server(accept, host, port, backlog=BACKLOG)
        except OSError as failure:
            raise HandshakeError(f"cannot listen on {host}:{port}: {failure.strerror or failure}") from None

    def _ended(
        self, opening: _Opening, transport: PlainTransport | None, protocol: object, error: Exception | None
    ) -> None:
        del transport, protocol
        timer = self._open.pop(opening, None)
        if timer is not None:
            timer.cancel()
        if error is not None:
            _log.info("routed connection failed", error=type(error).__name__, reason=str(error))


async def _ipv4(host: str) -> str:
    """The router takes IPv4 addresses only: resolve a name here."""
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror as failure:
        raise HandshakeError(f"{host} has no IPv4 address: {failure.strerror}") from None
    return str(found[0][4][0])


def _abandon(opening: _Opening | None, done: asyncio.Future[Any], error: Exception) -> None:
    if opening is not None:
        opening.fail(error)
    if done.done() and not done.cancelled():
        done.exception()
