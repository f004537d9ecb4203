"""One gateway: the link to it from dialling to its end.

In: an address, what the worker offers, the shared rooms (book, requests). Out: a link that has passed the handshake and
then serves requests, hears payments and answers evidence queries, until it is lost or closed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.errors import PaymentRefusedError
from appliance.errors import ErrorCode, RequestError
from appliance.wire.errors import ProtocolError, QueryError, QueryTimeoutError, WireError
from appliance.wire.extensions import ALL, Extension
from appliance.wire.messages import (
    ChrysalisCancel,
    ChrysalisEvidence,
    ChrysalisEvidenceEnded,
    ChrysalisGetEvidence,
    ProxyRunQuery,
    ProxyRunQueryEx,
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    ProxyWorkerRequestPayment,
    WorkerCompareBalanceWithProxy,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
    WorkerPaymentStatus,
    WorkerUpdatePaymentStatus,
)
from appliance.wire.transport import dial
from appliance.worker.errors import HandshakeError
from appliance.worker.handshake import Ask, Keep, Recall, Settled, handshake
from attestation.errors import AttestationError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from appliance.wire.base import TLObject
    from appliance.wire.transport import Dialer, Link
    from appliance.worker.book import Book
    from appliance.worker.handshake import Offer, Recalled, Session, Terms
    from appliance.worker.requests import RequestRunner
    from appliance.worker.standing import Reason

log = structlog.get_logger(__name__)

QUERY_TIMEOUT_S = 30.0
"""For each query of the handshake (section 2.2)."""
STATUS_TIMEOUT_S = 60.0
STATUS_EVERY_S = (10.0, 20.0)
"""Between two looks at the payment status (section 2.6)."""
MAX_VIOLATIONS = 100
"""Rules that a gateway may break on one link: each costs a line of the log, and perhaps a signature's check."""
OLD_PRICE_GRACE_S = 60.0
"""So long a gateway may still use the coefficient before the last change: both messages crossed."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker tells its gateways at the moment, and whether it would serve what they send.

    Evidence of a generation before ``generation`` is over.
    """

    offer: Offer
    disabled: bool
    refusal: Reason | None
    generation: int = 0


class Surroundings(Protocol):
    """What a link needs to know of its worker."""

    @property
    def announcement(self) -> Announcement:
        """As of now."""

    @property
    def terms(self) -> Terms:
        """The current root contract."""

    def peer_allowed(self, image_hash: bytes) -> bool:
        """Whether a gateway with this image may be talked to (section 2.2, W0)."""

    async def recall(self, step: Recall) -> Recalled:
        """What disk and chain say about an account; also has the worker contract deployed."""

    def gateway_ready(self, link: GatewayLink) -> None:
        """The handshake is complete."""


class GatewayLink:
    """The link to one gateway; a ``LinkHandler``.

    Args:
        address: ``host:port``.
        worker: What the link needs to know.
        book: The accounts.
        requests: Where requests run.
        evidence: Makes a fresh bundle for a 32-byte nonce; None where this machine has none.
        random: Source of the status interval.

    Attributes:
        session: What the handshake settled; None before.
        ready: The handshake is complete and the link is not lost.
        image: The gateway's attested image, 32 bytes; None before it was allowed.
        violations: Messages that broke a rule.
        unwelcome: The link ended before the handshake, after extensions were offered and not agreed to.
        died_comparing: The link ended during the comparison of accounts.
    """

    def __init__(
        self,
        address: str,
        worker: Surroundings,
        book: Book,
        requests: RequestRunner,
        *,
        evidence: Callable[[bytes], Awaitable[bytes]] | None,
        random: random.Random,
    ) -> None:
        self.address = address
        self.session: Session | None = None
        self.ready = False
        self.image: bytes | None = None
        self.violations = 0
        self.died_comparing = False
        self.unwelcome = False
        self._worker = worker
        self._book = book
        self._requests = requests
        self._evidence = evidence
        self._random = random
        self._link: Link | None = None
        self._offered: dict[int, float] = {}
        self._told_disabled = True
        self._told_generation = 0

    # LinkHandler

    def link_ready(self, link: Link) -> None:
        """The transport is up; :meth:`run` goes on from here."""
        self._link = link

    def message_received(self, link: Link, message: TLObject) -> None:
        """Requests, payments, cancellations; anything else is counted and dropped."""
        session = self.session
        if session is None:
            self._violation("message before the end of the handshake")
            return
        match message:
            case ProxyRunQueryEx() | ProxyRunQuery():
                self._run_query(link, session, message)
            case ProxyWorkerRequestPayment():
                self._hear(session, message.signed_payment, (message.db_tokens, message.max_tokens))
            case ProxySignedPayment() | ProxySignedPaymentEmpty():
                self._hear(session, message)
            case ChrysalisCancel():
                self._requests.cancel(link, message.request_id)
            case _:
                self._violation(f"unexpected {type(message).__name__}")

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """Fresh evidence, for a gateway that agreed to the extension."""
        if not isinstance(query, ChrysalisGetEvidence):
            raise QueryError("Lost promise", code=ErrorCode.PLAIN)
        if self._evidence is None:
            raise QueryError("this worker has no evidence", code=ErrorCode.NOT_READY)
        try:
            return ChrysalisEvidence(await self._evidence(query.nonce))
        except AttestationError as error:
            raise QueryError(error.message, code=ErrorCode.NOT_READY, hint=error.hint) from error

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """Nobody is there to take answers any more."""
        self.ready = False
        self._requests.cancel_link(link)
        if reason is not None:
            log.info("gateway lost", gateway=self.address, error=type(reason).__name__)

    # The life of the link

    async def run(self, dialer: Dialer, *, greet: bool = True, state_totals: bool = True) -> None:
        """Dial, shake hands, then look at the payment status until the link is lost.

        Args:
            dialer: How to connect.
            greet: Offer the extensions before the handshake. Peers that do not know the query answer it with an error;
                one that closes the link over it is dialled again without (see ``unwelcome``).
            state_totals: See :func:`~appliance.worker.handshake.handshake`.

        Raises:
            ChrysalisError: There is no link, or the gateway does not pass.
        """
        host, _, port = self.address.rpartition(":")
        offered = ALL if self._evidence is not None else ALL - {Extension.EVIDENCE}
        link = await dial(dialer, self, (host.strip("[]"), int(port)), offered=offered)
        try:
            self._check_peer(link)
            if greet:
                # First of all: a gateway of ours asks for fresh evidence as soon as the handshake is done.
                self.unwelcome = True
                self.unwelcome = not await link.negotiate()
            await self._shake_hands(link, state_totals=state_totals)
            await self._watch_status(link)
        finally:
            self.ready = False
            link.close()

    def _check_peer(self, link: Link) -> None:
        image = link.peer.image_hash if link.peer is not None else bytes(32)
        if not self._worker.peer_allowed(image):
            raise HandshakeError(
                f"the gateway's image is {image.hex()}, which the root contract does not list",
                hint="the gateway runs another release, or gave no evidence",
            )
        self.image = image

    async def _shake_hands(self, link: Link, *, state_totals: bool) -> None:
        now = self._worker.announcement
        self._told_generation = now.generation
        steps = handshake(now.offer, self._worker.terms, is_disabled=now.disabled, state_totals=state_totals)
        outcome: TLObject | Recalled | None = None
        self._offered = {now.offer.coefficient: float("inf")}
        try:
            while True:
                step = steps.send(outcome)
                match step:
                    case Ask():
                        # A reference gateway that has lost its database ends as a process during this one query.
                        self.died_comparing = isinstance(step.query, WorkerCompareBalanceWithProxy)
                        outcome = await link.query(step.query, timeout=QUERY_TIMEOUT_S)
                        self.died_comparing = False
                    case Recall():
                        outcome = await self._worker.recall(step)
                    case Keep():
                        await self._keep(step)
                        outcome = None
                    case Settled():
                        self.session, self.unwelcome = step.session, False
                        outcome = None
        except StopIteration as done:
            session: Session = done.value
        for finding in session.findings:
            log.warning("accounts differ", gateway=self.address, kind=finding.kind, seen=finding.seen,
                        expected=finding.expected, hint=finding.hint)  # fmt: skip
        self.ready, self._told_disabled = True, now.disabled
        self._worker.gateway_ready(self)
        # What changed while the handshake ran was told to nobody.
        self.announce()

    async def _keep(self, step: Keep) -> None:
        try:
            await self._book.replace(step.known, step.record)
        except PaymentRefusedError as error:
            raise HandshakeError(error.message, hint=error.hint) from error

    async def _watch_status(self, link: Link) -> None:
        """Ask for the payment status at times, until the link is lost."""
        while True:
            lost = asyncio.ensure_future(link.wait_closed())
            try:
                await asyncio.wait({lost}, timeout=self._random.uniform(*STATUS_EVERY_S))
            finally:
                lost.cancel()
            session = self.session
            if link.closed or session is None:
                return
            try:
                status: WorkerPaymentStatus = await link.query(WorkerUpdatePaymentStatus(), timeout=STATUS_TIMEOUT_S)
            except (QueryError, QueryTimeoutError) as error:
                log.info("no payment status", gateway=self.address, error=type(error).__name__)
                continue
            self._hear(session, status.signed_payment, (status.db_tokens, status.max_tokens))

    def announce(self) -> None:
        """Tell the gateway what changed in :class:`Announcement` since it was last told."""
        link = self._link
        if link is None or link.closed or not self.ready:
            return
        now = self._worker.announcement
        if now.generation > self._told_generation and Extension.EVIDENCE in link.extensions:
            # Before anything else: what the gateway sends from here on is for a machine that it has not judged yet.
            self._told_generation = now.generation
            link.send(ChrysalisEvidenceEnded(now.generation))
        if now.disabled != self._told_disabled:
            self._told_disabled = now.disabled
            link.send(WorkerEnabledDisabled(int(now.disabled)))
        coefficient = now.offer.coefficient
        if self._offered.get(coefficient) != float("inf"):
            until = time.monotonic() + OLD_PRICE_GRACE_S
            self._offered = {old: min(limit, until) for old, limit in self._offered.items() if limit > time.monotonic()}
            self._offered[coefficient] = float("inf")
            link.send(WorkerNewCoefficient(coefficient))

    def close(self, reason: WireError | None = None) -> None:
        """End the link; :meth:`run` returns."""
        if self._link is not None:
            self._link.close(reason)

    # Messages

    def _run_query(self, link: Link, session: Session, query: ProxyRunQuery | ProxyRunQueryEx) -> None:
        refusal = self._worker.announcement.refusal
        if refusal is not None:
            error = RequestError(f"worker: not ready: {refusal.text}", code=ErrorCode.NOT_READY)
            self._requests.refuse(link, session, query, error)
            return
        if not self._requests.full:
            # Before any work is done; a bad payment is only logged here (section 2.4, step 2).
            try:
                self._book.hear(session.contract, query.signed_payment)
            except PaymentRefusedError as error:
                self._violation(error.message)
        now = time.monotonic()
        offered = [coefficient for coefficient, until in self._offered.items() if until > now]
        self._requests.start(link, session, query, offered)

    def _hear(
        self,
        session: Session,
        payment: ProxySignedPayment | ProxySignedPaymentEmpty,
        totals: tuple[int, int] | None = None,
    ) -> None:
        """A contradiction ends the link, so that the next handshake compares accounts afresh (section 2.6)."""
        try:
            self._book.hear(session.contract, payment, totals)
        except PaymentRefusedError as error:
            self._violation(error.message)
            self.close(ProtocolError(f"accounts contradict each other: {error.message}", hint=error.hint))

    def _violation(self, what: str) -> None:
        self.violations += 1
        if self.violations > MAX_VIOLATIONS:
            self.close(ProtocolError(f"the gateway broke a rule more than {MAX_VIOLATIONS} times; the last: {what}"))
            return
        log.warning("gateway broke a rule", gateway=self.address, reason=what, count=self.violations)
