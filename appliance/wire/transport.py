"""Links over asyncio: the protocol object, dialling and listening.

How bytes travel (plain TCP, mutual RA-TLS, through a router) is the business of a :class:`Dialer` or :class:`Listener`;
``attestation.ratls`` has the attested ones, the plain ones are here. Works on any event loop (asyncio, uvloop).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from appliance.wire import extensions as ext
from appliance.wire.connection import Connection, Role
from appliance.wire.errors import DialError, LinkClosedError, WireError
from appliance.wire.handler import LinkHandler
from appliance.wire.limits import LinkLimits
from appliance.wire.link import Link

__all__ = [
    "Dialer",
    "Link",
    "LinkHandler",
    "LinkLimits",
    "LinkProtocol",
    "Listener",
    "ProtocolFactory",
    "Server",
    "TcpDialer",
    "TcpListener",
    "dial",
]

ProtocolFactory = Callable[[], asyncio.Protocol]


class Server(Protocol):
    """What listening gives back; ``asyncio.Server`` is one."""

    @property
    def sockets(self) -> Sequence[Any]:
        """The listening sockets."""

    def close(self) -> None:
        """Listen no more; connections stay."""

    async def wait_closed(self) -> None:
        """Wait until it is closed."""


class Dialer(Protocol):
    """Opens connections of one kind."""

    async def connect(
        self, protocol_factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect; the protocol's ``connection_made`` is called when application bytes may flow."""


class Listener(Protocol):
    """Accepts connections of one kind."""

    async def serve(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        """Listen; the same holds for ``connection_made``. Port 0 takes a free one."""


class TcpDialer:
    """Plain TCP, without proof of who the peer is: for tests and for a path that something else protects."""

    async def connect(
        self, protocol_factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect (see :class:`Dialer`)."""
        return await asyncio.get_running_loop().create_connection(protocol_factory, host, port)


class TcpListener:
    """Plain TCP, the accepting side."""

    async def serve(self, protocol_factory: ProtocolFactory, host: str, port: int) -> Server:
        """Listen (see :class:`Listener`)."""
        return await asyncio.get_running_loop().create_server(protocol_factory, host, port)


class LinkProtocol(asyncio.Protocol):
    """Joins a transport and a link.

    Args:
        handler: Told what happens on the link.
        connecting: Which side we are.
        limits: The bounds of the link.
        offered: The extensions we are willing to use.
    """

    def __init__(
        self,
        handler: LinkHandler,
        *,
        connecting: bool,
        limits: LinkLimits | None = None,
        offered: frozenset[ext.Extension] = ext.ALL,
    ) -> None:
        self._handler = handler
        self._role = Role.CONNECTING if connecting else Role.ACCEPTING
        self._limits = limits or LinkLimits()
        self._offered = offered
        self._link: Link | None = None

    @property
    def link(self) -> Link:
        """The link, once the transport is there.

        Raises:
            LinkClosedError: It is not.
        """
        if self._link is None:
            raise LinkClosedError("there is no connection yet")
        return self._link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is up."""
        clock = asyncio.get_running_loop().time
        connection = Connection(self._role, limits=self._limits, offered=self._offered, clock=clock)
        self._link = Link(self._handler, connection, cast("asyncio.Transport", transport))
        self._link.begin()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.link.feed(data)

    def eof_received(self) -> None:
        """The peer sends no more; the transport closes by itself."""

    def pause_writing(self) -> None:
        """The transport's buffer is above its high mark."""
        self.link.pause()

    def resume_writing(self) -> None:
        """The transport's buffer is below its low mark."""
        self.link.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self._link is not None:
            self._link.lost(exc)


async def dial(
    dialer: Dialer,
    handler: LinkHandler,
    address: tuple[str, int],
    *,
    limits: LinkLimits | None = None,
    offered: frozenset[ext.Extension] = ext.ALL,
) -> Link:
    """Open a link and wait until it is ready.

    Args:
        dialer: How to connect.
        handler: Told what happens on the link.
        address: Host and port.
        limits: The bounds of the link; ``connecting_silence`` also bounds the time this takes, twice: once for the
            pipe and once for the handshake (section 1.4).
        offered: The extensions we are willing to use.

    Returns:
        The ready link; :meth:`Link.negotiate` is the caller's to call.

    Raises:
        DialError: It could not be made; the cause is chained.
        ChrysalisError: A dialer's own error about the peer (for one, its evidence was refused) passes unchanged.
    """
    bounds = limits or LinkLimits()
    made: list[LinkProtocol] = []

    def factory() -> LinkProtocol:
        made.append(LinkProtocol(handler, connecting=True, limits=bounds, offered=offered))
        return made[-1]

    where = f"{address[0]}:{address[1]}"
    try:
        async with asyncio.timeout(bounds.connecting_silence):
            await dialer.connect(factory, *address)
    except TimeoutError as error:
        raise DialError(f"no connection to {where} within {bounds.connecting_silence:g} s") from error
    except OSError as error:
        raise DialError(f"no connection to {where}: {error.strerror or type(error).__name__}") from error
    link = made[-1].link
    try:
        await link.wait_ready()
    except WireError as error:
        raise DialError(f"no link with {where}: {error.message}", hint=error.hint) from error
    except BaseException:
        link.close()
        raise
    return link
