"""Fairness between clients and between workers."""

from __future__ import annotations

from collections import Counter

import pytest
from gateway_world import World
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import ErrorCode, RequestError
from appliance.gateway.fleet import WINDOW_S, Average
from appliance.gateway.queue import FairQueue


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=80))
def test_while_two_clients_wait_neither_is_served_twice_in_a_row_more(events: list[tuple[int, bool]]) -> None:
    """Between two serves of one client, every other client that waited all that time is served."""
    queue: FairQueue[tuple[int, int]] = FairQueue(limit=40, client_share=0.25)
    served_since: dict[int, Counter[int]] = {}
    number = 0
    for client, put in events:
        if put:
            number += 1
            try:
                queue.put(client, (client, number), retry_after=1.0)
            except RequestError:
                assert queue.waiting(client) == 10 or len(queue) == 40
                continue
            served_since.setdefault(client, Counter())
        else:
            item = queue.take(lambda _: True)
            if item is None:
                assert len(queue) == 0
                continue
            who = item[0]
            for waiting, counts in served_since.items():
                if waiting != who:
                    counts[who] += 1
                    assert counts[who] <= 1, "a client was served twice while another waited"
            if queue.waiting(who):
                served_since[who] = Counter()
            else:
                served_since.pop(who)


def test_a_flood_of_one_client_does_not_delay_another() -> None:
    queue: FairQueue[int] = FairQueue(limit=100, client_share=0.9)
    for number in range(80):
        queue.put("flood", number, retry_after=1.0)
    queue.put("calm", 1000, retry_after=1.0)
    assert [queue.take(lambda _: True) for _ in range(3)] == [0, 1000, 1]


def test_what_does_not_fit_keeps_its_place() -> None:
    queue: FairQueue[int] = FairQueue(limit=10, client_share=1.0)
    for number in (1, 2, 3):
        queue.put("a", number, retry_after=1.0)
    assert queue.take(lambda item: item == 2) == 2
    assert queue.take(lambda item: item == 9) is None
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert queue.take(lambda _: True) == 3
    assert len(queue) == 0


def test_limits_of_the_queue() -> None:
    queue: FairQueue[int] = FairQueue(limit=2, client_share=0.5)
    queue.put("a", 1, retry_after=2.4)
    with pytest.raises(RequestError, match=r"share of the queue is full.*retry after 3 s") as caught:
        queue.put("a", 2, retry_after=2.4)
    assert (caught.value.code, caught.value.retry_after) == (ErrorCode.NOT_READY, 3.0)
    queue.put("b", 3, retry_after=1.0)
    with pytest.raises(RequestError, match="the queue is full"):
        queue.put("c", 4, retry_after=1.0)


def test_old_durations_fade() -> None:
    average = Average()
    assert average.value == 0.0
    average.add(10.0, 0.0)
    assert average.value == 10.0
    average.add(0.0, 100 * WINDOW_S)
    assert average.value == pytest.approx(0.0)
    even = Average()
    even.add(2.0, 5.0)
    even.add(4.0, 5.0)
    assert even.value == 3.0


def test_lists_for_clients() -> None:
    world = World()
    world.worker(1, coefficient=2000)
    cheap = world.worker(2, coefficient=500, limit=7)
    off = world.worker(3, coefficient=100)
    off.disabled = True
    (kind,) = world.desk.fleet.types().types
    assert (kind.name, kind.active_workers) == ("org/model", 3)
    assert (kind.coefficient_min, kind.coefficient_bucket50, kind.coefficient_max) == (100, 2000, 2**31 - 1)
    (newer,) = world.desk.fleet.types_v2().types
    shown = [(worker.coefficient, worker.active_requests, worker.max_active_requests) for worker in newer.workers]
    assert shown == [(500, 0, 7), (2000, 0, 2)]
    world.desk.worker_lost(cheap)
    assert len(world.desk.fleet.types_v2().types[0].workers) == 1
