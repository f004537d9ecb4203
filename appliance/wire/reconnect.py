"""Keeping a link: connect, wait until it is lost, wait longer each time it did not last, connect again.

The reference dials every 10 s for ever (section 1.5). We back off exponentially with jitter (section 8, item 19), so
that a gateway that comes back is not met by all its workers in one moment, and one that refuses us is not pestered.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never

import structlog

from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.wire.link import Link

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after failures; times in seconds.

    Attributes:
        initial: The wait after the first failure, before jitter.
        maximum: The wait is never longer.
        factor: How much longer after each further failure.
        stable: A link that lasted this long ends the row of failures.
    """

    initial: float = 1.0
    maximum: float = 60.0
    factor: float = 2.0
    stable: float = 60.0

    def delay(self, failures: int, uniform: Callable[[float, float], float]) -> float:
        """The wait after so many failures in a row: half of it fixed, half drawn.

        Args:
            failures: One or more.
            uniform: Draws a number between two bounds, as ``random.uniform``.
        """
        try:
            whole = min(self.initial * self.factor ** (failures - 1), self.maximum)
        except OverflowError:
            whole = self.maximum
        return uniform(whole / 2, whole)


async def keep_connected(
    connect: Callable[[], Awaitable[Link]],
    *,
    backoff: Backoff | None = None,
    observe: Callable[[ChrysalisError | None, float], None] = lambda _error, _delay: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Never:
    """Keep one link open until cancelled; the link is closed then.

    Args:
        connect: Makes a link that is ready for use: dials, negotiates, does the handshake of its role. It raises a
            :class:`ChrysalisError` if that cannot be done now; anything else is a mistake and ends this task.
        backoff: How long to wait between attempts.
        observe: Told before each wait why there is one (``None``: a working link was lost) and its seconds.
        sleep: Waits.
        clock: Seconds that never run backwards.
        uniform: Draws the jitter.
    """
    policy = backoff or Backoff()
    failures = 0
    while True:
        error: ChrysalisError | None = None
        lasted = 0.0
        try:
            link = await connect()
        except ChrysalisError as caught:
            error = caught
        else:
            started = clock()
            try:
                await link.wait_closed()
            finally:
                link.close()
            lasted = clock() - started
        failures = 1 if lasted >= policy.stable else failures + 1
        delay = policy.delay(failures, uniform)
        log.info("reconnecting", delay_s=round(delay, 3), count=failures, error=type(error).__name__ if error else "")
        observe(error, delay)
        await sleep(delay)
