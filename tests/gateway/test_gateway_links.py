"""The handshakes and requests over real links, with scripted peers that behave like the reference's traces."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from gateway_peers import (
    LISTED_IMAGE,
    MEASUREMENTS,
    Peer,
    evidence,
    gateway,
    introduce_client,
    introduce_worker,
    random_id,
    statement,
)
from gateway_world import (
    FULL_MODEL,
    IDENTITY,
    KEY,
    SECRET,
    World,
    address,
    client_params,
    final,
    head,
    part,
    run_query,
    usage_body,
    worker_params,
)

from appliance.chain.messages import Op
from appliance.chain.signed import parse_payment
from appliance.errors import ErrorCode
from appliance.gateway.contract_events import ClientSeen
from appliance.wire.errors import ExtensionNotAgreedError, QueryError
from appliance.wire.extensions import ALL, Extension
from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidenceEnded,
    ChrysalisGetEvidence,
    ChrysalisGetWorkerEvidence,
    ChrysalisWorkerEvidenceEnded,
    ClientAuthorizeWithProxyLong,
    ClientAuthorizeWithProxyShort,
    ClientConnectToProxy,
    ClientGetWorkerTypesV2,
    ClientProxyConnectionAuthLong,
    ClientProxyConnectionAuthShort,
    ClientQueryAnswerError,
    ClientQueryAnswerEx,
    ClientQueryAnswerPartEx,
    ClientRequestRefund,
    ClientUpdatePaymentStatus,
    ProxyClientRequestPayment,
    ProxyRunQueryEx,
    ProxySignedPaymentEmpty,
    ProxyWorkerRequestPayment,
    WorkerCompareBalanceWithProxy,
    WorkerConnectToProxy,
    WorkerExtendedCompareBalanceWithProxy,
    WorkerNewCoefficient,
    WorkerProxyHandshakeComplete,
    WorkerUpdatePaymentStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.verdict import Verdict


def listed() -> World:
    return World(worker_hashes=frozenset({LISTED_IMAGE}))


async def test_the_handshake_of_a_reference_worker() -> None:
    async with gateway() as made:
        worker = await made.worker()
        connected = await worker.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
        terms = made.world.terms
        assert connected.params.flags == 3
        assert connected.params.proto_version == 2
        assert connected.params.proxy_public_key == KEY.public_key().public_bytes_raw()
        assert connected.params.proxy_owner_address == IDENTITY.owner.friendly()
        assert connected.params.proxy_sc_address == terms.contract.friendly()
        contract = terms.worker_contract(address(2001))
        assert connected.worker_sc_address == contract.friendly(bounceable=False, testnet=False)
        compared = await worker.link.query(WorkerCompareBalanceWithProxy(0, 0, 0), timeout=10)
        assert (compared.tokens_committed_to_db, compared.max_tokens, compared.error_code) == (0, 0, 0)
        payment = parse_payment(compared.signed_payment.data, op=Op.WORKER_PAYOUT)
        payment.verify(connected.params.proxy_public_key, contract)
        assert payment.tokens == 0
        await worker.link.query(WorkerProxyHandshakeComplete(is_disabled=False), timeout=10)
        status = await worker.link.query(WorkerUpdatePaymentStatus(), timeout=10)
        assert (status.db_tokens, status.max_tokens) == (0, 0)


async def test_a_worker_that_speaks_the_lowest_version() -> None:
    async with gateway() as made:
        worker = await made.worker()
        connected = await introduce_worker(
            worker, worker_params(flags=1, min_proto_version=None, max_proto_version=None)
        )
        assert (connected.params.flags, connected.params.proto_version) == (1, None)


WORKER_REFUSALS: dict[str, tuple[dict[str, Any], int, str]] = {
    "too old": ({"flags": 2, "is_test": None, "proxy_cnt": None, "max_active_requests": None}, 602, "too old"),
    "other network": ({"is_test": False}, 602, "is_test"),
    "no model": ({"model": ""}, 621, "model's name"),
    "negative coefficient": ({"coefficient": -1}, 621, "coefficient"),
    "absurd coefficient": ({"coefficient": 10**9}, 621, "coefficient"),
    "no requests": ({"max_active_requests": 0}, 621, "max_active_requests"),
    "no proxies": ({"proxy_cnt": 0}, 621, "proxy_cnt"),
    "model not listed": ({"model": FULL_MODEL[:-1] + "0"}, 621, "is not listed"),
    "newer protocol": ({"min_proto_version": 3, "max_proto_version": 9}, 621, "protocol versions"),
    "no address": ({"worker_owner_address": "nobody"}, 602, "owner address"),
}


@pytest.mark.parametrize("name", WORKER_REFUSALS)
async def test_a_worker_is_refused_with_the_reason(name: str) -> None:
    changes, error_code, text = WORKER_REFUSALS[name]
    async with gateway() as made:
        worker = await made.worker()
        with pytest.raises(QueryError, match=text) as caught:
            await worker.link.query(WorkerConnectToProxy(worker_params(**changes)), timeout=10)
        assert caught.value.code == error_code
        await worker.gone()
        assert len(made.world.desk.fleet) == 0
        assert made.world.desk.tally.refusals["worker"] == 1
        control = await made.worker()
        assert await introduce_worker(control, worker_params())


async def test_an_unlisted_image_is_told_what_to_list() -> None:
    async with gateway() as made:
        for measurements in (bytes(384), None):
            worker = await made.worker(measurements=measurements)
            with pytest.raises(QueryError, match="is not listed in root contract") as caught:
                await worker.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
            assert caught.value.code == ErrorCode.PROTOCOL_VIOLATION
            text = caught.value.message
            assert ("e34b1c60" in text) if measurements is not None else ("no attestation" in text)
        assert await introduce_worker(await made.worker(measurements=MEASUREMENTS), worker_params())
    async with gateway(listed(), images=False) as open_made:
        assert await introduce_worker(await open_made.worker(measurements=None), worker_params())


async def test_checks_are_made_in_the_protocols_order() -> None:
    wrong: dict[str, Any] = {
        "is_test": False,
        "model": "",
        "coefficient": -1,
        "max_active_requests": 0,
        "proxy_cnt": 0,
        "min_proto_version": 7,
        "max_proto_version": 8,
        "worker_owner_address": "x",
    }
    expected = [
        ("is_test", "is_test"),
        ("model", "model's name"),
        ("coefficient", "coefficient is -1"),
        ("max_active_requests", "max_active_requests"),
        ("proxy_cnt", "proxy_cnt"),
        ("min_proto_version", "protocol versions"),
        ("worker_owner_address", "owner address"),
    ]
    async with gateway() as made:
        made.world.desk.closed = "closed for a while"
        for cure, text in expected:
            worker = await made.worker()
            with pytest.raises(QueryError, match=text):
                await worker.link.query(WorkerConnectToProxy(worker_params(**wrong)), timeout=10)
            wrong.pop(cure)
            if cure == "min_proto_version":
                wrong.pop("max_proto_version")
        worker = await made.worker()
        with pytest.raises(QueryError, match="closed for a while") as caught:
            await worker.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
        assert caught.value.code == ErrorCode.NOT_READY


async def test_queries_out_of_order_close_the_connection() -> None:
    for query in (
        WorkerCompareBalanceWithProxy(0, 0, 0),
        WorkerExtendedCompareBalanceWithProxy(0, b""),
        WorkerProxyHandshakeComplete(is_disabled=False),
        WorkerUpdatePaymentStatus(),
    ):
        async with gateway() as made:
            worker = await made.worker()
            with pytest.raises(QueryError, match="step connect"):
                await worker.link.query(query, timeout=10)
            await worker.gone()


@pytest.mark.parametrize("claims", [(9, 9, 9), (-1, -5, 2**62), (5, 3, 1), (2**63 - 1,) * 3, (0, 0, 1)])
async def test_impossible_totals_are_answered_and_the_extended_step_leads_on(claims: tuple[int, int, int]) -> None:
    async with gateway() as made:
        worker = await made.worker()
        await worker.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
        compared = await worker.link.query(WorkerCompareBalanceWithProxy(*claims), timeout=10)
        assert (compared.error_code, compared.max_tokens) == (1, 0)
        assert isinstance(compared.signed_payment, ProxySignedPaymentEmpty) == (claims[0] > 0)
        extended = await worker.link.query(WorkerExtendedCompareBalanceWithProxy(claims[1], b"junk"), timeout=10)
        assert extended.error_code == 0
        await worker.link.query(WorkerProxyHandshakeComplete(is_disabled=False), timeout=10)


async def test_a_payment_of_our_own_proves_a_total() -> None:
    async with gateway() as made:
        contract = made.world.terms.worker_contract(address(2001))
        for boc, tokens in (
            (made.payments.sign(Op.WORKER_PAYOUT, 50, address(3)).to_boc(), 0),
            (made.payments.sign(Op.WORKER_PAYOUT, 50, contract).to_boc(), 50),
        ):
            worker = await made.worker()
            await worker.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
            await worker.link.query(WorkerCompareBalanceWithProxy(50, 50, 50), timeout=10)
            await worker.link.query(WorkerExtendedCompareBalanceWithProxy(50, boc), timeout=10)
            assert made.world.book.worker(address(2001), contract).tokens == tokens
            worker.link.close()


async def test_a_negative_coefficient_closes_the_connection() -> None:
    async with gateway() as made:
        worker = await made.worker()
        await introduce_worker(worker, worker_params())
        worker.link.send(WorkerNewCoefficient(7))
        await worker.link.query(WorkerUpdatePaymentStatus(), timeout=10)
        assert [connection.coefficient for connection in made.world.desk.fleet] == [7]
        worker.link.send(WorkerNewCoefficient(-1))
        await worker.gone()


# Evidence


async def test_a_worker_of_ours_is_offered_requests_after_its_evidence_holds() -> None:
    async with gateway(reference_workers=False) as made:
        made.verifier.statement = statement()
        worker = await made.worker(offered=ALL, answer=evidence)
        await introduce_worker(worker, worker_params())
        async with asyncio.timeout(5):
            while not [c for c in made.world.desk.fleet if c.offered]:  # noqa: ASYNC110 - a test looks
                await asyncio.sleep(0.01)
        assert made.verifier.asked == 1


EVIDENCE_REFUSALS = {
    "refused": ({}, False, "evidence refused by policy"),
    "owner": ({"owner": address(9).raw()}, True, "owner"),
    "root": ({"root_contract": address(9).raw()}, True, "root contract"),
    "model": ({"model": FULL_MODEL[:-1] + "0"}, True, "model"),
    "volume": ({"model_hash": bytes(32)}, True, "model hash"),
    "image": ({"image": bytes(32)}, True, "image"),
    "role": ({"role": "gateway"}, True, "role"),
    "chain": ({"chain": bytes(32)}, True, "chain"),
    "none": (None, True, "no workload statement"),
}


@pytest.mark.parametrize("name", EVIDENCE_REFUSALS)
async def test_evidence_that_tells_another_story_is_refused(name: str) -> None:
    changes, accepted, text = EVIDENCE_REFUSALS[name]
    async with gateway(reference_workers=False) as made:
        made.verifier.accepted = accepted
        made.verifier.statement = None if changes is None else statement(**changes)
        worker = await made.worker(offered=ALL, answer=evidence)
        await introduce_worker(worker, worker_params())
        await worker.gone()
        assert text in made.workers.refusals[-1]
        assert len(made.world.desk.fleet) == 0


async def test_workers_without_evidence_are_a_matter_of_policy() -> None:
    async with gateway(reference_workers=False) as strict:
        worker = await strict.worker()
        await introduce_worker(worker, worker_params())
        await worker.gone()
        assert "no fresh evidence" in strict.workers.refusals[-1]
    async with gateway(reference_workers=True) as lenient:
        worker = await lenient.worker()
        await introduce_worker(worker, worker_params())
        assert [connection.offered for connection in lenient.world.desk.fleet] == [True]


async def test_a_good_certificate_alone_admits_nobody() -> None:
    """A certificate says nothing about a GPU. Control: the same worker, which shows fresh evidence as well."""
    for offered, admitted in ((ALL - {Extension.EVIDENCE}, False), (ALL, True)):
        async with gateway(reference_workers=False) as made:
            made.verifier.statement = statement()
            worker = await made.worker(measurements=MEASUREMENTS, offered=offered, answer=evidence)
            await introduce_worker(worker, worker_params())
            if admitted:
                await until(lambda made=made: [c.offered for c in made.world.desk.fleet] == [True])  # type: ignore[misc]
            else:
                await worker.gone()
                assert "no fresh evidence" in made.workers.refusals[-1]
            assert len(made.world.desk.fleet) == int(admitted)
            assert made.verifier.asked == int(admitted)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - a test looks
            await asyncio.sleep(0.01)


async def test_a_worker_whose_engine_began_anew_is_offered_nothing_until_it_has_proven_itself_again() -> None:
    async with gateway(reference_workers=False) as made:
        release = asyncio.Event()
        made.verifier.statement = statement()
        made.world.fund(address(1001))
        client = await made.client(offered=frozenset({Extension.EVIDENCE}))
        await introduce_client(client, client_params(), SECRET)
        worker = await made.worker(offered=ALL, answer=evidence)
        await introduce_worker(worker, worker_params())
        (connection,) = made.world.desk.fleet
        await until(lambda: connection.offered)
        verify, asked = made.verifier.verify_bundle, []

        async def slow(bundle: bytes, **given: Any) -> Verdict:
            asked.append(made.verifier.statement)
            await release.wait()
            return await verify(bundle, **given)

        made.verifier.verify_bundle = slow  # type: ignore[method-assign]
        worker.link.send(ChrysalisEvidenceEnded(1))
        await until(lambda: len(asked) == 1)
        assert not connection.offered
        ended = await client.next(ChrysalisWorkerEvidenceEnded)
        assert ended.model_name == connection.model
        # What it shows first was made before: of the generation that is over.
        release.set()
        await until(lambda: len(asked) >= 2)
        assert not connection.offered
        made.verifier.statement = statement(generation=1)
        await until(lambda: connection.offered)
        shown = len(asked)
        # The same again, or an earlier one, is no news.
        strays = made.world.desk.tally.stray_messages
        worker.link.send(ChrysalisEvidenceEnded(1))
        worker.link.send(ChrysalisEvidenceEnded(0))
        await until(lambda: made.world.desk.tally.stray_messages == strays + 2)
        assert connection.offered
        assert len(asked) == shown


async def test_a_worker_without_the_extension_cannot_end_evidence() -> None:
    async with gateway() as made:
        worker = await made.worker()
        await introduce_worker(worker, worker_params())
        with pytest.raises(ExtensionNotAgreedError):
            worker.link.send(ChrysalisEvidenceEnded(1))


async def test_clients_get_evidence_of_workers_and_of_the_gateway() -> None:
    async with gateway() as made:
        made.verifier.statement = statement()
        made.world.fund(address(1001))
        client = await made.client(offered=frozenset({Extension.EVIDENCE}))
        own = await client.link.query(ChrysalisGetEvidence(bytes(32)), timeout=10)
        assert own.bundle == b"own " + bytes(32)
        made.no_evidence = True
        with pytest.raises(QueryError, match="no evidence can be given now"):
            await client.link.query(ChrysalisGetEvidence(bytes(32)), timeout=10)
        await introduce_client(client, client_params(), SECRET)
        with pytest.raises(QueryError, match="no worker of this model"):
            await client.link.query(ChrysalisGetWorkerEvidence(bytes(32), "org/model"), timeout=10)
        worker = await made.worker(offered=ALL, answer=evidence)
        await introduce_worker(worker, worker_params())
        found = await client.link.query(ChrysalisGetWorkerEvidence(bytes(32), "org/model"), timeout=10)
        assert found.items == (b"bundle",)
        again = (client.link.query(ChrysalisGetWorkerEvidence(bytes(32), "org/model"), timeout=10) for _ in range(9))
        answers = await asyncio.gather(*again, return_exceptions=True)
        assert any(isinstance(answer, QueryError) and "retry after" in answer.message for answer in answers)


# Clients


async def test_short_authorisation() -> None:
    async with gateway() as made:
        made.world.fund(address(1001))
        client = await made.client()
        connected = await client.link.query(ClientConnectToProxy(client_params(), 5), timeout=10)
        assert isinstance(connected.auth, ClientProxyConnectionAuthShort)
        assert connected.auth.secret_hash == hashlib.sha256(SECRET).digest()
        assert connected.client_sc_address == made.world.terms.client_contract(address(1001)).friendly()
        assert isinstance(connected.signed_payment, ProxySignedPaymentEmpty)
        done = await client.link.query(ClientAuthorizeWithProxyShort(SECRET), timeout=10)
        charge = parse_payment(done.signed_payment.data, op=Op.CLIENT_CHARGE)
        assert (charge.tokens, done.max_tokens) == (0, 0)
        status = await client.link.query(ClientUpdatePaymentStatus(), timeout=10)
        assert status.max_tokens == 0


async def test_a_wrong_secret_closes() -> None:
    async with gateway() as made:
        made.world.fund(address(1001))
        client = await made.client()
        await client.link.query(ClientConnectToProxy(client_params(), 5), timeout=10)
        with pytest.raises(QueryError, match="sha256 mismatch") as caught:
            await client.link.query(ClientAuthorizeWithProxyShort(SECRET + b"!"), timeout=10)
        assert caught.value.code == 0
        await client.gone()


def seen(number: int, nonce: int | None, world: World) -> ClientSeen:
    owner = address(1000 + number)
    secret = hashlib.sha256(SECRET).digest()
    return ClientSeen(owner, world.terms.client_contract(owner), 0, 10**10, 10**10, 0, secret, nonce)


async def test_long_authorisation_waits_for_the_registration_on_chain() -> None:
    async with gateway() as made:
        client = await made.client()
        connected = await client.link.query(ClientConnectToProxy(client_params(), 5), timeout=10)
        assert isinstance(connected.auth, ClientProxyConnectionAuthLong)
        nonce = connected.auth.nonce & (2**64 - 1)
        waiting = asyncio.create_task(client.link.query(ClientAuthorizeWithProxyLong(), timeout=10))
        await asyncio.sleep(0.05)
        made.world.fund(address(1001))
        made.clients.registered(address(1001), nonce ^ 1)
        made.clients.registered(address(1002), nonce)
        await asyncio.sleep(0.05)
        assert not waiting.done()
        made.clients.registered(address(1001), nonce)
        assert (await waiting).max_tokens == 0


async def test_a_registration_may_come_before_it_is_asked_for() -> None:
    async with gateway() as made:
        client = await made.client()
        connected = await client.link.query(ClientConnectToProxy(client_params(), 5), timeout=10)
        made.world.fund(address(1001))
        made.clients.registered(address(1001), connected.auth.nonce & (2**64 - 1))
        assert await client.link.query(ClientAuthorizeWithProxyLong(), timeout=10)


CLIENT_REFUSALS: dict[str, tuple[dict[str, Any], int, int, str]] = {
    "too old": ({"flags": 2, "is_test": None}, 5, 602, "too old"),
    "other network": ({"is_test": False}, 5, 602, "is_test"),
    "no address": ({"client_owner_address": "x"}, 5, 602, "owner address"),
    "newer root": ({}, 6, 602, "version 6"),
    "older protocol": ({"flags": 1, "min_proto_version": None, "max_proto_version": None}, 5, 621, "protocol"),
}


@pytest.mark.parametrize("name", CLIENT_REFUSALS)
async def test_a_client_is_refused_with_the_reason(name: str) -> None:
    changes, version, error_code, text = CLIENT_REFUSALS[name]
    async with gateway() as made:
        made.world.fund(address(1001))
        client = await made.client()
        with pytest.raises(QueryError, match=text) as caught:
            await client.link.query(ClientConnectToProxy(client_params(**changes), version), timeout=10)
        assert caught.value.code == error_code
        await client.gone()
        assert await introduce_client(await made.client(), client_params(), SECRET)


async def test_a_closing_client_is_refused() -> None:
    async with gateway() as made:
        account = made.world.fund(address(1001))
        account.status = 1
        client = await made.client()
        with pytest.raises(QueryError, match="state 1") as caught:
            await client.link.query(ClientConnectToProxy(client_params(), 5), timeout=10)
        assert caught.value.code == ErrorCode.ERROR


async def test_an_unknown_query_gets_the_reference_answer_and_nothing_closes() -> None:
    async with gateway() as made:
        made.world.fund(address(1001))
        client = await made.client()
        await introduce_client(client, client_params(), SECRET)
        with pytest.raises(QueryError):
            await client.link.query(ClientRequestRefund(), timeout=10)


# Requests


async def both(made: Any, **worker_settings: Any) -> tuple[Peer, Peer]:
    made.world.fund(address(1001))
    made.verifier.statement = statement()
    client = await made.client(offered=ALL)
    await introduce_client(client, client_params(), SECRET)
    worker = await made.worker(offered=ALL, answer=evidence)
    await introduce_worker(worker, worker_params(**worker_settings))
    return client, worker


async def test_a_request_streams_through_and_is_settled() -> None:
    async with gateway() as made:
        client, worker = await both(made)
        types = await client.link.query(ClientGetWorkerTypesV2(), timeout=10)
        assert types.types[0].workers[0].max_active_requests == 60
        request_id = random_id()
        client.link.send(run_query(request_id))
        order = await worker.next(ProxyRunQueryEx)
        worker.link.send(head(order.request_id))
        first = await client.next(ClientQueryAnswerEx)
        assert first.request_id == request_id
        for number in range(100):
            worker.link.send(part(order.request_id, b"data: %d\n\n" % number))
        body = usage_body(9, 4)
        worker.link.send(part(order.request_id, body, final(13, prompt=9)))
        text = b""
        for _ in range(100):
            text += (await client.next(ClientQueryAnswerPartEx)).answer
        assert text == b"".join(b"data: %d\n\n" % number for number in range(100))
        last = await client.next(ClientQueryAnswerPartEx)
        assert (last.answer, last.final_info.tokens_used.total_tokens_used) == (body, 13)
        payment = await client.next(ProxyClientRequestPayment)
        assert (payment.max_tokens, payment.request_tokens) == (13, 13)
        earned = await worker.next(ProxyWorkerRequestPayment)
        assert earned.request_client_owner == address(1001).friendly()
        assert made.world.reserved() == made.world.desk.open == 0


async def test_a_client_that_leaves_stops_the_worker() -> None:
    async with gateway() as made:
        client, worker = await both(made)
        client.link.send(run_query(random_id()))
        order = await worker.next(ProxyRunQueryEx)
        client.link.close()
        assert await worker.next(ChrysalisCancel) == ChrysalisCancel(order.request_id)


async def test_a_worker_that_leaves_is_an_error_for_the_client() -> None:
    async with gateway() as made:
        client, worker = await both(made)
        request_id = random_id()
        client.link.send(run_query(request_id))
        await worker.next(ProxyRunQueryEx)
        worker.link.close()
        error = await client.next(ClientQueryAnswerError)
        assert (error.request_id, error.error_code) == (request_id, ErrorCode.FAILURE)
        assert made.world.reserved() == 0


async def test_a_cancel_of_the_client_is_passed_on() -> None:
    async with gateway() as made:
        client, worker = await both(made)
        request_id = random_id()
        client.link.send(run_query(request_id))
        order = await worker.next(ProxyRunQueryEx)
        client.link.send(ChrysalisCancel(request_id))
        assert await worker.next(ChrysalisCancel) == ChrysalisCancel(order.request_id)
        error = await client.next(ClientQueryAnswerError)
        assert error.error_code == ErrorCode.CANCELLED


async def test_requests_before_authorisation_are_answered_with_an_error() -> None:
    async with gateway() as made:
        client = await made.client()
        client.link.send(run_query(bytes(32)))
        error = await client.next(ClientQueryAnswerError)
        assert error.error_code == ErrorCode.PROTOCOL_VIOLATION


async def test_a_newer_root_named_by_a_client_makes_the_gateway_look() -> None:
    async with gateway() as made:
        client, _ = await both(made)
        client.link.send(run_query(random_id(), min_config_version=9))
        assert "version 9" in (await client.next(ClientQueryAnswerError)).error
        assert made.newer == 1


async def test_a_client_that_does_not_read_loses_that_request_only() -> None:
    async with gateway() as made:
        client, worker = await both(made)
        quiet = await made.client(offered=ALL)
        await introduce_client(quiet, client_params(), SECRET)
        client.link.send(run_query(random_id()))
        order = await worker.next(ProxyRunQueryEx)
        client.link._transport.pause_reading()
        worker.link.send(head(order.request_id))
        chunk = b"x" * (1 << 18)
        for _ in range(100):
            worker.link.send(part(order.request_id, chunk))
            await worker.link.drain()
        assert await worker.next(ChrysalisCancel) == ChrysalisCancel(order.request_id)
        assert made.world.desk.tally.overflows == 1
        quiet.link.send(run_query(random_id()))
        other = await worker.next(ProxyRunQueryEx)
        worker.link.send(head(other.request_id, final=final(0)))
        assert await quiet.next(ClientQueryAnswerEx)
        client.link._transport.resume_reading()


# Places


async def test_whoever_says_nothing_makes_room_and_whoever_is_admitted_stays() -> None:
    async with gateway(places=3) as made:
        made.world.fund(address(1001))
        known = await made.client()
        await introduce_client(known, client_params(), SECRET)
        silent = [await made.client() for _ in range(2)]
        late = await made.client()
        await silent[0].gone()
        await introduce_client(late, client_params(), SECRET)
        another = await made.client()
        await silent[1].gone()
        await introduce_client(another, client_params(), SECRET)
        # All three places are taken by clients that are known: a fourth one finds none.
        refused = await made.client()
        await refused.gone()
        for peer in (known, late, another):
            assert (await peer.link.query(ClientUpdatePaymentStatus(), timeout=10)).max_tokens == 0


async def test_a_handshake_has_its_time() -> None:
    async with gateway(patience=0.2) as made:
        made.world.fund(address(1001))
        known, silent = await made.client(), await made.client()
        await introduce_client(known, client_params(), SECRET)
        ready, slow = await made.worker(), await made.worker()
        await introduce_worker(ready, worker_params())
        await slow.link.query(WorkerConnectToProxy(worker_params()), timeout=10)
        await silent.gone()
        await slow.gone()
        assert (await known.link.query(ClientUpdatePaymentStatus(), timeout=10)).max_tokens == 0
        assert (await ready.link.query(WorkerUpdatePaymentStatus(), timeout=10)).max_tokens == 0


async def test_one_wallet_does_not_take_all_places() -> None:
    async with gateway(places_of_owner=2) as made:
        made.world.fund(address(1001))
        for _ in range(2):
            await introduce_client(await made.client(), client_params(), SECRET)
        third = await made.client()
        with pytest.raises(QueryError, match="has 2 links"):
            await introduce_client(third, client_params(), SECRET)
        await third.gone()
        made.world.fund(address(1002))
        await introduce_client(
            await made.client(), client_params(client_owner_address=address(1002).friendly()), SECRET
        )
