"""The configured liteservers: who is asked next, and who is not for a while.

In: addresses, and what went wrong with each. Out: an order to ask in. None of them is trusted; one whose answer fails
its proof is set aside for long, one that is behind or unreachable for a while that grows. When all are set aside they
are asked all the same, because a proof is checked in any case.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from appliance.chain.errors import (
    ChainError,
    ChainTooOldError,
    ChainUnavailableError,
    LayoutError,
    ProofError,
    SendRefusedError,
)
from appliance.chain.transport import LiteConnection, LiteserverAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

T = TypeVar("T")

_ROUNDS = 3
_LIE_S = 600.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What the dashboard shows of a liteserver. ``reason`` is empty while it is in use."""

    server: str
    usable: bool
    reason: str
    failures: int


class Server:
    """One liteserver and its record."""

    def __init__(
        self, address: LiteserverAddress, *, connect_timeout: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.address = address
        self.connection = LiteConnection(address, connect_timeout=connect_timeout)
        self._monotonic = monotonic
        self._failures = 0
        self._until = 0.0
        self._reason = ""

    @property
    def usable(self) -> bool:
        """Whether it is not set aside now."""
        return self._monotonic() >= self._until

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key: usable ones first, then the one that is set aside for the shortest time."""
        return (not self.usable, 0.0 if self.usable else self._until)

    def succeeded(self) -> None:
        """It gave a proven answer."""
        self._failures, self._until, self._reason = 0, 0.0, ""

    def failed(self, error: Exception) -> None:
        """It gave none: set it aside for as long as the error deserves."""
        self._failures += 1
        if isinstance(error, (ProofError, LayoutError)) and not isinstance(error, ChainTooOldError):
            pause = _LIE_S
        else:
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10))
        self._until = self._monotonic() + pause
        self._reason = str(error)
        _log.warning("liteserver set aside", server=str(self.address), error=type(error).__name__, seconds=pause)

    def status(self) -> ServerStatus:
        """For the dashboard."""
        return ServerStatus(str(self.address), self.usable, "" if self.usable else self._reason, self._failures)


def in_order(servers: Iterable[Server]) -> list[Server]:
    """Whom to ask, best first; configured order among equals."""
    return sorted(servers, key=lambda server: server.rank)


class ServerPool:
    """All configured liteservers: a question goes to one after another until one gives a proven answer.

    Args:
        addresses: In order of preference.
        connect_timeout: Seconds a server may take to accept a connection.
    """

    def __init__(self, addresses: Sequence[LiteserverAddress], *, connect_timeout: float) -> None:
        self._servers = [Server(address, connect_timeout=connect_timeout) for address in addresses]

    def status(self) -> list[ServerStatus]:
        """The state of each, in configured order."""
        return [server.status() for server in self._servers]

    def besides(self, server: Server) -> list[Server]:
        """All but one."""
        return [each for each in self._servers if each is not server]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.connection.close() for server in self._servers))

    async def first(self, what: str, attempt: Callable[[Server], Awaitable[T]], *, start: int = 0) -> T:
        """The first proven answer; a few rounds over all servers while the reason is the network's."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(_ROUNDS),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            retry=retry_if_exception_type(ChainUnavailableError),
            reraise=True,
        )
        return await retrying(self._one_round, what, attempt, start)

    async def _one_round(self, what: str, attempt: Callable[[Server], Awaitable[T]], start: int) -> T:
        errors: dict[str, ChainError] = {}
        refusal: SendRefusedError | None = None
        servers = in_order(self._servers)
        usable = sum(server.usable for server in servers)
        if usable:
            turn = start % usable
            servers = servers[turn:usable] + servers[:turn] + servers[usable:]
        for server in servers:
            try:
                result = await attempt(server)
            except SendRefusedError as error:
                # Nobody can prove a refusal: it stands only when no other server takes the message.
                server.succeeded()
                refusal = error
            except ChainError as error:
                server.failed(error)
                errors[str(server.address)] = error
            else:
                server.succeeded()
                return result
        raise refusal or _verdict(what, errors)


def _verdict(what: str, errors: dict[str, ChainError]) -> ChainError:
    """What to raise when no server gave a proven answer: an old client first, lies if there is nothing else."""
    too_old = [error for error in errors.values() if isinstance(error, ChainTooOldError)]
    if too_old:
        return too_old[0]
    lies = [error for error in errors.values() if isinstance(error, (ProofError, LayoutError))]
    if lies and len(lies) == len(errors):
        return lies[-1]
    return ChainUnavailableError(what, {server: str(error) for server, error in errors.items()})
