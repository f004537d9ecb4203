"""One link to one gateway: verified, authorised, then many requests at a time.

:class:`GatewaySession` is the link's handler. It never blocks the link: answers go into bounded buffers
(:mod:`appliance.client.answers`), and a caller that goes away cancels its request where the gateway knows how. Whatever
ends a request, what it held of the client's money is dealt with exactly once, in one of four ways: settled, released,
left, or reported later (:mod:`appliance.client.money`).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.errors import PaymentRefusedError
from appliance.client.answers import Answer
from appliance.client.errors import AnswerRefusedError, GatewayRefusedError
from appliance.client.handshake import Self, Terms, charge, check, hello
from appliance.client.texts import plain_text, split_retry
from appliance.errors import ErrorCode
from appliance.wire import messages as tl
from appliance.wire.errors import LinkClosedError, QueryError
from appliance.wire.extensions import Extension
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.chain.layouts import RootState
    from appliance.chain.signed import SignedPayment
    from appliance.client.request import Prepared
    from appliance.wire.base import TLObject
    from appliance.wire.link import Link

log = structlog.get_logger(__name__)

QUERY_TIMEOUT_S = 30.0
LONG_AUTHORISATION_TIMEOUT_S = 300.0
GATEWAY_SHARE = 0.95
"""The gateway gets a little less time than the caller has, so that its own error arrives (section 4.4)."""
_CODES = frozenset(int(code) for code in ErrorCode)
_MAY_COST = frozenset({ErrorCode.TIMEOUT, ErrorCode.CANCELLED})
"""Errors after which a gateway may still charge what its worker reports; after any other a request costs nothing."""


class Money(Protocol):
    """What a session reports to the client's accounts; :class:`~appliance.client.money.Purse` is one.

    Whatever raises ``PaymentRefusedError`` means that the gateway is not to be used any more.
    """

    def opened(self, terms: Terms, charge: SignedPayment | None, gateway_total: int) -> None:
        """The link is authorised; the gateway says it counted ``gateway_total`` tokens so far."""
        ...

    def reserve(self, terms: Terms, request_id: bytes, prepared: Prepared) -> None:
        """Set aside what the request may cost, on disk; raises ``BudgetError``."""
        ...

    def settle(self, request_id: bytes, used: tl.TokensUsed) -> int:
        """Count what a whole answer used; its cost in nanotons."""
        ...

    def release(self, request_id: bytes) -> None:
        """The request costs nothing."""
        ...

    def leave(self, request_id: bytes) -> None:
        """The request ended here, and its cost is not known."""
        ...

    def reported(self, request_id: bytes, tokens: int) -> None:
        """What the gateway says a request cost that was left."""
        ...

    def counted(self, terms: Terms, gateway_total: int) -> None:
        """The gateway's own total."""
        ...

    def charged(self, terms: Terms, charge: SignedPayment) -> None:
        """A verified signed charge."""
        ...

    def bar(self, terms: Terms, reason: str) -> None:
        """Use the gateway no more."""
        ...


class GatewaySession:
    """A client's side of one link.

    Args:
        me: Who this client is.
        root: The root contract's state to derive addresses from.
        money: The client's accounts.
        register: Sends the register message with a nonce through the client's wallet (long authorisation).

    Attributes:
        terms: The gateway's parameters, once it has authorised this client.
        lost: Why the link is over.
        workers_changed: Called with a model when what was shown of its workers is over.
    """

    def __init__(self, me: Self, root: RootState, money: Money, register: Callable[[Terms], Awaitable[None]]) -> None:
        self._me = me
        self._root = root
        self._money = money
        self._register = register
        self._open: dict[bytes, Answer] = {}
        self._link: Link | None = None
        self._verified: tuple[bytes, SignedPayment] | None = None
        self.terms: Terms | None = None
        self.lost: Exception | None = None
        self.workers_changed: Callable[[str], None] = _nobody

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._open)

    @property
    def ready(self) -> bool:
        """Whether requests may be sent."""
        return self.terms is not None and self._link is not None and not self._link.closed

    @property
    def has_link(self) -> bool:
        """Whether the transport was ever up."""
        return self._link is not None

    @property
    def link(self) -> Link:
        """The link, once it is up.

        Raises:
            LinkClosedError: It is not.
        """
        if self._link is None:
            raise LinkClosedError("the link to the gateway is not up")
        return self._link

    def link_ready(self, link: Link) -> None:
        """The transport is up; nothing was said yet."""
        self._link = link

    async def meet(self) -> Terms:
        """Ask for the gateway's parameters and compare them with our derivation.

        Raises:
            GatewayRefusedError: They differ.
            WireError: The gateway answered with an error or not at all.
        """
        answer = await self.link.query(hello(self._me, self._root), timeout=QUERY_TIMEOUT_S)
        return check(answer, self._me, self._root)

    async def authorise(self, terms: Terms) -> None:
        """Prove who pays: by the shared secret, or by a message on chain when the gateway does not know it yet.

        Raises:
            GatewayRefusedError: The gateway refused.
            PaymentRefusedError: It charges for more than can have been used.
            WireError: The gateway answered with an error or not at all.
        """
        if terms.short:
            short = tl.ClientAuthorizeWithProxyShort(self._me.secret)
            answer = await self.link.query(short, timeout=QUERY_TIMEOUT_S)
        else:
            await self._register(terms)
            long = tl.ClientAuthorizeWithProxyLong()
            answer = await self.link.query(long, timeout=LONG_AUTHORISATION_TIMEOUT_S)
        if isinstance(answer, tl.ClientAuthorizationWithProxyFailed):
            raise GatewayRefusedError(f"gateway refused: {plain_text(answer.error)} [{answer.error_code}]")
        try:
            self._money.opened(terms, charge(answer.signed_payment, terms), answer.max_tokens)
        except PaymentRefusedError as error:
            self._money.bar(terms, error.message)
            raise
        self.terms = terms

    async def run(self, prepared: Prepared) -> Answer:
        """Send a request. What it holds of the client's money is dealt with however it ends.

        Raises:
            BudgetError: It may cost more than is left.
            FrameTooLargeError: It does not fit a frame.
            LinkClosedError: The link is gone; nothing was sent.
        """
        await self.link.drain()
        terms, link = self._ready_terms(), self.link
        answer = Answer(secrets.token_bytes(32), abandon=self._abandon)
        self._money.reserve(terms, answer.request_id, prepared)
        try:
            link.send(
                tl.ClientRunQueryEx(
                    model_name=prepared.model,
                    query=prepared.http,
                    max_coefficient=prepared.max_coefficient,
                    max_tokens=prepared.max_tokens,
                    timeout=prepared.timeout_s * GATEWAY_SHARE,
                    request_id=answer.request_id,
                    min_config_version=self._root.version,
                    flags=1,
                    enable_debug=prepared.debug,
                )
            )
        except BaseException:
            self._money.release(answer.request_id)
            raise
        self._open[answer.request_id] = answer
        return answer

    async def update_payment(self) -> None:
        """Ask for the newest signed charge (every 10 to 20 seconds, section 4.5).

        Raises:
            PaymentRefusedError: It is for more than can have been used; the gateway is barred and the link closed.
            WireError: The gateway answered with an error or not at all.
        """
        terms = self._ready_terms()
        answer = await self.link.query(tl.ClientUpdatePaymentStatus(), timeout=2 * QUERY_TIMEOUT_S)
        self._money.counted(terms, answer.max_tokens)
        self._take_charge(terms, answer.signed_payment)

    async def worker_types(self) -> tuple[tl.ClientWorkerTypeV2, ...]:
        """The models that the gateway offers, with their workers."""
        answer = await self.link.query(tl.ClientGetWorkerTypesV2(), timeout=QUERY_TIMEOUT_S)
        return answer.types

    # What the link tells us. -------------------------------------------------------------------------------------

    def message_received(self, link: Link, message: TLObject) -> None:
        """Dispatch one message; an answer to an unknown request is dropped (it was cancelled)."""
        if type(message) is tl.ClientQueryAnswerPartEx:  # the hot path
            answer = self._open.get(message.request_id)
            if answer is not None:
                answer.part(message.answer)
                if message.final_info is not None or answer.finished:
                    self._end(answer, message.final_info)
            return
        match message:
            case tl.ClientQueryAnswerEx(request_id=key):
                if (known := self._open.get(key)) is not None:
                    known.begin(message.answer)
                    self._end(known, message.final_info)
            case tl.ClientQueryAnswerErrorEx() | tl.ClientQueryAnswerError() | tl.ClientQueryAnswerPartError():
                self._refused(message.request_id, message.error_code, message.error)
            case tl.ClientQueryAnswer() | tl.ClientQueryAnswerPart():
                self._old_shape(message)
            case tl.ProxyClientRequestPayment():
                self._payment(message)
            case tl.ChrysalisWorkerEvidenceEnded(model_name=model):
                self.workers_changed(model)
            case _:
                log.debug("message ignored", kind=message.TL_NAME)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """A client answers no queries."""
        raise QueryError("clients answer no queries", code=ErrorCode.PLAIN)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """Every open request fails with the reason; the gateway may still charge it."""
        cause = self.lost if self.lost is not None else reason
        self.lost = cause if isinstance(cause, ChrysalisError) else LinkClosedError("the link to the gateway was lost")
        for answer in tuple(self._open.values()):
            self._leave(answer, self.lost)

    # How requests end. -------------------------------------------------------------------------------------------

    def _end(self, answer: Answer, info: tl.ClientQueryFinalInfo | None) -> None:
        """After every event: a final info ends the request, and so does a failure that the event itself was."""
        if info is not None:
            self._complete(answer, info.tokens_used, info)
        elif answer.finished and answer.error is not None:
            self._leave(answer, answer.error)
            self._tell_cancelled(answer)

    def _old_shape(self, message: tl.ClientQueryAnswer | tl.ClientQueryAnswerPart) -> None:
        answer = self._open.get(message.request_id)
        if answer is None:
            return
        if isinstance(message, tl.ClientQueryAnswer):
            answer.begin(message.answer)
        else:
            answer.part(message.answer)
        if message.is_completed:
            self._complete(answer, message.request_tokens_used, None)
        else:
            self._end(answer, None)

    def _complete(self, answer: Answer, used: tl.TokensUsed, info: tl.ClientQueryFinalInfo | None) -> None:
        """The gateway says that the answer is whole and what it used."""
        del self._open[answer.request_id]
        try:
            cost = self._money.settle(answer.request_id, used)
        except PaymentRefusedError as error:
            answer.unsettled = True
            answer.fail(error)
            self._distrust(error)
        else:
            answer.finish(used, cost, info)
            # An answer that was lost on its last step is paid for all the same.
            answer.unsettled = answer.error is not None and cost > 0

    def _refused(self, key: bytes, number: int, text: str) -> None:
        """The gateway or the worker answered with an error, before or after the head."""
        answer = self._open.get(key)
        if answer is None:
            return
        code = ErrorCode(number) if number in _CODES else ErrorCode.FAILURE
        message, retry_after = split_retry(plain_text(text))
        error = AnswerRefusedError(message, code=code, retry_after=retry_after)
        if code in _MAY_COST:
            self._leave(answer, error)
        else:
            del self._open[key]
            self._money.release(key)
            answer.fail(error)

    def _leave(self, answer: Answer, error: Exception) -> None:
        """The request ends here; what it cost is still to be told."""
        if self._open.pop(answer.request_id, None) is not None:
            self._money.leave(answer.request_id)
            answer.unsettled = True
            answer.fail(error)

    def _abandon(self, answer: Answer, error: Exception) -> None:
        """The caller gave the answer up; the worker is stopped too where the gateway knows the extension."""
        self._leave(answer, error)
        self._tell_cancelled(answer)

    def _tell_cancelled(self, answer: Answer) -> None:
        link = self._link
        if link is not None and not link.closed and Extension.CANCEL in link.extensions:
            link.send(tl.ChrysalisCancel(answer.request_id))

    # Payments. ---------------------------------------------------------------------------------------------------

    def _payment(self, message: tl.ProxyClientRequestPayment) -> None:
        if self.terms is None:
            return
        try:
            self._money.reported(message.request_id, message.request_tokens)
            self._take_charge(self.terms, message.signed_payment)
        except ChrysalisError as error:
            self._distrust(error)

    def _take_charge(self, terms: Terms, payment: tl.ProxySignedPayment | tl.ProxySignedPaymentEmpty) -> None:
        try:
            if isinstance(payment, tl.ProxySignedPaymentEmpty):
                return
            # A gateway repeats its newest charge with every answer: the same bytes are verified once.
            if self._verified is None or self._verified[0] != payment.data:
                signed = charge(payment, terms)
                if signed is None:
                    return
                self._verified = (payment.data, signed)
            self._money.charged(terms, self._verified[1])
        except ChrysalisError as error:
            self._distrust(error)
            raise

    def _distrust(self, error: ChrysalisError) -> None:
        """The gateway is wrong about money: this link ends; where it charged too much, there will be no other one."""
        log.error("gateway is wrong about money", error=type(error).__name__, reason=error.message)
        if self.terms is not None and isinstance(error, PaymentRefusedError):
            self._money.bar(self.terms, error.message)
        if self.lost is None:
            self.lost = error
        self.link.close()

    def _ready_terms(self) -> Terms:
        if self.terms is None:
            raise LinkClosedError("the gateway has not authorised this client yet")
        return self.terms


def _nobody(_: str) -> None:
    """Nobody wants to know."""
