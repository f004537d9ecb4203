"""The gateway's two listeners: links of workers and of clients, joined to their sessions and to the desk.

In: what links deliver. Out: answers, and calls of the pure parts. Everything that decides is in them; here are only
the waits: for a worker's evidence, for a client's registration on chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

import structlog

from appliance.errors import ErrorCode, RequestError
from appliance.gateway.client_session import ClientSession
from appliance.gateway.errors import AdmissionError
from appliance.gateway.evidence import relay
from appliance.gateway.lobby import Lobby
from appliance.gateway.observe import NOTHING
from appliance.gateway.outbox import Outbox
from appliance.gateway.worker_session import Stage, WorkerSession
from appliance.wire.errors import QueryError
from appliance.wire.extensions import Extension
from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidence,
    ChrysalisEvidenceEnded,
    ChrysalisGetEvidence,
    ChrysalisGetWorkerEvidence,
    ChrysalisWorkerEvidenceEnded,
    ClientAuthorizeWithProxyLong,
    ClientAuthorizeWithProxyShort,
    ClientQueryAnswerError,
    ClientRunQuery,
    ClientRunQueryEx,
)
from attestation.errors import AttestationError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.chain.addresses import Address
    from appliance.gateway.admission import Checks
    from appliance.gateway.desk import Desk
    from appliance.gateway.evidence import EvidencePolicy
    from appliance.gateway.fleet import WorkerConnection
    from appliance.gateway.payments import Payments
    from appliance.wire.base import TLObject
    from appliance.wire.link import Link

log = structlog.get_logger(__name__)

REGISTRATION_TIMEOUT_S = 300.0
"""How long a long authorisation may take (section 4.3)."""
CLIENT_PATIENCE_S = REGISTRATION_TIMEOUT_S + 60.0
WORKER_PATIENCE_S = 120.0
"""How long the whole handshake may take: four queries of 30 s each (section 2.2)."""
EVIDENCE_REFRESH_S = 3600.0
EVIDENCE_RETRY_S = 30.0
EVIDENCE_CROSSED_S = 0.2
_EVIDENCE_PER_S = 0.5
_EVIDENCE_BURST = 4.0
MAX_LINKS = 4096
"""Links of a listener; each has cost its peer a proof of work."""
MAX_LINKS_OF_OWNER = 256
"""Links that one client wallet may have: a stake does not buy the places of all others."""
_NO_IMAGE = bytes(32)
_REMEMBERED_REFUSALS = 20


class WorkerLinks:
    """Handles the links of workers (a ``LinkHandler``).

    Args:
        desk: Where their requests come from.
        payments: Signs for their accounts.
        checks: Which lists of the root contract are enforced.
        evidence: Judges their fresh evidence.
        wall: Unix seconds.
        places: Links there may be at once.
        patience: Seconds that a worker has for its handshake.

    Attributes:
        refusals: The newest reasons why a worker was refused, for its operator and ours.
    """

    def __init__(
        self,
        desk: Desk,
        payments: Payments,
        checks: Checks,
        evidence: EvidencePolicy,
        *,
        wall: Callable[[], float],
        places: int = MAX_LINKS,
        patience: float = WORKER_PATIENCE_S,
    ) -> None:
        self.refusals: deque[str] = deque(maxlen=_REMEMBERED_REFUSALS)
        self._desk = desk
        self._payments = payments
        self._checks = checks
        self._evidence = evidence
        self._wall = wall
        self._numbers = count(1)
        self._sessions: dict[Link, WorkerSession] = {}
        self._provers: dict[Link, asyncio.Task[None]] = {}
        self._doubts: dict[Link, asyncio.Event] = {}
        self._ended: Callable[[str], None] = _nobody
        self._places = places
        self._lobby = Lobby(patience)

    @property
    def links(self) -> tuple[Link, ...]:
        """All links there are."""
        return tuple(self._sessions)

    def on_evidence_ended(self, tell: Callable[[str], None]) -> None:
        """Have ``tell`` called with a model when evidence of one of its workers is over."""
        self._ended = tell

    def link_ready(self, link: Link) -> None:
        """A worker connected."""
        if len(self._sessions) >= self._places and not self._lobby.make_room():
            self._desk.tally.refusals["worker"] += 1
            link.close()
            return
        self._lobby.enter(link)
        image = link.peer.image_hash if link.peer is not None else _NO_IMAGE
        self._sessions[link] = WorkerSession(
            self._desk, self._payments, self._checks, number=next(self._numbers), port=link, image_hash=image
        )

    def message_received(self, link: Link, message: TLObject) -> None:
        """An answer, or a change of price or state."""
        session = self._sessions.get(link)
        if session is None or session.connection is None or session.stage is not Stage.READY:
            self._desk.tally.stray_messages += 1
            return
        if isinstance(message, ChrysalisEvidenceEnded):
            self._evidence_ended(link, session.connection, message.generation)
            return
        try:
            self._desk.worker_message(session.connection, message)
        except AdmissionError as error:
            self._refuse(link, error)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """A step of the handshake, or a lookup."""
        session = self._sessions.get(link)
        if session is None:
            raise QueryError("the link is closing", code=ErrorCode.NOT_READY)
        before = session.stage
        try:
            answer = session.handle(query)
        except AdmissionError as error:
            self._refuse(link, error)
            raise QueryError(str(error), code=error.code) from error
        if session.stage is Stage.READY and before is not Stage.READY and session.connection is not None:
            self._shaken(link, session.connection)
        return answer

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """The worker is gone."""
        self._lobby.leave(link)
        session = self._sessions.pop(link, None)
        self._doubts.pop(link, None)
        prover = self._provers.pop(link, None)
        if prover is not None:
            prover.cancel()
        if session is not None and session.connection is not None:
            log.info("worker left", worker=session.connection.number, reason=type(reason).__name__)
            self._desk.worker_lost(session.connection)

    def find(self, connection: WorkerConnection) -> Link | None:
        """The link of a connection."""
        return next((link for link, session in self._sessions.items() if session.connection is connection), None)

    def provable(self, model: str) -> list[Link]:
        """Links of the workers of a model that can show evidence and may be offered requests."""
        connections = (c for c in self._desk.fleet.of_model(model) if c.can_prove and c.offered)
        return [link for link in map(self.find, connections) if link is not None]

    def close_all(self) -> None:
        """Close every link."""
        for link in self.links:
            link.close()

    def _evidence_ended(self, link: Link, connection: WorkerConnection, generation: int) -> None:
        """The worker's engine, GPUs or driver began anew: nothing more is offered to it until it has proven itself."""
        if generation <= connection.generation:
            self._desk.tally.stray_messages += 1
            return
        connection.generation = generation
        connection.cleared = False
        log.info("worker's evidence is over", worker=connection.number, sequence=generation)
        if link in self._doubts:
            self._doubts[link].set()
        self._ended(connection.model)

    def _shaken(self, link: Link, connection: WorkerConnection) -> None:
        self._lobby.leave(link)
        connection.can_cancel = Extension.CANCEL in link.extensions
        connection.can_prove = Extension.EVIDENCE in link.extensions
        doubt = self._doubts[link] = asyncio.Event()
        self._provers[link] = asyncio.get_running_loop().create_task(self._keep_proven(link, connection, doubt))

    async def _keep_proven(self, link: Link, connection: WorkerConnection, doubt: asyncio.Event) -> None:
        """Offer the worker requests from the moment its evidence holds; ask again before it lapses and when it is over.

        ``doubt`` is set when the worker says that what it has shown speaks of something that is no more.
        """
        while not link.closed:
            doubt.clear()
            try:
                proof = await self._evidence.prove(link, connection.admitted, self._desk.terms)
            except AdmissionError as error:
                connection.cleared = False
                self._refuse(link, error)
                return
            except ChrysalisError as error:
                # No answer, or nothing to judge it by (collateral): the worker waits, and is asked again.
                connection.cleared = False
                log.warning("worker not proven", worker=connection.number, reason=str(error))
                await asyncio.sleep(EVIDENCE_RETRY_S)
                continue
            except Exception as error:  # noqa: BLE001 - a worker that nobody asks any more would wait for ever
                connection.cleared = False
                log.error("worker not judged", worker=connection.number, error=type(error).__name__)
                await asyncio.sleep(EVIDENCE_RETRY_S)
                continue
            if proof is not None and proof.generation < connection.generation:
                # Made before the worker said that it is over: both crossed on the way.
                await asyncio.sleep(EVIDENCE_CROSSED_S)
                continue
            if not connection.cleared:
                connection.cleared = True
                log.info("worker admitted", worker=connection.number, model=connection.model)
                self._desk.refill()
            if proof is None:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(1.0, min(EVIDENCE_REFRESH_S, (proof.until - self._wall()) / 2))):
                    await doubt.wait()

    def _refuse(self, link: Link, error: AdmissionError) -> None:
        self._desk.tally.refusals["worker"] += 1
        self.refusals.append(str(error))
        log.warning("worker refused", code=int(error.code), reason=str(error))
        # What is answered in this turn of the loop still leaves: closing flushes.
        asyncio.get_running_loop().call_soon(link.close)


class ClientLinks:
    """Handles the links of clients (a ``LinkHandler``).

    Args:
        desk: Where their requests go.
        payments: Signs for their accounts.
        workers: The other listener, for evidence of workers.
        own_evidence: Makes this gateway's own bundle for a nonce; None where it has no platform.
        newer_config: Called when a client knows a newer root state.
        places: Links there may be at once.
        places_of_owner: Links that one client wallet may have.
        patience: Seconds that a client has for its handshake.
    """

    def __init__(
        self,
        desk: Desk,
        payments: Payments,
        workers: WorkerLinks,
        *,
        own_evidence: Callable[[bytes], Awaitable[bytes]] | None,
        newer_config: Callable[[], None],
        places: int = MAX_LINKS,
        places_of_owner: int = MAX_LINKS_OF_OWNER,
        patience: float = CLIENT_PATIENCE_S,
    ) -> None:
        self._desk = desk
        self._payments = payments
        self._workers = workers
        workers.on_evidence_ended(self._worker_evidence_ended)
        self._own_evidence = own_evidence
        self._newer_config = newer_config
        self._numbers = count(1)
        self._sessions: dict[Link, ClientSession] = {}
        self._outboxes: dict[Link, Outbox] = {}
        self._registrations: dict[Link, asyncio.Event] = {}
        self._evidence_rates: dict[Link, _Rate] = {}
        self._places = places
        self._places_of_owner = places_of_owner
        self._lobby = Lobby(patience)

    @property
    def links(self) -> tuple[Link, ...]:
        """All links there are."""
        return tuple(self._sessions)

    def link_ready(self, link: Link) -> None:
        """A client connected."""
        if len(self._sessions) >= self._places and not self._lobby.make_room():
            self._desk.tally.refusals["client"] += 1
            link.close()
            return
        self._lobby.enter(link)
        outbox = self._outboxes[link] = Outbox(link)
        self._registrations[link] = asyncio.Event()
        self._evidence_rates[link] = _Rate(_EVIDENCE_PER_S, _EVIDENCE_BURST)
        nonce = secrets.randbelow(2**63 - 1) + 1
        self._sessions[link] = ClientSession(
            self._desk, self._payments, number=next(self._numbers), port=outbox, nonce=nonce
        )

    def message_received(self, link: Link, message: TLObject) -> None:
        """A request, or its cancellation."""
        session = self._sessions.get(link)
        connection = session.connection if session is not None else None
        match message:
            case ClientRunQuery() | ClientRunQueryEx() if connection is not None:
                if message.min_config_version > self._desk.terms.version:
                    self._newer_config()
                self._desk.submit(connection, message)
            case ClientRunQuery() | ClientRunQueryEx():
                text = "this connection is not authorised"
                outbox = self._outboxes.get(link)
                if outbox is not None:
                    code = int(ErrorCode.PROTOCOL_VIOLATION)
                    outbox.send(ClientQueryAnswerError(code, text, message.request_id, NOTHING))
            case ChrysalisCancel() if connection is not None:
                self._desk.cancel(connection, message.request_id)
            case _:
                self._desk.tally.stray_messages += 1

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """A step of the handshake, or a lookup."""
        session = self._sessions.get(link)
        if session is None:
            raise QueryError("the link is closing", code=ErrorCode.NOT_READY)
        try:
            match query:
                case ClientAuthorizeWithProxyLong():
                    return await self._long(link, session)
                case ChrysalisGetWorkerEvidence() if session.connection is not None:
                    return await self._worker_evidence(link, query)
                case ChrysalisGetEvidence():
                    return await self._evidence(link, query)
                case ClientAuthorizeWithProxyShort():
                    return self._authorised(link, session, session.handle(query))
                case _:
                    return session.handle(query)
        except AdmissionError as error:
            self._desk.tally.refusals["client"] += 1
            log.info("client refused", code=int(error.code))
            asyncio.get_running_loop().call_soon(link.close)
            raise QueryError(str(error), code=error.code) from error

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """The client is gone."""
        self._lobby.leave(link)
        session = self._sessions.pop(link, None)
        outbox = self._outboxes.pop(link, None)
        self._registrations.pop(link, None)
        self._evidence_rates.pop(link, None)
        if session is not None and session.connection is not None:
            self._desk.client_lost(session.connection)
        if outbox is not None:
            outbox.close()
        log.debug("client left", reason=type(reason).__name__)

    def registered(self, owner: Address, nonce: int) -> None:
        """The chain shows that the client wallet ``owner`` registered with ``nonce`` (unsigned 64 bits)."""
        for link, session in self._sessions.items():
            if session.admitted and session.admitted.owner == owner and session.saw_registration(nonce):
                self._registrations[link].set()

    def close_all(self) -> None:
        """Close every link."""
        for link in self.links:
            link.close()

    def _worker_evidence_ended(self, model: str) -> None:
        """Tell the clients: what they were shown of this model's workers may speak of something that is no more."""
        for link, session in tuple(self._sessions.items()):
            outbox = self._outboxes.get(link)
            if outbox is not None and session.connection is not None and Extension.EVIDENCE in link.extensions:
                outbox.send(ChrysalisWorkerEvidenceEnded(model))

    async def _long(self, link: Link, session: ClientSession) -> TLObject:
        try:
            async with asyncio.timeout(REGISTRATION_TIMEOUT_S):
                await self._registrations[link].wait()
        except TimeoutError:
            raise AdmissionError(
                f"no registration with this connection's nonce was seen within {REGISTRATION_TIMEOUT_S:g} s",
                code=ErrorCode.TIMEOUT,
                hint="the client's wallet sends owner_client_register to its client contract (1 TON attached)",
            ) from None
        return self._authorised(link, session, session.authorise())

    def _authorised(self, link: Link, session: ClientSession, answer: TLObject) -> TLObject:
        """The client is who it says; it has a place unless it has too many already."""
        self._lobby.leave(link)
        connections = [other.connection for other in self._sessions.values()]
        owner = session.connection.owner if session.connection else None
        held = sum(connection is not None and connection.owner == owner for connection in connections)
        if held > self._places_of_owner:
            raise AdmissionError(
                f"this client wallet has {held - 1} links, expected fewer than {self._places_of_owner}",
                code=ErrorCode.NOT_READY,
                hint="one link carries many requests at once: close the others",
            )
        return answer

    async def _worker_evidence(self, link: Link, query: ChrysalisGetWorkerEvidence) -> TLObject:
        self._evidence_rates[link].take()
        links = self._workers.provable(query.model_name)
        if not links:
            raise QueryError(
                "no worker of this model can show fresh evidence now", code=ErrorCode.NOT_READY, hint="try again later"
            )
        return await relay(links, query.nonce)

    async def _evidence(self, link: Link, query: ChrysalisGetEvidence) -> TLObject:
        if self._own_evidence is None:
            raise QueryError("this gateway runs on no platform that gives evidence", code=ErrorCode.ERROR)
        self._evidence_rates[link].take()
        try:
            return ChrysalisEvidence(await self._own_evidence(query.nonce))
        except AttestationError as error:
            log.error("no evidence of our own", error=type(error).__name__, reason=str(error))
            raise QueryError(f"no evidence can be given now: {error.message}", code=ErrorCode.NOT_READY) from error


class _Rate:
    """A bucket of tokens: so many a second, so many at once. Quotes are slow, and one client shall not use them up."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self) -> None:
        now = asyncio.get_running_loop().time()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            wait = (1.0 - self._left) / self._per_second
            raise RequestError(
                f"evidence is asked for too often; retry after {wait:.0f} s", code=ErrorCode.NOT_READY, retry_after=wait
            )
        self._left -= 1.0


def _nobody(_: str) -> None:
    """Nobody wants to know."""
