"""What a program has to give to have links, and what becomes of its mistakes.

A handler's exception is logged by its type and place (its text may hold content) and costs nothing but the query it was
about: section 8, item 1 of the protocol specification.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, ParamSpec, Protocol

import structlog

from appliance.wire.errors import LinkClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.wire.base import TLObject
    from appliance.wire.link import Link

log = structlog.get_logger(__name__)

P = ParamSpec("P")


class LinkHandler(Protocol):
    """What a program does with a link. No method but ``query_received`` may block."""

    def link_ready(self, link: Link) -> None:
        """The handshake is done; called once, before any message."""

    def message_received(self, link: Link, message: TLObject) -> None:
        """A one-way message came."""

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """Answer a query; cancelled when the link is lost.

        Raises:
            QueryError: Becomes the error answer, with its code and text.
            RequestError: Likewise.
        """

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """The link is over; called once, also if it was never ready. ``reason`` is ``None`` if we closed it."""


def guarded(call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call a handler's method; what it raises is logged and goes no further."""
    try:
        call(*args, **kwargs)
    except LinkClosedError:  # it sent on a link that a later event of this turn has closed: nothing is wrong
        return
    except Exception as error:  # noqa: BLE001 -- any mistake of a handler
        report(error)


def report(error: Exception) -> None:
    """Log a handler's exception by type and place."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    log.error("link handler failed", error=type(error).__name__, detail=where)
