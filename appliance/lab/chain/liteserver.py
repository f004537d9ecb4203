"""The liteserver: ADNL over TCP on loopback, one task a query.

In: connections of any client. Out: answers of the groups in ``answers_*``; ``liteServer.error`` for what cannot be
answered; the end of the connection for bytes that are no protocol. Bounded: connections, packet size, queries under
way a connection (reading pauses above that, and while answers are not read), and the times that a handshake may take
and a query may wait for a block.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.lab.chain.adnl import AdnlServer
from appliance.lab.chain.answers_accounts import AccountAnswers
from appliance.lab.chain.answers_blocks import BlockAnswers
from appliance.lab.chain.answers_links import LinkAnswers
from appliance.lab.chain.errors import (
    AdnlError,
    DevNetError,
    LabChainError,
    LiteErrorCode,
    QueryRefusedError,
    TlError,
)
from appliance.lab.chain.lite_api import lite_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from appliance.lab.chain.answers import Answers, Handler
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.tl import Schema

MAX_CONNECTIONS = 256
MAX_IN_FLIGHT = 32
MAX_WAIT_S = 60.0
HANDSHAKE_S = 10.0
MAX_PACKET_BYTES = 1 << 18
"""Of a query; the largest is a message with its bag."""

_log = structlog.get_logger(__name__)


def honest_answers(net: DevNet, schema: Schema) -> Iterable[Answers]:
    """All groups, as a server that serves its clients would give them."""
    return BlockAnswers(net, schema), AccountAnswers(net, schema), LinkAnswers(net, schema)


class LiteServer:
    """A server for one chain.

    Args:
        net: The chain.
        key: The server's own key; made when None.
        answers: Makes the groups of answers; tests pass dishonest ones.
    """

    def __init__(
        self,
        net: DevNet,
        *,
        key: Ed25519PrivateKey | None = None,
        answers: Callable[[DevNet, Schema], Iterable[Answers]] = honest_answers,
    ) -> None:
        self.net = net
        self.key = key or Ed25519PrivateKey.generate()
        self.schema = lite_schema()
        self.counts: Counter[str] = Counter()
        self.groups = tuple(answers(net, self.schema))
        self._handlers: dict[str, Handler] = {}
        for group in self.groups:
            self._handlers |= group.table()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._new_block = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def public_key(self) -> bytes:
        """32 raw bytes, which clients must know."""
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def port(self) -> int:
        """The port it listens on; raises :class:`DevNetError` before :meth:`start`."""
        if self._server is None:
            raise DevNetError("the liteserver was not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; 0 lets the system choose the port."""
        self._loop = asyncio.get_running_loop()
        self.net.subscribe(self._block_made)
        self._server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", port)

    async def close(self) -> None:
        """Stop listening and end all connections."""
        self.net.unsubscribe(self._block_made)
        if self._server is not None:
            self._server.close()
        connections = tuple(self._connections)
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.ended() for connection in connections))
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def global_config(self) -> dict[str, Any]:
        """The configuration that TON's clients read (``config.global``): this server, zerostate and trust point."""
        zero, key_block = self.net.zerostate.id, self.net.key_block.id
        server = {
            "ip": 2130706433,  # 127.0.0.1
            "port": self.port,
            "id": {"@type": "pub.ed25519", "key": base64.b64encode(self.public_key).decode()},
        }
        blocks = {
            name: {
                "workchain": block.workchain,
                "shard": block.shard,
                "seqno": block.seqno,
                "root_hash": base64.b64encode(block.root_hash).decode(),
                "file_hash": base64.b64encode(block.file_hash).decode(),
            }
            for name, block in (("zero_state", zero), ("init_block", key_block))
        }
        return {
            "@type": "config.global",
            "dht": {"@type": "dht.config.global", "k": 6, "a": 3, "static_nodes": {"@type": "dht.nodes", "nodes": []}},
            "liteservers": [server],
            "validator": {"@type": "validator.config.global", **blocks, "hardforks": []},
        }

    def admit(self, connection: _Connection) -> bool:
        """Count a connection in, unless there are too many."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: _Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)

    async def answer(self, data: bytes) -> bytes:
        """The answer to one ``liteServer.query``; every failure is an answer too."""
        try:
            return await self._answer(data)
        except QueryRefusedError as error:
            return self._error(error.code, error.message)
        except TlError as error:
            return self._error(LiteErrorCode.PROTOCOL_VIOLATION, error.message)
        except LabChainError as error:
            return self._error(LiteErrorCode.PLAIN, error.message)
        except Exception:  # noqa: BLE001 - a client gets an error, whatever happened
            _log.exception("liteserver failed")
            return self._error(LiteErrorCode.ERROR, "internal error")

    async def _answer(self, data: bytes) -> bytes:
        outer = self.schema.decode(data)
        if outer["@type"] != "liteServer.query":
            raise QueryRefusedError("expected liteServer.query", code=LiteErrorCode.PROTOCOL_VIOLATION)
        query, rest = self.schema.decode_prefix(outer["data"])
        if query["@type"] == "liteServer.waitMasterchainSeqno":
            await self._wait(query["seqno"] & 0xFFFFFFFF, query["timeout_ms"] / 1000)
            query, rest = self.schema.decode_prefix(rest)
        if rest:
            raise TlError(f"{query['@type']}: {len(rest)} bytes after the end, expected none")
        name = query["@type"].removeprefix("liteServer.")
        handler = self._handlers.get(name)
        if handler is None:
            raise QueryRefusedError(f"unknown query {name}", code=LiteErrorCode.PROTOCOL_VIOLATION)
        self.counts[name] += 1
        return await asyncio.to_thread(handler, query)

    async def _wait(self, seqno: int, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.0), MAX_WAIT_S)):
                while self.groups[0].head().seqno < seqno:
                    await self._new_block.wait()
        except TimeoutError as error:
            raise QueryRefusedError("timeout", code=LiteErrorCode.TIMEOUT) from error

    def _block_made(self, _view: View) -> None:
        """Called by whichever thread makes blocks."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._new_block = self._new_block, asyncio.Event()
        event.set()

    def _error(self, code: int, message: str) -> bytes:
        return self.schema.encode("liteServer.error", code=int(code), message=message)


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: LiteServer) -> None:
        self._server = server
        self._adnl = AdnlServer(server.key, max_packet=MAX_PACKET_BYTES)
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_slow = False
        self._deadline: asyncio.TimerHandle | None = None
        self._end = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._server.admit(self):
            transport.close()
            return
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class is none of asyncio's
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._server.forget(self)
        for task in self._tasks:
            task.cancel()
        if not self._end.done():
            self._end.set_result(None)

    def data_received(self, data: bytes) -> None:
        was_ready = self._adnl.ready
        try:
            payloads = self._adnl.receive(data)
            if self._adnl.ready and not was_ready:
                self._send(b"")
            for payload in payloads:
                self._packet(payload)
        except (AdnlError, TlError) as error:
            _log.info("liteserver connection ended", reason=type(error).__name__)
            self.abort()

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more queries."""
        self._is_slow = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read."""
        self._is_slow = False
        self._resume()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def ended(self) -> None:
        """Wait until the connection is gone."""
        await self._end

    def _packet(self, payload: bytes) -> None:
        if not payload:
            return
        schema = self._server.schema
        message = schema.decode(payload)
        if message["@type"] == "tcp.ping":
            self._send(schema.encode("tcp.pong", random_id=message["random_id"]))
        elif message["@type"] == "adnl.message.query":
            task = asyncio.get_running_loop().create_task(self._query(message["query_id"], message["query"]))
            self._tasks.add(task)
            task.add_done_callback(self._query_done)
            if len(self._tasks) >= MAX_IN_FLIGHT and self._transport is not None:
                self._transport.pause_reading()
        elif message["@type"] != "tcp.authentificate":  # a client may say who it is; this server asks nobody
            raise TlError(f"{message['@type']}: expected a ping or a query")

    async def _query(self, query_id: bytes, query: bytes) -> None:
        answer = await self._server.answer(query)
        self._send(self._server.schema.encode("adnl.message.answer", query_id=query_id, answer=answer))

    def _query_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._resume()

    def _resume(self) -> None:
        if self._transport is not None and not self._is_slow and len(self._tasks) < MAX_IN_FLIGHT:
            self._transport.resume_reading()

    def _expire(self) -> None:
        if not self._adnl.ready:
            self.abort()

    def _send(self, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._adnl.frame(payload))
