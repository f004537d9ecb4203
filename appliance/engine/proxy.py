"""The one way to an engine: an allow-list of routes, our key, a bounded stream back.

Comes in: a path, a finished JSON body (see :mod:`appliance.engine.rules`; the caller has put the cache salt in it) and
a time limit. Goes out: status, headers without the hop-by-hop ones, and the body as it is made. No header of the end
user is forwarded, so no credential of his can be. Closing a response before its end makes SGLang abort the request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from appliance.engine.errors import EngineTimeoutError, EngineUnavailableError, RouteRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from appliance.engine.endpoint import Endpoint, EndpointSource

ROUTES: Final = frozenset({
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
})  # fmt: skip
"""What a request may reach. Health and metrics are asked by us alone; everything else of SGLang stays out of reach."""

_DROPPED: Final = frozenset({
    # RFC 9110, section 7.6.1, and what no longer holds once the body is handled by parts
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length",
    # ours alone
    "set-cookie", "www-authenticate",
})  # fmt: skip
_KEEP_ALIVE_S: Final = 3.0  # shorter than the 5 s after which uvicorn closes an idle connection
_CHUNK: Final = 1 << 16  # bytes that may wait unread in one response


class EngineResponse:
    """One answer of the engine, its body still coming.

    Attributes:
        status: The HTTP status.
        reason: Its text.
        headers: Names and values as received, hop-by-hop headers and the length removed.
    """

    def __init__(self, response: aiohttp.ClientResponse, client: EngineClient) -> None:
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = _end_to_end(response)
        self._response = response
        self._client = client
        self._open = True

    async def body(self) -> AsyncIterator[bytes]:
        """The body in the parts in which it arrives; reading slowly slows the engine's connection down.

        Raises:
            EngineTimeoutError: The request's time is over.
            EngineUnavailableError: The engine broke the answer off.
        """
        try:
            async for part in self._response.content.iter_any():
                yield part
        except TimeoutError as error:
            raise EngineTimeoutError("the engine's answer did not end within the request's time") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineUnavailableError(f"the engine broke its answer off: {type(error).__name__}") from error
        finally:
            self.close()

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            EngineUnavailableError: It is longer than ``limit`` bytes, or was broken off.
            EngineTimeoutError: The request's time is over.
        """
        parts = bytearray()
        async for part in self.body():
            parts += part
            if len(parts) > limit:
                self.close()
                raise EngineUnavailableError(f"the engine's answer is longer than {limit} bytes")
        return bytes(parts)

    def close(self) -> None:
        """End it. A body that was not read to its end is cut off, and the engine aborts the request."""
        if self._open:
            self._open = False
            self._response.close()  # keeps the connection if the body had ended, else closes it
            self._client.finished()

    async def __aenter__(self) -> Self:
        """Close the response when the block ends."""
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class EngineClient:
    """Requests to one engine over one pool of connections.

    Args:
        source: Asked for the endpoint at every request, so a restarted engine's new port and key are used at once.
        connections: Connections at once, at most.
    """

    def __init__(self, source: EndpointSource, *, connections: int = 1024) -> None:
        self._source = source
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Requests whose answer has not ended."""
        return self._active

    async def open(
        self,
        path: str,
        body: bytes = b"",
        *,
        timeout: float,  # noqa: ASYNC109 -- of the whole exchange, answer included
        method: str = "POST",
    ) -> EngineResponse:
        """Send one request and wait for the head of its answer. Cancelling this cancels the request in the engine.

        Args:
            path: One of :data:`ROUTES`.
            body: JSON; empty for GET.
            timeout: Seconds for everything, to the last byte of the answer.
            method: ``POST`` or ``GET``.

        Raises:
            RouteRefusedError: The route is not on the allow-list.
            EngineUnavailableError: The engine takes no requests now, or cannot be reached.
            EngineTimeoutError: There was no head in time.
        """
        if (method, path) not in ROUTES:
            raise RouteRefusedError(f"{method} {path} does not lead to the engine")
        endpoint = self._source.endpoint()
        self._active += 1
        self._idle.clear()
        try:
            response = await self._send(endpoint, method, path, body, timeout)
        except BaseException as error:
            self.finished()
            if isinstance(error, TimeoutError):
                raise EngineTimeoutError(f"the engine gave no answer within {timeout:g} s") from error
            if isinstance(error, aiohttp.ClientError | ConnectionError):
                raise EngineUnavailableError(f"the engine cannot be reached: {type(error).__name__}") from error
            raise
        return EngineResponse(response, self)

    async def _send(
        self, endpoint: Endpoint, method: str, path: str, body: bytes, seconds: float
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_CHUNK,
                trust_env=False,
            )
        headers = {"Accept-Encoding": "identity", "User-Agent": "chrysalis", **endpoint.headers}
        if body:
            headers["Content-Type"] = "application/json"
        return await self._session.request(
            method,
            endpoint.base_url + path,
            data=body or None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
        )

    def finished(self) -> None:
        """Count one request as ended; called by its response."""
        self._active -= 1
        if self._active == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no answer is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """Close every connection; answers under way break off."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _end_to_end(response: aiohttp.ClientResponse) -> tuple[tuple[str, str], ...]:
    named = {token.strip().lower() for value in response.headers.getall("Connection", []) for token in value.split(",")}
    dropped = _DROPPED | named
    return tuple((name, value) for name, value in response.headers.items() if name.lower() not in dropped)
