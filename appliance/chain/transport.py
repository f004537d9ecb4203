"""One connection to one liteserver: encrypted frames, queries matched with answers, time limits, reconnection.

In: query bytes. Out: answer bytes, which nobody has checked yet. pytoniq's ``LiteClient`` makes the ADNL handshake and
the ciphers; its reader, its block store and its trust decisions are not used: the reader polls, accepts frames of any
size and logs what it gets, and the trust is not trust (it accepts a forged chain). Layout: ADNL over TCP (TON
documentation, "ADNL TCP - liteserver"): frame = length:uint32, nonce:32, payload, SHA-256 of nonce and payload.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from nacl.exceptions import CryptoError
from pytoniq.liteclient.client import LiteClient

from appliance.chain.errors import LayoutError, TransportError
from appliance.chain.tl import TlReader, tl_bytes

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

_ADNL_QUERY = (0xB48BF97A).to_bytes(4, "little")
_ADNL_ANSWER = (0x0FAC8416).to_bytes(4, "little")
_MIN_FRAME = 64
_MAX_FRAME = 1 << 24
_READ_BUFFER = 1 << 20

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiteserverAddress:
    """Where a liteserver is and its Ed25519 key (32 bytes)."""

    host: str
    port: int
    public_key: bytes

    @classmethod
    def parse(cls, address: str, key: str) -> LiteserverAddress:
        """From ``host:port`` and the key in base64; raises :class:`LayoutError`."""
        host, _, port = address.rpartition(":")
        try:
            public_key = base64.b64decode(key, validate=True)
        except binascii.Error as error:
            raise LayoutError(f"the key of liteserver {address} is not base64") from error
        if not host or not port.isdigit() or not 0 < int(port) < 65536 or len(public_key) != 32:
            raise LayoutError(
                f"liteserver {address!r} with a key of {len(public_key)} bytes, expected host:port and 32"
            )
        return cls(host.removeprefix("[").removesuffix("]"), int(port), public_key)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class LiteConnection:
    """A lazily opened connection that is opened again when it broke.

    Args:
        server: Whom to connect to.
        connect_timeout: Seconds for TCP and the handshake together.
    """

    def __init__(self, server: LiteserverAddress, *, connect_timeout: float = 5.0) -> None:
        self.server = server
        self._connect_timeout = connect_timeout
        self._opening = asyncio.Lock()
        self._session: _Session | None = None

    async def query(self, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109 - a server may never answer
        """Send ``liteServer.query`` bytes and return the answer's bytes.

        Raises:
            TransportError: The server cannot be reached, broke the connection or did not answer in ``timeout`` seconds.
        """
        session = await self._open()
        try:
            async with asyncio.timeout(timeout):
                return await session.query(payload)
        except TimeoutError as error:
            # An answer that comes too late would be for nobody; a server that hangs is better left.
            await session.close(TransportError(f"liteserver {self.server} hangs"))
            raise TransportError(f"liteserver {self.server} did not answer within {timeout:g} s") from error

    async def close(self) -> None:
        """Close the connection; a later query opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close(TransportError(f"the connection to liteserver {self.server} was closed here"))

    async def _open(self) -> _Session:
        async with self._opening:
            if self._session is None or self._session.closed:
                self._session = None
                try:
                    async with asyncio.timeout(self._connect_timeout):
                        self._session = await _Session.connect(self.server)
                except TimeoutError as error:
                    raise TransportError(
                        f"liteserver {self.server} did not accept a connection within {self._connect_timeout:g} s"
                    ) from error
                except OSError as error:
                    raise TransportError(f"liteserver {self.server} cannot be reached: {error.strerror}") from error
            return self._session


class _Session:
    """One TCP connection after its handshake."""

    def __init__(self, cipher: Any, server: LiteserverAddress, reader: StreamReader, writer: StreamWriter) -> None:
        self._cipher = cipher
        self._server = server
        self._reader = reader
        self._writer = writer
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._pump: asyncio.Task[None] | None = None
        self.closed = False

    @classmethod
    async def connect(cls, server: LiteserverAddress) -> _Session:
        # trust_level 2 is pytoniq's word for no checks at all: only its handshake and ciphers are used.
        try:
            cipher = LiteClient(server.host, server.port, base64.b64encode(server.public_key).decode(), trust_level=2)
        except CryptoError as error:
            raise TransportError(
                f"the key of liteserver {server} is no Ed25519 public key", hint="check it in the configuration"
            ) from error
        reader, writer = await asyncio.open_connection(server.host, server.port, limit=_READ_BUFFER)
        session = cls(cipher, server, reader, writer)
        try:
            writer.write(cipher.handshake())
            await writer.drain()
            await session._read_frame()  # the server's empty frame completes the handshake
        except BaseException as error:
            writer.close()
            if isinstance(error, asyncio.IncompleteReadError):
                raise TransportError(
                    f"liteserver {server} refused the handshake", hint="check the server's key in the configuration"
                ) from error
            raise
        session._pump = asyncio.create_task(session._read_all(), name=f"liteserver {server}")
        return session

    async def query(self, payload: bytes) -> bytes:
        if self.closed:
            raise TransportError(f"the connection to liteserver {self._server} is closed")
        query_id = secrets.token_bytes(32)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[query_id] = future
        try:
            body = _ADNL_QUERY + query_id + tl_bytes(payload)
            self._writer.write(self._cipher.encrypt(self._cipher.serialize_packet(body)))
            await self._writer.drain()
            return await future
        except OSError as error:
            raise TransportError(f"liteserver {self._server} broke the connection") from error
        finally:
            self._waiting.pop(query_id, None)

    async def close(self, reason: TransportError) -> None:
        self._fail(reason)
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()
            with suppress(asyncio.CancelledError):
                await self._pump
        with suppress(OSError):
            await self._writer.wait_closed()

    def _fail(self, reason: TransportError) -> None:
        self.closed = True
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(reason)

    async def _read_all(self) -> None:
        try:
            while True:
                self._dispatch(await self._read_frame())
        except (OSError, asyncio.IncompleteReadError):
            self._fail(TransportError(f"liteserver {self._server} broke the connection"))
        except LayoutError as error:
            _log.warning("liteserver broke the protocol", server=str(self._server), error=type(error).__name__)
            self._fail(TransportError(f"liteserver {self._server} broke the protocol: {error}"))

    async def _read_frame(self) -> bytes:
        length = int.from_bytes(self._cipher.decrypt(await self._reader.readexactly(4)), "little")
        if not _MIN_FRAME <= length <= _MAX_FRAME:
            raise LayoutError(f"a frame of {length} bytes, expected {_MIN_FRAME} to {_MAX_FRAME}")
        frame: bytes = self._cipher.decrypt(await self._reader.readexactly(length))
        if not hmac.compare_digest(hashlib.sha256(frame[:-32]).digest(), frame[-32:]):
            raise LayoutError("a frame has a wrong checksum")
        return frame[32:-32]

    def _dispatch(self, payload: bytes) -> None:
        if payload[:4] != _ADNL_ANSWER:
            return  # a pong, or something this side did not ask for
        reader = TlReader(payload[4:])
        query_id, answer = reader.take(32), reader.blob()
        reader.end()
        future = self._waiting.get(query_id)
        if future is not None and not future.done():
            future.set_result(answer)
