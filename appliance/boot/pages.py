"""What the attested status port shows: stages, posture, fresh evidence, and the worker's own page read-only.

In: the files that the boot wrote, and who makes evidence. Out: an HTTP application. Nothing here can change anything,
and nothing of a request, an answer or a client is known to it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web

from appliance.boot import posture
from appliance.boot.configuration import OWNER_PAGE_FILE
from appliance.boot.stages import failed, read_stages
from appliance.config.guest import STATUS_PORT
from appliance.worker.attested import PATH, EvidencePage, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.boot.system import System
    from appliance.worker.attested import Evidence

MAX_POSTURE_BYTES: Final = 1 << 18
MAX_PAGE_BYTES: Final = 1 << 20
MAX_DIGEST_BYTES: Final = 64
WORKER_PAGES: Final = frozenset({"health", "status", "engine", "metrics"})


class Pages:
    """The routes.

    Args:
        system: The machine.
        evidence: Makes a bundle for a nonce, once there is something to make it with.
        named: The bundle that the certificate names, empty while it names none.
    """

    def __init__(
        self, system: System, evidence: Callable[[], Evidence | None], named: Callable[[], bytes] = bytes
    ) -> None:
        self._system = system
        self._evidence = EvidencePage(evidence, named)

    def application(self) -> web.Application:
        """The HTTP application; GET only."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/stages", self._stages)
        app.router.add_get("/v1/posture", self._posture)
        app.router.add_get(PATH, self._evidence.answer)
        app.router.add_get("/v1/worker/{page}", self._worker)
        return app

    async def _health(self, _request: web.Request) -> web.Response:
        records = read_stages(self._system.stages)
        bad = failed(records)
        ready = bad is None and all(record.state in {"done", "skipped"} for record in records)
        body = {"ready": ready, "failed": bad.name if bad else None, "reason": bad.reason if bad else ""}
        return web.json_response(body, status=200 if ready else 503)

    async def _stages(self, _request: web.Request) -> web.Response:
        return web.json_response({"stages": [asdict(record) for record in read_stages(self._system.stages)]})

    async def _posture(self, _request: web.Request) -> web.Response:
        """The boot's checks, and who listens now."""
        try:
            checks: Any = json.loads(self._system.read(posture.FILE, MAX_POSTURE_BYTES))
        except (OSError, ValueError):
            return problem(503, "the posture was not taken yet", "see /v1/stages")
        now = posture.socket_check(self._system, serving=True).to_dict()
        return web.json_response({"checks": checks, "now": [now]})

    def _is_owner(self, authorization: str) -> bool:
        try:
            wanted = self._system.read(f"/run/chrysalis/config/{OWNER_PAGE_FILE}", MAX_DIGEST_BYTES)
        except OSError:
            return False
        seen = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest().encode()
        return bool(wanted) and hmac.compare_digest(seen, wanted)

    async def _worker(self, request: web.Request) -> web.Response:
        """A page of the worker, as it is, for its owner: running counters tell a watcher how long answers are."""
        if not self._is_owner(request.headers.get("Authorization", "")):
            return problem(401, "this page is the owner's", "Authorization: Bearer <the key of owner_page_sha256>")
        page = request.match_info["page"]
        if page not in WORKER_PAGES:
            return problem(404, "no such page", ", ".join(sorted(WORKER_PAGES)))
        timeout = aiohttp.ClientTimeout(total=10)
        url = f"http://127.0.0.1:{STATUS_PORT}/{page}"
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(MAX_PAGE_BYTES)
                return web.Response(body=body, status=answer.status, content_type=answer.content_type)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return problem(503, "the worker does not run", "see /v1/stages")
