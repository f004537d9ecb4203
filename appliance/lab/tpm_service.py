"""The attestation authority over HTTP: ``POST /enrol`` and ``POST /activate`` (:mod:`attestation.tpm.enrol`).

In: an authority. Out: a server that answers bounded JSON with JSON; a refusal has status 403 and says why.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from appliance.lab.errors import LabError
from attestation.errors import EvidenceError
from attestation.tpm.enrol import ACTIVATE, ENROL, MAX_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from appliance.lab.tpm_ca import AttestationCa

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def serving(ca: AttestationCa, host: str, port: int) -> AsyncIterator[int]:
    """Serve an authority for as long as the context lasts.

    Yields:
        The port it listens on.

    Raises:
        LabError: It cannot listen there.
    """
    runner = web.AppRunner(_application(ca), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise LabError(f"attestation authority cannot listen on {host}:{port}: {error.strerror}") from None
        bound = int(runner.addresses[0][1])
        _log.info("attestation authority listens", port=bound)
        yield bound
    finally:
        await runner.cleanup()


def _application(ca: AttestationCa) -> web.Application:
    async def enrol(request: web.Request) -> web.Response:
        body = await _body(request, "ek_certificate", "ak_public")
        session, credential = ca.enrol(_data(body["ek_certificate"]), _data(body["ak_public"]))
        return web.json_response({"session": session, "credential": _text(credential)})

    async def activate(request: web.Request) -> web.Response:
        body = await _body(request, "session", "secret")
        chain = ca.activate(body["session"], _data(body["secret"]))
        return web.json_response({"certificates": [_text(item) for item in chain]})

    application = web.Application(client_max_size=MAX_BODY, middlewares=[_refusals])
    application.router.add_post(ENROL, enrol)
    application.router.add_post(ACTIVATE, activate)
    return application


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    """What is refused is told as JSON."""
    try:
        response: web.StreamResponse = await handler(request)
    except (EvidenceError, LabError) as error:
        _log.info("enrolment refused", reason=error.message)
        return web.json_response({"error": str(error)}, status=403)
    return response


async def _body(request: web.Request, *names: str) -> dict[str, str]:
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or set(body) != set(names) or not all(isinstance(body[name], str) for name in names):
        raise EvidenceError(f"request is not a JSON object of exactly the texts {', '.join(names)}")
    return body


def _data(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceError("request with a value that is not base64") from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
