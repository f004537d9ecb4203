"""The local HTTP endpoint: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models`` for OpenAI clients.

Besides: ``/v1/attestation`` (verdicts, check by check), ``/status``, ``/health`` and ``/metrics``. Every failure is an
OpenAI-style error object with a cause. An answer's cost is in the headers ``x-chrysalis-cost-nanotons`` and
``x-chrysalis-tokens``, or, where it streams, in a last comment line of the stream.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from appliance.client.errors import HttpError, to_http
from appliance.client.request import text_headers
from appliance.engine.rules import CHAT, COMPLETIONS, MAX_BODY_BYTES
from appliance.errors import ErrorCode, RequestError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.client.access import Access
    from appliance.client.answers import Answer
    from appliance.client.library import Client
    from appliance.client.metrics import ClientMetrics
    from attestation.verdict import Verdict

MAX_ANSWER_BYTES = 64 * 2**20
OPEN_PATHS = frozenset({"/health"})
PREFIX = "x-chrysalis-"


ResponseT = TypeVar("ResponseT", bound=web.StreamResponse)


class Endpoint:
    """The routes.

    Args:
        client: Answers.
        access: Who may ask.
        metrics: Counts.
    """

    def __init__(self, client: Client, access: Access, metrics: ClientMetrics) -> None:
        self._client = client
        self._access = access
        self._metrics = metrics

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app.router.add_post(CHAT, self._complete)
        app.router.add_post(COMPLETIONS, self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/attestation", self._attestation)
        app.router.add_get("/status", self._status)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics_text)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Admit the caller, and turn whatever fails into an error object."""
        try:
            if request.method == "OPTIONS":
                return self._preflight(request)
            if request.path in OPEN_PATHS:
                self._access.admit_origin(request.headers)
            else:
                self._access.admit(request.headers)
            return _with_origin(request, await handler(request))
        except web.HTTPException as error:
            return _error(HttpError(error.status, {"error": _plain(error.reason, "invalid_request_error")}))
        except ChrysalisError as error:
            self._metrics.failed(type(error).__name__)
            return _error(to_http(error))

    def _preflight(self, request: web.Request) -> web.Response:
        self._access.admit_origin(request.headers)
        headers = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
        }
        return _with_origin(request, web.Response(status=204, headers=headers))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        payload = await request.read()
        with self._metrics.request():
            answer = await self._client.complete(request.path, payload, method=request.method)
            try:
                head = await answer.head()
                headers = text_headers(head.headers)
                if headers.get("content-type", headers.get("Content-Type", "")).startswith("text/event-stream"):
                    return await self._stream(request, answer, head.status, headers)
                return await self._whole(answer, head.status, headers)
            finally:
                if not answer.finished:
                    self._client.cancel(answer)

    async def _whole(self, answer: Answer, status: int, headers: dict[str, str]) -> web.Response:
        body = bytearray()
        async for part in answer.parts():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                raise RequestError(f"the answer is over {MAX_ANSWER_BYTES} bytes", code=ErrorCode.CANCELLED)
        self._metrics.answered(answer, self._client.cost(answer))
        return web.Response(status=status, headers={**headers, **self._cost(answer)}, body=bytes(body))

    async def _stream(
        self, request: web.Request, answer: Answer, status: int, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={**headers, "Cache-Control": "no-cache"})
        _with_origin(request, response)
        await response.prepare(request)
        try:
            async for part in answer.parts():
                await response.write(part)
        except ChrysalisError as error:
            # The head has left with a good status: the error is the stream's last event, as the API has it.
            self._metrics.failed(type(error).__name__)
            await response.write(b"data: " + json.dumps(to_http(error).body).encode() + b"\n\n")
        else:
            self._metrics.answered(answer, self._client.cost(answer))
            told = " ".join(
                f"{name.removeprefix('x-chrysalis-')}={value}" for name, value in self._cost(answer).items()
            )
            await response.write(f": chrysalis {told}\n\n".encode())
        await response.write_eof()
        return response

    def _cost(self, answer: Answer) -> dict[str, str]:
        return {
            "x-chrysalis-cost-nanotons": str(self._client.cost(answer)),
            "x-chrysalis-tokens": str(answer.used.total_tokens_used),
        }

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": await self._client.models()})

    async def _attestation(self, request: web.Request) -> web.Response:
        """The verdicts of every ready gateway, and with ``?model=`` those of its workers for that model."""
        model = request.query.get("model")
        found = []
        for gateway in self._client.pool.ready():
            entry: dict[str, Any] = {
                "address": f"{gateway.address[0]}:{gateway.address[1]}",
                "gateway": _verdict(gateway.proofs.gateway) if gateway.proofs.gateway else None,
            }
            if model is not None:
                entry["workers"] = [_verdict(item) for item in await self._client.verify_workers(gateway, model)]
            found.append(entry)
        return web.json_response({"gateways": found})

    async def _status(self, _request: web.Request) -> web.Response:
        funds = self._client.purse.funds()
        gateways = [
            {"address": f"{g.address[0]}:{g.address[1]}", "stage": g.stage, "reason": g.reason}
            for g in self._client.pool.states()
        ]
        money = {
            "spent_nanotons": funds.spent,
            "reserved_nanotons": funds.reserved,
            "topped_up_nanotons": funds.topped_up,
            "budget_left_nanotons": funds.budget_left,
        }
        return web.json_response({"ready": bool(self._client.pool.ready()), "gateways": gateways, "money": money})

    async def _health(self, _request: web.Request) -> web.Response:
        ready = bool(self._client.pool.ready())
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": self._metrics.CONTENT_TYPE})


def _verdict(verdict: Verdict) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(verdict.to_json())
    return {**loaded, "explained": verdict.explain()}


def _with_origin(request: web.Request, response: ResponseT) -> ResponseT:
    """An origin that was admitted may also read the answer."""
    origin = request.headers.get("Origin")
    if origin is not None and not response.prepared:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"
    return response


def _error(error: HttpError) -> web.Response:
    return web.json_response(error.body, status=error.status, headers=error.headers)


def _plain(message: str, kind: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": None}
