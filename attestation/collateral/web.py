"""One question to a service over HTTP/1.1: bounded in bytes and in time, patient with a busy service, never redirected.

In: an address and what is asked for, in words. Out: the body of a 200 and its headers, or one of the errors of
:mod:`attestation.collateral.errors`. The standard library's client runs in a thread; when the time is up its socket is
shut down under it, so that a service that sends a byte a second holds nothing. What is fetched is public and signed:
``http`` is as good as ``https``.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from attestation.collateral.dates import CLOCK_SKEW_S
from attestation.collateral.errors import (
    NotServedError,
    ServiceRefusedError,
    ServiceUnreachableError,
)
from attestation.collateral.exchange import Address, Exchange, Question, Reply
from attestation.collateral.proxy import Proxies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from attestation.errors import CollateralError

log = structlog.get_logger(__name__)

BUSY: Final = frozenset({429, 502, 503, 504})
"""Statuses after which the same question may be answered."""
_PER_SERVICE = 4


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a service is asked.

    Attributes:
        silence: Seconds without a byte after which the connection is given up.
        deadline: Seconds for one question with all its attempts and pauses.
        attempts: How often a busy service is asked.
        first_pause: Seconds before the second attempt; each pause is twice the one before, less up to a half.
        longest_pause: The most seconds that are waited, whatever the service asks for.
    """

    silence: float = 10.0
    deadline: float = 45.0
    attempts: int = 4
    first_pause: float = 0.5
    longest_pause: float = 20.0


@dataclass(slots=True)
class WebClient:
    """Asks services.

    Attributes:
        proxies: Which proxy leads where.
        patience: How long and how often.
        tls: Settings for ``https``; None takes the system's authorities when they are first needed.
        sleep: Waits between attempts.
        clock: Unix time.
        skew: By how many seconds the last service's clock was ahead of ours; None until one said.
    """

    proxies: Proxies = field(default_factory=Proxies)
    patience: Patience = field(default_factory=Patience)
    tls: ssl.SSLContext | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    skew: float | None = None
    _turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    async def ask(self, question: Question) -> Reply:
        """Ask until there is an answer, a refusal, or no time left.

        Raises:
            ServiceUnreachableError: No answer.
            ServiceRefusedError: Another status than 200; ``NotServedError`` for 404.
            MalformedAnswerError: Longer than allowed, cut off, or encoded.
            CollateralError: The address or the proxy's is none.
        """
        address = Address.parse(question.url)
        turn = self._turns.setdefault(address.host, asyncio.Semaphore(_PER_SERVICE))
        try:
            async with asyncio.timeout(self.patience.deadline), turn:
                return await self._attempts(question, address)
        except TimeoutError:
            raise ServiceUnreachableError(
                f"collateral service {address.host} does not answer {question.what}: "
                f"not within {self.patience.deadline:g} s",
                hint="the service is slow, or something between drops the connection; try again, or name another",
            ) from None

    async def _attempts(self, question: Question, address: Address) -> Reply:
        attempt = 0
        while True:
            attempt += 1
            reply = await self._once(question, address)
            self._compare_clocks(reply, address)
            if reply.status == 200:
                return reply
            if reply.status not in BUSY or attempt >= self.patience.attempts:
                raise _refusal(question, address, reply)
            pause = self._pause(attempt, reply.headers.get("retry-after", ""))
            if pause > self.patience.longest_pause:
                raise ServiceRefusedError(
                    f"collateral service {address.host} answers {question.what} with status {reply.status} and asks to "
                    f"be left alone for {pause:.0f} s",
                    hint="it limits how often it is asked: try again later, or use a cache of it or an offline bundle",
                )
            log.info("collateral service is busy", host=address.host, status=reply.status, pause=round(pause, 1))
            await self.sleep(pause)

    async def _once(self, question: Question, address: Address) -> Reply:
        proxy = self.proxies.route(address.scheme, address.host, address.port)
        if address.scheme == "https" and self.tls is None:
            self.tls = await asyncio.to_thread(ssl.create_default_context)  # reads all authorities: once
        exchange = Exchange(question, address, proxy, self.patience.silence, self.tls)
        try:
            return await asyncio.to_thread(exchange.run)
        finally:
            exchange.abort()

    def _pause(self, attempt: int, wanted: str) -> float:
        """Seconds to wait: what the service asks for, at least our own back-off."""
        own = min(self.patience.first_pause * 2.0 ** (attempt - 1), self.patience.longest_pause)
        own *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        return max(own, _retry_after(wanted, self.clock()))

    def _compare_clocks(self, reply: Reply, address: Address) -> None:
        told = _date(reply.headers.get("date", ""))
        if told is None:
            return
        self.skew = told - self.clock()
        if abs(self.skew) > CLOCK_SKEW_S:
            log.warning("clocks differ", host=address.host, ahead_by_s=round(self.skew))


async def together(*questions: Coroutine[Any, Any, Reply]) -> list[Reply]:
    """Ask several at once; the first failure ends the others.

    Raises:
        CollateralError: As the first that failed.
    """
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _refusal(question: Question, address: Address, reply: Reply) -> CollateralError:
    message = (
        f"collateral service {address.host} answers {question.what} with status {reply.status}, expected 200"
        f"{_reason(reply.headers)}"
    )
    if reply.status == 404:
        return NotServedError(message, hint=question.missing)
    if 300 <= reply.status < 400:
        target = urllib.parse.urlsplit(reply.headers.get("location", "")).hostname or "the same host"
        return ServiceRefusedError(
            f"{message}: it points to {target!r:.100}", hint="redirects are not followed: name the final address"
        )
    if reply.status in {401, 403, 407}:
        return ServiceRefusedError(message, hint="the service or a proxy before it asks for rights: check the address")
    if reply.status in BUSY:
        return ServiceRefusedError(message, hint="the service is overloaded or limits how often it is asked: try later")
    return ServiceRefusedError(message, hint="check the address, or name another service or a file")


def _reason(headers: Mapping[str, str]) -> str:
    """Intel's services say in headers what is wrong."""
    code = headers.get("error-code", "")
    text = headers.get("error-message", "")
    said = " ".join(part for part in (code, text) if part)
    return f" ({said[:200]!r})" if said else ""


def _retry_after(text: str, now: float) -> float:
    """Seconds that ``Retry-After`` asks for (RFC 9110, section 10.2.3); 0 where it says nothing that can be read."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    at = _date(text)
    return max(at - now, 0.0) if at is not None else 0.0


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
