"""The vendors' services of a synthetic world on one loopback port, over real HTTP, with faults for each of them.

In: worlds. Out: a server that answers as Intel's, AMD's and NVIDIA's services do, under their paths, so that the code
that asks the real ones is what is tested, and a machine that shares no file system with the world (a guest) gets its
collateral as it would in the field. Nothing of it is ever reachable from another machine.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import email.utils
import hashlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Self, TypeVar, cast

from aiohttp import web

from appliance.lab import collateral_answers as answers
from appliance.lab.collateral_faults import CONTENT, Fault, Service, twin
from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from appliance.lab.collateral_answers import Answer
    from appliance.lab.collateral_faults import World
    from appliance.lab.gpu_world import SyntheticGpus
    from appliance.lab.snp_world import SyntheticSnp
    from appliance.lab.tee import SyntheticTdx

_World = TypeVar("_World", "SyntheticTdx", "SyntheticSnp", "SyntheticGpus")

HOST = "127.0.0.1"
OVERSIZED_BYTES = 64 * 1024 * 1024
_MAX_REQUEST = 64 * 1024
_CHUNK = b" " * 65536
_DRIP_S = 0.05
_SHUTDOWN_S = 1.0
_DAY_S = 86400.0
_PORTAL = (
    b"<!DOCTYPE html><html><head><title>Log in</title></head><body>Accept the terms of this network.</body></html>"
)


class CollateralServer:
    """Services of the worlds that are given; a service without its world answers 404. Use as a context manager.

    Args:
        tdx: Answered for as Intel's service: ``/sgx/certification/v4/…``, ``/tdx/certification/v4/…``.
        snp: Answered for as AMD's: ``/vcek/v1/…``, ``/vlek/v1/…``.
        gpus: Answered for as NVIDIA's: ``/v1/rim/…`` and ``/ocsp``.
        slow_s: How long a slow answer takes; it ends with the server.

    Attributes:
        asked: How often each service was asked.
    """

    def __init__(
        self,
        *,
        tdx: SyntheticTdx | None = None,
        snp: SyntheticSnp | None = None,
        gpus: SyntheticGpus | None = None,
        slow_s: float = 600.0,
    ) -> None:
        self.asked: collections.Counter[Service] = collections.Counter()
        self._tdx, self._snp, self._gpus = tdx, snp, gpus
        self._slow_s = slow_s
        self._faults: dict[Service, tuple[Fault, int | None]] = {}
        self._twins: dict[tuple[Service, Fault], World] = {}
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._silent: socket.socket | None = None

    async def __aenter__(self) -> Self:
        """Listen on a free port of the loopback interface."""
        self._closing.clear()
        runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=_SHUTDOWN_S, handler_cancellation=True
        )
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        self._runner = runner
        self._silent = socket.socket()
        self._silent.bind((HOST, 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; answers under way end."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._silent is not None:
            self._silent.close()

    @property
    def port(self) -> int:
        """The port.

        Raises:
            LabError: The server does not run.
        """
        if self._runner is None or not self._runner.addresses:
            raise LabError("the collateral server does not run")
        return int(self._runner.addresses[0][1])

    @property
    def url(self) -> str:
        """Address of every service but the revocation service."""
        return f"http://{HOST}:{self.port}"

    @property
    def ocsp_url(self) -> str:
        """Address of the revocation service."""
        return f"{self.url}/ocsp"

    @property
    def nobody_url(self) -> str:
        """An address at which connections are refused for as long as the server runs.

        Raises:
            LabError: The server does not run.
        """
        if self._silent is None:
            raise LabError("the collateral server does not run")
        return f"http://{HOST}:{self._silent.getsockname()[1]}"

    def fail(self, service: Service, fault: Fault | None, *, times: int | None = None) -> None:
        """Answer for a service with a fault from now on.

        Args:
            service: Which.
            fault: What is wrong; ``None`` ends it.
            times: After so many answers all is well again; never by default.

        Raises:
            LabError: The service cannot have that fault.
        """
        if fault is None:
            self._faults.pop(service, None)
            return
        if fault in CONTENT:
            self._twins[service, fault] = twin(self._world(service), service, fault)
        self._faults[service] = (fault, times)

    def fail_all(self, fault: Fault | None) -> None:
        """Answer for every service with a fault of the exchange from now on."""
        for service in Service:
            self.fail(service, fault)

    def _world(self, service: Service) -> World:
        if service in _TDX:
            world: World | None = self._tdx
        else:
            world = self._snp if service in _SNP else self._gpus
        if world is None:
            raise LabError(f"no world answers for service {service.value} here")
        return world

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=_MAX_REQUEST)
        application.add_routes([
            web.get("/sgx/certification/v4/pckcrl", self._intel(Service.PCK_CRL)),
            web.get("/sgx/certification/v4/rootcacrl", self._intel(Service.ROOT_CRL)),
            web.get("/tdx/certification/v4/tcb", self._intel(Service.TCB_INFO)),
            web.get("/tdx/certification/v4/qe/identity", self._intel(Service.QE_IDENTITY)),
            web.get("/{key:vcek|vlek}/v1/{product}/{name}", self._amd),
            web.get("/v1/rim/ids", self._rim_ids),
            web.get("/v1/rim/{id}", self._rim),
            web.post("/ocsp", self._ocsp),
            web.get("/ocsp/{request:.+}", self._ocsp),
        ])  # fmt: skip
        return application

    def _intel(self, service: Service) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            query = request.query
            return await self._serve(request, service, self._tdx, lambda world: answers.tdx(world, service, query))

        return handle

    async def _amd(self, request: web.Request) -> web.StreamResponse:
        names = {"cert_chain": Service.AMD_CHAIN, "crl": Service.AMD_CRL}
        service = names.get(request.match_info["name"], Service.VEK)
        return await self._serve(request, service, self._snp, lambda world: answers.amd(world, request.path_qs))

    async def _rim(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        return await self._serve(request, Service.RIM, self._gpus, lambda world: answers.rim(world, name))

    async def _rim_ids(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Service.RIM_IDS, self._gpus, answers.rim_ids)

    async def _ocsp(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            asked = await request.read() if request.content_type == answers.OCSP_REQUEST else b""
        else:
            asked = answers.request_in(request.match_info["request"])
        return await self._serve(request, Service.OCSP, self._gpus, lambda world: answers.revocation(world, asked))

    async def _serve(
        self, request: web.Request, service: Service, world: _World | None, make: Callable[[_World], Answer]
    ) -> web.StreamResponse:
        """Answer, with the fault that is due."""
        self.asked[service] += 1
        fault = self._due(service)
        if fault in CONTENT and fault is not None:
            world = cast("_World", self._twins[service, fault])
        answer = answers.NOT_FOUND if world is None else make(world)
        if fault is Fault.SLOW:
            await self._wait(self._slow_s)
        if fault in _STREAMS:
            return await self._stream(request, answer, fault)
        return _whole(request, answer, fault)

    def _due(self, service: Service) -> Fault | None:
        fault, left = self._faults.get(service, (None, None))
        if fault is not None and left is not None:
            if left <= 1:
                self._faults.pop(service)
            else:
                self._faults[service] = (fault, left - 1)
        return fault

    async def _stream(self, request: web.Request, answer: Answer, fault: Fault | None) -> web.StreamResponse:
        """A body that is cut off, too long or without end."""
        response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        response.content_type = answer.content_type
        if fault is Fault.TRUNCATED:
            response.content_length = len(answer.body)
        if fault is Fault.OVERSIZED:
            response.content_length = OVERSIZED_BYTES
        await response.prepare(request)
        if fault is Fault.TRUNCATED:
            await response.write(answer.body[: len(answer.body) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        sent = 0
        while not self._closing.is_set() and (fault is not Fault.OVERSIZED or sent < OVERSIZED_BYTES):
            chunk = _CHUNK[:1] if fault is Fault.DRIPPING else _CHUNK
            await response.write(chunk)
            sent += len(chunk)
            if fault is Fault.DRIPPING:
                await self._wait(_DRIP_S)
        if self._closing.is_set() and request.transport is not None:
            request.transport.close()
        return response

    async def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the server runs."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def _whole(request: web.Request, answer: Answer, fault: Fault | None) -> web.Response:
    """An answer with a body that ends."""
    if fault is Fault.DOWN and request.transport is not None:
        taken = request.transport.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
        request.transport.abort()
        return web.Response()
    if fault in _STATUSES and fault is not None:
        status, headers = _STATUSES[fault]
        return web.Response(status=status, headers=headers)
    if fault in _BODIES and fault is not None:
        return web.Response(body=_BODIES[fault], content_type=answer.content_type, headers=dict(answer.headers))
    headers = dict(answer.headers)
    if fault is Fault.SKEWED:
        headers["Date"] = email.utils.formatdate(time.time() - _DAY_S, usegmt=True)
    return web.Response(body=answer.body, status=answer.status, content_type=answer.content_type, headers=headers)


_TDX = frozenset({Service.PCK_CRL, Service.ROOT_CRL, Service.TCB_INFO, Service.QE_IDENTITY})
_SNP = frozenset({Service.VEK, Service.AMD_CHAIN, Service.AMD_CRL})
_STREAMS = frozenset({Fault.TRUNCATED, Fault.OVERSIZED, Fault.ENDLESS, Fault.DRIPPING})
_STATUSES: dict[Fault, tuple[int, dict[str, str]]] = {
    Fault.NOT_FOUND: (404, {}),
    Fault.TOO_MANY: (429, {"Retry-After": "1"}),
    Fault.BROKEN: (500, {}),
    Fault.UNAVAILABLE: (503, {}),
    Fault.REDIRECTED: (302, {"Location": "http://elsewhere.invalid/"}),
}
_BODIES: dict[Fault, bytes] = {
    Fault.GARBAGE: b"".join(hashlib.sha512(bytes([number])).digest() for number in range(64)),
    Fault.EMPTY: b"",
    Fault.PORTAL: _PORTAL,
}
