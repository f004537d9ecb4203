"""The chain's clock: real time plus an offset that only grows, and never before what it said last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from appliance.lab.chain.errors import DevNetError

if TYPE_CHECKING:
    from collections.abc import Callable

_LATEST = 2**31 - 1  # generation times are compared as signed by some clients


class Clock:
    """Unix time in whole seconds.

    Args:
        source: Real time in seconds.
        offset: Seconds ahead of real time, as a former run left them.
        not_before: The newest time that is already on the chain.
    """

    def __init__(self, source: Callable[[], float] = time.time, *, offset: int = 0, not_before: int = 0) -> None:
        self._source = source
        self._offset = offset
        self._last = not_before

    @property
    def offset(self) -> int:
        """Seconds ahead of real time."""
        return self._offset

    def now(self) -> int:
        """The time; equal to or after every time it told before."""
        self._last = max(self._last, int(self._source()) + self._offset)
        return self._last

    def advance(self, seconds: int) -> int:
        """Go ahead by ``seconds`` and tell the time; raises :class:`DevNetError` for going back or too far."""
        if seconds < 0:
            raise DevNetError(f"the clock cannot go {-seconds} seconds back", hint="block times never decrease")
        if self.now() + seconds > _LATEST:
            raise DevNetError(f"the clock cannot go {seconds} seconds ahead: Unix time ends in 2038 for some clients")
        self._offset += seconds
        return self.now()
