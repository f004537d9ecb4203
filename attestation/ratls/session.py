"""From an open socket to a verified peer: proof of work, TLS 1.3, appraisal of the peer's certificate.

One protocol object a connection, for both roles. The application's protocol is made only after the peer's certificate
was accepted, so that no application byte is delivered to it or sent by it before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import structlog
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from attestation.errors import AttestationError, HandshakeError
from attestation.ratls import pow as proof
from attestation.ratls.peer import Peer
from attestation.ratls.transport import RatlsTransport, describe

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from attestation.verdict import Verdict

_log = structlog.get_logger(__name__)
_MAX_HANDSHAKE = 1024 * 1024
"""Bytes a peer may send before it is verified; one read of the socket may already hold application data behind them."""

_READ = 1 << 18
_PIECE = 1024
"""Bytes of a handshake that are given to TLS at a time: its memory BIO keeps the room of the largest for good."""

ProtocolFactory = Callable[[], asyncio.Protocol]


class CertificateVerifier(Protocol):
    """The part of :class:`attestation.verifier.Verifier` that a handshake needs."""

    async def verify_certificate(self, der: bytes, *, role: Literal["server", "client"]) -> Verdict:
        """Appraise a certificate."""


class _State(Enum):
    WORK = auto()
    TLS = auto()
    VERIFY = auto()
    OPEN = auto()
    CLOSED = auto()


class RatlsSession(asyncio.Protocol):
    """One connection.

    Args:
        context: TLS context of the own identity.
        verifier: Judges the peer.
        factory: Makes the application's protocol once the peer is verified.
        connecting: Whether this side opened the connection.
        difficulty: Proof of work that is demanded (listening) or solved at most (connecting).
        pool: Where challenges are solved.
        admit: Asked when a peer connects (listening); ``False`` closes the connection at once.
        on_end: Called once when the handshake is over, with the error if it failed.

    Attributes:
        host: The peer's address without port, once connected.
        transport: The application's transport, once the peer is verified.
        protocol: The application's protocol, once the peer is verified.
    """

    def __init__(
        self,
        context: SSL.Context,
        verifier: CertificateVerifier,
        factory: ProtocolFactory,
        *,
        connecting: bool,
        difficulty: int,
        pool: Executor | None = None,
        on_end: Callable[[RatlsSession, Exception | None], None],
        admit: Callable[[RatlsSession], bool] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._verifier = verifier
        self._factory = factory
        self._connecting = connecting
        self._difficulty = difficulty
        self._pool = pool
        self._admit = admit
        self._on_end: Callable[[RatlsSession, Exception | None], None] | None = on_end
        self._tls = SSL.Connection(context, None)
        self._state = _State.WORK
        self._buffer = bytearray()
        self._challenge: proof.Challenge | None = None
        self._received = 0
        self._inner: asyncio.Transport | None = None
        self.host = ""
        self._task: asyncio.Task[None] | None = None
        self.transport: RatlsTransport | None = None
        self.protocol: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with the challenge (listening) or wait for it (connecting)."""
        self._inner = cast("asyncio.Transport", transport)  # uvloop's streams do not derive from asyncio's classes
        self.host = source_of(transport).rpartition(":")[0]
        if self._connecting:
            self._tls.set_connect_state()
        elif self._admit is None or self._admit(self):
            self._tls.set_accept_state()
            self._challenge = proof.Challenge.fresh(self._difficulty)
            self._inner.write(self._challenge.encode())
        else:
            self._end(HandshakeError("too many handshakes are open"))

    def data_received(self, data: bytes) -> None:
        """Take bytes according to the state."""
        if self._state is _State.OPEN and self.transport is not None:
            self.transport.feed(data)
            return
        if self._state is _State.CLOSED:
            return
        self._received += len(data)
        try:
            if self._received > _MAX_HANDSHAKE:
                raise HandshakeError(f"peer sent over {_MAX_HANDSHAKE} bytes before the handshake was over")
            if self._state is _State.WORK:
                self._work(data)
            else:
                self._feed(data)
        except AttestationError as error:
            self._end(error)

    def eof_received(self) -> bool:
        """Close; the stream has no half-closed state."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, or end the handshake."""
        if self._state is _State.OPEN and self.transport is not None:
            self._state = _State.CLOSED
            self.transport.lost(exc)
            return
        stage = self._state.name.lower()
        self._end(
            HandshakeError(
                f"peer closed the connection during stage {stage!r} of the handshake",
                hint="after tls it usually means that the peer's policy refuses our certificate",
            )
        )

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self.transport is not None:
            self.transport.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        """The socket's buffer has room again."""
        if self.transport is not None:
            self.transport.get_protocol().resume_writing()

    def fail(self, error: Exception) -> None:
        """End an unfinished handshake from outside (time limit)."""
        if self._state is not _State.OPEN:
            self._end(error)

    def _work(self, data: bytes) -> None:
        self._buffer += data
        if self._connecting:
            if self._challenge is None and len(self._buffer) >= proof.CHALLENGE_SIZE:
                if len(self._buffer) > proof.CHALLENGE_SIZE:
                    raise HandshakeError("peer sent more than a challenge before it was answered")
                self._challenge = proof.Challenge.decode(bytes(self._buffer), max_difficulty=self._difficulty)
                self._run(self._solve(self._challenge))
            elif self._challenge is not None and data:
                raise HandshakeError("peer sent more than a challenge before it was answered")
            return
        if len(self._buffer) < proof.SOLUTION_SIZE or self._challenge is None:
            return
        nonce = proof.decode_solution(bytes(self._buffer[: proof.SOLUTION_SIZE]))
        if not self._challenge.solved_by(nonce):
            raise HandshakeError(f"peer's nonce does not solve a challenge of difficulty {self._challenge.difficulty}")
        rest = bytes(self._buffer[proof.SOLUTION_SIZE :])
        self._buffer.clear()
        self._state = _State.TLS
        if rest:
            self._feed(rest)
        else:
            self._handshake()

    async def _solve(self, challenge: proof.Challenge) -> None:
        nonce = await proof.solve(challenge, self._pool)
        if self._inner is None or self._state is not _State.WORK:
            return
        self._buffer.clear()
        self._state = _State.TLS
        self._inner.write(proof.encode_solution(nonce))
        self._handshake()

    def _feed(self, data: bytes) -> None:
        """Give TLS what arrived, in pieces; what follows the handshake waits for the verdict."""
        for start in range(0, len(data), _PIECE):
            self._tls.bio_write(data[start : start + _PIECE])
            if self._state is _State.TLS:
                self._handshake()

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._send_tls()
            return
        except SSL.Error as error:
            self._send_tls()
            raise HandshakeError(
                f"TLS handshake failed: {describe(error)}", hint="both sides need TLS 1.3 and an Ed25519 certificate"
            ) from None
        self._send_tls()
        self._state = _State.VERIFY
        if self._inner is not None:
            self._inner.pause_reading()
        self._run(self._verify())

    async def _verify(self) -> None:
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        inner = self._inner
        if certificate is None or inner is None:
            raise HandshakeError("peer shows no certificate")
        der = certificate.public_bytes(serialization.Encoding.DER)
        role: Literal["server", "client"] = "server" if self._connecting else "client"
        verdict = (await self._verifier.verify_certificate(der, role=role)).require()
        peer = Peer(verdict.image_hash, verdict.public_key, verdict, source_of(inner))
        self.transport = RatlsTransport(self._loop, inner, self._tls, peer)
        self.protocol = self._factory()
        self.transport.set_protocol(self.protocol)
        self._state = _State.OPEN
        inner.resume_reading()
        self.protocol.connection_made(self.transport)
        self.transport.feed(b"")
        self._finish(None)

    def _send_tls(self) -> None:
        while self._inner is not None:
            try:
                self._inner.write(self._tls.bio_read(_READ))
            except SSL.WantReadError:
                return

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        self._task = self._loop.create_task(self._guard(step))

    async def _guard(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except AttestationError as error:
            self._end(error)
        except Exception as error:
            self._end(HandshakeError(f"handshake failed: {type(error).__name__}"))
            raise

    def _end(self, error: Exception) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        if self._task is not None and self._task is not asyncio.current_task(self._loop):
            self._task.cancel()
        if self._inner is not None:
            self._inner.abort()
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        self._task = self._challenge = None  # an idle link keeps nothing of its handshake
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self, error)


def source_of(transport: asyncio.BaseTransport) -> str:
    """The peer's address as ``host:port``, or ``unknown``."""
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else "unknown"
