"""What keeps collateral: asks a service once however many wait, and again before what is kept ends.

In: a kind, an identity and how to ask. Out: content, as fresh as can be had. When the service fails, what is kept is
given out for as long as it exists, expired or not: the verifier reads the dates, and its verdict says which check of
them fails. That tells more than "the service is down".
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from attestation.collateral.dates import CLOCK_SKEW_S, validity
from attestation.collateral.entry import MAX_SOURCE, Entry
from attestation.errors import CollateralError
from attestation.lru import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from attestation.collateral.dates import Validity
    from attestation.collateral.entry import Store

log = structlog.get_logger(__name__)

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
MAX_AGES: Final[Mapping[str, float]] = {
    "tdx": _HOUR,  # a TCB recovery comes without notice
    "snp-vcek": 365 * _DAY,  # of one chip at one TCB: never another
    "snp-chain": 30 * _DAY,
    "snp-crl": 6 * _HOUR,
    "rim": 7 * _DAY,  # of one version: published once
    "ocsp": 6 * _HOUR,  # holds for a day; a stapled one has to last until the next is made
}
"""Seconds after which a service is asked again although what is kept still holds."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        kind: One of :data:`attestation.collateral.dates.KINDS`.
        identity: What it is of.
        source: Host of the service, for the record.
        fetch: Asks the service; None where there is none.
    """

    kind: str
    identity: str
    source: str
    fetch: Callable[[], Awaitable[bytes]] | None

    @property
    def key(self) -> bytes:
        """Under which it is kept in memory."""
        return hashlib.sha256(f"{self.kind}\0{self.identity}".encode()).digest()


class Observer(Protocol):
    """Told of what happens; a command shows it."""

    def __call__(self, wanted: Wanted, event: str) -> None:
        """``event`` is ``kept``, ``asked``, ``fetched``, ``failed`` or ``stale``."""


class Keeper:
    """Keeps pieces of collateral in memory and in stores.

    A stranger's evidence decides what is asked for, so one slow answer never makes another question wait, and the
    number of questions under way is bounded.

    Args:
        stores: Where pieces are kept; asked in order, and every one is written to.
        max_ages: Seconds by kind after which a service is asked again.
        dates: Reads how long content holds.
        retry: Seconds for which a failure is remembered, and for which content is given out that had expired already
            when it came.
        limit: Number of pieces in memory.
        max_asked: Number of questions under way.
        per_minute: Number of questions of a kind in a minute: a flood of evidence with a new identity in each
            must not use up what a service allows us.
        clock: Unix time.
        observer: Told of what happens.
    """

    def __init__(
        self,
        stores: Sequence[Store] = (),
        *,
        max_ages: Mapping[str, float] = MAX_AGES,
        dates: Callable[[str, bytes], Validity] = validity,
        retry: float = 30.0,
        limit: int = 256,
        max_asked: int = 64,
        per_minute: int = 240,
        clock: Callable[[], float] = time.time,
        observer: Observer | None = None,
    ) -> None:
        self._stores = tuple(stores)
        self._max_ages = max_ages
        self._dates = dates
        self._retry = retry
        self._max_asked = max_asked
        self._per_minute = per_minute
        self._recent: dict[str, deque[float]] = {}
        self._clock = clock
        self._observe = observer or _nobody
        self._kept: BoundedCache[Entry] = BoundedCache(limit)
        self._failed: BoundedCache[CollateralError] = BoundedCache(limit)
        self._asked: dict[bytes, asyncio.Task[Entry]] = {}

    async def get(self, wanted: Wanted) -> bytes:
        """The content; see :meth:`entry`."""
        return (await self.entry(wanted)).content

    async def entry(self, wanted: Wanted) -> Entry:
        """The piece: kept and fresh, else asked for, else kept and old.

        Raises:
            CollateralError: There is none, the service failed a moment ago, or too much is asked for.
        """
        kept = await self._find(wanted)
        if kept is not None and (wanted.fetch is None or self._fresh(kept)):
            self._observe(wanted, "kept")
            return kept
        fetch = wanted.fetch
        if fetch is None:
            raise CollateralError(
                f"no {wanted.kind} collateral of {wanted.identity} is at hand, and no service for it is configured",
                hint="name a service, or an offline bundle that holds it",
            )
        try:
            return await asyncio.shield(self._ask(wanted, fetch, kept))
        except CollateralError as error:
            if kept is None:
                raise
            self._observe(wanted, "stale")
            log.warning("old collateral is used", kind=wanted.kind, identity=wanted.identity, reason=error.message)
            return kept

    def _fresh(self, entry: Entry) -> bool:
        now, age = self._clock(), self._clock() - entry.fetched
        if now >= entry.expires:
            return -1.0 <= age < self._retry  # it came so: asking again at once would bring it again
        return -1.0 <= age < self._max_ages.get(entry.kind, _HOUR)

    async def _find(self, wanted: Wanted) -> Entry | None:
        """The freshest that is kept; the first store that has a fresh one ends the search."""
        best = self._kept.get(wanted.key)
        if best is not None and self._fresh(best):
            return best
        for store in self._stores:
            found = await asyncio.to_thread(store.read, wanted.kind, wanted.identity)
            if found is not None and (best is None or found.expires > best.expires):
                best = found
        if best is not None:
            self._kept.put(wanted.key, best)
        return best

    def _ask(self, wanted: Wanted, fetch: Callable[[], Awaitable[bytes]], kept: Entry | None) -> asyncio.Task[Entry]:
        """Everybody who waits for a piece waits for the same question."""
        failure = self._failed.get(wanted.key, self._clock())
        if failure is not None:
            raise type(failure)(failure.message, hint=failure.hint)
        asked = self._asked.get(wanted.key)
        if asked is None:
            if len(self._asked) >= self._max_asked:
                raise CollateralError(
                    f"{len(self._asked)} pieces of collateral are being fetched", hint="try again later"
                )
            self._count(wanted.kind)
            asked = asyncio.get_running_loop().create_task(self._fetch(wanted, fetch, kept))
            asked.add_done_callback(_seen)
            self._asked[wanted.key] = asked
        return asked

    def _count(self, kind: str) -> None:
        """Note a question; raises ``CollateralError`` where there were too many in the last minute."""
        now = self._clock()
        recent = self._recent.setdefault(kind, deque())
        while recent and not 0 <= now - recent[0] < _MINUTE:
            recent.popleft()
        if len(recent) >= self._per_minute:
            raise CollateralError(
                f"{kind} collateral was asked for {len(recent)} times within a minute",
                hint="somebody shows much evidence of machines that are not known yet; try again later",
            )
        recent.append(now)

    async def _fetch(self, wanted: Wanted, fetch: Callable[[], Awaitable[bytes]], kept: Entry | None) -> Entry:
        self._observe(wanted, "asked")
        try:
            content = await fetch()
            dates = self._dates(wanted.kind, content)
        except CollateralError as error:
            self._failed.put(wanted.key, error, self._clock() + self._retry)
            self._observe(wanted, "failed")
            raise
        finally:
            del self._asked[wanted.key]
        now = self._clock()
        if dates.issued > now + CLOCK_SKEW_S:
            ahead = round(dates.issued - now)
            log.warning("collateral is from the future: compare the clocks", kind=wanted.kind, ahead_by_s=ahead)
        entry = Entry(
            kind=wanted.kind,
            identity=wanted.identity,
            source=wanted.source[:MAX_SOURCE],
            fetched=now,
            issued=dates.issued,
            expires=dates.expires,
            content=content,
        )
        if kept is not None and kept.expires > now and dates.issued < kept.issued:
            # A service that lags, or one that was set back: what we have is later and still holds.
            log.warning("older collateral was served", kind=wanted.kind, identity=wanted.identity)
            entry = replace(kept, fetched=now)
        self._kept.put(wanted.key, entry)
        for store in self._stores:
            await asyncio.to_thread(store.write, entry)
        self._observe(wanted, "fetched")
        return entry


def _nobody(_: Wanted, __: str) -> None:
    """Nobody wants to know."""


def _seen(asked: asyncio.Task[Entry]) -> None:
    """A failure is remembered already; who waited for it may have left."""
    if not asked.cancelled():
        asked.exception()
