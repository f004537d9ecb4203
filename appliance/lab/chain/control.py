"""The lab's control port: HTTP on loopback, for tests and the demonstration.

In: JSON. Out: JSON; ``{"error", "hint"}`` with status 400 for what cannot be done. Amounts are nanotons, bags of cells
are base64. ``/faucet`` and ``/deploy`` answer when the block with the payment is made.

==============================  ===================================================  ==========================
``POST /faucet``                ``{address, amount, body?}``                         ``{seqno}``
``POST /deploy``                ``{state_init, value, body?}``                       ``{seqno, address}``
``POST /send``                  ``{boc}`` an external message                        ``{}``
``POST /time``                  ``{advance_s}``                                      ``{utime}``
``POST /tick``                                                                       ``{seqno}``
``POST /key-block``             ``{rotate_validator?}``                              ``{seqno}``
``GET /status``                                                                      height, time, counts
==============================  ===================================================  ==========================
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc
from appliance.errors import ApplianceError
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.faucet import SUPPLY, Grant
from appliance.lab.chain.layout import BASECHAIN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.devnet import DevNet
    from appliance.lab.chain.producer import Producer

_MAX_BODY_BYTES = 1 << 18
_MAX_ADVANCE_S = 10 * 365 * 86400

Nanotons = Annotated[int, Field(gt=0, le=SUPPLY)]
Boc = Annotated[str, Field(max_length=_MAX_BODY_BYTES)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FaucetBody(_Body):
    """Money for an account."""

    address: str
    amount: Nanotons
    body: Boc | None = None


class DeployBody(_Body):
    """A contract to bring into being, with money from the faucet."""

    state_init: Boc
    value: Nanotons
    body: Boc | None = None


class SendBody(_Body):
    """An external message."""

    boc: Boc


class TimeBody(_Body):
    """How far to go ahead, in seconds."""

    advance_s: Annotated[int, Field(ge=0, le=_MAX_ADVANCE_S)]


class KeyBlockBody(_Body):
    """A key block, with a new validator or the same."""

    rotate_validator: bool = False


B = TypeVar("B", bound=_Body)


class Control:
    """The handlers of one chain."""

    def __init__(self, net: DevNet, producer: Producer) -> None:
        self._net = net
        self._producer = producer

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_errors])
        app.router.add_post("/faucet", self._faucet)
        app.router.add_post("/deploy", self._deploy)
        app.router.add_post("/send", self._send)
        app.router.add_post("/time", self._time)
        app.router.add_post("/tick", self._tick)
        app.router.add_post("/key-block", self._key_block)
        app.router.add_get("/status", self._status)
        return app

    async def _faucet(self, request: web.Request) -> web.Response:
        body = await _body(request, FaucetBody)
        grant = Grant(Address.parse(body.address), body.amount, _maybe_cell(body.body))
        return web.json_response({"seqno": await self._granted(grant)})

    async def _deploy(self, request: web.Request) -> web.Response:
        body = await _body(request, DeployBody)
        state_init = _cell(body.state_init)
        address = Address(BASECHAIN, state_init.hash)
        grant = Grant(address, body.value, _maybe_cell(body.body), state_init)
        return web.json_response({"seqno": await self._granted(grant), "address": address.raw()})

    async def _send(self, request: web.Request) -> web.Response:
        body = await _body(request, SendBody)
        await asyncio.to_thread(self._net.send, _bytes(body.boc))
        return web.json_response({})

    async def _time(self, request: web.Request) -> web.Response:
        body = await _body(request, TimeBody)
        return web.json_response({"utime": await asyncio.to_thread(self._net.advance_clock, body.advance_s)})

    async def _tick(self, _request: web.Request) -> web.Response:
        view = await self._producer.tick()
        return web.json_response({"seqno": view.seqno})

    async def _key_block(self, request: web.Request) -> web.Response:
        body = await _body(request, KeyBlockBody)
        ask = self._net.rotate_validator if body.rotate_validator else self._net.request_key_block
        await asyncio.to_thread(ask)
        view = await self._producer.tick()
        return web.json_response({"seqno": view.seqno})

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(asdict(await asyncio.to_thread(self._net.status)))

    async def _granted(self, grant: Grant) -> int:
        seqno = await asyncio.to_thread(self._net.grant, grant)
        return (await self._producer.after(seqno)).seqno


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApplianceError as error:
        return web.json_response({"error": error.message, "hint": error.hint}, status=400)


async def _body(request: web.Request, model: type[B]) -> B:
    if request.content_type != "application/json":  # no page of a browser can send this type unasked
        raise DevNetError(f"content type {request.content_type}, expected application/json")
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise DevNetError(f"{where}: {first['msg']}", hint="see the control port's documentation") from error


def _cell(text: str) -> Cell:
    return decode_boc(_bytes(text))


def _maybe_cell(text: str | None) -> Cell | None:
    return None if text is None else _cell(text)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DevNetError("a bag of cells is not base64") from error
