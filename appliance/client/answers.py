"""One answer on its way in: head, parts and the end, with a bounded buffer. No I/O.

The link's reader puts events in and never waits; the caller takes bytes out. When the caller is too slow and the bound
is reached, the answer is cancelled with an error instead of holding up the other requests of the link.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.client.errors import GatewayFaultError
from appliance.errors import ErrorCode, RequestError
from appliance.wire import messages as tl
from appliance.wire.codec import decode
from appliance.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEFAULT_BUFFER_BYTES = 4 * 2**20
ZERO = tl.TokensUsed(0, 0, 0, 0, 0)
MAX_HEADERS = 64
_STATUS = range(200, 600)
_PASSED = re.compile(r"x-cocoon-[a-z0-9-]{1,64}", re.ASCII)
_PLAIN = re.compile(r"[\x20-\x7e]{0,256}", re.ASCII)
_TYPES = {"application/json", "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of the model server's answer, as far as they go on to the caller.

    Attributes:
        status: 200 to 599.
        headers: Names in lower case: the hops' timings (``x-cocoon-…``). Values are printable ASCII.
        content_type: ``application/json`` or ``text/event-stream``; anything else is told as JSON, which the caller's
            program then judges, and never as something that a browser would show.
    """

    status: int
    headers: dict[str, str]
    content_type: str

    @property
    def streams(self) -> bool:
        """Whether the body is a stream of events."""
        return self.content_type == "text/event-stream"

    @classmethod
    def of(cls, response: tl.HttpResponse) -> Head:
        """Take what is fit to be passed on from a stranger's head.

        Raises:
            GatewayFaultError: The status is none that ends a request.
        """
        if response.status_code not in _STATUS:
            raise GatewayFaultError(f"the answer's status is {response.status_code}, expected 200 to 599")
        passed, content_type = {}, "application/json"
        for header in response.headers[:MAX_HEADERS]:
            name = header.name.lower()
            if name == "content-type":
                kind = header.value.partition(";")[0].strip().lower()
                content_type = kind if kind in _TYPES else content_type
            elif _PASSED.fullmatch(name) and _PLAIN.fullmatch(header.value):
                passed[name] = header.value
        return cls(response.status_code, passed, content_type)


class Answer:
    """An answer being received.

    Args:
        request_id: Of the request, 32 bytes.
        abandon: Called when the caller gives the answer up: ends the request where it runs.
        buffer_bytes: Bound of what waits for the caller.

    Attributes:
        used: Adjusted tokens, once it is complete.
        cost: Nanotons, once it is complete.
        info: The end's other facts: timings and debug texts of the hops.
        finished: Nothing will come any more.
        error: Why it failed; None for a whole answer.
        unsettled: It failed in a way that may still be charged: it must not simply be sent again.
    """

    def __init__(
        self,
        request_id: bytes,
        *,
        abandon: Callable[[Answer, Exception], None] | None = None,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    ) -> None:
        self.request_id = request_id
        self.used: tl.TokensUsed = ZERO
        self.cost = 0
        self.info: tl.ClientQueryFinalInfo | None = None
        self.finished = False
        self.error: Exception | None = None
        self.unsettled = False
        self._abandon = abandon
        self._head: Head | None = None
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._limit = buffer_bytes
        self._wake: asyncio.Future[None] | None = None
        self._ends: list[Callable[[], object]] = []

    def on_end(self, callback: Callable[[], object]) -> None:
        """Call back once when the answer has ended, however it ended."""
        if self.finished:
            callback()
        else:
            self._ends.append(callback)

    def cancel(self, error: Exception | None = None) -> None:
        """Give the answer up, unless it has ended already.

        Args:
            error: What whoever still reads it gets; that the caller has gone, if nothing else is said.
        """
        if self.finished:
            return
        reason = error or RequestError("the caller has gone", code=ErrorCode.CANCELLED)
        if self._abandon is not None:
            self._abandon(self, reason)
        self.fail(reason, drop=True)

    # What the link puts in --------------------------------------------------------------------------------------

    def begin(self, answer: bytes) -> None:
        """The head arrived: a boxed ``http.response``, possibly with the first bytes of the body."""
        if self.finished:
            return
        if self._head is not None:
            self.fail(GatewayFaultError("the gateway sent a second head"))
            return
        try:
            response = decode(answer, tl.HttpResponse)
            self._head = Head.of(response)
        except WireError as error:
            self.fail(GatewayFaultError(f"the answer's head is damaged: {error.message}"))
            return
        except GatewayFaultError as error:
            self.fail(error)
            return
        if response.payload:
            self.part(response.payload)
        self._notify()

    def part(self, data: bytes) -> None:
        """Some bytes of the body."""
        if not data or self.finished:
            return
        if self._head is None:
            self.fail(GatewayFaultError("the gateway sent a part before the head"))
            return
        self._held += len(data)
        if self._held > self._limit:
            error = RequestError(
                f"more than {self._limit} bytes of the answer wait to be read",
                code=ErrorCode.CANCELLED,
                hint="read the answer faster, or ask for less",
            )
            self.fail(error, drop=True)
            return
        self._parts.append(data)
        self._notify()

    def finish(self, used: tl.TokensUsed, cost: int, info: tl.ClientQueryFinalInfo | None) -> None:
        """The end of a successful answer.

        Args:
            used: Adjusted tokens.
            cost: Nanotons.
            info: The end's other facts, where the gateway told them.
        """
        if self.finished:
            return
        self.used, self.cost, self.info, self.finished = used, cost, info, True
        if self._head is None:
            self.error = GatewayFaultError("the answer ended before it began")
        self._ended()

    def fail(self, error: Exception, *, drop: bool = False) -> None:
        """The end of an answer that failed.

        Args:
            error: Why.
            drop: What was received and not read yet is dropped, so that it takes no memory; else it is read first.
        """
        if self.finished:
            return
        self.finished, self.error = True, error
        if drop:
            self._parts.clear()
            self._held = 0
        self._ended()

    # What the caller takes out ----------------------------------------------------------------------------------

    async def head(self) -> Head:
        """Wait for the head.

        Raises:
            ChrysalisError: The request failed; see :attr:`error`.
        """
        while self._head is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._head

    async def read(self) -> bytes:
        """The next bytes of the body, all that have arrived in one piece; empty at the end.

        Raises:
            ChrysalisError: The request failed after its head; see :attr:`error`.
        """
        parts = self._parts
        while not parts:
            if self.error is not None:
                raise self.error
            if self.finished:
                return b""
            await self._wait()
        data = parts.popleft() if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._held = 0
        return data

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises as :meth:`read`."""
        while data := await self.read():
            yield data

    async def _wait(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _ended(self) -> None:
        ends, self._ends = self._ends, []
        for callback in ends:
            callback()
        self._abandon = None
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
