"""Fresh evidence: many nonces to a quote, a bounded queue, failures told to whoever asked."""

from __future__ import annotations

import asyncio

import pytest

from appliance.errors import RequestError
from appliance.worker.evidence import BATCH, WAITING, EvidenceDesk
from attestation.claims import WorkloadStatement
from attestation.errors import CollectionError
from attestation.evidence import parse_bundle
from attestation.platforms import FakeTdx
from attestation.ratls import Identity

STATEMENT = WorkloadStatement(image=bytes(32), measured_config=b"\1" * 32, coefficient=1000)


class CountingPlatform(FakeTdx):
    """Counts quotes; fails while told to."""

    quotes = 0
    broken = False

    async def collect(self, report_data: bytes) -> bytes:
        self.quotes += 1
        if self.broken:
            raise CollectionError("no quote today")
        return await super().collect(report_data)


async def desk(platform: CountingPlatform, price: list[int] | None = None) -> EvidenceDesk:
    identity = await Identity.create(None)
    prices = price or [1000]

    def statement() -> WorkloadStatement:
        return WorkloadStatement(image=bytes(32), measured_config=b"\1" * 32, coefficient=prices[0])

    return EvidenceDesk(platform, identity, statement, lambda: b"\2" * 32, pause=0.0)


def nonce(number: int) -> bytes:
    return number.to_bytes(32, "big")


async def test_each_asker_gets_a_bundle_for_its_own_nonce_and_quotes_are_shared() -> None:
    platform = CountingPlatform()
    subject = await desk(platform)
    bundles = await asyncio.gather(*(subject.bundle(nonce(i)) for i in range(BATCH + 5)))
    for number, raw in enumerate(bundles):
        bundle = parse_bundle(raw)
        assert bundle.nonce == nonce(number)
        assert bundle.path_holds
        assert bundle.signature_holds
        assert bundle.block_hash == b"\2" * 32
    assert platform.quotes == subject.quotes == 2
    await subject.close()


async def test_the_statement_is_of_the_moment() -> None:
    prices = [1000]
    subject = await desk(CountingPlatform(), prices)
    assert parse_bundle(await subject.bundle(nonce(1))).statement.coefficient == 1000
    prices[0] = 2500
    assert parse_bundle(await subject.bundle(nonce(2))).statement.coefficient == 2500
    await subject.close()


async def test_too_many_askers_are_told_to_come_back() -> None:
    subject = await desk(CountingPlatform())
    waiting = [asyncio.ensure_future(subject.bundle(nonce(i))) for i in range(WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(RequestError, match="too many"):
        await subject.bundle(nonce(9999))
    await asyncio.gather(*waiting)
    await subject.bundle(nonce(9999))
    await subject.close()


async def test_a_failure_is_told_and_the_next_one_works() -> None:
    platform = CountingPlatform()
    platform.broken = True
    subject = await desk(platform)
    with pytest.raises(CollectionError, match="no quote today"):
        await subject.bundle(nonce(1))
    platform.broken = False
    assert parse_bundle(await subject.bundle(nonce(1))).nonce == nonce(1)
    await subject.close()


async def test_who_gave_up_costs_no_quote() -> None:
    platform = CountingPlatform()
    subject = await desk(platform)
    gone = asyncio.ensure_future(subject.bundle(nonce(1)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.sleep(0.02)
    assert platform.quotes == 0
    await subject.close()


async def test_closing_tells_whoever_waits() -> None:
    subject = await desk(CountingPlatform())
    subject._pause = 60.0
    waiting = asyncio.ensure_future(subject.bundle(nonce(1)))
    await asyncio.sleep(0)
    await subject.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
