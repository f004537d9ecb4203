"""The configured liteservers: who is asked next, and who is not for a while.

In: addresses, and what went wrong with each. Out: an order to ask in. None of them is trusted; one whose answer fails
its proof is set aside for long, one that is behind or unreachable for a while that grows. When all are set aside they
are asked all the same, because a proof is checked in any case.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.chain.errors import ChainTooOldError, LayoutError, ProofError
from appliance.chain.transport import LiteConnection, LiteserverAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
