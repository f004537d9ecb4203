"""Which gateways to be connected to (protocol specification, section 1.5, with exponential back-off). Pure.

In: the listed addresses, what became of each attempt, the time. Out: whom to dial now, whom to give up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.wire.reconnect import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

GIVE_UP_AFTER_S = 300.0
"""A target that was not ready for so long is dropped and another one is drawn (section 1.5)."""


@dataclass(slots=True)
class _Target:
    address: str
    good_at: float
    failures: int = 0
    retry_at: float = 0.0
    dialed: bool = False
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do at this tick, as addresses ``host:port``."""

    dial: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(slots=True)
class Targets:
    """The targets of one worker.

    Args:
        count: How many gateways to keep.
        random: Source of the draw and the jitter.
        backoff: How long to wait after a failure; a link that lasted ``stable`` seconds was none.
    """

    count: int
    random: random.Random
    backoff: Backoff = field(default_factory=Backoff)
    _targets: dict[str, _Target] = field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Whom we are, or try to be, connected to."""
        return tuple(self._targets)

    def tick(self, now: float, listed: Sequence[str]) -> Moves:
        """Look at all targets; call every one to two seconds.

        Args:
            now: Seconds on a clock that does not go back.
            listed: Gateways of the root contract, or configured ones.
        """
        dropped = self._dropped(now, listed)
        if len(self._targets) < self.count and listed:
            drawn = self.random.choice(listed)
            if drawn not in self._targets:
                self._targets[drawn] = _Target(drawn, good_at=now)
        due = [target for target in self._targets.values() if not target.dialed and target.retry_at <= now]
        for target in due:
            target.dialed = True
        return Moves(tuple(target.address for target in due), dropped)

    def _dropped(self, now: float, listed: Sequence[str]) -> tuple[str, ...]:
        """At most one a tick: unlisted or unready for too long. A ready one is kept whatever the list says."""
        for target in self._targets.values():
            if target.ready_at is not None:
                continue
            gone = target.address not in listed and not target.dialed
            if gone or now - target.good_at >= GIVE_UP_AFTER_S:
                del self._targets[target.address]
                return (target.address,)
        return ()

    def ready(self, address: str, now: float) -> None:
        """The handshake with this gateway is complete."""
        if target := self._targets.get(address):
            target.ready_at = target.good_at = now

    def lost(self, address: str, now: float) -> float:
        """The link, or the attempt at one, has ended.

        Returns:
            Seconds until the next attempt.
        """
        target = self._targets.get(address)
        if target is None:
            return 0.0
        lasted = 0.0 if target.ready_at is None else now - target.ready_at
        if target.ready_at is not None:
            target.good_at = now
        target.failures = 1 if lasted >= self.backoff.stable else target.failures + 1
        target.dialed, target.ready_at = False, None
        delay = self.backoff.delay(target.failures, self.random.uniform)
        target.retry_at = now + delay
        return delay
