"""The light engine's door: an ASGI application with an allow-list of routes, one key and a bound on everything.

In: HTTP from loopback. Out: what :class:`~appliance.engine.light.generation.Generator` answers. When a client goes
before its answer has ended, its request is cancelled, whether it is generating, waiting or answered in one piece.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from jinja2 import TemplateError  # type: ignore[import-not-found] # the engine environment's

from appliance.engine.light.body import BadRequestError
from appliance.engine.light.generation import CHAT, COMPLETIONS, GenerationError
from appliance.engine.light.meter import Run
from appliance.engine.light.quiet import report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from appliance.engine.light.generation import Generator
    from appliance.engine.light.meter import Meter

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES: Final = 9 * 2**20  # the worker's rules let 8 MiB through and write a few keys into it
JSON_TYPE: Final = "application/json"
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _GoneError(Exception):
    """The client went away."""


class _HttpError(Exception):
    """An answer other than 200, with words for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class App:
    """The ASGI application.

    Args:
        generator: Answers the two routes that generate.
        meter: Shown at ``/metrics``.
        key: The bearer key that every route wants.
        limit: Requests that are generated or wait at once; one more is answered with 503.
    """

    def __init__(self, generator: Generator, meter: Meter, key: str, limit: int) -> None:
        self._generator = generator
        self._meter = meter
        self._authorization = f"Bearer {key}".encode()
        self._limit = limit
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        reply = _Reply(send)
        try:
            await self._route(scope, receive, reply)
        except _GoneError:
            pass
        except _HttpError as error:
            await reply.words(error.status, error.message)
        except GenerationError as error:
            await reply.words(500, str(error))
        except Exception as error:  # noqa: BLE001 -- whatever it is, no library may log it with its words
            report(error)
            await reply.words(500, "the engine failed")

    async def _route(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        self._admit(scope)
        route = (scope["method"], scope["path"])
        if route in (("POST", CHAT), ("POST", COMPLETIONS)):
            await self._generate(scope, receive, reply)
        elif route == ("GET", "/v1/models"):
            await reply.whole(200, JSON_TYPE, _json(self._models()))
        elif route == ("GET", "/metrics"):
            await reply.whole(200, METRICS_TYPE, self._meter.exposition().encode())
        elif route == ("GET", "/health"):
            await _until_gone(receive, self._generator.works(uuid.uuid4().hex))
            await reply.whole(200, JSON_TYPE, b"{}")
        else:
            raise _HttpError(404, "there is no such route")

    def _admit(self, scope: Scope) -> None:
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                given = value
        if not hmac.compare_digest(given, self._authorization):
            raise _HttpError(401, "the key is missing or wrong")

    def _models(self) -> dict[str, Any]:
        model = {"id": self._generator.name, "object": "model", "created": 0, "owned_by": "chrysalis"}
        return {"object": "list", "data": [model]}

    async def _generate(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if self._active >= self._limit:
            raise _HttpError(503, "too many requests are being answered; try again later")
        self._active += 1
        run = Run()
        try:
            body = await _read(receive)
            await _until_gone(receive, self._answer(scope, body, run, reply))
        finally:
            run.cancel()
            self._active -= 1

    async def _answer(self, scope: Scope, body: bytes, run: Run, reply: _Reply) -> None:
        try:
            request = json.loads(body)
            if isinstance(request, dict) and request.get("model") not in (None, self._generator.name):
                raise _HttpError(404, f"the model is {self._generator.name!r}")
            response = await self._generator.answer(scope["path"], request, run, f"chatcmpl-{uuid.uuid4().hex}")
        except BadRequestError as error:
            raise _HttpError(400, str(error)) from None
        except TemplateError:
            raise _HttpError(400, "the model's chat template refuses these messages") from None
        except (ValueError, RecursionError):
            raise _HttpError(400, "the body is not JSON that can be read") from None
        # Starlette is told that a client's going shows in `send`: it is watched for here, in one place.
        told = {**scope, "asgi": {**scope["asgi"], "spec_version": "2.4"}}
        await response(told, _nothing_more, reply.send)


class _Reply:
    """One request's answer, of which the head is sent once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def send(self, message: Message) -> None:
        """Pass on what a response object sends."""
        self._begun = True
        await self._send(message)

    async def whole(self, status: int, kind: str, body: bytes) -> None:
        """Answer at once."""
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def words(self, status: int, message: str) -> None:
        """Answer with an error in this API's form; an answer that has begun is left unfinished instead."""
        if not self._begun:
            kind = "invalid_request_error" if status < 500 else "server_error"
            await self.whole(status, JSON_TYPE, _json({"error": {"message": message, "type": kind, "code": status}}))


async def _until_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work, or stop it when the client goes.

    Raises:
        _GoneError: It went.
    """
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finished = doing.done()
    finally:
        gone.cancel()
        doing.cancel()
        await asyncio.wait({doing, gone})
    if not finished:
        _ = doing.cancelled() or doing.exception()  # taken, so that asyncio has nothing to report
        raise _GoneError
    doing.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing_more() -> Message:
    """What a response hears of its client here: nothing."""
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await never


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _HttpError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
