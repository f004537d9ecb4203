"""A bounded store of results: the least recently used one goes first, and an expired one is never given out."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class BoundedCache(Generic[_Value]):
    """Results by digest.

    Args:
        limit: Number of results that are kept; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[bytes, tuple[float, _Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float = 0.0) -> _Value | None:
        """The result, ``None`` if there is none or if it expired (Unix time)."""
        found = self._kept.get(key)
        if found is None:
            return None
        expires_at, value = found
        if now >= expires_at:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def put(self, key: bytes, value: _Value, expires_at: float = math.inf) -> None:
        """Keep a result until ``expires_at`` (Unix time) or until it is pushed out."""
        self._kept[key] = (expires_at, value)
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
