"""Links over the attested transport: the same behaviour, and the peer's identity at hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from appliance.wire.errors import DialError, LinkClosedError
from appliance.wire.messages import (
    ProxyQueryAnswerPartEx,
    ProxySignedPaymentEmpty,
    WorkerNewCoefficient,
    WorkerPaymentStatus,
    WorkerUpdatePaymentStatus,
)
from appliance.wire.transport import Link, LinkProtocol, dial
from attestation import policy
from attestation.errors import AttestationError
from attestation.platforms.fake_tdx import FakeTdx
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from appliance.wire.base import TLObject

STATUS = WorkerPaymentStatus(ProxySignedPaymentEmpty(), 1, 2)


def verifier(name: str) -> Verifier:
    return Verifier(policy.for_name(name))


class Handler:
    def __init__(self) -> None:
        self.link: Link | None = None
        self.messages: asyncio.Queue[TLObject] = asyncio.Queue()
        self.lost: asyncio.Queue[Exception | None] = asyncio.Queue()

    def link_ready(self, link: Link) -> None:
        self.link = link

    def message_received(self, link: Link, message: TLObject) -> None:
        self.messages.put_nowait(message)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        return STATUS

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        self.lost.put_nowait(reason)


async def test_a_link_over_mutual_attested_tls() -> None:
    identities = [await Identity.create(FakeTdx()) for _ in range(2)]
    near, far = Handler(), Handler()
    listener = RatlsListener(identities[0], verifier("fake_tdx"), 4)
    server: Any = await listener.serve(lambda: LinkProtocol(far, connecting=False), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    link = await dial(RatlsDialer(identities[1], verifier("fake_tdx")), near, address)
    assert await link.negotiate() == link.extensions != frozenset()
    assert far.link is not None
    assert link.peer is not None
    assert far.link.peer is not None
    assert link.peer.public_key == identities[0].public_key
    assert far.link.peer.public_key == identities[1].public_key
    assert await link.query(WorkerUpdatePaymentStatus(), timeout=10) == STATUS
    assert await far.link.query(WorkerUpdatePaymentStatus(), timeout=10) == STATUS
    big = ProxyQueryAnswerPartEx(bytes(32), b"z" * (3 << 20), 0)
    for n in range(3):
        link.send(big)
        link.send(WorkerNewCoefficient(n))
        await link.drain()
    for n in range(3):
        assert await far.messages.get() == big
        assert await far.messages.get() == WorkerNewCoefficient(n)
    link.send(WorkerNewCoefficient(9))
    link.close()
    await link.wait_closed()
    assert await far.messages.get() == WorkerNewCoefficient(9)
    assert await near.lost.get() is None
    assert isinstance(await far.lost.get(), LinkClosedError)
    server.close()
    await server.wait_closed()


async def test_a_refused_peer_never_becomes_a_link() -> None:
    near, far = Handler(), Handler()
    listener = RatlsListener(await Identity.create(FakeTdx()), verifier("fake_tdx"), 0)
    server: Any = await listener.serve(lambda: LinkProtocol(far, connecting=False), "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    bare = RatlsDialer(await Identity.create(None), verifier("fake_tdx"))
    # TLS 1.3: the connecting side may think all is well until the far side's refusal arrives.
    with pytest.raises((AttestationError, DialError)):
        await dial(bare, near, address)
    assert far.link is None
    shown = RatlsDialer(await Identity.create(FakeTdx()), verifier("fake_tdx"))
    link = await dial(shown, Handler(), address)  # control: with evidence
    link.close()
    await link.wait_closed()
    server.close()
    await server.wait_closed()
