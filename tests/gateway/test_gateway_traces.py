"""The reference programs' own traffic, played to this gateway: same order, same shapes, same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from gateway_world import World, root_state

from appliance.chain.addresses import Address
from appliance.gateway.admission import Checks
from appliance.gateway.client_session import ClientSession
from appliance.gateway.worker_session import WorkerSession
from appliance.wire.codec import decode
from appliance.wire.messages import (
    ClientQueryAnswerError,
    ClientQueryAnswerErrorEx,
    ClientQueryAnswerEx,
    ClientQueryAnswerPartEx,
    ClientRunQueryEx,
    HttpRequest,
    HttpResponse,
    ProxyClientRequestPayment,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerEx,
    ProxyQueryAnswerPartEx,
    ProxyRunQueryEx,
    ProxyWorkerRequestPayment,
    TcpPacket,
    TcpQuery,
    TcpQueryAnswer,
)

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.gateway.exchange import ClientConnection
    from appliance.wire.base import TLObject

FRAME_HEAD = 8


def traffic(shared: Path, name: str) -> list[tuple[str, TLObject]]:
    """``(sender, object)`` of every query, answer and message of a trace, in order."""
    found = []
    for entry in json.loads((shared / "vectors" / "cocoon-traces" / f"{name}_proxy_at_proxy.json").read_text()):
        if "seqno" not in entry:
            continue
        packet = decode(bytes.fromhex(entry["hex"])[FRAME_HEAD:])
        if isinstance(packet, TcpPacket | TcpQuery | TcpQueryAnswer):
            found.append((entry["dir"].split("->")[0], decode(packet.data)))
    return found


@pytest.fixture
def world() -> World:
    """A gateway under the parameters of the traces: price 2, all multipliers 1."""
    params = replace(
        root_state().params,
        price_per_token=2,
        cached_tokens_price_multiplier=10_000,
        completion_tokens_price_multiplier=10_000,
        reasoning_tokens_price_multiplier=10_000,
    )
    return World(params=params)


def test_the_workers_handshake(shared: Path, world: World) -> None:
    trace = traffic(shared, "worker")
    session = WorkerSession(
        world.desk,
        world.payments,
        Checks(images=False, models=False),
        number=1,
        port=None,
        image_hash=bytes(32),  # type: ignore[arg-type]
    )
    steps = 0
    for (sender, query), (_, answer) in pairwise(trace):
        if sender != "worker" or not type(query).__name__.startswith("Worker") or steps == 3:
            continue
        steps += 1
        ours: Any = session.handle(query)
        theirs: Any = answer
        assert type(ours) is type(theirs)
        if hasattr(theirs, "params"):
            assert (ours.params.flags, ours.params.proto_version) == (theirs.params.flags, theirs.params.proto_version)
            assert ours.params.is_test == theirs.params.is_test
            assert ours.worker_sc_address[:2] == theirs.worker_sc_address[:2] == "UQ"
        if hasattr(theirs, "error_code"):
            assert (ours.error_code, ours.max_tokens) == (theirs.error_code, theirs.max_tokens) == (0, 0)
            assert len(ours.signed_payment.data) == len(theirs.signed_payment.data)
    assert steps == 3


def test_the_clients_handshake(shared: Path, world: World) -> None:
    trace = traffic(shared, "client")
    hello: Any = trace[0][1]
    account = world.fund(_owner(hello))
    account.secret_hash = trace[1][1].auth.secret_hash  # type: ignore[attr-defined]
    session = ClientSession(world.desk, world.payments, number=1, port=None, nonce=0)  # type: ignore[arg-type]
    for (_, query), (_, answer) in ((trace[0], trace[1]), (trace[2], trace[3])):
        ours: Any = session.handle(query)
        theirs: Any = answer
        assert type(ours) is type(theirs)
        if hasattr(theirs, "auth"):
            assert ours.auth == theirs.auth
            assert type(ours.signed_payment) is type(theirs.signed_payment)
        else:
            assert (ours.tokens_committed_to_db, ours.max_tokens) == (0, 0)
            assert len(ours.signed_payment.data) == len(theirs.signed_payment.data)


def _owner(hello: Any) -> Any:
    return Address.parse(hello.params.client_owner_address)


def test_every_request_of_the_traces(shared: Path, world: World) -> None:
    """Each request and each answer of the reference worker is given to us; what goes out is what the reference sent."""
    to_client = [m for sender, m in traffic(shared, "client") if sender == "proxy"]
    asked = [m for _, m in traffic(shared, "client") if isinstance(m, ClientRunQueryEx)]
    worker_side = traffic(shared, "worker")
    orders = [m for _, m in worker_side if isinstance(m, ProxyRunQueryEx)]
    by_worker = [m for sender, m in worker_side if sender == "worker" and type(m).__name__.startswith("ProxyQuery")]
    client: ClientConnection = world.client(1, balance=10**15, stake=10**15)
    worker = world.worker(1, limit=60, model="Qwen/Qwen3-8B@abc123def456:" + "00" * 32)
    served = 0
    for query in asked:
        world.desk.submit(client, replace(query, min_config_version=0))
        sent: list[Any] = worker.port.take()  # type: ignore[attr-defined]
        if query.model_name != "Qwen/Qwen3-8B":
            error: Any = client.port.take()[0]  # type: ignore[attr-defined]
            reference: Any = next(m for m in to_client if isinstance(m, ClientQueryAnswerError))
            assert (type(error), error.error_code) == (type(reference), reference.error_code)
            assert error.error.startswith(reference.error)
            continue
        theirs = orders[served]
        served += 1
        (ours,) = sent
        assert (ours.timeout, ours.coefficient) == (pytest.approx(theirs.timeout), theirs.coefficient)
        assert (ours.flags, ours.enable_debug) == (theirs.flags, theirs.enable_debug)
        if json.loads(decode(query.query, HttpRequest).payload).get("max_tokens") is not None:
            assert ours.query == query.query == theirs.query
        for answer in [m for m in by_worker if m.request_id == theirs.request_id]:  # type: ignore[attr-defined]
            world.desk.worker_message(worker, replace(answer, request_id=ours.request_id))  # type: ignore[type-var]
        relayed: list[Any] = client.port.take()  # type: ignore[attr-defined]
        expected: list[Any] = [m for m in to_client if getattr(m, "request_id", None) == query.request_id]
        assert [type(m) for m in relayed] == [type(m) for m in expected]
        for mine, reference in zip(relayed, expected, strict=True):
            _same_shape(mine, reference)
        paid = worker.port.take()  # type: ignore[attr-defined]
        assert [type(m) for m in paid] == [ProxyWorkerRequestPayment]
    assert served == len(orders) > 4
    last: Any = [m for m in to_client if isinstance(m, ProxyClientRequestPayment)][-1]
    assert client.account.tokens == worker.account.tokens == last.max_tokens
    assert world.reserved() == worker.absurd_reports == 0
    kinds = {type(m) for m in by_worker}
    assert kinds == {ProxyQueryAnswerEx, ProxyQueryAnswerPartEx, ProxyQueryAnswerErrorEx}


def _same_shape(mine: Any, reference: Any) -> None:
    if isinstance(reference, ProxyClientRequestPayment):
        assert mine.request_tokens == reference.request_tokens
        return
    assert mine.flags == reference.flags
    if isinstance(reference, ClientQueryAnswerEx):
        head, other = decode(mine.answer, HttpResponse), decode(reference.answer, HttpResponse)
        assert [header.name for header in head.headers] == [header.name for header in other.headers]
        assert (head.status_code, head.payload) == (other.status_code, other.payload)
    elif isinstance(reference, ClientQueryAnswerPartEx):
        assert mine.answer == reference.answer
    elif isinstance(reference, ClientQueryAnswerErrorEx):
        assert (mine.error_code, mine.error) == (reference.error_code, reference.error)
    if reference.final_info is not None:
        assert mine.final_info.flags == reference.final_info.flags
        assert mine.final_info.tokens_used == reference.final_info.tokens_used
        assert mine.final_info.worker_debug == reference.final_info.worker_debug
        assert (mine.final_info.proxy_debug is None) == (reference.final_info.proxy_debug is None)
