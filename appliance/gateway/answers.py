"""Answers of workers: relayed as they come, judged and accounted for when they end. Pure.

In: a worker's messages, of every protocol version. Out: messages to clients, charges in the book, payments told to both
sides (protocol specification, sections 2.4, 2.6 and 4.4). A part passes without being parsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from appliance.errors import ErrorCode, RequestError
from appliance.gateway.bodies import response_head
from appliance.gateway.exchange import HAS_FINAL_INFO, Phase
from appliance.gateway.observe import NOTHING, judge
from appliance.wire.errors import WireError
from appliance.wire.limits import LinkLimits
from appliance.wire.messages import (
    ClientQueryAnswerEx,
    ClientQueryAnswerPartEx,
    ProxyClientRequestPayment,
    ProxyQueryAnswer,
    ProxyQueryAnswerError,
    ProxyQueryAnswerErrorEx,
    ProxyQueryAnswerEx,
    ProxyQueryAnswerPart,
    ProxyQueryAnswerPartError,
    ProxyQueryAnswerPartEx,
    ProxyQueryFinalInfo,
    ProxyWorkerRequestPayment,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.gateway.book import Book
    from appliance.gateway.ends import Ends
    from appliance.gateway.exchange import Exchange
    from appliance.gateway.fleet import WorkerConnection
    from appliance.gateway.payments import Payments
    from appliance.gateway.tally import Tally
    from appliance.gateway.terms import Terms
    from appliance.wire.base import TLObject
    from appliance.wire.messages import TokensUsed

log = structlog.get_logger(__name__)

LARGEST_PIECE = LinkLimits().max_frame - (1 << 16)
"""Bytes of an answer that one message to a client may carry: a frame, less what goes around them."""

_KNOWN_CODES = frozenset(map(int, ErrorCode))


class Answers:
    """Takes workers' messages about requests.

    Args:
        terms: The root state; what is used of it (identity, multipliers) holds as long as the parameters do.
        book: The accounts.
        payments: Makes the signed payments that go with messages.
        ends: Ends requests.
        tally: Where totals are counted.
        monotonic: Seconds that only grow.
        wall: Unix seconds.
    """

    def __init__(
        self,
        terms: Terms,
        book: Book,
        payments: Payments,
        ends: Ends,
        tally: Tally,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._multipliers = terms.multipliers
        self._identity = terms.identity
        self._book = book
        self._payments = payments
        self._ends = ends
        self._tally = tally
        self._monotonic = monotonic
        self._wall = wall

    def receive(self, worker: WorkerConnection, message: TLObject) -> None:
        """A worker's message about one of its requests; any other one is counted as stray."""
        kind = type(message)
        if kind is ProxyQueryAnswerPartEx:
            self._part(worker, message)  # type: ignore[arg-type]  # the exact class was just compared: hot path
            return
        match message:
            case ProxyQueryAnswerEx():
                info = message.final_info if message.flags & HAS_FINAL_INFO else None
                self._head(worker, message.request_id, message.answer, info)
            case ProxyQueryAnswerErrorEx():
                self._error(worker, message.request_id, message.error_code, message.error, message.final_info)
            case ProxyQueryAnswer():
                info = _final_v0(message.tokens_used) if message.is_completed else None
                self._head(worker, message.request_id, message.answer, info)
            case ProxyQueryAnswerPart():
                info = _final_v0(message.tokens_used) if message.is_completed else None
                self._part(
                    worker, ProxyQueryAnswerPartEx(message.request_id, message.answer, int(info is not None), info)
                )
            case ProxyQueryAnswerError() | ProxyQueryAnswerPartError():
                final = _final_v0(message.tokens_used)
                self._error(worker, message.request_id, message.error_code, message.error, final)
            case _:
                self._tally.stray_messages += 1

    def _part(self, worker: WorkerConnection, message: ProxyQueryAnswerPartEx) -> None:
        exchange = worker.running.get(message.request_id)
        if exchange is None:
            self._tally.stray_messages += 1
            return
        if exchange.phase is not Phase.STREAMING:
            self._ends.violation(exchange, "a part came before the head of the answer")
            return
        data = message.answer
        if len(data) > LARGEST_PIECE:
            self._too_large(exchange, len(data))
            return
        if data:
            exchange.observer.feed(data)
            self._tally.bytes_relayed += len(data)
        if message.flags & HAS_FINAL_INFO and message.final_info is not None:
            self._complete(exchange, data, message.final_info, head=None)
            return
        client = exchange.client
        if data and client is not None and not exchange.muted:
            part = ClientQueryAnswerPartEx(exchange.request_id, data, 0)
            if not client.port.post(exchange, part, len(data)):
                self._ends.overflow(exchange)

    def _head(
        self, worker: WorkerConnection, request_id: bytes, answer: bytes, info: ProxyQueryFinalInfo | None
    ) -> None:
        exchange = worker.running.get(request_id)
        if exchange is None:
            self._tally.stray_messages += 1
            return
        if exchange.phase is not Phase.SENT:
            self._ends.violation(exchange, "the answer has a second head")
            return
        exchange.head_wall = self._wall()
        try:
            head = response_head(answer, exchange.started_wall, exchange.head_wall)
        except RequestError as error:
            self._ends.violation(exchange, error.message)
            return
        if len(head.answer) > LARGEST_PIECE:
            self._too_large(exchange, len(head.answer))
            return
        exchange.observer.feed(head.payload)
        self._tally.bytes_relayed += len(head.payload)
        if info is not None:
            self._complete(exchange, b"", info, head=head.answer)
            return
        client = exchange.client
        posted = True
        if client is not None and not exchange.muted:
            message = ClientQueryAnswerEx(exchange.request_id, head.answer, 0)
            posted = client.port.post(exchange, message, len(head.answer))
        exchange.phase = Phase.STREAMING
        if not posted:
            self._ends.overflow(exchange)

    def _error(
        self, worker: WorkerConnection, request_id: bytes, code: int, text: str, info: ProxyQueryFinalInfo | None
    ) -> None:
        exchange = worker.running.get(request_id)
        if exchange is None:
            self._tally.stray_messages += 1
            return
        self._timed(exchange)
        self._tally.failures[code if code in _KNOWN_CODES else int(ErrorCode.ERROR)] += 1
        tokens = NOTHING
        if exchange.muted and exchange.billable and info is not None:
            tokens = self._charge(exchange, worker, info.tokens_used)
        if exchange.client is not None and not exchange.muted:
            exchange.client.port.send(exchange.worker_error(code, text, info, self._wall()))
        self._pay(exchange, worker, tokens.total_tokens_used)
        self._ends.close(exchange)

    def _complete(self, exchange: Exchange, data: bytes, info: ProxyQueryFinalInfo, *, head: bytes | None) -> None:
        worker = exchange.worker
        if worker is None:
            return
        self._timed(exchange)
        tokens = NOTHING
        if not exchange.muted or exchange.billable:
            tokens = self._charge(exchange, worker, info.tokens_used)
        if exchange.client is not None and not exchange.muted:
            self._tally.succeeded += 1
            final = exchange.final_info(tokens, info, self._wall())
            message: TLObject
            if head is not None:
                message = ClientQueryAnswerEx(exchange.request_id, head, HAS_FINAL_INFO, final)
            else:
                message = ClientQueryAnswerPartEx(exchange.request_id, data, HAS_FINAL_INFO, final)
            exchange.client.port.send(message, len(data if head is None else head))
        self._pay(exchange, worker, tokens.total_tokens_used)
        self._ends.close(exchange)

    def _too_large(self, exchange: Exchange, size: int) -> None:
        """It would fit no frame to the client; one that is not told apart here would cost it its whole link."""
        self._ends.violation(exchange, f"a piece of the answer has {size} bytes, {LARGEST_PIECE} can be passed on")

    def _charge(self, exchange: Exchange, worker: WorkerConnection, report: TokensUsed) -> TokensUsed:
        judgement = judge(
            report,
            exchange.observer,
            coefficient=exchange.coefficient,
            multipliers=self._multipliers,
            max_tokens=exchange.max_tokens,
            request_bytes=exchange.size,
        )
        if judgement.flaw:
            worker.absurd_reports += 1
            self._tally.absurd_reports += 1
            log.warning("worker report limited", worker=worker.number, reason=judgement.flaw)
        total = judgement.tokens.total_tokens_used
        self._tally.tokens += total
        self._book.charge(exchange.account, worker.account, total)
        return judgement.tokens

    def _pay(self, exchange: Exchange, worker: WorkerConnection, tokens: int) -> None:
        """Tell both sides their totals, with the newest signed payment (sections 2.6 and 4.4)."""
        client = exchange.client
        if client is not None:
            account = client.account
            client.port.send(
                ProxyClientRequestPayment(
                    exchange.request_id, self._payments.client(account), account.db, account.tokens, tokens
                )
            )
        earner = worker.account
        owner = self._identity.text(exchange.account.owner)
        message = ProxyWorkerRequestPayment(
            exchange.worker_id, self._payments.worker(earner), earner.db, earner.tokens, tokens, owner
        )
        try:
            worker.port.send(message)
        except WireError:
            log.info("payment message not sent", worker=worker.number)

    def _timed(self, exchange: Exchange) -> None:
        if exchange.worker is not None:
            now = self._monotonic()
            exchange.worker.average.add(now - exchange.dispatched, now)


def _final_v0(tokens: TokensUsed) -> ProxyQueryFinalInfo:
    """Protocol 0 has running totals where later versions have a final info."""
    return ProxyQueryFinalInfo(0, tokens)
