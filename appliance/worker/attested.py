"""The worker's attested port: fresh evidence for whoever asks, over TLS that ends at the key in the evidence.

In: who makes evidence, the key and certificate of this process. Out: one page, ``/v1/attestation?nonce=<64 hex
digits>``, for everybody: it says what the machine is and nothing of requests, answers or clients. In the image the
status port of the boot serves it; this one is for a worker that is a program among others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from appliance.boot import tls
from appliance.config.ports import host_port
from appliance.errors import ConfigError
from attestation.errors import AttestationError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from attestation.ratls import Identity

    Evidence = Callable[[bytes], Awaitable[bytes]]

log = structlog.get_logger(__name__)

PATH: Final = "/v1/attestation"
NONCE_BYTES: Final = 32
MAX_WAITING: Final = 64
RENEW_S: Final = 60.0


class EvidencePage:
    """Answers a nonce with a bundle.

    Args:
        evidence: Who makes bundles now, ``None`` while nobody can.
        named: The bundle that the certificate names, for who asks without a nonce; empty while it names none.
    """

    def __init__(self, evidence: Callable[[], Evidence | None], named: Callable[[], bytes] = bytes) -> None:
        self._evidence = evidence
        self._named = named
        self._waiting = 0

    async def answer(self, request: web.Request) -> web.Response:
        """One bundle, or words that say why there is none."""
        if "nonce" not in request.query and (named := self._named()):
            return web.Response(body=named, content_type="application/cbor")
        try:
            nonce = bytes.fromhex(request.query.get("nonce", ""))
        except ValueError:
            nonce = b""
        if len(nonce) != NONCE_BYTES:
            return problem(400, f"nonce is not {NONCE_BYTES} bytes in hex", f"GET {PATH}?nonce=<64 hex digits>")
        evidence = self._evidence()
        if evidence is None:
            return problem(503, "this machine has no key to attest with yet", "see its stages")
        if self._waiting >= MAX_WAITING:
            return problem(503, f"{MAX_WAITING} requests for evidence wait already", "ask again later")
        self._waiting += 1
        try:
            bundle = await evidence(nonce)
        except AttestationError as error:
            return problem(503, error.message, error.hint)
        finally:
            self._waiting -= 1
        return web.Response(body=bundle, content_type="application/cbor")


def problem(status: int, message: str, hint: str) -> web.Response:
    """A refusal in words."""
    return web.json_response({"error": message, "hint": hint}, status=status)


async def serve(
    stack: contextlib.AsyncExitStack, listen: str, key: Ed25519PrivateKey, identity: Identity, evidence: Evidence
) -> None:
    """Open the port until the stack is closed.

    Args:
        stack: What is opened here is closed with it.
        listen: ``host:port``.
        key: The key that the evidence speaks for.
        identity: Its certificate, which is renewed.
        evidence: Makes a bundle for a nonce.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    context = tls.server_context()
    tls.present(context, key, identity.certificate)
    app = web.Application(client_max_size=1024)
    app.router.add_get(PATH, EvidencePage(lambda: evidence).answer)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=2.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, port = host_port(listen)
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}", hint="set host.attested") from None

    async def renew() -> None:
        shown = identity.certificate
        while True:
            await asyncio.sleep(RENEW_S)
            if identity.certificate != shown:
                shown = identity.certificate
                tls.present(context, key, shown)

    renewing = asyncio.create_task(renew(), name="attested port")
    stack.callback(renewing.cancel)
    log.info("attested port", listen=f"{host}:{runner.addresses[0][1]}")
