"""Attested connections made by this process itself: proof of work and mutual RA-TLS, as dialer and as listener."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from attestation.errors import HandshakeError, RefusedError
from attestation.ratls import pow as proof
from attestation.ratls.session import CertificateVerifier, ProtocolFactory, RatlsSession

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from attestation.ratls.identity import Identity
    from attestation.verdict import Verdict

_log = structlog.get_logger(__name__)
HANDSHAKE_TIMEOUT_S = 20.0
MAX_HANDSHAKES = 512
BACKLOG = 512


class RatlsDialer:
    """Connects to attested peers.

    Args:
        identity: What this side shows.
        verifier: Judges the peer's certificate before any application byte moves.
        pow_max_difficulty: Hardest challenge that is solved.
        pool: Processes that solve challenges (:func:`attestation.ratls.pow.open_pool`); ``None`` uses threads.
        timeout: Seconds for connecting, proof of work, TLS and verification together (section 1.4).
    """

    def __init__(
        self,
        identity: Identity,
        verifier: CertificateVerifier,
        pow_max_difficulty: int = proof.MAX_DIFFICULTY,
        pool: Executor | None = None,
        *,
        timeout: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._identity = identity
        self._verifier = verifier
        self._difficulty = pow_max_difficulty
        self._pool = pool
        self._timeout = timeout

    async def connect(
        self, protocol_factory: ProtocolFactory, host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect and verify.

        Returns:
            A transport whose ``get_extra_info("peer")`` is the verified peer, and the protocol made for it.

        Raises:
            HandshakeError: The peer is out of reach, too slow, or does not speak the protocol.
            RefusedError: The peer's evidence is refused.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def on_end(_: RatlsSession, error: Exception | None) -> None:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        session: RatlsSession | None = None
        try:
            async with asyncio.timeout(self._timeout):
                _, session = await loop.create_connection(
                    lambda: RatlsSession(
                        self._identity.context,
                        self._verifier,
                        protocol_factory,
                        connecting=True,
                        difficulty=self._difficulty,
                        pool=self._pool,
                        on_end=on_end,
                    ),
                    host,
                    port,
                )
                await done
        except TimeoutError:
            error = HandshakeError(f"no attested connection to {host}:{port} within {self._timeout:g} s")
            _abandon(session, done, error)
            raise error from None
        except OSError as failure:
            raise HandshakeError(
                f"cannot connect to {host}:{port}: {failure.strerror or failure}",
                hint="is the peer running, and is this its address?",
            ) from None
        except asyncio.CancelledError:
            _abandon(session, done, HandshakeError("connecting was cancelled"))
            raise
        if session.transport is None or session.protocol is None:
            raise HandshakeError("handshake ended without a connection")
        return session.transport, session.protocol


class RatlsListener:
    """Accepts attested peers.

    Args:
        identity: What this side shows.
        verifier: Judges the peer's certificate; with a policy ``any`` a peer needs no evidence.
        pow_difficulty: Proof of work that is demanded.
        timeout: Seconds a peer has for its handshake (section 1.4 gives the accepting side 60).
        max_handshakes: Handshakes at a time, half of them from one address; more are closed at once.
        on_refused: Told of each peer whose evidence is refused; TLS tells the peer nothing of it.
    """

    def __init__(
        self,
        identity: Identity,
        verifier: CertificateVerifier,
        pow_difficulty: int = proof.DEFAULT_DIFFICULTY,
        *,
        timeout: float = 60.0,
        max_handshakes: int = MAX_HANDSHAKES,
        on_refused: Callable[[Verdict], None] | None = None,
    ) -> None:
        self._identity = identity
        self._verifier = verifier
        self._difficulty = pow_difficulty
        self._timeout = timeout
        self._max = max_handshakes
        self._on_refused = on_refused
        self._open: dict[RatlsSession, asyncio.TimerHandle] = {}
        self._by_host: Counter[str] = Counter()

    async def serve(self, protocol_factory: ProtocolFactory, host: str, port: int) -> asyncio.Server:
        """Listen; ``protocol_factory`` is called once for each verified peer.

        Raises:
            HandshakeError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()

        def accept() -> asyncio.Protocol:
            return RatlsSession(
                self._identity.context,
                self._verifier,
                protocol_factory,
                connecting=False,
                difficulty=self._difficulty,
                admit=self._admit,
                on_end=self._ended,
            )

        try:
            return await loop.create_server(accept, host, port, backlog=BACKLOG)
        except OSError as failure:
            raise HandshakeError(f"cannot listen on {host}:{port}: {failure.strerror or failure}") from None

    def _admit(self, session: RatlsSession) -> bool:
        """Take a handshake on; one address can hold half of the places, so that it cannot keep all others out."""
        if len(self._open) >= self._max or self._by_host[session.host] >= (self._max + 1) // 2:
            _log.warning("too many handshakes", limit=self._max)
            return False
        slow = HandshakeError(f"peer did not finish its handshake within {self._timeout:g} s")
        self._open[session] = asyncio.get_running_loop().call_later(self._timeout, session.fail, slow)
        self._by_host[session.host] += 1
        return True

    def _ended(self, session: RatlsSession, error: Exception | None) -> None:
        timer = self._open.pop(session, None)
        if timer is None:
            return
        timer.cancel()
        self._by_host[session.host] -= 1
        if not self._by_host[session.host]:
            del self._by_host[session.host]
        if isinstance(error, RefusedError):
            check = error.verdict.failed[0]
            _log.warning(
                "peer refused",
                kind=error.verdict.policy,
                check=check.name,
                seen=check.seen,
                expected=check.expected,
                hint=check.hint,
            )
            if self._on_refused is not None:
                self._on_refused(error.verdict)
        elif error is not None:
            _log.info("handshake failed", error=type(error).__name__, reason=str(error))


def _abandon(session: RatlsSession | None, done: asyncio.Future[None], error: Exception) -> None:
    """Close what is left of a handshake, and take the exception that nobody waits for any more."""
    if session is not None:
        session.fail(error)
        if session.transport is not None:
            session.transport.abort()
    if done.done() and not done.cancelled():
        done.exception()
