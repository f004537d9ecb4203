"""Collateral kept in memory, asked for once however many wait for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from attestation.errors import CollateralError
from attestation.lru import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.collateral.sources import CollateralSource


class CachedCollateral:
    """Keeps what another source gave, for a while and for a number of platforms; failures are kept for a short while.

    A stranger's quote decides which platform is asked for, so one platform's slow answer never makes another's wait,
    and the number of questions under way is bounded.

    Args:
        source: Asked when nothing fresh is kept.
        max_age: Seconds after which the source is asked again; what is kept is used when that fails.
        retry: Seconds for which a failure is remembered.
        limit: Number of platforms that are kept.
        max_asked: Number of platforms that the source is asked for at a time.
        clock: Unix time.
    """

    def __init__(
        self,
        source: CollateralSource,
        *,
        max_age: float = 3600.0,
        retry: float = 30.0,
        limit: int = 256,
        max_asked: int = 16,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._max_age = max_age
        self._retry = retry
        self._max_asked = max_asked
        self._clock = clock
        self._kept: BoundedCache[tuple[float, bytes]] = BoundedCache(limit)
        self._failed: BoundedCache[CollateralError] = BoundedCache(limit)
        self._asked: dict[bytes, asyncio.Task[bytes]] = {}

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return what is kept, or ask the source.

        Raises:
            CollateralError: The source has none, failed a moment ago, or is asked for too many platforms.
        """
        now = self._clock()
        key = f"{fmspc}-{ca}".encode()
        kept = self._kept.get(key)
        if kept is not None and now - kept[0] < self._max_age:
            return kept[1]
        try:
            return await asyncio.shield(self._ask(key, fmspc, ca, now))
        except CollateralError:
            if kept is not None:
                return kept[1]
            raise

    def _ask(self, key: bytes, fmspc: str, ca: str, now: float) -> asyncio.Task[bytes]:
        """Everybody who waits for a platform waits for the same question."""
        failure = self._failed.get(key, now)
        if failure is not None:
            raise CollateralError(failure.message, hint=failure.hint)
        asked = self._asked.get(key)
        if asked is None:
            if len(self._asked) >= self._max_asked:
                raise CollateralError(
                    f"collateral of {len(self._asked)} platforms is being fetched", hint="try again later"
                )
            asked = asyncio.get_running_loop().create_task(self._fetch(key, fmspc, ca))
            self._asked[key] = asked
        return asked

    async def _fetch(self, key: bytes, fmspc: str, ca: str) -> bytes:
        try:
            collateral = await self._source.get(fmspc, ca)
        except CollateralError as error:
            self._failed.put(key, error, self._clock() + self._retry)
            raise
        finally:
            del self._asked[key]
        self._kept.put(key, (self._clock(), collateral))
        return collateral
