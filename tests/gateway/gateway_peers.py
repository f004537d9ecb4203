"""Scripted peers over real links on loopback, each through a router that tells the gateway who it is."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway_world import FULL_MODEL, KEY, ROOT, WALLET, World, address

from appliance.gateway.admission import Checks
from appliance.gateway.evidence import EvidencePolicy
from appliance.gateway.links import ClientLinks, WorkerLinks
from appliance.gateway.payments import Payments
from appliance.wire.errors import QueryError
from appliance.wire.messages import (
    ChrysalisEvidence,
    ChrysalisGetEvidence,
    ClientAuthorizeWithProxyShort,
    ClientConnectToProxy,
    WorkerCompareBalanceWithProxy,
    WorkerConnectToProxy,
    WorkerProxyHandshakeComplete,
)
from appliance.wire.transport import LinkProtocol, dial
from attestation.claims import WorkloadStatement, image_hash
from attestation.errors import CollectionError
from attestation.ratls import RouterListener
from attestation.ratls.frame import AttestationFrame
from attestation.verdict import Check, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from appliance.wire.base import TLObject
    from appliance.wire.extensions import Extension
    from appliance.wire.link import Link

MEASUREMENTS = bytes(range(256)) + bytes(128)
LISTED_IMAGE = image_hash(MEASUREMENTS)
PEER_KEY = bytes([5]) * 32
SHOWN = b"bundle"


class Router:
    """A dialer that stands in for the peer's and the gateway's routers: the attestation frame, then the link."""

    def __init__(self, measurements: bytes | None = MEASUREMENTS) -> None:
        here = ("127.0.0.1", 1)
        report = bytes(64) if measurements is not None else b""
        self.frame = AttestationFrame(measurements, report, bytes(48), PEER_KEY, here, here).encode()

    async def connect(
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        frame = self.frame

        def factory() -> asyncio.Protocol:
            protocol = protocol_factory()
            made = protocol.connection_made

            def connection_made(transport: Any) -> None:
                transport.write(frame)
                made(transport)

            protocol.connection_made = connection_made  # type: ignore[method-assign]
            return protocol

        return await asyncio.get_running_loop().create_connection(factory, host, port)


class Peer:
    """One scripted peer: keeps what it hears, answers what it is told to answer."""

    def __init__(self, answer: Callable[[TLObject], TLObject] | None = None) -> None:
        self.heard: asyncio.Queue[TLObject] = asyncio.Queue()
        self.lost = asyncio.Event()
        self._answer = answer
        self.link: Link

    def link_ready(self, link: Link) -> None:
        self.link = link

    def message_received(self, link: Link, message: TLObject) -> None:
        self.heard.put_nowait(message)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        if self._answer is None:
            raise QueryError("Lost promise", code=0)
        return self._answer(query)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        self.lost.set()

    async def next(self, kind: type) -> Any:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(10):
            message = await self.heard.get()
        assert isinstance(message, kind), message
        return message

    async def gone(self) -> None:
        async with asyncio.timeout(10):
            await self.lost.wait()


class ScriptedVerifier:
    """A verifier whose verdict the test decides."""

    def __init__(self) -> None:
        self.asked = 0
        self.accepted = True
        self.statement: WorkloadStatement | None = None
        self.image = LISTED_IMAGE

    async def verify_bundle(self, bundle: bytes, *, nonce: bytes, public_key: bytes) -> Verdict:
        assert (len(nonce), public_key) == (32, PEER_KEY)
        self.asked += 1
        ok = self.accepted and bundle == SHOWN
        check = Check("quote", ok, "seen", "expected", "look at it")
        return Verdict(ok, "none", "scripted", self.image, public_key, (check,), 2**40, self.statement)


class Gateway:
    """Both listeners of a gateway over one world."""

    def __init__(
        self,
        world: World,
        *,
        reference_workers: bool = True,
        images: bool = True,
        models: bool = True,
        places: int = 100,
        places_of_owner: int = 100,
        patience: float = 60.0,
    ) -> None:
        self.world = world
        self.verifier = ScriptedVerifier()
        checks = Checks(images=images, models=models)
        policy = EvidencePolicy(self.verifier, checks, reference_workers=reference_workers)
        self.payments = Payments(KEY, WALLET)
        self.newer = 0
        self.workers = WorkerLinks(
            world.desk, self.payments, checks, policy, wall=world.wall, places=places, patience=patience
        )
        self.clients = ClientLinks(
            world.desk,
            self.payments,
            self.workers,
            own_evidence=self._own,
            newer_config=self._newer,
            places=places,
            places_of_owner=places_of_owner,
            patience=patience,
        )
        self.worker_port = self.client_port = 0
        self.peers: list[Peer] = []
        self.no_evidence = False

    async def _own(self, nonce: bytes) -> bytes:
        if self.no_evidence:
            raise CollectionError("no quote")
        return b"own " + nonce

    def _newer(self) -> None:
        self.newer += 1

    async def worker(
        self,
        *,
        measurements: bytes | None = MEASUREMENTS,
        offered: frozenset[Extension] | None = None,
        answer: Callable[[TLObject], TLObject] | None = None,
    ) -> Peer:
        """A worker's link, not introduced yet."""
        return await self._dial(self.worker_port, measurements, offered, answer)

    async def client(self, *, offered: frozenset[Extension] | None = None) -> Peer:
        """A client's link, not introduced yet."""
        return await self._dial(self.client_port, None, offered, None)

    async def _dial(self, port: int, measurements: bytes | None, offered: Any, answer: Any) -> Peer:
        peer = Peer(answer)
        link = await dial(Router(measurements), peer, ("127.0.0.1", port), offered=offered or frozenset())
        if offered:
            await link.negotiate()
        peer.link = link
        self.peers.append(peer)
        return peer


@asynccontextmanager
async def gateway(world: World | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that listens on loopback behind its router."""
    world = world or World(worker_hashes=frozenset({LISTED_IMAGE}))
    made = Gateway(world, **settings)
    servers = []
    for handler, name in ((made.workers, "worker_port"), (made.clients, "client_port")):
        server = await RouterListener().serve(
            lambda handler=handler: LinkProtocol(handler, connecting=False),  # type: ignore[misc]
            "127.0.0.1",
            0,
        )
        setattr(made, name, server.sockets[0].getsockname()[1])
        servers.append(server)
    try:
        yield made
    finally:
        for server in servers:
            server.close()
        links = (*made.workers.links, *made.clients.links, *(peer.link for peer in made.peers))
        for link in links:
            link.close()
        for link in links:
            await link.wait_closed()


async def introduce_worker(peer: Peer, params: Any, *, disabled: bool = False) -> Any:
    """The four steps of a worker's handshake; the first answer."""
    connected = await peer.link.query(WorkerConnectToProxy(params), timeout=10)
    await peer.link.query(WorkerCompareBalanceWithProxy(0, 0, 0), timeout=10)
    await peer.link.query(WorkerProxyHandshakeComplete(disabled), timeout=10)
    await asyncio.sleep(0.02)
    return connected


async def introduce_client(peer: Peer, params: Any, secret: bytes, *, version: int = 5) -> Any:
    """The two steps of a client's handshake with short authorisation; the first answer."""
    connected = await peer.link.query(ClientConnectToProxy(params, version), timeout=10)
    await peer.link.query(ClientAuthorizeWithProxyShort(secret), timeout=10)
    return connected


def evidence(query: TLObject) -> TLObject:
    """What a worker of ours answers when it is asked for evidence."""
    assert isinstance(query, ChrysalisGetEvidence)
    return ChrysalisEvidence(SHOWN)


def statement(**changes: Any) -> WorkloadStatement:
    """A statement that agrees with what :func:`gateway_world.worker_params` says."""
    values: dict[str, Any] = {
        "image": LISTED_IMAGE,
        "measured_config": bytes(32),
        "model": FULL_MODEL,
        "model_hash": bytes.fromhex("ab" * 32),
        "root_contract": ROOT.raw(),
        "owner": address(2001).raw(),
    }
    return WorkloadStatement(**(values | changes))


def random_id() -> bytes:
    """A request id."""
    return secrets.token_bytes(32)
