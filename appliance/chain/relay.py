"""Payouts handed to the owner: a node without gas money leaves the ready-made message to a wallet outside the guest.

In: a signed payment. Out: a :class:`PayoutOrder`, dropped atomically as a file or posted to a relay; and the relay's
own side, which sends what such a drop holds through the owner's wallet. A payout may be sent by anyone and pays only
the worker's owner (6.6, 6.7), so an order holds no secret and a relay can at worst not send it. What a relay reads
comes from a guest that it need not trust: only worker payouts are taken, and only with a limited value.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import structlog
from aiohttp import web

from appliance.chain.addresses import Address
from appliance.chain.errors import ChainError, LayoutError, TransportError
from appliance.chain.layouts import ContractStatus, WorkerData
from appliance.chain.messages import Op
from appliance.chain.payouts import PAYOUT_VALUE, payout_message
from appliance.chain.signed import SignedPayment, parse_payment
from appliance.chain.wallet import tons

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.chain.envelopes import OutgoingMessage
    from appliance.chain.types import ChainReader
    from appliance.chain.wallet import Wallet

MAX_ORDER_BYTES = 16384
_FORMAT = "chrysalis-payout-1"
_SUFFIX = ".payout.json"
_HTTP_TIMEOUT_S = 15.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PayoutOrder:
    """One payout to send: the payment, the nanotons to attach, and who gets what is left of them."""

    payment: SignedPayment
    value: int = PAYOUT_VALUE

    def message(self, excesses: Address) -> OutgoingMessage:
        """The message, with its excesses going to whoever sends it."""
        return payout_message(self.payment, excesses, value=self.value)

    def to_json(self) -> str:
        """The order as a file's or a request's text, with instructions for a person."""
        contract = self.payment.my_address
        body = base64.b64encode(self.payment.to_boc()).decode()
        return json.dumps(
            {
                "format": _FORMAT,
                "contract": contract.friendly(bounceable=True),
                "value": self.value,
                "tokens": self.payment.tokens,
                "body": body,
                "instructions": (
                    f"send {tons(self.value)} from any wallet to {contract.friendly(bounceable=True)} with this body; "
                    "the earnings go to the worker's owner, what is left of the value to the address in the body"
                ),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, largest_value: int = PAYOUT_VALUE) -> PayoutOrder:
        """Read an order; raises :class:`LayoutError` for anything but a worker payout of at most ``largest_value``."""
        if len(text) > MAX_ORDER_BYTES:
            raise LayoutError(f"a payout order of {len(text)} bytes, expected at most {MAX_ORDER_BYTES}")
        try:
            order: Any = json.loads(text)
            kind, value, body = order["format"], order["value"], base64.b64decode(order["body"], validate=True)
            contract = Address.parse(order["contract"])
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, AttributeError) as error:
            raise LayoutError("a payout order that is not JSON of the expected form") from error
        if kind != _FORMAT or type(value) is not int or not 0 < value <= largest_value:
            raise LayoutError(
                f"a payout order of format {kind!r} with value {value!r}, "
                f"expected {_FORMAT!r} and at most {largest_value}"
            )
        payment = parse_payment(body, op=Op.WORKER_PAYOUT)
        if payment.my_address != contract:
            raise LayoutError(f"a payout order for {contract.raw()} with a payment for {payment.my_address.raw()}")
        return cls(payment, value)


class PayoutRelay(Protocol):
    """Where a node without its own gas money leaves payouts."""

    async def hand_over(self, order: PayoutOrder) -> None:
        """Leave the order; raises ``ChainError`` when that is not possible now."""
        ...


class FileRelay:
    """Drops orders into a folder, one file a contract: a newer total replaces an older one.

    Args:
        folder: Shared with the relay or looked at by the owner; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def hand_over(self, order: PayoutOrder) -> None:
        """Write the order atomically; raises :class:`TransportError` when the folder cannot be written."""
        try:
            await asyncio.to_thread(self._write, order)
        except OSError as error:
            raise TransportError(
                f"the payout folder {self._folder} cannot be written: {error.strerror}", hint="check space and rights"
            ) from error

    def orders(self) -> list[tuple[Path, PayoutOrder]]:
        """All readable orders in the folder; unreadable files are logged and left alone."""
        found = []
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                with path.open("rb") as file:
                    found.append((path, PayoutOrder.from_json(file.read(MAX_ORDER_BYTES + 1))))
            except (OSError, LayoutError) as error:
                _log.warning("payout order unreadable", error=type(error).__name__)
        return found

    def _write(self, order: PayoutOrder) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{order.payment.my_address.hash.hex()}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(order.to_json())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class HttpRelay:
    """Posts orders to a relay that the owner runs.

    Args:
        url: Where the relay takes orders.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def hand_over(self, order: PayoutOrder) -> None:
        """Post the order; raises :class:`TransportError` unless the relay accepts it."""
        limit = aiohttp.ClientTimeout(total=_HTTP_TIMEOUT_S)
        headers = {"content-type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.post(self._url, data=order.to_json(), headers=headers, allow_redirects=False) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransportError(f"the payout relay cannot be reached: {type(error).__name__}") from error
        if status not in {HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT}:
            raise TransportError(f"the payout relay answered {status}, expected 200, 202 or 204")


def relay_application(relay: PayoutRelay) -> web.Application:
    """The other end of :class:`HttpRelay`: ``POST /payout`` takes one order and leaves it with ``relay``.

    It answers 202, or 400 for anything but an order; nothing can be read from it. Serve it where only the guest is.
    """

    async def take(request: web.Request) -> web.Response:
        try:
            await relay.hand_over(PayoutOrder.from_json(await request.read()))
        except LayoutError as error:
            raise web.HTTPBadRequest(text=error.message) from error
        except ChainError as error:
            raise web.HTTPServiceUnavailable(text=type(error).__name__) from error
        return web.Response(status=HTTPStatus.ACCEPTED)

    application = web.Application(client_max_size=MAX_ORDER_BYTES)
    application.router.add_post("/payout", take)
    return application


async def send_order(chain: ChainReader, wallet: Wallet, order: PayoutOrder) -> bool:
    """Send one order unless the chain shows that it is done or cannot be.

    Returns:
        Whether a message was sent; False when the contract has paid this total already, or is closed.

    Raises:
        LayoutError: There is no worker contract at the address.
        ChainError: The chain cannot be read, or the wallet cannot send.
    """
    account = await chain.account(order.payment.my_address)
    if account.status != "active" or account.data is None:
        raise LayoutError(
            f"payout for {order.payment.my_address.friendly()}: the account is {account.status}",
            hint="deploy the worker contract first",
        )
    worker = WorkerData.from_cell(account.data)
    if worker.state == ContractStatus.CLOSED or worker.tokens >= order.payment.tokens:
        return False
    order.payment.verify(worker.proxy_public_key, order.payment.my_address)
    await wallet.transfer([order.message(wallet.address)])
    return True


async def run_relay(chain: ChainReader, wallet: Wallet, folder: Path, *, interval: float = 15.0) -> None:
    """The owner's relay: send every order that appears in a folder, and remove those that are done. Never returns."""
    relay = FileRelay(folder)
    while True:
        await relay_once(chain, wallet, relay)
        await asyncio.sleep(interval)


async def relay_once(chain: ChainReader, wallet: Wallet, relay: FileRelay) -> int:
    """One pass over a relay's folder; the number of messages sent. An order that fails stays for the next pass."""
    sent = 0
    for path, order in await asyncio.to_thread(relay.orders):
        try:
            done = await send_order(chain, wallet, order)
        except ChainError as error:
            _log.warning("payout order not sent", error=type(error).__name__, contract=order.payment.my_address.raw())
            continue
        sent += done
        # A newer order may have taken the file's place meanwhile: it is looked at in the next pass.
        if await asyncio.to_thread(_unchanged, path, order):
            await asyncio.to_thread(path.unlink, missing_ok=True)
    return sent


def _unchanged(path: Path, order: PayoutOrder) -> bool:
    try:
        return PayoutOrder.from_json(path.read_bytes()) == order
    except (OSError, LayoutError):
        return False
