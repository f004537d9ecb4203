"""One link to one gateway: verified, authorised, then many requests at a time.

:class:`GatewaySession` is the link's handler. It never blocks the link: answers go into bounded buffers
(:mod:`appliance.client.answers`), and a caller that goes away cancels its request where the gateway knows how.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.client.answers import Answer
from appliance.client.errors import GatewayRefusedError
from appliance.client.handshake import Self, Terms, charge, check, hello
from appliance.errors import ErrorCode, RequestError
from appliance.wire import messages as tl
from appliance.wire.errors import QueryError, WireError
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
MAX_ERROR_CHARACTERS = 500
DAY_S = 86_400
_CODES = frozenset(int(code) for code in ErrorCode)


class Money(Protocol):
    """What a session reports to the client's accounts. Every call returns after the disk has it."""

    def opened(self, terms: Terms, charge: SignedPayment | None, gateway_total: int) -> None:
        """The link is authorised; the gateway says it counted ``gateway_total`` tokens so far."""
        ...

    def reserve(self, terms: Terms, prepared: Prepared) -> None:
        """Set aside what the request may cost; raises ``BudgetError``."""
        ...

    def settle(self, terms: Terms, prepared: Prepared, used: tl.TokensUsed) -> None:
        """Release the reservation and count what was used."""
        ...

    def charged(self, terms: Terms, charge: SignedPayment) -> None:
        """A verified signed charge arrived."""
        ...


class GatewaySession:
    """A client's side of one link.

    Args:
        me: Who this client is.
        root: The root contract's state to derive addresses from.
        money: The client's accounts.
        register: Sends the register message with a nonce through the client's wallet (long authorisation).
    """

    def __init__(self, me: Self, root: RootState, money: Money, register: Callable[[Terms], Awaitable[None]]) -> None:
        self._me = me
        self._root = root
        self._money = money
        self._register = register
        self._open: dict[bytes, tuple[Answer, Prepared]] = {}
        self._link: Link | None = None
        self.terms: Terms | None = None
        self.lost: Exception | None = None

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
            GatewayRefusedError: It is not.
        """
        if self._link is None:
            raise GatewayRefusedError("the link to the gateway is not up")
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
            raise GatewayRefusedError(f"gateway refused: {answer.error[:MAX_ERROR_CHARACTERS]} [{answer.error_code}]")
        self._money.opened(terms, charge(answer.signed_payment, terms), answer.max_tokens)
        self.terms = terms

    async def run(self, prepared: Prepared) -> Answer:
        """Send a request. The answer's reservation is released however it ends.

        Raises:
            BudgetError: It may cost more than is left.
            FrameTooLargeError: It does not fit a frame.
            LinkClosedError: The link is gone.
        """
        terms, link = self._ready_terms(), self.link
        await link.drain()
        self._money.reserve(terms, prepared)
        answer = Answer(secrets.token_bytes(32))
        self._open[answer.request_id] = (answer, prepared)
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
        except BaseException as error:
            self._fail(answer, error if isinstance(error, ChrysalisError) else WireError("the request was not sent"))
            raise
        return answer

    def cancel(self, answer: Answer, error: Exception) -> None:
        """Give a request up; the worker is stopped too where the gateway knows the extension."""
        if self._fail(answer, error):
            self._tell_cancelled(answer)

    async def update_payment(self) -> None:
        """Ask for the newest signed charge (every 10 to 20 seconds, section 4.5)."""
        terms = self._ready_terms()
        answer = await self.link.query(tl.ClientUpdatePaymentStatus(), timeout=2 * QUERY_TIMEOUT_S)
        self._take_charge(terms, answer.signed_payment)

    async def worker_types(self) -> tuple[tl.ClientWorkerTypeV2, ...]:
        """The models that the gateway offers, with their workers."""
        answer = await self.link.query(tl.ClientGetWorkerTypesV2(), timeout=QUERY_TIMEOUT_S)
        return answer.types

    # What the link tells us. -------------------------------------------------------------------------------------

    def message_received(self, link: Link, message: TLObject) -> None:
        """Dispatch one message; an answer to an unknown request is dropped (it was cancelled)."""
        match message:
            case tl.ClientQueryAnswerPartEx(request_id=key):
                if (entry := self._open.get(key)) is not None:
                    self._part(entry[0], message.answer, message.final_info)
            case tl.ClientQueryAnswerEx(request_id=key):
                if (entry := self._open.get(key)) is not None:
                    entry[0].begin(message.answer)
                    self._end(entry[0], message.final_info)
            case tl.ClientQueryAnswerErrorEx():
                self._refuse(message.request_id, message.error_code, message.error)
            case tl.ClientQueryAnswerError() | tl.ClientQueryAnswerPartError():
                self._refuse(message.request_id, message.error_code, message.error)
            case tl.ClientQueryAnswer() | tl.ClientQueryAnswerPart():
                self._old_shape(message)
            case tl.ProxyClientRequestPayment():
                if self.terms is not None:
                    self._take_charge(self.terms, message.signed_payment)
            case _:
                log.debug("message ignored", kind=message.TL_NAME)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        """A client answers no queries."""
        raise QueryError("clients answer no queries", code=ErrorCode.PLAIN)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """Every open request fails with the reason."""
        self.lost = reason or WireError("the gateway closed the link")
        for answer, _ in tuple(self._open.values()):
            self._fail(answer, self.lost)

    def _part(self, answer: Answer, data: bytes, info: tl.ClientQueryFinalInfo | None) -> None:
        answer.part(data)
        self._end(answer, info)

    def _end(self, answer: Answer, info: tl.ClientQueryFinalInfo | None) -> None:
        """After every event: a final info ends the request, and so does a buffer that ran over."""
        if info is not None:
            self._finish(answer, info.tokens_used, info)
        elif answer.finished:
            self._release(answer)
            self._tell_cancelled(answer)

    def _old_shape(self, message: tl.ClientQueryAnswer | tl.ClientQueryAnswerPart) -> None:
        entry = self._open.get(message.request_id)
        if entry is None:
            return
        answer = entry[0]
        if isinstance(message, tl.ClientQueryAnswer):
            answer.begin(message.answer)
        else:
            answer.part(message.answer)
        if message.is_completed:
            self._finish(answer, message.request_tokens_used, None)
        else:
            self._end(answer, None)

    def _finish(self, answer: Answer, used: tl.TokensUsed, info: tl.ClientQueryFinalInfo | None) -> None:
        entry = self._open.pop(answer.request_id, None)
        if entry is None:
            return
        try:
            # The cost is on disk before the caller sees the end of the answer.
            self._money.settle(self._ready_terms(), entry[1], used)
        except ChrysalisError as error:
            answer.fail(error)
        else:
            answer.finish(used, info)

    def _refuse(self, key: bytes, code: int, text: str) -> None:
        entry = self._open.get(key)
        if entry is None:
            return
        known = ErrorCode(code) if code in _CODES else ErrorCode.FAILURE
        message, retry_after = split_retry(text[:MAX_ERROR_CHARACTERS])
        self._fail(entry[0], RequestError(message, code=known, retry_after=retry_after))

    def _fail(self, answer: Answer, error: Exception) -> bool:
        released = self._release(answer)
        answer.fail(error)
        return released

    def _release(self, answer: Answer) -> bool:
        entry = self._open.pop(answer.request_id, None)
        if entry is not None and self.terms is not None:
            self._money.settle(self.terms, entry[1], tl.TokensUsed(0, 0, 0, 0, 0))
        return entry is not None

    def _tell_cancelled(self, answer: Answer) -> None:
        link = self._link
        if link is not None and not link.closed and Extension.CANCEL in link.extensions:
            link.send(tl.ChrysalisCancel(answer.request_id))

    def _take_charge(self, terms: Terms, payment: tl.ProxySignedPayment | tl.ProxySignedPaymentEmpty) -> None:
        try:
            signed = charge(payment, terms)
            if signed is not None:
                self._money.charged(terms, signed)
        except ChrysalisError as error:
            log.error("charge refused; the gateway is not used any more", reason=str(error))
            self.link.close()

    def _ready_terms(self) -> Terms:
        if self.terms is None:
            raise GatewayRefusedError("the gateway has not authorised this client yet")
        return self.terms


def split_retry(text: str) -> tuple[str, float | None]:
    """Take a gateway's ``retry after N s`` out of an error text: the text, and the seconds where they are told."""
    _, mark, tail = text.rpartition("retry after ")
    number = tail.removesuffix(")").removesuffix(" s") if mark else ""
    try:
        seconds = float(number)
    except ValueError:
        return text, None
    return text, seconds if 0 <= seconds < DAY_S else None
