"""A gateway's surroundings for tests: a root state, accounts, ports that remember, peers over real links."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.accounting.gateway_ledger import InstanceRow
from appliance.chain.addresses import Address
from appliance.chain.cells import Writer
from appliance.chain.layouts import Params, RootState
from appliance.gateway.admission import AdmittedWorker
from appliance.gateway.book import Book, ClientAccount, Sequence
from appliance.gateway.desk import Desk, DeskLimits
from appliance.gateway.exchange import ClientConnection
from appliance.gateway.fleet import WorkerConnection
from appliance.gateway.payments import Payments
from appliance.gateway.terms import Identity, Terms
from appliance.wire.codec import encode
from appliance.wire.errors import LinkClosedError
from appliance.wire.messages import (
    ClientParams,
    ClientRunQueryEx,
    HttpHeader,
    HttpRequest,
    HttpResponse,
    ProxyQueryAnswerEx,
    ProxyQueryAnswerPartEx,
    ProxyQueryFinalInfo,
    TokensUsed,
    WorkerParams,
)

if TYPE_CHECKING:
    from appliance.gateway.exchange import Exchange
    from appliance.wire.base import TLObject

MODEL = "org/model"
FULL_MODEL = f"{MODEL}@main:{'ab' * 32}"
IMAGE = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
OWNER = Address(0, bytes([1]) * 32)
ROOT = Address(0, bytes([2]) * 32)
WALLET = Address(0, bytes([3]) * 32)
STAKE = 10_000_000_000
PRICE = 20
SECRET = b"a secret of the client"


def address(number: int) -> Address:
    """Some account."""
    return Address(0, hashlib.sha256(number.to_bytes(8, "big")).digest())


def code(number: int) -> Any:
    """A cell that stands for a contract's code: addresses follow from it, nothing runs it."""
    return Writer("code").uint(number, 8).end()


def root_state(*, version: int = 5, params_version: int = 3, price: int = PRICE, **changes: Any) -> RootState:
    """A root contract's contents that list the image and the model."""
    params = Params(
        params_version=params_version,
        unique_id=9,
        is_test=True,
        price_per_token=price,
        worker_fee_per_token=15,
        proxy_delay_before_close=2,
        client_delay_before_close=1,
        prompt_tokens_price_multiplier=10_000,
        cached_tokens_price_multiplier=1_000,
        completion_tokens_price_multiplier=20_000,
        reasoning_tokens_price_multiplier=20_000,
        min_proxy_stake=STAKE,
        min_client_stake=STAKE,
        proxy_code=code(1),
        worker_code=code(2),
        client_code=code(3),
    )
    values: dict[str, Any] = {
        "owner": OWNER,
        "version": version,
        "proxy_hashes": frozenset(),
        "registered_proxies": (),
        "last_proxy_seqno": 0,
        "worker_hashes": frozenset({IMAGE}),
        "model_hashes": frozenset({hashlib.sha256(FULL_MODEL.encode()).digest()}),
        "params": params,
    }
    return RootState(**(values | changes))


IDENTITY = Identity(ROOT, OWNER, KEY.public_key().public_bytes_raw(), is_test=True, testnet=False)


def terms(**changes: Any) -> Terms:
    """Terms of :func:`root_state`."""
    return Terms.of(IDENTITY, root_state(**changes))


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Port:
    """A peer's link: remembers what was sent, or is gone."""

    def __init__(self) -> None:
        self.sent: list[TLObject] = []
        self.gone = False

    def send(self, message: TLObject, size: int = 0) -> None:
        if self.gone:
            raise LinkClosedError("gone")
        self.sent.append(message)

    def take(self) -> list[TLObject]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent


class ClientBox(Port):
    """A client's port; ``full`` refuses parts."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def send(self, message: TLObject, size: int = 0) -> None:
        if not self.gone:
            self.sent.append(message)

    def post(self, exchange: Exchange, message: TLObject, size: int) -> bool:
        if self.full:
            return False
        self.send(message)
        return True


class World:
    """A desk with its book, and ways to add peers."""

    def __init__(self, *, limits: DeskLimits | None = None, **changes: Any) -> None:
        self.clock = Clock()
        self.wall = Clock()
        self.terms = terms(**changes)
        self.book = Book(
            InstanceRow(self.terms.contract.raw(), self.terms.params_version),
            sequence=Sequence(0),
            session=bytes([9]) * 32,
            sessions=frozenset({bytes([9]) * 32}),
        )
        self.payments = Payments(KEY, WALLET)
        self._ids = itertools.count(1)
        self.desk = Desk(
            limits or DeskLimits(),
            self.terms,
            self.book,
            self.payments,
            monotonic=self.clock,
            wall=self.wall,
            random_id=lambda: next(self._ids).to_bytes(32, "big"),
        )
        self._numbers = itertools.count(1)

    def client(self, number: int, *, balance: int = STAKE, stake: int = STAKE, version: int = 2) -> ClientConnection:
        """An authorised client; the same number is the same wallet."""
        owner = address(1000 + number)
        account = self.book.client(owner) or self.fund(owner, balance=balance, stake=stake)
        return ClientConnection(next(self._numbers), ClientBox(), owner, account, version)

    def fund(self, owner: Address, *, balance: int = STAKE, stake: int = STAKE, used: int = 0) -> ClientAccount:
        """The chain tells of a client contract."""
        return self.book.observe_client(
            owner,
            self.terms.client_contract(owner),
            status=0,
            balance=balance,
            stake=stake,
            used=used,
            secret_hash=hashlib.sha256(SECRET).digest(),
        )

    def worker(
        self, number: int, *, limit: int = 2, coefficient: int = 1000, version: int = 2, model: str = FULL_MODEL
    ) -> WorkerConnection:
        """A worker that is offered requests."""
        owner = address(2000 + number)
        admitted = AdmittedWorker(owner, model, model.partition("@")[0], coefficient, limit, version, IMAGE)
        account = self.book.worker(owner, self.terms.worker_contract(owner))
        connection = WorkerConnection(next(self._numbers), Port(), admitted, account)
        connection.shaken = connection.cleared = connection.can_cancel = True
        connection.disabled = False
        self.desk.fleet.add(connection)
        return connection

    def ask(self, client: ClientConnection, **changes: Any) -> bytes:
        """Submit a request; its id."""
        request_id = changes.pop("request_id", None) or next(self._ids).to_bytes(32, "big")
        self.desk.submit(client, run_query(request_id, **changes))
        return bytes(request_id)

    def reserved(self) -> int:
        """Everything that is set aside."""
        return sum(account.reserved for account in self.book.clients)


def http_request(body: dict[str, Any] | None = None, *, url: str = "/v1/chat/completions") -> bytes:
    """A serialised request of a user."""
    content = body if body is not None else {"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}
    payload = json.dumps(content).encode()
    headers = (HttpHeader("Content-Type", "application/json"), HttpHeader("content-length", str(len(payload))))
    return encode(HttpRequest("POST", url, "HTTP/1.1", headers, payload))


def run_query(request_id: bytes, **changes: Any) -> ClientRunQueryEx:
    """A client's request for fifty tokens."""
    values: dict[str, Any] = {
        "model_name": MODEL,
        "query": http_request(),
        "max_coefficient": 4000,
        "max_tokens": 50,
        "timeout": 100.0,
        "request_id": request_id,
        "min_config_version": 5,
        "flags": 1,
        "enable_debug": False,
    }
    return ClientRunQueryEx(**(values | changes))


def head(request_id: bytes, *, final: ProxyQueryFinalInfo | None = None, payload: bytes = b"") -> ProxyQueryAnswerEx:
    """The head of a worker's answer."""
    response = HttpResponse("HTTP/1.1", 200, "OK", (HttpHeader("content-type", "application/json"),), payload)
    return ProxyQueryAnswerEx(request_id, encode(response), int(final is not None), final)


def part(request_id: bytes, data: bytes, final: ProxyQueryFinalInfo | None = None) -> ProxyQueryAnswerPartEx:
    """A part of a worker's answer."""
    return ProxyQueryAnswerPartEx(request_id, data, int(final is not None), final)


def final(total: int, *, prompt: int | None = None) -> ProxyQueryFinalInfo:
    """A worker's report: all of ``total`` for the prompt unless split."""
    first = total if prompt is None else prompt
    return ProxyQueryFinalInfo(2, TokensUsed(first, 0, total - first, 0, total), None, 1.5, 2.5)


def usage_body(prompt: int, completion: int, *, cached: int = 0) -> bytes:
    """A JSON answer with its usage at the end."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    text = "word " * completion
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def worker_params(**changes: Any) -> WorkerParams:
    """What a reference worker says first (as in the traces)."""
    values: dict[str, Any] = {
        "flags": 3,
        "worker_owner_address": address(2001).friendly(),
        "model": FULL_MODEL,
        "coefficient": 1000,
        "is_test": True,
        "proxy_cnt": 1,
        "max_active_requests": 60,
        "min_proto_version": 1,
        "max_proto_version": 2,
    }
    return WorkerParams(**(values | changes))


def client_params(**changes: Any) -> ClientParams:
    """What a reference client says first (as in the traces)."""
    values: dict[str, Any] = {
        "flags": 3,
        "client_owner_address": address(1001).friendly(),
        "is_test": True,
        "min_proto_version": 1,
        "max_proto_version": 2,
    }
    return ClientParams(**(values | changes))
