"""The local HTTP endpoint: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models`` for OpenAI clients.

Besides: ``/v1/attestation`` (verdicts, check by check), ``/status``, ``/health`` and ``/metrics``. Every failure is an
OpenAI-style error object with a cause. An answer's cost is in the headers ``x-chrysalis-cost-nanotons`` and
``x-chrysalis-tokens``, or, where it streams, in a last comment line of the stream.

A failure that may still be charged carries ``x-should-retry: false``: the OpenAI clients repeat a request by themselves
otherwise, and it would be paid twice.
"""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from appliance.client.errors import HTTP_BAD_REQUEST, HttpError, error_object, to_http
from appliance.client.events import EventCutter
from appliance.engine.rules import CHAT, COMPLETIONS, MAX_BODY_BYTES
from appliance.errors import ErrorCode, RequestError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.client.access import Access
    from appliance.client.answers import Answer, Head
    from appliance.client.library import Client
    from appliance.client.metrics import ClientMetrics
    from attestation.verdict import Verdict

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 64 * 2**20
OPEN_PATHS = frozenset({"/health"})
_NO_RETRY = {"x-should-retry": "false"}
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


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
        """The aiohttp application; run it with ``handler_cancellation`` so that a caller who leaves is noticed."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app.router.add_post(CHAT, self._complete)
        app.router.add_post(COMPLETIONS, self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/attestation", self._attestation)
        app.router.add_get("/status", self._status)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics_text)
        return app

    # Who comes in, and what goes wrong --------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Admit the caller, and turn whatever fails into an error object."""
        try:
            response = await self._admitted(request, handler)
        except web.HTTPException as error:
            kind = "invalid_request_error" if error.status < 500 else "server_error"
            told = HttpError(error.status, error_object(error.reason, kind, error.reason.lower().replace(" ", "_")))
            response = self._failed("HttpError", told)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ChrysalisError as error:
            response = self._failed(type(error).__name__, to_http(error))
        except ConnectionError:
            raise  # the caller has gone: nobody is left to be told
        except Exception as error:  # noqa: BLE001 - a mistake of ours; its text may hold content
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error("request failed", error=type(error).__name__, detail=f"{frame.name}:{frame.lineno}")
            response = self._failed("InternalError", to_http(error))
        if not response.prepared:
            response.headers.update(_SAFE | self._access.headers_for(request.headers.get("Origin")))
        return response

    async def _admitted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=self._access.preflight(request.headers))
        if request.path in OPEN_PATHS:
            self._access.admit_origin(request.headers)
        else:
            self._access.admit(request.headers)
        return await handler(request)

    def _failed(self, kind: str, error: HttpError) -> web.Response:
        self._metrics.failed(kind)
        return web.json_response(error.body, status=error.status, headers=error.headers)

    # Completions ------------------------------------------------------------------------------------------------

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        payload = await request.read()
        with self._metrics.request():
            answer = await self._client.complete(request.path, payload, method=request.method)
            try:
                head = await answer.head()
                if head.streams:
                    return await self._stream(request, answer, head)
                return await self._whole(answer, head)
            except ChrysalisError as error:
                told = to_http(error)
                retry = _NO_RETRY if answer.unsettled else {}
                return self._failed(type(error).__name__, HttpError(told.status, told.body, told.headers | retry))
            finally:
                if not answer.finished:
                    self._metrics.failed("CallerGone")
                    answer.cancel()

    async def _whole(self, answer: Answer, head: Head) -> web.Response:
        body = bytearray()
        while part := await answer.read():
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                error = RequestError(f"the answer is over {MAX_ANSWER_BYTES} bytes", code=ErrorCode.CANCELLED)
                answer.cancel(error)
                raise error
        self._metrics.answered(answer)
        headers = head.headers | _cost(answer)
        if head.status >= HTTP_BAD_REQUEST:
            self._metrics.failed("ModelServer")
            told = _upstream(head.status, bytes(body))
            return web.json_response(told, status=head.status, headers=headers | (_NO_RETRY if answer.cost else {}))
        return web.Response(status=head.status, headers=headers, content_type=head.content_type, body=bytes(body))

    async def _stream(self, request: web.Request, answer: Answer, head: Head) -> web.StreamResponse:
        response = web.StreamResponse(status=head.status, headers=head.headers | _SAFE)
        response.headers.update(self._access.headers_for(request.headers.get("Origin")))
        response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
        try:
            await response.prepare(request)
            cutter = EventCutter()
            try:
                while part := await answer.read():
                    if part := cutter.cut(part):
                        await response.write(part)
            except ChrysalisError as error:
                # The head has left with a good status: the error is the stream's last event, as the API has it.
                self._metrics.failed(type(error).__name__)
                last = b"data: " + json.dumps(to_http(error).body).encode() + b"\n\n"
            else:
                self._metrics.answered(answer)
                told = " ".join(f"{name.removeprefix('x-chrysalis-')}={value}" for name, value in _cost(answer).items())
                last = cutter.rest() + f": chrysalis {told}\n\n".encode()
            await response.write(last)
            await response.write_eof()
        except ConnectionError:
            log.debug("caller gone")
        return response

    # What there is to know --------------------------------------------------------------------------------------

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": await self._client.models()})

    async def _attestation(self, request: web.Request) -> web.Response:
        """The verdicts of every ready gateway, and with ``?model=`` those of its workers for that model."""
        model = request.query.get("model")
        found = []
        for gateway in self._client.pool.ready():
            entry: dict[str, Any] = {
                "address": gateway.name,
                "gateway": _verdict(gateway.proofs.gateway) if gateway.proofs.gateway else None,
            }
            if model is not None:
                entry["workers"] = [_verdict(item) for item in await self._client.verify_workers(gateway, model)]
            found.append(entry)
        return web.json_response({"gateways": found})

    async def _status(self, _request: web.Request) -> web.Response:
        funds = self._client.purse.funds()
        gateways = [
            {"address": known.name, "stage": known.stage, "reason": known.reason, "running": known.load}
            for known in self._client.pool.states()
        ]
        accounts = [
            {
                "gateway": str(account.contract),
                "contract": str(account.client_contract),
                "price": account.price,
                "spent_tokens": account.spent_tokens,
                "signed_tokens": account.signed_tokens,
                "at_risk_tokens": self._client.purse.at_risk(account.contract),
                "topped_up_nanotons": account.topped_up_nanotons,
                "deposit_pending": account.deposit is not None,
                "closed": account.closed,
            }
            for account in self._client.purse.accounts()
        ]
        money = {
            "spent_nanotons": funds.spent,
            "reserved_nanotons": funds.reserved,
            "topped_up_nanotons": funds.topped_up,
            "budget_left_nanotons": funds.budget_left,
        }
        ready = bool(self._client.pool.ready())
        return web.json_response({"ready": ready, "gateways": gateways, "money": money, "accounts": accounts})

    async def _health(self, _request: web.Request) -> web.Response:
        ready = bool(self._client.pool.ready())
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": self._metrics.CONTENT_TYPE})


def _cost(answer: Answer) -> dict[str, str]:
    return {
        "x-chrysalis-cost-nanotons": str(answer.cost),
        "x-chrysalis-tokens": str(answer.used.total_tokens_used),
    }


def _upstream(status: int, body: bytes) -> dict[str, Any]:
    """The model server's own error as an error object, whatever shape it has; an empty one (section 3.2) is named."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        if isinstance(said.get("error"), dict):
            return said
        if isinstance(said.get("message"), str):
            return error_object(said["message"], "upstream_error", "model_server")
    return error_object(f"the worker's model server answered with status {status}", "upstream_error", "model_server")


def _verdict(verdict: Verdict) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(verdict.to_json())
    return {**loaded, "explained": verdict.explain()}
