"""Requests at work: taken from a gateway, run on the model server, streamed back (protocol specification, section 2.4).

In: ``proxy.runQuery(Ex)`` messages and cancellations. Out: exactly one ended answer for each request, whatever happens
to it, on the link it came from. One message goes out for each read of the model server's answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.engine.errors import EngineError, EngineTimeoutError
from appliance.engine.usage import UsageCounter
from appliance.errors import ErrorCode, RequestError
from appliance.wire.errors import WireError
from appliance.worker.answers import NO_TOKENS, Answer, response_head
from appliance.worker.intake import CacheSalts, Limits, engine_request, limits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from appliance.engine.proxy import EngineClient, EngineResponse
    from appliance.engine.rules import Rules
    from appliance.wire.base import TLObject
    from appliance.wire.messages import ProxyRunQuery, ProxyRunQueryEx, TokensUsed
    from appliance.worker.handshake import Session

    RunQuery = ProxyRunQuery | ProxyRunQueryEx

log = structlog.get_logger(__name__)

HEAD_SHARE = 0.95
"""Of the request's time for the model server's head (section 2.4, step 3)."""
MAX_WAITING_BYTES = 256 * 1024
"""Bytes unsent on the link above which a request stops reading: the model server waits, memory does not grow."""


class AnswerLink(Protocol):
    """The part of a link that a request needs."""

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""

    @property
    def waiting(self) -> int:
        """Bytes sent that have not left."""

    def send(self, message: TLObject) -> None:
        """Queue a message."""

    async def drain(self) -> None:
        """Wait for room."""


@dataclass(slots=True)
class Tally:
    """What became of requests, since start. Tokens are adjusted tokens of successful answers."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0

    def earn(self, used: TokensUsed) -> None:
        """Count a successful answer's tokens."""
        self.prompt += used.prompt_tokens_used
        self.cached += used.cached_tokens_used
        self.completion += used.completion_tokens_used
        self.reasoning += used.reasoning_tokens_used


@dataclass(eq=False, slots=True)
class _Job:
    link: AnswerLink
    session: Session
    query: RunQuery
    limits: Limits
    answer: Answer
    counter: UsageCounter
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    began: float = field(default_factory=time.monotonic)


class RequestRunner:
    """Runs the requests of all links, no more than ``max_active`` at once.

    Args:
        engine: The model server.
        rules: What may reach it.
        salts: Prefix cache salts; None for a model server that knows none.
        max_active: Requests at once over all gateways.
        clock: Unix seconds.
    """

    def __init__(
        self,
        engine: EngineClient,
        rules: Rules,
        salts: CacheSalts | None,
        *,
        max_active: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._rules = rules
        self._salts = salts
        self._max_active = max_active
        self._clock = clock
        self._jobs: dict[tuple[AnswerLink, bytes], _Job] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.tally = Tally()

    @property
    def active(self) -> int:
        """Requests running now."""
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """No further request is accepted."""
        return len(self._jobs) >= self._max_active

    def refuse(
        self, link: AnswerLink, session: Session, query: ProxyRunQuery | ProxyRunQueryEx, error: RequestError
    ) -> None:
        """Answer a request at once with an error and zero tokens."""
        self.tally.refused += 1
        now = self._clock()
        answer = Answer(session.protocol, query.request_id, debug=False, started=now)
        _send(link, answer.error(int(error.code), error.message, NO_TOKENS, now))

    def start(
        self,
        link: AnswerLink,
        session: Session,
        query: RunQuery,
        offered: Collection[int],
    ) -> None:
        """Run a request in a task of its own; returns at once.

        Args:
            link: Where it came from and its answer goes.
            session: Of that link.
            query: The message.
            offered: Coefficients that the gateway may use.
        """
        key = (link, query.request_id)
        try:
            bounds = self._admitted(key, query, offered)
        except RequestError as error:
            self.refuse(link, session, query, error)
            return
        job = _Job(
            link,
            session,
            query,
            bounds,
            Answer(session.protocol, query.request_id, debug=bounds.debug, started=self._clock()),
            UsageCounter(bounds.coefficient, session.multipliers, session.price),
        )
        self._jobs[key] = job
        self._idle.clear()
        self.tally.started += 1
        job.task = asyncio.get_running_loop().create_task(self._run(job))
        job.task.add_done_callback(lambda _task: self._ended(key, job))

    def _admitted(self, key: tuple[AnswerLink, bytes], query: RunQuery, offered: Collection[int]) -> Limits:
        if self.full:
            raise RequestError("too many active queries", code=ErrorCode.ERROR)
        if key in self._jobs:
            raise RequestError("worker: this request id is running already", code=ErrorCode.PROTOCOL_VIOLATION)
        return limits(query, offered)

    def cancel(self, link: AnswerLink, request_id: bytes) -> bool:
        """Stop a request: its client has gone. Returns whether it was running."""
        job = self._jobs.get((link, request_id))
        if job is None or job.task is None or job.cancelled:
            return False
        job.cancelled = True
        job.task.cancel()
        return True

    def cancel_link(self, link: AnswerLink) -> None:
        """Stop everything that came over a link that is gone: nobody can take the answers, or pay for them."""
        for owner, request_id in list(self._jobs):
            if owner is link:
                self.cancel(link, request_id)

    async def wait_idle(self) -> None:
        """Return when nothing runs."""
        await self._idle.wait()

    async def _run(self, job: _Job) -> None:
        """Serve one request; nothing that goes wrong in it goes further."""
        try:
            async with asyncio.timeout(job.limits.timeout):
                await self._serve(job)
        except (TimeoutError, EngineTimeoutError):
            self._fail(job, ErrorCode.TIMEOUT, "worker: timeout")
        except RequestError as error:
            self._fail(job, error.code, error.message)
        except EngineError:
            self._fail(job, ErrorCode.FAILURE, "worker: the model server broke its answer off")
        except WireError as error:
            self._fail(job, ErrorCode.FAILURE, f"worker: the answer cannot be sent: {type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - section 8, item 1: no request may end the process or hang
            # The type only: the text of an unforeseen error may hold content.
            log.error("request failed in an unforeseen way", error=type(error).__name__)
            self._fail(job, ErrorCode.FAILURE, "worker: internal error")

    def _ended(self, key: tuple[AnswerLink, bytes], job: _Job) -> None:
        """The request's task is done, whichever way; also one that was cancelled before its first step."""
        if job.cancelled:
            self.tally.cancelled += 1
        if not job.answer.ended:
            self._fail(job, ErrorCode.CANCELLED, "worker: cancelled")
        self.tally.seconds += time.monotonic() - job.began
        del self._jobs[key]
        if not self._jobs:
            self._idle.set()

    async def _serve(self, job: _Job) -> None:
        request = engine_request(job.query.query, self._rules, self._salts)
        try:
            async with asyncio.timeout(HEAD_SHARE * job.limits.timeout):
                response = await self._engine.open(request.path, request.body, timeout=job.limits.timeout)
        except (TimeoutError, EngineTimeoutError):
            self._synthetic(job, 504, "Gateway Timeout")
            return
        except EngineError as error:
            log.warning("model server not reached", error=type(error).__name__)
            self._synthetic(job, 502, "Bad Gateway")
            return
        async with response:
            await self._relay(job, response)

    def _synthetic(self, job: _Job, status: int, reason: str) -> None:
        """A model server that is not there is a normal answer with an empty body (section 3.2)."""
        self.tally.failed += 1
        now = self._clock()
        head = response_head(status, reason, (), started=job.answer.started, now=now, has_body=False)
        job.link.send(job.answer.head(head, now, last=True))

    async def _relay(self, job: _Job, response: EngineResponse) -> None:
        """Pass an answer on as it comes, and count it."""
        link, answer, counter = job.link, job.answer, job.counter
        bodiless = response.status in {204, 304} or response.status < 200
        now = self._clock()
        head = response_head(
            response.status,
            response.reason,
            response.headers,
            started=answer.started,
            now=now,
            has_body=not bodiless,
        )
        link.send(answer.head(head, now, last=bodiless))
        if bodiless:
            self.tally.succeeded += 1
            return
        feed, parts, send, tally = counter.feed, answer.parts, link.send, self.tally
        running = job.session.protocol == 0
        held = b""
        async for data in response.body():
            out = feed(data)
            if not out:
                continue
            if not counter.events:
                # A JSON body comes out in one piece: it travels with the final tokens, in one message.
                held, out = out, held
            tally.bytes_out += len(out)
            for message in parts(out, counter.used() if running else NO_TOKENS):
                send(message)
            if link.waiting > MAX_WAITING_BYTES:
                await link.drain()
        rest = held + counter.finish()
        used = counter.used()
        for message in answer.last(rest, used, self._clock()):
            send(message)
        tally.bytes_out += len(rest)
        tally.succeeded += 1
        tally.earn(used)

    def _fail(self, job: _Job, code: int, text: str) -> None:
        if not job.cancelled:
            self.tally.failed += 1
        if job.answer.ended:
            return
        _send(job.link, job.answer.error(int(code), text, job.counter.used(), self._clock()))


def _send(link: AnswerLink, message: TLObject) -> None:
    """Send the end of an answer if there is still somebody to take it."""
    if link.closed:
        return
    try:
        link.send(message)
    except WireError as error:
        log.info("answer not taken", error=type(error).__name__)
