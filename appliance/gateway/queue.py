"""The queue of requests that wait for a worker: fair between clients, bounded in all and for each client. Pure.

In: items with the client they belong to. Out: the next item, clients taking turns. A client that sends a thousand
requests delays itself, not the others: within one turn of all clients everybody who waits is served once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items in turns of their clients.

    Args:
        limit: Items in all.
        client_share: Part of the places that one client may hold, above 0 and at most 1; at least one place.
    """

    def __init__(self, *, limit: int, client_share: float) -> None:
        self._limit = limit
        self._client_limit = max(1, math.floor(limit * client_share))
        self._turns: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting(self, client: Hashable) -> int:
        """How many items of this client wait."""
        return len(self._turns.get(client, ()))

    def put(self, client: Hashable, item: T, *, retry_after: float) -> None:
        """Add an item at the end of its client's line.

        Args:
            client: Whose it is.
            item: Hashable, and not in the queue.
            retry_after: Seconds to name in the refusal.

        Raises:
            RequestError: The queue or the client's share of it is full (651).
        """
        mine = self.waiting(client)
        if self._size >= self._limit or mine >= self._client_limit:
            whose = "the queue is full" if self._size >= self._limit else "this client's share of the queue is full"
            raise busy(f"all workers are busy and {whose} ({self._size} waiting)", retry_after)
        self._turns.setdefault(client, OrderedDict())[item] = None
        self._size += 1

    def take(self, fits: Callable[[T], bool]) -> T | None:
        """The oldest fitting item of the first client in turn that has one; that client goes to the end."""
        for client, line in self._turns.items():
            for item in line:
                if fits(item):
                    self._drop(client, item)
                    if client in self._turns:
                        self._turns.move_to_end(client)
                    return item
        return None

    def remove(self, client: Hashable, item: T) -> bool:
        """Take an item out of its line; False when it is not there."""
        if item not in self._turns.get(client, ()):
            return False
        self._drop(client, item)
        return True

    def _drop(self, client: Hashable, item: T) -> None:
        line = self._turns[client]
        del line[item]
        self._size -= 1
        if not line:
            del self._turns[client]


def busy(message: str, retry_after: float) -> RequestError:
    """The refusal for load: code 651, with the seconds to wait in its text, where the client's side reads them."""
    seconds = max(1, math.ceil(retry_after))
    return RequestError(f"{message}; retry after {seconds} s", code=ErrorCode.NOT_READY, retry_after=float(seconds))
