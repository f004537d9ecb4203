"""Back-off and the loop that keeps a link, with time and chance in the test's hands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.errors import DialError
from appliance.wire.reconnect import Backoff, keep_connected
from measurements.errors import ChrysalisError


def highest(low: float, high: float) -> float:
    return high


def test_the_wait_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(initial=1, maximum=30)
    assert [backoff.delay(n, highest) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay(1_000_000, highest) == 30


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_wait_is_drawn_from_its_upper_half(failures: int, chance: float) -> None:
    backoff = Backoff(initial=0.5, maximum=60, factor=3)
    whole = backoff.delay(failures, highest)
    assert whole / 2 <= backoff.delay(failures, lambda low, high: low + (high - low) * chance) <= whole <= 60


class World:
    """Attempts that fail, links that last, and waits that only move the clock."""

    def __init__(self, script: list[Exception | float]) -> None:
        self.script, self.now, self.waits, self.seen, self.closed = script, 0.0, [], [], 0

    async def connect(self) -> Any:
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        world = self

        class FakeLink:
            async def wait_closed(self) -> None:
                world.now += step

            def close(self) -> None:
                world.closed += 1

        return FakeLink()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if not self.script:
            raise asyncio.CancelledError

    async def run(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await keep_connected(
                self.connect,
                backoff=Backoff(initial=1, maximum=60, stable=60),
                observe=lambda error, delay: self.seen.append((error, delay)),
                sleep=self.sleep,
                clock=lambda: self.now,
                uniform=highest,
            )


async def test_failures_and_short_links_wait_longer_each_time() -> None:
    no = DialError("no")
    world = World([no, no, 5.0, ChrysalisError("refused"), 59.0])
    await world.run()
    assert world.waits == [1, 2, 4, 8, 16]
    assert [error for error, _ in world.seen[:3]] == [no, no, None]
    assert world.closed == 2


async def test_a_link_that_lasted_starts_anew() -> None:
    no = DialError("no")
    world = World([no, no, no, 60.0, no])
    await world.run()
    assert world.waits == [1, 2, 4, 1, 2]


async def test_a_mistake_ends_the_loop() -> None:
    world = World([ValueError("mistake")])
    with pytest.raises(ValueError, match="mistake"):
        await keep_connected(world.connect, sleep=world.sleep)
    assert world.waits == []


async def test_cancelling_closes_the_link() -> None:
    closed = asyncio.Event()

    class FakeLink:
        async def wait_closed(self) -> None:
            await asyncio.Future()

        def close(self) -> None:
            closed.set()

    async def connect() -> Any:
        return FakeLink()

    task = asyncio.create_task(keep_connected(connect))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
