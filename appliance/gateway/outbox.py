"""What waits for one client: bounded for each request and in all, in order, without a task while the client keeps up.

A link below its mark takes messages at once. Above it they wait here until it has drained; a request whose parts
would take more than its bound is refused them, which ends that request and no other. What ends a request is always
queued, and a client that lets too much of that wait loses its link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from appliance.wire.errors import LinkClosedError, WireError

if TYPE_CHECKING:
    from appliance.gateway.exchange import Exchange
    from appliance.wire.base import TLObject

MARK_BYTES = 1 << 18
"""What a link may hold before messages wait here; the mark above which its ``drain`` waits."""
REQUEST_BYTES = 1 << 22
"""What one request may have waiting: a quarter of a frame, some thousand chunks of a stream."""
PAUSE_S = 0.005
LINK_BYTES = 1 << 26
"""What all requests of a client may have waiting: four frames."""
ENDS_LIMIT = 1 << 16
"""Messages that may wait in all. Ends of requests are always queued; a client with so many of them is cut off."""


class DrainingLink(Protocol):
    """What the outbox needs of a link."""

    @property
    def waiting(self) -> int:
        """Bytes that have not left yet."""
        ...

    def send(self, message: TLObject) -> None:
        """Queue a message."""
        ...

    async def drain(self) -> None:
        """Wait until the link is below its mark."""
        ...

    def close(self, reason: WireError | None = None) -> None:
        """Close it."""
        ...


class Outbox:
    """The queue in front of a client's link; a :class:`~appliance.gateway.exchange.ClientPort`.

    Args:
        link: The client's link.
        mark: Bytes in the link above which messages wait here.
        request_limit: Bytes of one request that may wait here.
        link_limit: Bytes that may wait here in all.
    """

    def __init__(
        self,
        link: DrainingLink,
        *,
        mark: int = MARK_BYTES,
        request_limit: int = REQUEST_BYTES,
        link_limit: int = LINK_BYTES,
    ) -> None:
        self._link = link
        self._mark = mark
        self._request_limit = request_limit
        self._link_limit = link_limit
        self._held = 0
        self._waiting: deque[tuple[Exchange | None, TLObject, int]] = deque()
        self._drainer: asyncio.Task[None] | None = None

    def post(self, exchange: Exchange, message: TLObject, size: int) -> bool:
        """Queue a part; see :class:`~appliance.gateway.exchange.ClientPort`."""
        if self._drainer is None:
            self._hand_over(message)
            if self._link.waiting > self._mark:
                self._drainer = asyncio.get_running_loop().create_task(self._drain())
            return True
        if exchange.buffered + size > self._request_limit or self._held + size > self._link_limit:
            return False
        exchange.buffered += size
        self._held += size
        self._waiting.append((exchange, message, size))
        return True

    def send(self, message: TLObject, size: int = 0) -> None:
        """Queue a message that is no part: an end (with ``size`` bytes of the answer in it), an error, a payment."""
        if self._drainer is None:
            self._hand_over(message)
            return
        if len(self._waiting) >= ENDS_LIMIT or self._held + size > self._link_limit:
            self._link.close(LinkClosedError("the client does not read: too much waits for it"))
            return
        self._held += size
        self._waiting.append((None, message, size))

    def close(self) -> None:
        """Drop what waits; the link is gone."""
        self._drop()
        if self._drainer is not None:
            self._drainer.cancel()

    async def _drain(self) -> None:
        try:
            while True:
                await self._link.drain()
                while self._waiting and self._link.waiting <= self._mark:
                    exchange, message, size = self._waiting.popleft()
                    self._held -= size
                    if exchange is not None:
                        exchange.buffered -= size
                        if exchange.muted:
                            continue
                    self._hand_over(message)
                if self._link.waiting > self._mark:
                    # Marks of transports differ: one that counts itself writable must not be asked in a tight loop.
                    await asyncio.sleep(PAUSE_S)
                elif not self._waiting:
                    return
        except WireError:
            # The link is gone; its handler is told separately and ends the requests.
            self._drop()
        finally:
            self._drainer = None

    def _drop(self) -> None:
        self._waiting.clear()
        self._held = 0

    def _hand_over(self, message: TLObject) -> None:
        try:
            self._link.send(message)
        except LinkClosedError:
            return
        except WireError as error:
            self._link.close(error)
