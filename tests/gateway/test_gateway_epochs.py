"""The gateway when the network's parameters change: no change is missed, whenever it comes, and no old desk reopens."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from gateway_chain import FakeChain, FakeWallet
from gateway_world import FULL_MODEL, IDENTITY, IMAGE, KEY, MODEL, OWNER, Port, root_state, terms

from appliance.accounting.errors import StoreFullError
from appliance.accounting.gateway_ledger import GatewayLedger
from appliance.chain.errors import ChainTimeoutError, StaleError
from appliance.gateway.admission import AdmittedWorker, Checks
from appliance.gateway.book import Sequence
from appliance.gateway.desk import DeskLimits
from appliance.gateway.epoch import Parts, Session
from appliance.gateway.fleet import WorkerConnection
from appliance.gateway.program import Gateway
from appliance.gateway.terms import Terms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from appliance.accounting.gateway_ledger import Batch
    from appliance.chain.layouts import RootState
    from appliance.chain.types import AccountState


class Root:
    """The root contract's view: changes when the test says."""

    def __init__(self) -> None:
        self.state = root_state()
        self.stale = False
        self.told: list[Callable[[RootState], None]] = []

    def subscribe(self, callback: Callable[[RootState], None]) -> None:
        self.told.append(callback)

    def require_fresh(self) -> None:
        if self.stale:
            raise StaleError("the root contract's state is 9999 s old, allowed are 7200 s")

    def change(self, version: int, **changes: Any) -> None:
        self.state = root_state(**({"version": version, "params_version": version} | changes))
        for callback in self.told:
            callback(self.state)


class HaltingChain(FakeChain):
    """Cannot read one contract for as long as the test says."""

    def __init__(self) -> None:
        super().__init__(terms())
        self.unreadable: Any = None
        self.refused = asyncio.Event()
        self.reading: Callable[[], None] = lambda: None

    async def account(self, where: Any) -> AccountState:
        self.reading()
        if where == self.unreadable:
            self.refused.set()
            raise ChainTimeoutError("no answer")
        return await super().account(where)


class FullLedger(GatewayLedger):
    """A disk that is full while the test says."""

    full = False

    def write(self, batch: Batch) -> None:
        if self.full:
            raise StoreFullError("no space left", hint="free some")
        super().write(batch)


class Run:
    """A gateway without listeners."""

    def __init__(self, path: Path) -> None:
        self.chain = HaltingChain()
        self.root = Root()
        self.ledger = FullLedger(path)
        unused: Any = None
        parts = Parts(
            ledger=self.ledger,
            session=Session.open(self.ledger),
            key=KEY,
            chain=self.chain,
            wallet=FakeWallet(self.chain),
            checks=Checks(images=True, models=True),
            evidence=unused,
            limits=DeskLimits(),
            commit_interval=60.0,
            payout_min=1,
            own_evidence=None,
            newer_config=lambda: None,
            sequence=Sequence(self.ledger.seqno),
            writing=asyncio.Lock(),
        )
        registry: Any = self.root
        self.gateway = Gateway(parts, IDENTITY, registry, retry=0.01)

    async def serving(self, version: int) -> None:
        """Wait until the desk for these parameters takes requests."""
        async with asyncio.timeout(10):
            while True:
                desk = self.gateway.epoch.desk
                if desk.terms.params_version == version and desk.closed is None:
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Run]:
    made = Run(path)
    await made.gateway.start()
    work = asyncio.create_task(made.gateway.work())
    try:
        await made.serving(3)
        yield made
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await made.gateway.drain(0.0)
        made.ledger.close()


async def test_a_change_makes_a_new_contract_and_desk(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway.sqlite") as made:
        old = made.gateway.epoch
        made.root.change(4)
        await made.serving(4)
        assert old.desk.closed == "the network's parameters changed"
        assert made.gateway.epoch.desk.terms.contract != old.desk.terms.contract


async def test_a_change_while_another_is_being_prepared_is_not_missed(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway.sqlite") as made:
        made.chain.unreadable = Terms.of(IDENTITY, root_state(version=4, params_version=4)).contract
        made.root.change(4)
        await asyncio.wait_for(made.chain.refused.wait(), 10)
        assert made.gateway.epoch.desk.closed
        made.root.change(5)
        await made.serving(5)


async def test_a_change_that_comes_while_the_first_contract_is_read_is_not_missed(tmp_path: Path) -> None:
    made = Run(tmp_path / "gateway.sqlite")
    made.chain.reading = lambda: setattr(made.root, "state", root_state(version=4, params_version=4))
    await made.gateway.start()
    work = asyncio.create_task(made.gateway.work())
    await made.serving(4)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await made.gateway.drain(0.0)
    made.ledger.close()


@pytest.mark.parametrize("full", [True, False], ids=["full", "control"])
async def test_a_disk_that_is_full_at_that_moment_holds_the_change_up_and_nothing_reopens(
    tmp_path: Path, full: bool
) -> None:
    async with running(tmp_path / "gateway.sqlite") as made:
        old = made.gateway.epoch
        account = old.book.worker(IDENTITY.owner, old.desk.terms.worker_contract(IDENTITY.owner))
        old.book.observe_worker(IDENTITY.owner, account.contract, 7)
        made.ledger.full = full
        made.root.change(4)
        if full:
            async with asyncio.timeout(10):
                while "no space left" not in (old.desk.closed or ""):  # noqa: ASYNC110 - other tasks change it
                    await asyncio.sleep(0.01)
            # A tick of the gateway later the desk is still closed, and it is still the old one.
            await asyncio.sleep(0.15)
            assert made.gateway.epoch is old
            assert old.desk.closed
            made.ledger.full = False
        await made.serving(4)
        assert [row.tokens for row in made.ledger.workers(old.desk.terms.contract.raw())] == [7]


async def test_a_stale_root_stops_new_work_and_a_fresh_one_lets_it_go_on(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway.sqlite") as made:
        made.root.stale = True
        async with asyncio.timeout(10):
            while "9999 s old" not in (made.gateway.epoch.desk.closed or ""):  # noqa: ASYNC110 - a tick changes it
                await asyncio.sleep(0.01)
        made.root.stale = False
        await made.serving(3)


async def test_a_worker_that_leaves_the_lists_is_not_offered_requests_until_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path / "gateway.sqlite") as made:
        desk = made.gateway.epoch.desk
        admitted = AdmittedWorker(OWNER, FULL_MODEL, MODEL, 1000, 2, 2, IMAGE)
        account = desk.book.worker(OWNER, desk.terms.worker_contract(OWNER))
        worker = WorkerConnection(1, Port(), admitted, account)
        worker.shaken = worker.cleared = True
        worker.disabled = False
        desk.fleet.add(worker)
        for version, gone in ((6, {"worker_hashes": frozenset()}), (8, {"model_hashes": frozenset()})):
            assert worker.offered
            made.root.change(version, params_version=3, **gone)
            assert not worker.offered
            made.root.change(version + 1, params_version=3)
        assert worker.offered
        assert made.gateway.epoch.desk is desk, "lists alone make no new contract"
