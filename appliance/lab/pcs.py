"""The vendor's certification service of a synthetic world, over real HTTP (Intel PCS and PCCS, API version 4).

In: a world's collateral. Out: an aiohttp application that answers the four questions a verifier asks; a machine that
shares no file system with the world (a guest) gets its collateral here, by the code that asks a real cache.
"""

from __future__ import annotations

import json
import urllib.parse
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "127.0.0.1"


class CollateralWorld(Protocol):
    """What the service needs of a synthetic world."""

    def collateral_json(self) -> bytes:
        """Collateral as JSON, made for now."""


def application(world: CollateralWorld) -> web.Application:
    """The service's routes. Every answer is made anew, so that collateral never expires in a running world."""

    def parts() -> dict[str, str]:
        found: dict[str, str] = json.loads(world.collateral_json())
        return found

    async def pck_crl(_: web.Request) -> web.Response:
        found = parts()
        return _answer(bytes.fromhex(found["pck_crl"]), "SGX-PCK-CRL-Issuer-Chain", found["pck_crl_issuer_chain"])

    async def root_crl(_: web.Request) -> web.Response:
        return web.Response(body=parts()["root_ca_crl"].encode())

    async def tcb(_: web.Request) -> web.Response:
        found = parts()
        body = _signed("tcbInfo", found["tcb_info"], found["tcb_info_signature"])
        return _answer(body, "TCB-Info-Issuer-Chain", found["tcb_info_issuer_chain"])

    async def identity(_: web.Request) -> web.Response:
        found = parts()
        body = _signed("enclaveIdentity", found["qe_identity"], found["qe_identity_signature"])
        return _answer(body, "SGX-Enclave-Identity-Issuer-Chain", found["qe_identity_issuer_chain"])

    app = web.Application()
    app.add_routes([
        web.get("/sgx/certification/v4/pckcrl", pck_crl),
        web.get("/sgx/certification/v4/rootcacrl", root_crl),
        web.get("/tdx/certification/v4/tcb", tcb),
        web.get("/tdx/certification/v4/qe/identity", identity),
    ])  # fmt: skip
    return app


@asynccontextmanager
async def serving(world: CollateralWorld) -> AsyncIterator[int]:
    """Serve on a free loopback port; yields the port."""
    runner = web.AppRunner(application(world), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _answer(body: bytes, header: str, chain: str) -> web.Response:
    return web.Response(body=body, headers={header: urllib.parse.quote(chain)})


def _signed(member: str, text: str, signature: str) -> bytes:
    """The signed member as it was signed, byte for byte: JSON must not be written anew."""
    return b'{"%s":%s,"signature":"%s"}' % (member.encode(), text.encode(), signature.encode())
