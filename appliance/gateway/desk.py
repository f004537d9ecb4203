"""Requests: checked, reserved for, queued, given to a worker. Pure: messages in, messages out.

The order of checks is the protocol's (specification, section 4.4); the choice of a worker is the fleet's; what waits
is in the fair queue. Whatever ends a request, it ends in :meth:`Exchange.close`, which gives back its reservation.
Answers of workers are taken by :mod:`~appliance.gateway.answers`, ends by :mod:`~appliance.gateway.ends`.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.accounting.tokens import cover, reservation
from appliance.errors import ErrorCode, RequestError
from appliance.gateway.admission import check_coefficient
from appliance.gateway.answers import Answers
from appliance.gateway.bodies import agreed_request
from appliance.gateway.ends import Ends
from appliance.gateway.exchange import ClientConnection, Exchange, Phase
from appliance.gateway.fleet import Fleet, WorkerConnection
from appliance.gateway.observe import NOTHING
from appliance.gateway.queue import FairQueue, busy
from appliance.gateway.tally import Tally
from appliance.wire.errors import WireError
from appliance.wire.messages import (
    ClientQueryAnswerError,
    ClientRunQuery,
    ClientRunQueryEx,
    WorkerEnabledDisabled,
    WorkerNewCoefficient,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.gateway.book import Book
    from appliance.gateway.payments import Payments
    from appliance.gateway.terms import Terms
    from appliance.wire.base import TLObject


@dataclass(frozen=True, slots=True)
class DeskLimits:
    """Bounds on requests.

    Attributes:
        queue: Requests that may wait for a worker.
        queue_bytes: Bytes of their bodies that may wait.
        client_share: Part of the queue that one client may hold.
        stake_cap: Nanotons of a client's stake that count at most.
        timeout: Longest time for one request, seconds.
        client_requests: Open requests a connection may have.
        grace: Seconds that a worker has to report after it was told to stop, or after the request's time is over.
    """

    queue: int = 256
    queue_bytes: int = 1 << 28
    client_share: float = 0.5
    stake_cap: int = 100_000_000_000
    timeout: float = 120.0
    client_requests: int = 1024
    grace: float = 10.0


class Desk:
    """Everything about requests under one set of terms.

    Args:
        limits: Bounds.
        terms: The root state in force.
        book: The accounts.
        payments: Makes the signed payments that go with messages.
        monotonic: Seconds that only grow.
        wall: Unix seconds.
        random_id: Makes 32 random bytes.
        tally: Where totals are counted.
    """

    def __init__(
        self,
        limits: DeskLimits,
        terms: Terms,
        book: Book,
        payments: Payments,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        random_id: Callable[[], bytes],
        tally: Tally | None = None,
    ) -> None:
        self.limits = limits
        self.terms = terms
        self.book = book
        self.fleet = Fleet()
        self.tally = tally or Tally()
        self.closed: str | None = None
        self._payments = payments
        self._monotonic = monotonic
        self._wall = wall
        self._random_id = random_id
        self._ends = Ends(self.tally, grace=limits.grace, monotonic=monotonic, freed=self.refill)
        self._answers = Answers(terms, book, payments, self._ends, self.tally, monotonic=monotonic, wall=wall)
        self._open: set[Exchange] = set()
        # A request that cannot be handed over ends at once, which frees a place: refill() must not call itself.
        self._refilling = False
        self._waiting_bytes = 0
        self._queue: FairQueue[Exchange] = FairQueue(limit=limits.queue, client_share=limits.client_share)

    @property
    def open(self) -> int:
        """Requests that still hold something."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    # From clients

    def submit(self, client: ClientConnection, query: ClientRunQuery | ClientRunQueryEx) -> None:
        """A client asks for something; whatever is wrong with it, the client is told."""
        self.tally.requests += 1
        if query.request_id in client.exchanges:
            # An error for this id would end the request that has it already.
            self.tally.stray_messages += 1
            return
        try:
            self._admit(client, query)
        except RequestError as error:
            self.tally.failures[int(error.code)] += 1
            client.port.send(ClientQueryAnswerError(int(error.code), str(error), query.request_id, NOTHING))

    def _admit(self, client: ClientConnection, query: ClientRunQuery | ClientRunQueryEx) -> None:
        self._check_numbers(client, query)
        account, price, cap = client.account, self.terms.price, self.limits.stake_cap
        available = account.available(price, cap)
        if available < query.max_tokens:
            raise RequestError(
                f"max_tokens is {query.max_tokens}, {max(0, available)} adjusted tokens are available",
                hint="charge what was used, or raise stake and balance of the client contract",
            )
        if query.min_config_version > self.terms.version:
            raise RequestError(
                f"the request asks for root contract version {query.min_config_version}, this gateway has "
                f"{self.terms.version}",
                hint="the gateway reads the chain again now; try again in a few seconds",
            )
        if account.status != 0:
            raise RequestError(
                f"the client contract is in state {account.status}, expected 0 (open)", code=ErrorCode.NOT_READY
            )
        worker = self.fleet.choose(query.model_name, query.max_coefficient)
        # The body is read when its length is paid for: reading is work, and the loop's time is everybody's.
        multipliers = self.terms.multipliers
        least = cover(query.max_tokens, len(query.query), query.max_coefficient, multipliers)
        self.book.reserve(account, least, price=price, stake_cap=cap).release()
        agreed = agreed_request(query.query, query.max_tokens)
        tokens = cover(query.max_tokens, agreed.size, query.max_coefficient, multipliers)
        now = self._monotonic()
        with ExitStack() as stack:
            held = stack.enter_context(self.book.reserve(account, tokens, price=price, stake_cap=cap))
            exchange = Exchange(
                client,
                request_id=query.request_id,
                worker_id=self._random_id(),
                model=query.model_name,
                query=agreed.query,
                size=agreed.size,
                max_tokens=query.max_tokens,
                max_coefficient=query.max_coefficient,
                debug=isinstance(query, ClientRunQueryEx) and bool(query.enable_debug),
                reservation=held,
                arrived=now,
                deadline=now + min(query.timeout, self.limits.timeout),
                started_wall=self._wall(),
            )
            if worker is None:
                self._wait(exchange, client, stack)
            client.exchanges[query.request_id] = exchange
            stack.callback(client.exchanges.pop, query.request_id, None)
            self._open.add(exchange)
            stack.callback(self._open.discard, exchange)
            exchange.cleanup = stack.pop_all()
        if worker is not None:
            self._dispatch(exchange, worker)

    def _check_numbers(self, client: ClientConnection, query: ClientRunQuery | ClientRunQueryEx) -> None:
        if self.closed is not None:
            raise RequestError(self.closed, code=ErrorCode.NOT_READY, retry_after=self.limits.grace)
        if len(client.exchanges) >= self.limits.client_requests:
            raise busy(f"{len(client.exchanges)} requests are open on this connection", 1.0)
        if not (math.isfinite(query.timeout) and query.timeout > 0):
            raise RequestError(
                f"timeout is {query.timeout}, expected seconds above 0", code=ErrorCode.PROTOCOL_VIOLATION
            )
        # Negative and absurd values of the other two are refused where they are used: here, before any account is read.
        reservation(query.max_tokens, len(query.query), query.max_coefficient)

    def _wait(self, exchange: Exchange, client: ClientConnection, stack: ExitStack) -> None:
        estimate = self.fleet.wait_estimate(exchange.model, len(self._queue))
        size = len(exchange.query)
        if self._waiting_bytes + size > self.limits.queue_bytes:
            raise busy(f"all workers are busy and {self._waiting_bytes} bytes of requests wait already", estimate)
        self._queue.put(client.owner, exchange, retry_after=estimate)
        stack.callback(self._queue.remove, client.owner, exchange)
        exchange.waiting_bytes = size
        self._waiting_bytes += size
        stack.callback(self._left_queue, exchange)
        self.tally.queued += 1

    def _left_queue(self, exchange: Exchange) -> None:
        """Its body does not wait here any more; a second call does nothing."""
        self._waiting_bytes -= exchange.waiting_bytes
        exchange.waiting_bytes = 0

    def cancel(self, client: ClientConnection, request_id: bytes) -> None:
        """The client asks that a request stop."""
        exchange = client.exchanges.get(request_id)
        if exchange is not None and not exchange.muted:
            self.tally.cancelled += 1
            self._ends.fail(exchange, ErrorCode.CANCELLED, "cancelled by the client", billable=True)

    def client_lost(self, client: ClientConnection) -> None:
        """The client's connection is gone: its requests stop."""
        for exchange in tuple(client.exchanges.values()):
            exchange.client = None
            if not exchange.muted:
                self.tally.cancelled += 1
                self._ends.mute(exchange, billable=True)

    # To and from workers

    def _dispatch(self, exchange: Exchange, worker: WorkerConnection) -> None:
        now = self._monotonic()
        exchange.worker = worker
        exchange.coefficient = worker.coefficient
        exchange.dispatched = now
        exchange.phase = Phase.SENT
        worker.running[exchange.worker_id] = exchange
        if exchange.cleanup is not None:
            exchange.cleanup.callback(worker.running.pop, exchange.worker_id, None)
        try:
            worker.port.send(exchange.order(self._payments.worker(worker.account), worker.admitted.version, now))
        except WireError as error:
            exchange.worker = None
            self._ends.fail(exchange, ErrorCode.NOT_READY, f"the request cannot be sent to its worker: {error.message}")
            return
        # The body is the worker's now; the gateway keeps no content.
        self._left_queue(exchange)
        exchange.query = b""

    def refill(self) -> None:
        """Give waiting requests to workers that have become free."""
        if self._refilling:
            return
        self._refilling = True
        try:
            while len(self._queue):
                exchange = self._queue.take(self._placeable)
                worker = self._place(exchange) if exchange is not None else None
                if exchange is None or worker is None:
                    return
                self._dispatch(exchange, worker)
        finally:
            self._refilling = False

    def _placeable(self, exchange: Exchange) -> bool:
        return self._place(exchange) is not None

    def _place(self, exchange: Exchange) -> WorkerConnection | None:
        try:
            return self.fleet.choose(exchange.model, exchange.max_coefficient)
        except RequestError:
            return None

    def worker_message(self, worker: WorkerConnection, message: TLObject) -> None:
        """A one-way message of an admitted worker; raises ``AdmissionError`` for one that ends its connection."""
        match message:
            case WorkerEnabledDisabled():
                worker.disabled = message.disabled != 0
                self.refill()
            case WorkerNewCoefficient():
                check_coefficient(message.new_coefficient)
                worker.coefficient = message.new_coefficient
                self.refill()
            case _:
                self._answers.receive(worker, message)

    def worker_lost(self, worker: WorkerConnection) -> None:
        """The worker's connection is gone: its requests fail at once."""
        self.fleet.remove(worker)
        for exchange in tuple(worker.running.values()):
            exchange.worker = None
            if exchange.muted:
                self._ends.close(exchange)
            else:
                self._ends.fail(exchange, ErrorCode.FAILURE, "the worker's connection was lost")
        self.refill()

    # Ends

    def tick(self) -> None:
        """End what is over time. To be called a few times a second."""
        now = self._monotonic()
        for exchange in tuple(self._open):
            if now < exchange.deadline:
                continue
            if exchange.muted:
                self._ends.close(exchange)
            elif exchange.phase is Phase.WAITING:
                estimate = self.fleet.wait_estimate(exchange.model, len(self._queue))
                error = busy("no worker became free in time", estimate)
                self._ends.fail(exchange, error.code, error.message)
            else:
                knows = exchange.worker is not None and exchange.worker.can_cancel
                self._ends.fail(exchange, ErrorCode.TIMEOUT, "timeout in proxy", billable=knows)
        self.refill()

    def end_all(self, reason: str) -> None:
        """Fail every open request: the terms change, or the time to drain is over."""
        for exchange in tuple(self._open):
            if not exchange.muted:
                self._ends.fail(exchange, ErrorCode.NOT_READY, reason)
            self._ends.close(exchange)
