"""One gateway's link: standing, prices, payments, parameters, evidence."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from worker_world import FULL_MODEL, ROOT, Accounts, World, make_params, make_world, until

from appliance.accounting.errors import StoreFullError
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.worker_ledger import WorkerLedger
from appliance.chain.errors import FundsError
from appliance.wire.errors import ExtensionNotAgreedError
from appliance.wire.extensions import ALL, Extension
from appliance.wire.messages import (
    ChrysalisGetEvidence,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerPartEx,
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    ProxyWorkerRequestPayment,
    WorkerCompareBalanceWithProxy,
    WorkerConnectedToProxy,
    WorkerConnectToProxy,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
    WorkerProxyHandshakeComplete,
    WorkerProxyHandshakeCompleted,
)
from appliance.worker.link import MAX_VIOLATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from appliance.wire.base import TLObject


def payment(world: World, db: int, maximum: int, tokens: int, **changes: object) -> ProxyWorkerRequestPayment:
    values: dict[str, object] = {
        "request_id": bytes(32),
        "signed_payment": world.accounts.payment(tokens),
        "db_tokens": db,
        "max_tokens": maximum,
        "request_tokens": 16,
        "request_client_owner": "",
    }
    return ProxyWorkerRequestPayment(**(values | changes))  # type: ignore[arg-type]  # by name


async def test_payments_are_on_disk_with_the_newest_signature(world: World) -> None:
    newest = world.accounts.payment(7)
    world.gateway.send(payment(world, 9, 12, 5))
    world.gateway.send(payment(world, 10, 16, 7, signed_payment=newest))
    await until(lambda: world.record.counters == Counters(7, 10, 16))
    assert world.record.payment == newest.data
    world.gateway.send(newest)
    world.gateway.send(ProxySignedPaymentEmpty())
    world.gateway.send(payment(world, 10, 20, 7, signed_payment=newest))
    await until(lambda: world.record.counters.max == 20)
    assert world.gateway.links == 1


async def test_a_restart_goes_on_where_the_disk_left_off(tmp_path: Path) -> None:
    async with make_world(tmp_path) as world:
        newest = world.accounts.payment(5)
        world.gateway.send(payment(world, 9, 12, 5, signed_payment=newest))
        await until(lambda: world.record.counters == Counters(5, 9, 12))
    async with make_world(tmp_path, start=False) as world:
        world.accounts.committed, world.accounts.db, world.accounts.maximum = 5, 9, 12
        assert world.record.payment == newest.data
        task = asyncio.create_task(world.worker.run())
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        assert WorkerCompareBalanceWithProxy(5, 9, 12) in world.gateway.queries
        assert world.record.payment == newest.data
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_full_disk_pauses_the_worker_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [True]
    save = WorkerLedger.save

    def failing(self: WorkerLedger, records: Iterable[ProxyRecord]) -> None:
        if full[0]:
            raise StoreFullError("no space left", hint="free some")
        save(self, records)

    monkeypatch.setattr(WorkerLedger, "save", failing)
    world.gateway.send(payment(world, 9, 12, 5))
    await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(1) in messages)
    assert [reason.name for reason in world.worker.look()] == ["ledger"]
    assert world.record.counters == Counters()
    (refused,) = await world.gateway.ask({})
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == 651
    full[0] = False
    await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(0) in messages)
    await until(lambda: world.record.counters == Counters(5, 9, 12))
    assert isinstance((await world.gateway.ask({}))[-1], ProxyQueryAnswerPartEx)


@pytest.mark.parametrize("case", ["older", "db back", "max back", "negative", "stranger", "rubbish", "absurd"])
async def test_a_contradiction_closes_the_link_and_keeps_what_was_known(world: World, case: str) -> None:
    world.gateway.send(payment(world, 9, 12, 5))
    await until(lambda: world.record.counters == Counters(5, 9, 12))
    stranger = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)
    bad = {
        "older": payment(world, 9, 12, 4),
        "db back": payment(world, 8, 12, 5),
        "max back": payment(world, 9, 11, 5),
        "negative": payment(world, -1, 12, 5),
        "stranger": payment(world, 9, 12, 6, signed_payment=world.accounts.payment(6, key=stranger)),
        "rubbish": payment(world, 9, 12, 6, signed_payment=ProxySignedPayment(b"\0" * 100)),
        "absurd": payment(world, 2**62, 2**62, 5),
    }[case]
    before = world.record
    world.accounts.committed, world.accounts.db, world.accounts.maximum = 5, 9, 12
    world.gateway.send(bad)
    await until(lambda: world.gateway.links == 2)
    assert world.record == before
    await until(lambda: world.worker.links[0].ready)
    compared = [query for query in world.gateway.queries if isinstance(query, WorkerCompareBalanceWithProxy)]
    assert compared[-1] == WorkerCompareBalanceWithProxy(5, 9, 12)


async def test_a_bad_payment_with_a_request_is_only_noted(world: World) -> None:
    answers = await world.gateway.ask({}, signed_payment=ProxySignedPayment(b"\0" * 8))
    assert isinstance(answers[-1], ProxyQueryAnswerPartEx)
    assert world.worker.links[0].violations == 1
    newest = world.accounts.payment(3)
    await world.gateway.ask({}, signed_payment=newest)
    await until(lambda: world.record.payment == newest.data)


async def test_messages_that_mean_nothing_here_are_dropped(world: World) -> None:
    world.gateway.send(WorkerEnabledDisabled(1))
    assert isinstance((await world.gateway.ask({}))[-1], ProxyQueryAnswerPartEx)
    assert world.worker.links[0].violations == 1


async def test_a_gateway_that_breaks_rules_all_the_time_is_left(world: World) -> None:
    link = world.worker.links[0]
    for _ in range(MAX_VIOLATIONS):
        world.gateway.send(WorkerEnabledDisabled(0))
    await until(lambda: link.violations == MAX_VIOLATIONS)
    assert link.ready
    world.gateway.send(WorkerEnabledDisabled(0))
    await until(lambda: not link.ready)


async def test_standing_is_told_when_it_changes(world: World) -> None:
    def told() -> list[int]:
        return [message.disabled for message in world.gateway.messages if isinstance(message, WorkerEnabledDisabled)]

    assert told() == []
    world.worker.set_enabled(False)
    await until(lambda: told() == [1])
    assert isinstance((await world.gateway.ask({}))[-1], ProxyQueryAnswerPartEx), "what arrives is still served"
    world.worker.set_enabled(True)
    await until(lambda: told() == [1, 0])
    world.engine_up[0] = False
    world.worker.tick()
    await until(lambda: told() == [1, 0, 1])
    world.engine_up[0] = True
    world.registry.models.clear()
    world.worker.tick()
    assert [reason.name for reason in world.worker.look()] == ["model-delisted"]
    world.registry.models.add(FULL_MODEL)
    world.registry.seconds = 101.0
    world.worker.tick()
    assert [reason.name for reason in world.worker.look()] == ["registry-stale"]
    (refused,) = await world.gateway.ask({})
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == 651
    world.registry.seconds = 0.0
    world.worker.tick()
    await until(lambda: told() == [1, 0, 1, 0])


async def test_a_request_right_behind_the_handshake_is_served(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:
        query = world.gateway.run_query({})

        def at_once(answer: TLObject) -> TLObject:
            if isinstance(answer, WorkerProxyHandshakeCompleted):
                asyncio.get_running_loop().call_soon(world.gateway.send, query)
            return answer

        world.gateway.change = at_once
        task = asyncio.create_task(world.worker.run())
        assert isinstance((await world.gateway.ended(query.request_id))[-1], ProxyQueryAnswerPartEx)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_handshake_says_disabled_while_the_engine_loads(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:
        world.engine_up[0] = False
        task = asyncio.create_task(world.worker.run())
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        assert world.gateway.queries[2] == WorkerProxyHandshakeComplete(is_disabled=True)
        world.engine_up[0] = True
        await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(0) in messages)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_new_price_is_told_and_the_old_one_holds_for_what_is_under_way(world: World) -> None:
    world.worker.set_coefficient(2000)
    await world.gateway.wait_for(lambda messages: WorkerNewCoefficient(2000) in messages)
    for coefficient in (1000, 2000):
        answers = await world.gateway.ask({}, coefficient=coefficient)
        assert isinstance(answers[-1], ProxyQueryAnswerPartEx)
        assert answers[-1].final_info is not None
        assert answers[-1].final_info.tokens_used.total_tokens_used == 16 * coefficient // 1000
    (refused,) = await world.gateway.ask({}, coefficient=1500)
    assert isinstance(refused, ProxyQueryAnswerErrorEx)


async def test_new_parameters_make_new_addresses(world: World) -> None:
    world.registry.params = world.accounts.params = make_params(2)
    world.worker.tick()
    await until(lambda: world.gateway.links >= 2 and bool(world.worker.links) and world.worker.links[0].ready)
    session = world.worker.links[0].session
    assert session is not None
    assert session.contract == world.accounts.contract
    assert session.params_version == 2


async def test_a_gateway_whose_image_is_not_listed_hears_nothing(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:
        world.registry.proxy_images.clear()
        task = asyncio.create_task(world.worker.run())
        await until(lambda: world.gateway.links >= 1 and not world.worker.links)
        assert world.gateway.queries == []
        world.registry.proxy_images.add(bytes(32))
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_gateway_whose_image_leaves_the_list_is_left(world: World) -> None:
    world.worker.tick()
    assert world.worker.links[0].ready, "the control: it is listed"
    world.registry.proxy_images.clear()
    world.worker.tick()
    await until(lambda: not world.worker.links)
    world.registry.proxy_images.add(bytes(32))
    await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)


async def test_who_is_not_listed_says_what_to_send_to_whom(world: World) -> None:
    world.registry.images.clear()
    world.registry.models.clear()
    image, model = world.worker.look()
    assert (image.name, model.name) == ("image-delisted", "model-delisted")
    for reason, subject in ((image, bytes(32).hex()), (model, FULL_MODEL)):
        for part in ("has to send", ROOT.friendly(bounceable=True), world.registry.state.owner.friendly(), subject):
            assert part in reason.hint
    assert world.worker.look() == (image, model), "and says the same when it is asked again"


async def test_a_payout_without_gas_money_is_tried_again_at_once(world: World) -> None:
    world.chain.put(world.accounts, 0)
    world.gateway.send(payment(world, 5000, 5000, 5000))
    await until(lambda: world.record.counters.committed == 5000)
    paying = world.payer.payout

    async def empty(_payment: object) -> None:
        raise FundsError("wallet holds 0 TON", balance=0, needed=1, hint="send at least 2 TON to it")

    world.payer.payout = empty  # type: ignore[method-assign, assignment]  # for this test
    collector, linked = world.worker.collector, frozenset({world.accounts.contract})
    await collector.round(world.registry.params, lambda: linked)
    assert world.record.requested == 0
    assert "send at least 2 TON" in collector.decisions[world.accounts.contract].reason
    world.payer.payout = paying  # type: ignore[method-assign]
    await collector.round(world.registry.params, lambda: linked)
    assert len(world.payer.paid) == 1


async def test_a_gateway_that_dies_over_our_totals_is_next_told_none(tmp_path: Path) -> None:
    accounts = Accounts(make_params())
    known = ProxyRecord(
        accounts.contract, accounts.public_key, accounts.worker_contract, 1, Counters(5, 6, 7), accounts.payment(5).data
    )
    ledger = WorkerLedger(tmp_path / "worker.sqlite")
    ledger.save([known])
    ledger.close()
    async with make_world(tmp_path, start=False) as world:
        world.accounts.committed, world.accounts.db, world.accounts.maximum = 5, 6, 7
        world.gateway.drop_at = WorkerCompareBalanceWithProxy
        task = asyncio.create_task(world.worker.run())
        await until(lambda: world.gateway.links >= 1 and not world.worker.links)
        world.gateway.drop_at = None
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        stated = [query for query in world.gateway.queries if isinstance(query, WorkerCompareBalanceWithProxy)]
        assert stated[0] == WorkerCompareBalanceWithProxy(5, 6, 7)
        assert stated[-1] == WorkerCompareBalanceWithProxy(0, 0, 0)
        assert world.record == known
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_refusing_gateway_is_tried_again_later(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:
        world.gateway.refuse = WorkerConnectToProxy
        task = asyncio.create_task(world.worker.run())
        await until(lambda: world.gateway.links >= 2)
        world.gateway.refuse = None
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_wrong_answer_type_ends_the_attempt(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:

        def bounce(answer: TLObject) -> TLObject:
            if isinstance(answer, WorkerConnectedToProxy):
                return WorkerConnectedToProxy(answer.params, world.accounts.worker_contract.friendly(bounceable=True))
            return answer

        world.gateway.change = bounce
        task = asyncio.create_task(world.worker.run())
        await until(lambda: world.gateway.links >= 1 and not world.worker.links)
        assert len(world.gateway.queries) == 1
        assert "bounceable=True" in world.worker.troubles[world.gateway.address]
        world.gateway.change = lambda answer: answer
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        assert world.worker.troubles == {}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_extensions_are_agreed_before_the_handshake_ends(world: World) -> None:
    assert world.gateway.link is not None
    assert world.gateway.link.extensions == ALL - {Extension.EVIDENCE}, "it has none to give"


async def test_a_peer_that_closes_over_the_extensions_is_dialled_without(tmp_path: Path) -> None:
    async with make_world(tmp_path, start=False) as world:
        world.gateway.touchy = True
        task = asyncio.create_task(world.worker.run())
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        assert world.gateway.links == 2
        assert world.gateway.link is not None
        assert world.gateway.link.extensions == frozenset()
        assert isinstance((await world.gateway.ask({}))[-1], ProxyQueryAnswerPartEx)
        world.gateway.link.close()
        await until(lambda: world.gateway.links == 3)
        await until(lambda: bool(world.worker.links) and world.worker.links[0].ready)
        assert world.gateway.links == 3, "it is remembered"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_missing_worker_contract_is_deployed(world: World) -> None:
    await until(lambda: len(world.payer.deployed) == 1)
    assert world.payer.deployed[0].address == world.accounts.worker_contract


async def test_payouts_are_noted_before_they_are_sent(world: World) -> None:
    world.chain.put(world.accounts, 0)
    newest = world.accounts.payment(5000)
    world.gateway.send(payment(world, 5000, 5000, 5000, signed_payment=newest))
    await until(lambda: world.record.counters.committed == 5000)
    world.worker.collect_now()
    await until(lambda: len(world.payer.paid) == 1)
    assert world.payer.paid[0].tokens == 5000
    assert world.record.requested == 5000
    world.worker.collect_now()
    await asyncio.sleep(0.05)
    assert len(world.payer.paid) == 1, "one is on its way"
    world.chain.put(world.accounts, 5000)
    world.worker.collect_now()
    await until(lambda: world.worker.collector.decisions[world.accounts.contract].due_tokens == 0)


async def test_earnings_of_a_contract_that_is_not_there_have_it_deployed(world: World) -> None:
    world.gateway.send(payment(world, 5000, 5000, 5000))
    await until(lambda: world.record.counters.committed == 5000)
    before = len(world.payer.deployed)
    world.worker.collect_now()
    await until(lambda: len(world.payer.deployed) > before)
    assert world.payer.deployed[-1].address == world.accounts.worker_contract
    assert world.payer.paid == []


async def test_an_outdated_contract_is_wound_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Accounts(make_params())
    world.chain.put(old, 0)
    world.gateway.send(payment(world, 5000, 5000, 500))
    await until(lambda: world.record.counters.db == 5000)
    world.registry.params = world.accounts.params = make_params(2)
    world.worker.tick()
    await until(lambda: world.gateway.links >= 2 and bool(world.worker.links) and world.worker.links[0].ready)
    world.worker.collect_now()
    await until(lambda: old.contract in world.worker.collector._outdated_since)
    assert world.payer.paid == [], "half the closing delay is waited for"
    late = time.time() + 200
    monkeypatch.setattr(world.worker.collector, "_clock", lambda: late)
    world.worker.collect_now()
    await until(lambda: len(world.payer.paid) == 1)
    assert world.payer.paid[0].my_address == old.worker_contract
    world.chain.put(old, 500)
    world.worker.collect_now()
    await until(lambda: set(world.book.durable) == {world.accounts.contract})


async def test_one_account_that_cannot_be_read_keeps_no_other_from_its_pay(world: World) -> None:
    odd = Accounts(make_params(3))
    await world.book.keep(ProxyRecord(odd.contract, odd.public_key, odd.worker_contract, 1))
    world.chain.put(odd, 0)
    world.chain.put(world.accounts, 0)
    world.gateway.send(payment(world, 5000, 5000, 5000))
    await until(lambda: world.record.counters.committed == 5000)
    reading = world.chain.account

    async def broken(address: object) -> object:
        if address == odd.worker_contract:
            raise RuntimeError("unforeseen")
        return await reading(address)  # type: ignore[arg-type]  # as it was asked for

    world.chain.account = broken  # type: ignore[method-assign, assignment]  # for this test
    # The odd one is looked at first, as the other was opened later.
    world.book._durable = {odd.contract: world.book._durable.pop(odd.contract), **world.book._durable}
    world.worker.collect_now()
    await until(lambda: len(world.payer.paid) == 1)


async def test_an_account_with_a_link_is_not_forgotten_however_late_the_link_came(world: World) -> None:
    old = Accounts(make_params())
    world.chain.put(old, 0)
    params = make_params(2)
    collector = world.worker.collector
    late = time.time() + 10_000
    collector._outdated_since[old.contract] = 0.0
    collector._clock = lambda: late
    for linked in ({old.contract}, set()):
        await collector.round(params, lambda linked=linked: linked)  # type: ignore[misc]  # bound at once
        assert (old.contract in world.book.durable) == bool(linked)


async def test_evidence_is_answered_with_a_fresh_bundle(tmp_path: Path) -> None:
    async def evidence(nonce: bytes) -> bytes:
        await asyncio.sleep(0)
        return b"bundle for " + nonce

    async with make_world(tmp_path, evidence=evidence) as world:
        await until(lambda: world.gateway.link is not None and bool(world.gateway.link.extensions))
        assert world.gateway.link is not None
        answer = await world.gateway.link.query(ChrysalisGetEvidence(b"\5" * 32), timeout=10)
        assert answer.bundle == b"bundle for " + b"\5" * 32


async def test_without_evidence_nobody_can_ask_for_it(world: World) -> None:
    await until(lambda: world.gateway.link is not None and bool(world.gateway.link.extensions))
    assert world.gateway.link is not None
    with pytest.raises(ExtensionNotAgreedError):
        await world.gateway.link.query(ChrysalisGetEvidence(b"\5" * 32), timeout=10)


async def test_a_drain_tells_first_and_finishes_what_runs(world: World) -> None:
    running = world.gateway.run_query({"messages": [{"role": "user", "content": "endless"}], "stream": True})
    world.gateway.send(running)
    await world.gateway.wait_for(lambda messages: any(isinstance(m, ProxyQueryAnswerPartEx) for m in messages))
    draining = asyncio.create_task(world.worker.drain(20))
    await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(1) in messages)
    (refused,) = await world.gateway.ask({})
    assert isinstance(refused, ProxyQueryAnswerErrorEx)
    assert refused.error_code == 651
    world.model.release.set()
    assert isinstance((await world.gateway.ended(running.request_id))[-1], ProxyQueryAnswerPartEx)
    assert await draining
    assert [reason.name for reason in world.worker.look()] == ["draining"]
