"""A router: RA-TLS for programs that speak plain TCP (protocol specification, section 5.1).

A SOCKS5 port takes connections from the own runner, a reverse port from attested peers. Either way the local side
first gets the attestation frame, then both directions are copied. The reference's programs run behind one; ours can.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import structlog

from attestation.errors import AttestationError, HandshakeError
from attestation.ratls import pow as proof
from attestation.ratls import socks5
from attestation.ratls.direct import BACKLOG, RatlsDialer, RatlsListener
from attestation.ratls.frame import AttestationFrame, frame_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Executor

    from attestation.ratls.identity import Identity
    from attestation.ratls.session import CertificateVerifier

_log = structlog.get_logger(__name__)
_SOCKS_TIMEOUT_S = 20.0


class Router:
    """Ports of one identity.

    Args:
        identity: What peers are shown.
        verifiers: One verifier for each policy name that ports use.
        pow_difficulty: Proof of work that reverse ports demand.
        pow_max_difficulty: Hardest challenge that SOCKS5 ports solve.
        pool: Where challenges are solved.
        timeout: Seconds for a connection through a SOCKS5 port.
    """

    def __init__(
        self,
        identity: Identity,
        verifiers: Mapping[str, CertificateVerifier],
        *,
        pow_difficulty: int = proof.DEFAULT_DIFFICULTY,
        pow_max_difficulty: int = proof.MAX_DIFFICULTY,
        pool: Executor | None = None,
        timeout: float = 20.0,
    ) -> None:
        self._identity = identity
        self._verifiers = verifiers
        self._difficulty = pow_difficulty
        self._max_difficulty = pow_max_difficulty
        self._pool = pool
        self._timeout = timeout
        self._servers: list[asyncio.Server] = []
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def socks5(
        self, policy: str, *, host: str = "127.0.0.1", port: int = 0, passwords: bool = False
    ) -> asyncio.Server:
        """Open a SOCKS5 port; with ``passwords`` the user name of a connection may name another policy.

        Raises:
            HandshakeError: The policy is not known or the address not free.
        """
        self._verifier(policy)

        def accept() -> asyncio.Protocol:
            return _SocksEnd(self, policy, socks5.SocksServer(passwords))

        try:
            server = await asyncio.get_running_loop().create_server(accept, host, port, backlog=BACKLOG)
        except OSError as failure:
            raise HandshakeError(f"cannot listen on {host}:{port}: {failure.strerror or failure}") from None
        self._servers.append(server)
        return server

    async def reverse(
        self, policy: str, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0
    ) -> asyncio.Server:
        """Open a reverse port: peers that pass the policy are connected to ``target``.

        Raises:
            HandshakeError: The policy is not known or the address not free.
        """
        listener = RatlsListener(self._identity, self._verifier(policy), self._difficulty)
        server = await listener.serve(lambda: _ReverseEnd(self, target), host, port)
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Close ports and connections."""
        for server in self._servers:
            server.close()
        for task in tuple(self._tasks):
            task.cancel()
        for end in tuple(self._ends):
            end.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def dialer(self, policy: str) -> RatlsDialer:
        """The dialer of a SOCKS5 connection under a policy."""
        return RatlsDialer(
            self._identity, self._verifier(policy), self._max_difficulty, self._pool, timeout=self._timeout
        )

    def track(self, end: _End) -> None:
        """Remember an open end, to be closed with the router."""
        self._ends.add(end)

    def forget(self, end: _End) -> None:
        """Forget an end that is closed."""
        self._ends.discard(end)

    def run(self, step: Coroutine[None, None, None]) -> None:
        """Run a step in the background, to be cancelled with the router."""
        task = asyncio.get_running_loop().create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _verifier(self, policy: str) -> CertificateVerifier:
        try:
            return self._verifiers[policy]
        except KeyError:
            raise HandshakeError(f"router has no policy {policy!r}, only {sorted(self._verifiers)}") from None


class _End(asyncio.Protocol):
    """One end of a pair: what it receives is written to the other, whose full buffer stops its reading."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's streams do not derive from asyncio's classes
        self._router.track(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._router.forget(self)
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abort()


class _SecondEnd(_End):
    """The end that is opened for the first one; joins the two and then calls ``announce``."""

    def __init__(self, router: Router, first: _End, announce: Callable[[asyncio.Transport], None]) -> None:
        super().__init__(router)
        self._announce = announce
        self._first = first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is None or self._first.transport is None:
            self.abort()
            return
        self.other, self._first.other = self._first, self
        self._announce(self.transport)


class _SocksEnd(_End):
    """The runner's side of a SOCKS5 port. The reply leaves only with the attestation frame (section 5.2)."""

    def __init__(self, router: Router, policy: str, server: socks5.SocksServer) -> None:
        super().__init__(router)
        self._policy = policy
        self._socks: socks5.SocksServer | None = server
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._timer = asyncio.get_running_loop().call_later(_SOCKS_TIMEOUT_S, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._socks is None:
            super().data_received(data)
            return
        try:
            answer = self._socks.feed(data)
        except HandshakeError as error:
            _log.info("socks5 refused", error=type(error).__name__, reason=str(error))
            self.abort()
            return
        if answer and self.transport is not None:
            self.transport.write(answer)
        if self._socks.target is not None and self.transport is not None:
            self._stop_timer()
            target, policy = self._socks.target, self._socks.user or self._policy
            self._socks = None
            self.transport.pause_reading()
            self._router.run(self._connect(target, policy))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    async def _connect(self, target: tuple[str, int], policy: str) -> None:
        local = self.transport
        if local is None:
            return

        def announce(remote: asyncio.Transport) -> None:
            address = _address(local, "sockname")
            frame = frame_for(remote.get_extra_info("peer"), _address(remote, "sockname"), target)
            local.write(socks5.success_reply(*address) + frame.encode())
            local.resume_reading()

        try:
            await self._router.dialer(policy).connect(lambda: _SecondEnd(self._router, self, announce), *target)
        except AttestationError as error:
            _log.warning("no attested connection", error=type(error).__name__, kind=policy, reason=str(error))
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _ReverseEnd(_End):
    """The verified peer's side of a reverse port."""

    def __init__(self, router: Router, target: tuple[str, int]) -> None:
        super().__init__(router)
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.pause_reading()
            self._router.run(self._connect(self.transport))

    async def _connect(self, remote: asyncio.Transport) -> None:
        frame: AttestationFrame = frame_for(
            remote.get_extra_info("peer"), _address(remote, "peername"), _address(remote, "sockname")
        )

        def announce(local: asyncio.Transport) -> None:
            local.write(frame.encode())
            remote.resume_reading()

        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _SecondEnd(self._router, self, announce), *self._target
            )
        except OSError as failure:
            _log.warning("service behind the router does not answer", error=type(failure).__name__)
            self.abort()


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int]:
    name = transport.get_extra_info(which)
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else ("0.0.0.0", 0)  # noqa: S104 - says "unknown"
