"""What is kept, for how long, and what is given out when the service fails."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from collateral_support import DAY, HOUR, NOW
from structlog.testing import capture_logs

from attestation.collateral.dates import Validity
from attestation.collateral.disk import DiskCache
from attestation.collateral.entry import Entry
from attestation.collateral.errors import MalformedAnswerError, ServiceUnreachableError
from attestation.collateral.keeper import MAX_AGES, Keeper, Wanted
from attestation.collateral.offline import OfflineBundle, OfflineCollateral
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


@dataclass
class World:
    """A service whose answers say their own dates: ``issued/expires/text``."""

    now: float = NOW
    answer: bytes = b""
    down: bool = False
    asked: int = 0
    seen: list[str] = field(default_factory=list)

    def says(self, issued: float, expires: float, text: str = "x") -> bytes:
        self.answer = f"{issued:.0f}/{expires:.0f}/{text}".encode()
        return self.answer

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise ServiceUnreachableError("down", hint="wait")
        return self.answer

    def wanted(self, kind: str = "ocsp", identity: str = "a") -> Wanted:
        return Wanted(kind, identity, "service.example", self.fetch)

    def keeper(self, *stores: DiskCache | OfflineCollateral) -> Keeper:
        return Keeper(stores, dates=dates, clock=lambda: self.now, observer=lambda _, event: self.seen.append(event))


def dates(_: str, content: bytes) -> Validity:
    try:
        issued, expires, _text = content.split(b"/")
        return Validity(float(issued), float(expires))
    except ValueError:
        raise MalformedAnswerError("no dates") from None


async def test_what_holds_is_kept_and_asked_for_again_when_it_grows_old() -> None:
    world = World()
    keeper = world.keeper()
    first = world.says(NOW - HOUR, NOW + DAY)
    assert await keeper.get(world.wanted()) == await keeper.get(world.wanted()) == first
    assert (world.asked, world.seen) == (1, ["asked", "fetched", "kept"])
    world.now += MAX_AGES["ocsp"] - 1
    assert await keeper.get(world.wanted()) == first
    second = world.says(world.now, world.now + DAY, "new")
    world.now += 2
    assert await keeper.get(world.wanted()) == second
    assert world.asked == 2


@pytest.mark.parametrize("kind", sorted(MAX_AGES))
async def test_nothing_is_taken_for_fresh_after_its_own_end(kind: str) -> None:
    world = World()
    keeper = world.keeper()
    world.says(NOW - HOUR, NOW + 60)
    await keeper.get(world.wanted(kind))
    world.now += 59
    await keeper.get(world.wanted(kind))
    assert world.asked == 1
    world.now += 1
    newer = world.says(world.now, world.now + DAY)
    assert await keeper.get(world.wanted(kind)) == newer


async def test_the_old_is_given_out_while_the_service_fails_and_the_failure_is_remembered() -> None:
    world = World()
    keeper = world.keeper()
    old = world.says(NOW - HOUR, NOW + 60)
    await keeper.get(world.wanted())
    world.now, world.down = world.now + 10 * DAY, True
    assert await keeper.get(world.wanted()) == old
    assert await keeper.get(world.wanted()) == old
    assert (world.asked, world.seen[-3:]) == (2, ["failed", "stale", "stale"])
    with pytest.raises(ServiceUnreachableError, match="down") as caught:
        await keeper.get(world.wanted(identity="b"))
    assert caught.value.hint == "wait"
    with pytest.raises(ServiceUnreachableError, match="down"):
        await keeper.get(world.wanted(identity="b"))
    assert world.asked == 3
    world.now, world.down = world.now + 31, False
    new = world.says(world.now, world.now + DAY)
    assert await keeper.get(world.wanted()) == await keeper.get(world.wanted(identity="b")) == new


async def test_an_answer_that_is_over_already_is_passed_on_and_not_asked_for_at_once() -> None:
    world = World()
    keeper = world.keeper()
    over = world.says(NOW - DAY, NOW - HOUR)
    for _ in range(5):
        assert await keeper.get(world.wanted()) == over
    assert world.asked == 1
    world.now += 31
    await keeper.get(world.wanted())
    assert world.asked == 2


async def test_garbage_is_not_kept(tmp_path: Path) -> None:
    world = World(answer=b"<html>")
    keeper = world.keeper(DiskCache(tmp_path))
    with pytest.raises(MalformedAnswerError):
        await keeper.get(world.wanted())
    assert list(tmp_path.iterdir()) == []
    good = world.says(NOW, NOW + 5 * HOUR)
    world.now += 31
    await keeper.get(world.wanted())
    world.answer = b"<html>"
    world.now += 6 * HOUR
    assert await keeper.get(world.wanted()) == good


async def test_a_service_that_was_set_back_does_not_undo_what_is_kept() -> None:
    """Control: once what is kept has ended, the older answer is what there is."""
    world = World()
    keeper = world.keeper()
    later = world.says(NOW, NOW + DAY, "later")
    await keeper.get(world.wanted())
    world.now += 7 * HOUR
    earlier = world.says(NOW - HOUR, NOW + 2 * DAY, "earlier")
    assert await keeper.get(world.wanted()) == later
    assert await keeper.get(world.wanted()) == later
    assert world.asked == 2
    world.now += DAY
    assert await keeper.get(world.wanted()) == earlier


async def test_the_disk_outlives_the_program_and_its_clock_may_be_wrong(tmp_path: Path) -> None:
    world = World()
    content = world.says(NOW - HOUR, NOW + DAY)
    await world.keeper(DiskCache(tmp_path)).get(world.wanted())
    assert await world.keeper(DiskCache(tmp_path)).get(world.wanted()) == content
    assert world.asked == 1
    world.now = NOW - 100 * DAY  # fetched in the future: this clock was set back
    await world.keeper(DiskCache(tmp_path)).get(world.wanted())
    assert world.asked == 2


async def test_a_bundle_is_looked_into_and_never_written(tmp_path: Path) -> None:
    world = World(down=True)
    entry = Entry(
        kind="rim", identity="a", source="s", fetched=NOW - DAY, issued=NOW - DAY, expires=NOW - 5, content=b"bundled"
    )
    path = tmp_path / "bundle"
    path.write_bytes(OfflineBundle.of([entry], NOW).encode())
    before = path.read_bytes()
    keeper = world.keeper(DiskCache(tmp_path / "cache"), OfflineCollateral(path))
    assert await keeper.get(replace(world.wanted("rim"), fetch=None)) == b"bundled"
    assert world.asked == 0
    assert await keeper.get(world.wanted("rim")) == b"bundled"  # the service fails, and this is better than nothing
    with pytest.raises(CollateralError, match="no service for it is configured"):
        await keeper.get(replace(world.wanted("rim", "b"), fetch=None))
    world.down = False
    fresh = world.says(NOW, NOW + DAY)
    world.now += 31
    assert await keeper.get(world.wanted("rim")) == fresh
    assert path.read_bytes() == before
    assert await world.keeper(DiskCache(tmp_path / "cache"), OfflineCollateral(path)).get(world.wanted("rim")) == fresh


async def test_questions_are_shared_bounded_and_survive_those_who_leave() -> None:
    release, asked = asyncio.Event(), 0

    async def slow() -> bytes:
        nonlocal asked
        asked += 1
        await release.wait()
        return f"{NOW:.0f}/{NOW + DAY:.0f}/slow".encode()

    keeper = Keeper(dates=dates, max_asked=2, clock=lambda: NOW)
    waiting = [asyncio.ensure_future(keeper.get(Wanted("rim", str(i % 2), "s", slow))) for i in range(40)]
    while asked < 2:  # noqa: ASYNC110 - two tasks of the keeper's own begin
        await asyncio.sleep(0)
    with pytest.raises(CollateralError, match="2 pieces of collateral are being fetched"):
        await keeper.get(Wanted("rim", "third", "s", slow))
    for leaving in waiting[:4]:
        leaving.cancel()
    release.set()
    assert len(set(await asyncio.gather(*waiting[4:]))) == 1
    assert asked == 2


async def test_a_flood_of_new_identities_does_not_use_up_the_service() -> None:
    """Control: what is known already is given out all the same, and other kinds are asked for."""
    world = World()
    keeper = Keeper(dates=dates, per_minute=5, clock=lambda: world.now)
    known = world.says(NOW, NOW + DAY)
    await keeper.get(world.wanted("snp-vcek", "known"))
    for number in range(4):
        await keeper.get(world.wanted("snp-vcek", str(number)))
    for number in range(100):
        with pytest.raises(CollateralError, match="5 times within a minute"):
            await keeper.get(world.wanted("snp-vcek", f"flood {number}"))
    assert world.asked == 5
    assert await keeper.get(world.wanted("snp-vcek", "known")) == known
    await keeper.get(world.wanted("snp-crl", "known"))
    world.now += 60
    await keeper.get(world.wanted("snp-vcek", "new"))
    assert world.asked == 7


async def test_a_failure_that_nobody_waits_for_any_more_is_quiet() -> None:
    release, complaints = asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def fails() -> bytes:
        await release.wait()
        raise ServiceUnreachableError("down")

    keeper = Keeper(dates=dates, clock=lambda: NOW)
    waiting = asyncio.ensure_future(keeper.get(Wanted("rim", "a", "s", fails)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    release.set()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)
    with pytest.raises(ServiceUnreachableError):
        await keeper.get(Wanted("rim", "a", "s", fails))
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_what_comes_from_the_future_is_told_since_it_is_mostly_our_clock() -> None:
    world = World()
    world.says(NOW + HOUR, NOW + DAY)
    with capture_logs() as logs:
        await world.keeper().get(world.wanted())
    assert logs == [
        {
            "event": "collateral is from the future: compare the clocks",
            "log_level": "warning",
            "kind": "ocsp",
            "ahead_by_s": 3600,
        }
    ]


async def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    world = World()
    keeper = world.keeper(DiskCache(tmp_path / "file"))
    world.says(NOW, NOW + DAY)
    with capture_logs() as logs:
        for identity in "abc":
            assert await keeper.get(world.wanted(identity=identity)) == world.answer
    assert [entry["event"] for entry in logs] == ["collateral not kept"]


async def test_kinds_and_identities_do_not_meet() -> None:
    keeper = Keeper(dates=lambda *_: Validity(NOW, NOW + DAY), clock=lambda: NOW)

    def saying(text: bytes) -> Callable[[], Awaitable[bytes]]:
        async def fetch() -> bytes:
            return text

        return fetch

    pairs = [("rim", "a"), ("rim", "b"), ("ocsp", "a"), ("snp-crl", "a\0b"), ("snp-crl", "a")]
    for kind, identity in pairs * 2:
        text = f"{kind} {identity}".encode()
        assert await keeper.get(Wanted(kind, identity, "s", saying(text))) == text
