"""One answer on its way in: head, parts and the end, with a bounded buffer. No I/O.

The link's reader puts events in and never waits; the caller takes bytes out. When the caller is too slow and the bound
is reached, the answer is cancelled with an error instead of holding up the other requests of the link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.errors import ErrorCode, RequestError
from appliance.wire import messages as tl
from appliance.wire.codec import decode
from appliance.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEFAULT_BUFFER_BYTES = 4 * 2**20
ZERO = tl.TokensUsed(0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of the model server's answer, as the hops passed them on."""

    status: int
    reason: str
    headers: dict[str, str]


class Answer:
    """An answer being received.

    Args:
        request_id: Of the request, 32 bytes.
        buffer_bytes: Bound of what waits for the caller.
    """

    def __init__(self, request_id: bytes, *, buffer_bytes: int = DEFAULT_BUFFER_BYTES) -> None:
        self.request_id = request_id
        self.used: tl.TokensUsed = ZERO
        self.info: tl.ClientQueryFinalInfo | None = None
        self.finished = False
        self.error: Exception | None = None
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

    def begin(self, answer: bytes) -> None:
        """The head arrived: a boxed ``http.response``, possibly with the first bytes of the body."""
        if self._head is not None:
            self.fail(RequestError("the gateway sent a second head", code=ErrorCode.PROTOCOL_VIOLATION))
            return
        try:
            response = decode(answer, tl.HttpResponse)
        except WireError as error:
            self.fail(RequestError(f"the answer's head is damaged: {error}", code=ErrorCode.PROTOCOL_VIOLATION))
            return
        headers = {header.name: header.value for header in response.headers}
        self._head = Head(response.status_code, response.reason, headers)
        if response.payload:
            self.part(response.payload)
        self._notify()

    def part(self, data: bytes) -> None:
        """Some bytes of the body."""
        if self._head is None:
            self.fail(RequestError("the gateway sent a part before the head", code=ErrorCode.PROTOCOL_VIOLATION))
            return
        if not data or self.finished:
            return
        self._held += len(data)
        if self._held > self._limit:
            self.fail(
                RequestError(
                    f"more than {self._limit} bytes of the answer wait to be read",
                    code=ErrorCode.CANCELLED,
                    hint="read the answer faster, or ask for less",
                )
            )
            return
        self._parts.append(data)
        self._notify()

    def finish(self, used: tl.TokensUsed, info: tl.ClientQueryFinalInfo | None) -> None:
        """The end of a successful answer, with what it used (adjusted tokens)."""
        if self.finished:
            return
        self.used, self.info, self.finished = used, info, True
        if self._head is None:
            self.error = RequestError("the answer ended before it began", code=ErrorCode.PROTOCOL_VIOLATION)
        self._ended()

    def fail(self, error: Exception) -> None:
        """The end of an answer that failed; what was received so far is dropped."""
        if self.finished:
            return
        self.finished, self.error = True, error
        self._parts.clear()
        self._ended()

    async def head(self) -> Head:
        """Wait for the head.

        Raises:
            RequestError: The request failed.
            WireError: The link was lost.
        """
        while self._head is None:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._head

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes; what has arrived is handed over in one piece.

        Raises:
            RequestError: The request failed after its head.
            WireError: The link was lost.
        """
        while True:
            if self._parts:
                data = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
                self._parts.clear()
                self._held = 0
                yield data
            elif self.error is not None:
                raise self.error
            elif self.finished:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _ended(self) -> None:
        for callback in self._ends:
            callback()
        self._ends.clear()
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
