"""The queue in front of a client's link: order, bounds, and what a slow reader costs."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway_world import World

from appliance.gateway.outbox import Outbox
from appliance.wire.errors import FrameTooLargeError, LinkClosedError


class SlowLink:
    """A link that holds what it was given until the test reads it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.waiting = 0
        self.closed_with: object = None
        self.error: Exception | None = None
        self._drained = asyncio.Event()

    def send(self, message: Any) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(message)
        self.waiting += 10

    async def drain(self) -> None:
        while self.waiting > 50:
            self._drained.clear()
            await self._drained.wait()
            if self.error is not None:
                raise self.error

    def read(self) -> None:
        self.waiting = 0
        self._drained.set()

    def close(self, reason: object = None) -> None:
        self.closed_with = reason


def exchanges(count: int) -> list[Any]:
    world = World()
    world.worker(1, limit=count)
    client = world.client(1)
    return [client.exchanges[world.ask(client)] for _ in range(count)]


async def settle() -> None:
    await asyncio.sleep(0.02)


async def test_order_is_kept_across_the_mark() -> None:
    link: Any = SlowLink()
    outbox = Outbox(link, mark=50, request_limit=1000)
    (one,) = exchanges(1)
    for number in range(20):
        assert outbox.post(one, number, 10)  # type: ignore[arg-type]
    outbox.send("end")  # type: ignore[arg-type]
    assert len(link.sent) < 10
    assert one.buffered == 10 * (20 - len(link.sent))
    for _ in range(10):
        await settle()
        link.read()
    await settle()
    assert link.sent == [*range(20), "end"]
    assert one.buffered == 0
    assert outbox.post(one, "direct again", 10)  # type: ignore[arg-type]
    assert link.sent[-1] == "direct again"


async def test_the_bound_is_each_requests_own() -> None:
    link: Any = SlowLink()
    outbox = Outbox(link, mark=50, request_limit=30)
    greedy, modest = exchanges(2)
    taken = [outbox.post(greedy, number, 10) for number in range(12)]  # type: ignore[arg-type]
    assert taken == [True] * 9 + [False] * 3
    assert outbox.post(modest, "mine", 10)  # type: ignore[arg-type]
    greedy.muted = True
    for _ in range(10):
        await settle()
        link.read()
    await settle()
    assert "mine" in link.sent
    assert 8 not in link.sent, "parts of a request that ended are not sent any more"
    assert greedy.buffered == modest.buffered == 0


async def test_a_transport_that_always_counts_itself_writable_does_not_stop_the_loop() -> None:
    link: Any = SlowLink()

    async def at_once() -> None:
        return

    link.drain = at_once
    outbox = Outbox(link, mark=50, request_limit=1000)
    (one,) = exchanges(1)
    for number in range(12):
        outbox.post(one, number, 10)  # type: ignore[arg-type]
    await settle()
    link.read()
    await settle()
    link.read()
    await settle()
    assert link.sent == list(range(12))


async def test_a_link_that_goes_away_is_no_error() -> None:
    link: Any = SlowLink()
    outbox = Outbox(link, mark=50, request_limit=1000)
    (one,) = exchanges(1)
    for number in range(12):
        outbox.post(one, number, 10)  # type: ignore[arg-type]
    await settle()
    link.error = LinkClosedError("gone")
    link.read()
    await settle()
    assert outbox.post(one, "nowhere", 1)  # type: ignore[arg-type]
    outbox.close()


async def test_a_message_that_fits_no_frame_closes_the_link() -> None:
    link: Any = SlowLink()
    outbox = Outbox(link)
    link.error = FrameTooLargeError(1 << 25, 1 << 24)
    outbox.send("large")  # type: ignore[arg-type]
    assert link.closed_with is link.error


async def test_all_requests_together_are_bounded_too() -> None:
    link: Any = SlowLink()
    outbox = Outbox(link, mark=50, request_limit=30, link_limit=70)
    taken = [outbox.post(exchange, "part", 30) for exchange in exchanges(9)]  # type: ignore[arg-type]
    # Six reach the link before it is above its mark; of the others two fit, 60 bytes of 70.
    assert taken == [True] * 8 + [False]
    await settle()
    link.read()
    await settle()
    assert len(link.sent) == 8


async def test_a_client_that_collects_ends_and_does_not_read_is_cut_off() -> None:
    for size, cut in ((40, True), (1, False)):
        link: Any = SlowLink()
        outbox = Outbox(link, mark=50, request_limit=30, link_limit=70)
        (one,) = exchanges(1)
        for _ in range(6):
            outbox.post(one, "part", 1)  # type: ignore[arg-type]
        for _ in range(8):
            outbox.send("end", size)  # type: ignore[arg-type]
        assert (link.closed_with is not None) == cut
        outbox.close()
        await settle()
