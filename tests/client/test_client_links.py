"""Links to gateways: what they have to prove, for how long it holds, and what ends them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from client_world import (
    FULL_MODEL,
    MODEL,
    OWNER,
    ROOT,
    STAKE,
    WALLET,
    charge,
    chat,
    client_data,
    connected,
    root_params,
    root_state,
    terms,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.accounting.client_ledger import ClientLedger
from appliance.chain.errors import ChainUnavailableError
from appliance.chain.messages import Op
from appliance.client import pool as module
from appliance.client.errors import GatewayRefusedError, ModelNotFoundError, NoGatewayError, WorkerRefusedError
from appliance.client.handshake import Self, check, hello
from appliance.client.texts import plain_text, split_retry
from appliance.client.verification import RECHECK_S
from appliance.errors import RequestError
from appliance.wire import messages as tl
from appliance.wire.errors import QueryError, WireError
from appliance.wire.extensions import Extension
from attestation.ratls import Identity, Peer

if TYPE_CHECKING:
    from client_world import World

CHAT = "/v1/chat/completions"
ME = Self(ROOT, WALLET, b"secret", True, False)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duties and retries come soon, so that tests need not wait for them."""
    monkeypatch.setattr(module, "FIRST_BACK_OFF_S", 0.02)
    monkeypatch.setattr(module, "LAST_BACK_OFF_S", 0.05)
    monkeypatch.setattr(module, "DUTY_POLL_S", (0.01, 0.02))
    monkeypatch.setattr(module, "PAYMENT_POLL_S", (0.02, 0.03))
    monkeypatch.setattr(module, "TARGETS_POLL_S", 0.02)
    monkeypatch.setattr(module, "MODELS_FRESH_S", 0.0)


async def answered(world: World) -> None:
    """A request that goes through."""
    task = asyncio.create_task(world.gateway.answer())
    answer = await world.client.complete(CHAT, chat())
    assert (await answer.head()).status == 200
    async for _ in answer.parts():
        pass
    await task


async def refused_with(world: World, text: str) -> None:
    """The gateway is not usable, and says why."""
    await world.until(lambda: any(text in state.reason for state in world.pool.states()))
    assert not world.pool.ready()


# Meeting --------------------------------------------------------------------------------------------------------------


def test_what_a_client_says_first() -> None:
    said = hello(ME, root_state())
    assert (said.params.flags, said.params.min_proto_version, said.params.max_proto_version) == (3, 1, 2)
    assert (said.params.client_owner_address, said.min_config_version) == (WALLET.friendly(), 5)


AT = terms()


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"proto_version": 1}, True),
        ({"flags": 0, "is_test": None, "proto_version": None}, False),
        ({"is_test": False}, False),
        ({"proto_version": 0}, False),
        ({"proto_version": 3}, False),
        ({"proto_version": -1}, False),
        ({"proxy_public_key": bytes(32)}, False),
        ({"proxy_owner_address": "nonsense"}, False),
        ({"proxy_owner_address": WALLET.friendly()}, False),
        ({"proxy_owner_address": OWNER.friendly(bounceable=True)}, True),
        ({"proxy_sc_address": AT.contract.friendly(bounceable=True)}, False),
        ({"proxy_sc_address": AT.contract.friendly(testnet=True)}, False),
        ({"proxy_sc_address": AT.contract.raw()}, False),
        ({"proxy_sc_address": ""}, False),
        ({"mine": AT.client_contract.friendly(bounceable=True)}, False),
        ({"mine": AT.contract.friendly()}, False),
    ],
)
def test_a_gateways_parameters_are_compared_with_our_derivation(changes: dict[str, Any], fits: bool) -> None:
    answer = connected(AT, **changes)
    if fits:
        found = check(answer, ME, root_state())
        assert (found.contract, found.client_contract, found.params) == (AT.contract, AT.client_contract, AT.params)
    else:
        with pytest.raises(GatewayRefusedError):
            check(answer, ME, root_state())


@pytest.mark.parametrize("same", [True, False])
def test_short_authorisation_only_where_the_gateway_knows_our_secret(same: bool) -> None:
    secret_hash = hashlib.sha256(b"secret" if same else b"another").digest()
    answer = connected(AT, auth=tl.ClientProxyConnectionAuthShort(secret_hash, 7))
    assert check(answer, ME, root_state()).short is same


def test_texts_and_waiting_times_of_strangers() -> None:
    assert plain_text("a\x1b[2J\r\nb\u202e" + "x" * 1000) == ("a [2J  b " + "x" * 1000)[:500]
    assert split_retry("busy; retry after 7 s") == ("busy; retry after 7 s", 7.0)
    assert split_retry("busy; retry after 7 s (hint)")[1] == 7.0
    for text in (
        "busy",
        "retry after",
        "retry after x s",
        "retry after -1 s",
        "retry after inf s",
        "retry after 1e9 s",
    ):
        assert split_retry(text)[1] is None


async def test_long_authorisation_registers_on_chain(world: World) -> None:
    world.gateway.short, world.gateway.nonce = False, -9
    await world.start()
    assert world.wallet.operations() == [Op.CLIENT_REGISTER]
    assert "client.authorizeWithProxyLong" in world.gateway.queries
    await answered(world)


@pytest.mark.parametrize(
    ("query", "answer", "text"),
    [
        ("client.connectToProxy", QueryError("too old", code=602), "too old"),
        ("client.authorizeWithProxyShort", tl.ClientAuthorizationWithProxyFailed(5, "no\x1b"), "gateway refused: no "),
        ("client.authorizeWithProxyShort", QueryError("sha256 mismatch", code=0), "sha256 mismatch"),
        ("chrysalis.getEvidence", QueryError("no platform", code=602), "no evidence: no platform"),
        ("chrysalis.getEvidence", tl.ChrysalisEvidence(b"junk"), "bundle"),
    ],
)
async def test_a_gateway_that_refuses_or_fails_is_told_and_tried_again(
    world: World, query: str, answer: Any, text: str
) -> None:
    world.gateway.answers[query] = answer
    await world.start(ready=False)
    await refused_with(world, text)
    del world.gateway.answers[query]
    await world.until(lambda: bool(world.pool.ready()))


async def test_a_signed_charge_at_the_start_is_checked(world: World) -> None:
    await world.start()
    await answered(world)
    world.gateway.signed = 16
    world.gateway.link.close()
    await refused_with(world, "at most 15 were used")
    world.gateway.signed = 15
    await refused_with(world, "not used any more")


async def test_a_charge_of_another_key_ends_the_link_but_not_the_trust(world: World) -> None:
    await world.start()
    other = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    world.gateway.answers["client.updatePaymentStatus"] = tl.ClientPaymentStatus(charge(0, key=other), 0, 0)
    await refused_with(world, "signature")
    del world.gateway.answers["client.updatePaymentStatus"]
    await world.until(lambda: bool(world.pool.ready()))


# The gateway's evidence -----------------------------------------------------------------------------------------------


async def test_a_verified_gateway_and_its_workers(world: World) -> None:
    await world.start()
    (gateway,) = world.pool.ready()
    verdicts = await world.client.verify_workers(gateway, MODEL)
    assert gateway.proofs.gateway is not None
    assert gateway.proofs.gateway.accepted
    assert [verdict.statement.model for verdict in verdicts if verdict.statement] == [FULL_MODEL]
    await answered(world)
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == 1, "a recent verdict is used again"


@pytest.mark.parametrize("reference", [False, True])
async def test_without_fresh_evidence_only_where_the_configuration_says_so(world: World, reference: bool) -> None:
    world.gateway.offered = frozenset({Extension.CANCEL})
    world.reference_gateways, world.check_workers = reference, not reference
    await world.start(ready=reference)
    if reference:
        await answered(world)
    else:
        await refused_with(world, "offers no fresh evidence")


async def test_a_gateway_behind_no_proof_at_all(world: World) -> None:
    world.dialer.peer = None
    await world.start(ready=False)
    await refused_with(world, "says nothing about its peer")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"role": "worker"}, "has role worker, expected gateway"),
        ({"root_contract": OWNER.raw()}, "has root contract"),
        ({"root_contract": ""}, "has root contract empty"),
        ({"root_contract": ROOT.friendly()}, ""),
        ({"chain": bytes(32)}, "has chain"),
        ({"chain": b""}, "has chain empty"),
        ({"image": bytes(32)}, "image"),
    ],
)
async def test_the_gateways_statement_is_of_a_gateway_of_this_network(
    world: World, changes: dict[str, Any], text: str
) -> None:
    world.gateway.statement = world.machine.statement(**changes)
    await world.start(ready=not text)
    if text:
        await refused_with(world, text)


async def test_evidence_of_another_machine_than_the_link(world: World) -> None:
    other = await Identity.create(None)
    world.dialer.peer = Peer(world.machine.image, other.public_key, None, "test")
    await world.start(ready=False)
    await refused_with(world, "channel key")


async def test_an_image_of_the_certificate_that_is_not_the_evidences(world: World) -> None:
    forged = bytes([5]) * 32
    world.root = replace(world.root, proxy_hashes=frozenset({forged, world.machine.image}))
    world.dialer.peer = Peer(forged, world.machine.identity.public_key, None, "test")
    await world.start(ready=False)
    await refused_with(world, "its certificate of")


async def test_a_gateway_delisted_while_it_runs(world: World) -> None:
    await world.start()
    listed = world.root
    world.root = replace(world.root, proxy_hashes=frozenset(), version=6)
    with pytest.raises((GatewayRefusedError, NoGatewayError), match=r"not listed|no gateway"):
        await world.client.complete(CHAT, chat(timeout=0.3))
    assert world.gateway.heard.empty()
    await refused_with(world, "is not listed")
    world.root = listed
    await world.until(lambda: bool(world.pool.ready()))
    await answered(world)


async def test_the_gateways_evidence_is_asked_for_again(world: World) -> None:
    await world.start()
    asked = world.gateway.queries.count("chrysalis.getEvidence")
    world.unix.now += RECHECK_S
    await world.until(lambda: world.gateway.queries.count("chrysalis.getEvidence") > asked)
    assert world.pool.ready()
    world.gateway.statement = world.machine.statement(role="worker")
    world.unix.now += RECHECK_S
    await refused_with(world, "has role worker")


async def test_an_expired_verdict_lets_no_prompt_out(world: World) -> None:
    await world.start()
    (gateway,) = world.pool.ready()
    assert gateway.proofs.gateway is not None
    gateway.proofs.gateway = replace(gateway.proofs.gateway, expires_at=0.0)
    with pytest.raises(GatewayRefusedError, match="has expired"):
        await world.client.complete(CHAT, chat())
    await world.until(lambda: gateway.proofs.gateway is not None and gateway.proofs.gateway.expires_at > 0)
    await answered(world)


# The workers' evidence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"role": "gateway"}, "has role gateway, expected worker"),
        ({"root_contract": OWNER.raw()}, "has root contract"),
        ({"chain": bytes(32)}, "has chain"),
        ({"image": bytes(32)}, "image"),
        ({"model": f"org/other@main:{'ab' * 32}"}, "another one"),
        ({"model": f"{MODEL}@main:{'cd' * 32}"}, "model hash"),
        ({"model": f"{MODEL}@other:{'ab' * 32}"}, "is not listed"),
        ({"model": ""}, "another one"),
    ],
)
async def test_a_worker_that_is_not_what_it_has_to_be(world: World, changes: dict[str, Any], text: str) -> None:
    await world.start()
    good = world.gateway.workers
    world.gateway.workers = [*good, world.machine.worker_statement(**changes)]
    with pytest.raises(WorkerRefusedError, match=text):
        await world.client.complete(CHAT, chat())
    assert world.gateway.heard.empty()
    world.gateway.workers = good
    await answered(world)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (tl.ChrysalisWorkerEvidence(()), WorkerRefusedError),
        (tl.ChrysalisWorkerEvidence((b"",) * 300), WorkerRefusedError),
        (tl.ChrysalisWorkerEvidence((b"junk",)), WorkerRefusedError),
        (QueryError("evidence is asked for too often; retry after 2 s", code=651), RequestError),
        (QueryError("no worker can show evidence now", code=651), RequestError),
        (QueryError("Lost promise", code=0), WorkerRefusedError),
    ],
)
async def test_no_evidence_of_workers_no_prompt(world: World, answer: Any, error: type[Exception]) -> None:
    await world.start()
    world.gateway.answers["chrysalis.getWorkerEvidence"] = answer
    with pytest.raises(error):
        await world.client.complete(CHAT, chat())
    assert world.gateway.heard.empty()
    del world.gateway.answers["chrysalis.getWorkerEvidence"]
    await answered(world)


async def test_a_replayed_bundle_is_no_evidence(world: World) -> None:
    await world.start()
    old = await world.machine.bundle(bytes(32), world.machine.worker_statement())
    world.gateway.answers["chrysalis.getWorkerEvidence"] = tl.ChrysalisWorkerEvidence((old,))
    with pytest.raises(WorkerRefusedError, match="nonce"):
        await world.client.complete(CHAT, chat())


async def test_many_requests_ask_for_evidence_once(world: World) -> None:
    await world.start()
    (gateway,) = world.pool.ready()
    await asyncio.gather(*(world.client.verify_workers(gateway, MODEL) for _ in range(20)))
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == 1


@pytest.mark.parametrize("what", ["time", "workers", "expiry", "evidence over"])
async def test_workers_are_verified_again_when_they_may_be_others(world: World, what: str) -> None:
    await world.start()
    (gateway,) = world.pool.ready()
    await world.client.verify_workers(gateway, MODEL)
    if what == "time":
        world.unix.now += RECHECK_S
    elif what == "evidence over":
        world.gateway.send(tl.ChrysalisWorkerEvidenceEnded("another/model"), tl.ChrysalisWorkerEvidenceEnded(MODEL))
        await world.until(lambda: gateway.proofs.workers[MODEL].ended == 1)
    elif what == "workers":
        world.gateway.models = {MODEL: 2}
        await world.until(lambda: gateway.models == {MODEL: 2})
    else:
        shown = gateway.proofs.workers[MODEL]
        shown.verdicts = tuple(replace(verdict, expires_at=0.0) for verdict in shown.verdicts)
    await world.client.verify_workers(gateway, MODEL)
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == 2


async def test_another_models_evidence_that_is_over_voids_nothing(world: World) -> None:
    """Control of the last."""
    await world.start()
    (gateway,) = world.pool.ready()
    await world.client.verify_workers(gateway, MODEL)
    world.gateway.send(tl.ChrysalisWorkerEvidenceEnded("another/model"))
    await asyncio.sleep(0.05)
    await world.client.verify_workers(gateway, MODEL)
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == 1


async def test_evidence_that_ends_while_it_is_asked_for_is_not_kept(world: World) -> None:
    await world.start()
    (gateway,) = world.pool.ready()

    async def meanwhile(query: tl.ChrysalisGetWorkerEvidence) -> tl.ChrysalisWorkerEvidence:
        world.gateway.send(tl.ChrysalisWorkerEvidenceEnded(MODEL))
        return tl.ChrysalisWorkerEvidence((await world.machine.bundle(query.nonce, world.gateway.workers[0]),))

    world.gateway.answers["chrysalis.getWorkerEvidence"] = meanwhile
    await world.client.verify_workers(gateway, MODEL)
    del world.gateway.answers["chrysalis.getWorkerEvidence"]
    await world.client.verify_workers(gateway, MODEL)
    await world.client.verify_workers(gateway, MODEL)
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == 2


@pytest.mark.parametrize("what", ["worker_hashes", "model_hashes"])
async def test_a_delisting_holds_for_verdicts_reached_before(world: World, what: str) -> None:
    await world.start()
    await answered(world)
    listed = world.root
    world.root = replace(world.root, version=6, **{what: frozenset()})
    with pytest.raises(WorkerRefusedError, match="is not listed"):
        await world.client.complete(CHAT, chat())
    assert world.gateway.heard.empty()
    world.root = listed
    await answered(world)


async def test_a_delisted_worker_that_is_gone_locks_nobody_out(world: World) -> None:
    """After an update the verdict on the retired worker is not held against those that the gateway has now."""
    await world.start()
    await answered(world)
    (gateway,) = world.pool.ready()
    shown = gateway.proofs.workers[MODEL]
    shown.verdicts = tuple(replace(verdict, image_hash=bytes(32)) for verdict in shown.verdicts)
    before = world.gateway.queries.count("chrysalis.getWorkerEvidence")
    await answered(world)
    await answered(world)
    assert world.gateway.queries.count("chrysalis.getWorkerEvidence") == before + 1


async def test_a_model_that_came_a_moment_ago_is_found(world: World) -> None:
    world.gateway.models = {}
    await world.start()
    with pytest.raises(ModelNotFoundError, match="none now"):
        await world.client.complete(CHAT, chat())
    world.gateway.models = {MODEL: 1}
    await asyncio.sleep(module.MISSED_FRESH_S)
    await answered(world)


# What ends links, and what does not -----------------------------------------------------------------------------------


async def test_newer_parameters_make_new_contracts(world: World) -> None:
    await world.start()
    await answered(world)
    newer = root_params(params_version=4, price_per_token=50)
    world.gateway.params = newer
    world.gateway.total = 0
    world.root = replace(world.root, params=newer, version=6)
    at = terms(newer)
    await world.until(lambda: world.purse.account(at.contract) is not None and bool(world.pool.ready()))
    await answered(world)
    account = world.purse.account(at.contract)
    assert account is not None
    assert (account.spent_nanotons, account.params_version) == (15 * 50, 4)
    assert world.account.spent_nanotons == 15 * 20
    assert Op.CLIENT_CHANGE_SECRET_AND_TOP_UP in world.wallet.operations()


async def test_trouble_with_the_chain_ends_no_answer(world: World) -> None:
    await world.start()
    answer = await world.client.complete(CHAT, chat(stream=True))
    request = await world.gateway.next()
    world.chain.broken = ChainUnavailableError("reading", {"127.0.0.1:1": "gone"})
    await world.until(lambda: "reading" in world.pool.states()[0].reason)
    assert world.pool.ready()
    world.gateway.head(request)
    world.gateway.end(request, b"data: [DONE]\n\n")
    assert b"".join([part async for part in answer.parts()]) == b"data: [DONE]\n\n"
    world.chain.broken = None
    await world.until(lambda: not world.pool.states()[0].reason)


async def test_a_gateway_that_tells_nothing_of_payments_serves_on(world: World) -> None:
    world.gateway.answers["client.updatePaymentStatus"] = QueryError("Lost promise", code=0)
    world.gateway.answers["client.getWorkerTypesV2"] = QueryError("Lost promise", code=0)
    await world.start()
    asked = len(world.gateway.queries)
    await world.until(lambda: len(world.gateway.queries) > asked + 4)
    await answered(world)


async def test_a_contract_that_closes_ends_the_link(world: World) -> None:
    await world.start()
    world.chain.put(world.at.client_contract, client_data(world.at, state=1))
    await refused_with(world, "is closing")


async def test_a_lost_link_is_made_again_while_the_wallet_is_busy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start()
    busy = asyncio.Event()

    async def stuck(_messages: object) -> None:
        busy.set()
        await asyncio.sleep(3600)

    with monkeypatch.context() as patch:
        patch.setattr(world.wallet, "transfer", stuck)
        world.chain.put(world.at.client_contract, client_data(world.at, balance=0))
        await busy.wait()
        dialled = world.dialer.dialled
        world.gateway.link.close()
        await world.until(lambda: world.dialer.dialled > dialled and bool(world.pool.ready()))
    await answered(world)
    assert world.account.deposit is not None, "it may still arrive"


async def test_a_low_stake_is_topped_up_while_requests_run(world: World) -> None:
    await world.start()
    world.chain.put(world.at.client_contract, client_data(world.at, balance=STAKE // 4))
    await world.until(lambda: Op.CLIENT_TOP_UP in world.wallet.operations())
    await answered(world)
    assert world.wallet.operations() == [Op.CLIENT_TOP_UP]


async def test_a_crash_in_one_gateways_task_is_told_and_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_link: object) -> None:
        raise ZeroDivisionError("CANARY")

    await world.listen()
    await world.start(listen=False)
    with monkeypatch.context() as patch:
        patch.setattr(world.pool._prover, "gateway", broken)
        world.gateway.link.close()
        await refused_with(world, "internal error (ZeroDivisionError)")
    await world.until(lambda: bool(world.pool.ready()))


async def test_a_target_that_keeps_failing_makes_room_for_another(world: World) -> None:
    await world.listen()
    targets = [("127.0.0.1", 1), ("127.0.0.1", world.gateway.port)]
    world.targets = lambda: targets
    await world.start(listen=False)
    assert world.pool.ready()[0].address == targets[1]
    failed = next(state for state in world.pool.states() if state.address == targets[0])
    assert failed.failures == module.PATIENCE
    await answered(world)


async def test_a_target_that_is_not_named_any_more_ends_with_its_last_answer(world: World) -> None:
    await world.start()
    answer = await world.client.complete(CHAT, chat(stream=True))
    request = await world.gateway.next()
    world.targets = list
    await world.until(lambda: not world.pool.ready())
    world.gateway.head(request)
    world.gateway.end(request, b"data: [DONE]\n\n")
    assert b"".join([part async for part in answer.parts()]) == b"data: [DONE]\n\n"
    await world.until(lambda: not world.pool.states())


async def test_the_end_of_the_client_ends_what_runs_and_keeps_what_it_may_cost(world: World) -> None:
    await world.start()
    answer = await world.client.complete(CHAT, chat())
    await world.gateway.next()
    at_risk = world.purse.at_risk(world.at.contract)
    await world.client.__aexit__()
    with pytest.raises(WireError):
        await answer.head()
    ledger = ClientLedger(world.directory / "client.sqlite")
    assert ledger.accounts()[world.at.contract].authorized_tokens == at_risk
    ledger.close()
