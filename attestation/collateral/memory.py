"""Collateral of TDX machines kept in memory, asked for once however many wait for it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from attestation.collateral.dates import Validity
from attestation.collateral.keeper import Keeper, Wanted

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
        self._keeper = Keeper(
            max_ages={"tdx": max_age}, dates=_undated, retry=retry, limit=limit, max_asked=max_asked, clock=clock
        )

    async def get(self, fmspc: str, ca: str) -> bytes:
        """Return what is kept, or ask the source.

        Raises:
            CollateralError: The source has none, failed a moment ago, or is asked for too many platforms.
        """
        wanted = Wanted("tdx", f"{fmspc}-{ca}", "", lambda: self._source.get(fmspc, ca))
        return await self._keeper.get(wanted)


def _undated(_: str, __: bytes) -> Validity:
    """A source's answer is looked at by the verifier alone."""
    return Validity(0.0, math.inf)
