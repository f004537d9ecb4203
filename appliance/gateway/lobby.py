"""Links of which nobody knows yet whose they are: so many places, so much time, the oldest makes room for the newest.

In: links as they connect, are admitted, are lost. Out: closed links. A proof of work makes a link dear, not impossible:
whoever opens many and says nothing takes places from others like himself, never from a peer that was admitted, and
never for long from one that goes on to introduce itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from appliance.wire.errors import LinkClosedError

if TYPE_CHECKING:
    from appliance.wire.link import Link

log = structlog.get_logger(__name__)


class Lobby:
    """The links of one listener that have not been admitted.

    Args:
        patience: Seconds that a peer has to introduce itself.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waiting: dict[Link, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, link: Link) -> None:
        """A link is there."""
        self._waiting[link] = asyncio.get_running_loop().call_later(self._patience, self._overdue, link)

    def leave(self, link: Link) -> None:
        """It was admitted, or is gone; one that is not here is ignored."""
        timer = self._waiting.pop(link, None)
        if timer is not None:
            timer.cancel()

    def make_room(self) -> bool:
        """Close the link that has waited longest; False when none waits."""
        link = next(iter(self._waiting), None)
        if link is None:
            return False
        self.leave(link)
        link.close(LinkClosedError("all places are taken, and others came later: introduce yourself sooner"))
        return True

    def _overdue(self, link: Link) -> None:
        self._waiting.pop(link, None)
        log.info("link closed: its peer did not introduce itself", limit=self._patience)
        link.close(LinkClosedError(f"the handshake was not complete after {self._patience:g} s"))
