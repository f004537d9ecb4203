"""A small world around a worker: root parameters, a scripted gateway, a model server with moods. All on loopback."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.accounting.worker_ledger import WorkerLedger
from appliance.chain.addresses import Address
from appliance.chain.cells import Writer
from appliance.chain.layouts import Params, RegisteredProxy, RootState, WorkerData
from appliance.chain.messages import Op
from appliance.chain.payouts import PayoutTerms
from appliance.chain.signed import sign_payment
from appliance.chain.stateinit import proxy_address, worker_address
from appliance.chain.types import AccountState, BlockId, Head
from appliance.engine.endpoint import Endpoint
from appliance.engine.proxy import EngineClient
from appliance.engine.rules import Rules
from appliance.wire.codec import decode, encode
from appliance.wire.errors import QueryError
from appliance.wire.messages import (
    ChrysalisHello,
    HttpHeader,
    HttpRequest,
    HttpResponse,
    ProxyParams,
    ProxyQueryAnswer,
    ProxyQueryAnswerEx,
    ProxyRunQuery,
    ProxyRunQueryEx,
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    WorkerCompareBalanceWithProxy,
    WorkerCompareBalanceWithProxyResult,
    WorkerConnectedToProxy,
    WorkerConnectToProxy,
    WorkerExtendedCompareBalanceWithProxy,
    WorkerExtendedCompareBalanceWithProxyResult,
    WorkerPaymentStatus,
    WorkerProxyHandshakeComplete,
    WorkerProxyHandshakeCompleted,
    WorkerUpdatePaymentStatus,
)
from appliance.wire.reconnect import Backoff
from appliance.wire.transport import LinkProtocol, TcpDialer, TcpListener
from appliance.worker.book import Book
from appliance.worker.handshake import Offer
from appliance.worker.intake import CacheSalts
from appliance.worker.payouts import Collector
from appliance.worker.requests import RequestRunner
from appliance.worker.service import Settings, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from appliance.accounting.records import ProxyRecord
    from appliance.wire.base import TLObject
    from appliance.wire.transport import Link

MODEL = "tiny"
FULL_MODEL = MODEL + "@main:" + "0" * 64
ROOT = Address(0, b"\x0a" * 32)
OWNER = Address(0, b"\x0b" * 32)
GATEWAY_OWNER = Address(0, b"\x0c" * 32)


def code(n: int) -> Any:
    return Writer("code").uint(n, 8).end()


def make_params(version: int = 1, **changes: Any) -> Params:
    base = Params(
        params_version=version,
        unique_id=7,
        is_test=True,
        price_per_token=2,
        worker_fee_per_token=1,
        proxy_delay_before_close=600,
        client_delay_before_close=300,
        proxy_code=code(1),
        worker_code=code(2),
        client_code=code(3),
    )
    return replace(base, **changes)


@dataclass
class Accounts:
    """A gateway's side of the money: key, contracts, totals."""

    params: Params
    key: Ed25519PrivateKey = field(default_factory=lambda: Ed25519PrivateKey.from_private_bytes(b"\x11" * 32))
    committed: int = 0
    db: int = 0
    maximum: int = 0

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def contract(self) -> Address:
        return proxy_address(ROOT, self.params, GATEWAY_OWNER, self.public_key)

    @property
    def worker_contract(self) -> Address:
        return worker_address(self.params, OWNER, self.contract, self.public_key)

    def payment(self, tokens: int | None = None, *, key: Ed25519PrivateKey | None = None) -> ProxySignedPayment:
        signed = sign_payment(
            key or self.key,
            Op.WORKER_PAYOUT,
            secrets.randbits(64),
            self.committed if tokens is None else tokens,
            self.worker_contract,
            GATEWAY_OWNER,
        )
        return ProxySignedPayment(signed.to_boc())


class Gateway:
    """A gateway that does the least the protocol asks (section 2.11), and whatever a test tells it to."""

    def __init__(self, accounts: Accounts, protocol: int = 2) -> None:
        self.accounts = accounts
        self.protocol = protocol
        self.link: Link | None = None
        self.links = 0
        self.queries: list[TLObject] = []
        self.messages: list[TLObject] = []
        self.arrived = asyncio.Condition()
        self.completed = asyncio.Event()
        self.change: Callable[[TLObject], TLObject] = lambda answer: answer
        self.compare_code = 0
        self.refuse: type[TLObject] | None = None
        self.drop_at: type[TLObject] | None = None
        self.address = ""
        self.touchy = False

    def link_ready(self, link: Link) -> None:
        self.link = link
        self.links += 1

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        self.completed.clear()

    def message_received(self, link: Link, message: TLObject) -> None:
        self.messages.append(message)
        asyncio.ensure_future(self._wake())  # noqa: RUF006 - ends at once

    async def _wake(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        self.queries.append(query)
        if self.drop_at is not None and isinstance(query, self.drop_at):
            link.close()
            raise QueryError("gone")
        if self.refuse is not None and isinstance(query, self.refuse):
            raise QueryError("refused", code=621)
        return self.change(self.answer(query))

    def answer(self, query: TLObject) -> TLObject:
        accounts = self.accounts
        match query:
            case WorkerConnectToProxy():
                flags = 3 if self.protocol else 1
                params = ProxyParams(
                    flags,
                    accounts.public_key,
                    GATEWAY_OWNER.friendly(),
                    accounts.contract.friendly(),
                    is_test=True,
                    proto_version=self.protocol or None,
                )
                return WorkerConnectedToProxy(params, accounts.worker_contract.friendly())
            case WorkerCompareBalanceWithProxy():
                return WorkerCompareBalanceWithProxyResult(
                    accounts.payment(), accounts.db, accounts.maximum, self.compare_code
                )
            case WorkerExtendedCompareBalanceWithProxy():
                return WorkerExtendedCompareBalanceWithProxyResult(0)
            case WorkerProxyHandshakeComplete():
                self.completed.set()
                return WorkerProxyHandshakeCompleted()
            case WorkerUpdatePaymentStatus():
                return WorkerPaymentStatus(accounts.payment(), accounts.db, accounts.maximum)
        raise QueryError("Lost promise", code=0)

    async def wait_for(self, wanted: Callable[[list[TLObject]], bool]) -> list[TLObject]:
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: wanted(self.messages))
        return self.messages

    def send(self, message: TLObject) -> None:
        assert self.link is not None
        self.link.send(message)

    async def ask(self, body: dict[str, Any] | bytes, **changes: Any) -> list[TLObject]:
        """Run a request and wait for its end."""
        query = self.run_query(body, **changes)
        self.send(query)
        return await self.ended(query.request_id)

    def run_query(self, body: dict[str, Any] | bytes, **changes: Any) -> ProxyRunQuery | ProxyRunQueryEx:
        payload = body if isinstance(body, bytes) else json.dumps({"model": MODEL, "messages": [], **body}).encode()
        headers = changes.pop("headers", ())
        request = HttpRequest(
            "POST",
            changes.pop("url", "/v1/chat/completions"),
            "HTTP/1.1",
            tuple(HttpHeader(name, value) for name, value in headers),
            payload,
        )
        values: dict[str, Any] = {
            "query": encode(request),
            "signed_payment": ProxySignedPaymentEmpty(),
            "coefficient": 1000,
            "timeout": 15.0,
            "request_id": secrets.token_bytes(32),
        }
        debug = changes.pop("debug", False)
        values |= changes
        if self.protocol == 0:
            return ProxyRunQuery(**values)
        return ProxyRunQueryEx(**values, flags=1, enable_debug=debug)

    async def ended(self, request_id: bytes) -> list[TLObject]:
        def mine() -> list[TLObject]:
            return [m for m in self.messages if getattr(m, "request_id", None) == request_id]

        def over(_messages: list[TLObject]) -> bool:
            own = mine()
            return bool(own) and (
                bool(getattr(own[-1], "flags", 0)) or bool(getattr(own[-1], "is_completed", False))
                or "Error" in type(own[-1]).__name__
            )  # fmt: skip

        await self.wait_for(over)
        return mine()


def head_of(messages: list[TLObject]) -> HttpResponse:
    first = messages[0]
    assert isinstance(first, ProxyQueryAnswerEx | ProxyQueryAnswer)
    return decode(first.answer, HttpResponse)


def body_of(messages: list[TLObject]) -> bytes:
    return b"".join(getattr(message, "answer", b"") for message in messages[1:])


class ModelServer:
    """An OpenAI-like server; the first word of the first message says how it behaves."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = asyncio.Event()
        self.release = asyncio.Event()
        self.port = 0
        self.down = False

    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{1 if self.down else self.port}", "engine-key")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.aborted.set()
            raise

    async def _answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - a mood, an answer
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        mood = body["messages"][0]["content"] if body["messages"] else "plain"
        if mood == "empty":
            return web.Response(status=204)
        if mood == "refuse":
            return web.json_response({"error": "no"}, status=400)
        if mood == "number":
            return web.Response(text="123", content_type="application/json")
        if mood == "headers":
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nX-Odd: \xff\xfe\r\nContent-Length: 2\r\n\r\nok")
            request.transport.close()
            return web.Response()
        if mood == "silent":
            await self.release.wait()
        response = web.StreamResponse(headers={"X-Model": "m", "Keep-Alive": "timeout=5"})
        if not body.get("stream"):
            response.content_type = "application/json"
            await response.prepare(request)
            await response.write(b'{"choices":[{"message":{"content":"hi"}}],')
            if mood == "die":
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(b'"usage":{"prompt_tokens":11,"prompt_tokens_details":{"cached_tokens":3},')
            await response.write(b'"completion_tokens":5,"reasoning_tokens":1,"total_tokens":16}}')
            return response
        response.content_type = "text/event-stream"
        await response.prepare(request)
        for word in ("one", "two", "three"):
            event = {"choices": [{"delta": {"content": word}}]}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.01)
            if mood == "die":
                assert request.transport is not None
                request.transport.abort()
                return response
            if mood == "endless":
                await self.release.wait()
        await response.write(b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def serving(server: ModelServer) -> AsyncIterator[ModelServer]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.release.set()
        await runner.cleanup()


class Tempered(LinkProtocol):
    """The accepting side; closes over the query for extensions if its gateway is touchy about it."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, connecting=False)
        self._gateway = gateway

    def data_received(self, data: bytes) -> None:
        if self._gateway.touchy and ChrysalisHello.TL_ID.to_bytes(4, "little") in data:
            self.link.close()
            return
        super().data_received(data)


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[Gateway]:
    protocols: list[LinkProtocol] = []

    def factory() -> LinkProtocol:
        protocols.append(Tempered(gateway))
        return protocols[-1]

    server = await TcpListener().serve(factory, "127.0.0.1", 0)
    gateway.address = "{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield gateway
    finally:
        server.close()
        if gateway.link is not None:
            gateway.link.close()
        await server.wait_closed()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the things waited for have no event of their own
            await asyncio.sleep(0.005)


class Registry:
    """The root contract as a test has it."""

    def __init__(self, params: Params, gateways: tuple[str, ...] = ()) -> None:
        self.params = params
        self.gateways = gateways
        self.images: set[bytes] = {bytes(32)}
        self.proxy_images: set[bytes] = {bytes(32)}
        self.models: set[str] = {FULL_MODEL}
        self.seconds = 0.0

    @property
    def state(self) -> RootState:
        return RootState(
            owner=OWNER,
            version=1,
            proxy_hashes=frozenset(self.proxy_images),
            registered_proxies=tuple(RegisteredProxy(i, a, a, a) for i, a in enumerate(self.gateways)),
            last_proxy_seqno=len(self.gateways),
            worker_hashes=frozenset(self.images),
            model_hashes=frozenset(),
            params=self.params,
        )

    def age(self) -> float:
        return self.seconds

    def image_listed(self, image: bytes) -> bool:
        return image in self.images

    def proxy_image_listed(self, image: bytes) -> bool:
        return image in self.proxy_images

    def model_listed(self, model: str) -> bool:
        return model in self.models


class Chain:
    """Accounts as a test has them."""

    def __init__(self) -> None:
        self.workers: dict[Address, WorkerData] = {}
        self.asked = 0

    async def account(self, address: Address) -> AccountState:
        self.asked += 1
        data = self.workers.get(address)
        head = Head(BlockId(-1, -(2**63), 1, b"", b""), 0)
        status = "absent" if data is None else "active"
        cell = None if data is None else data.to_cell()
        return AccountState(address, status, 0, None, cell, 0, b"", head)  # type: ignore[arg-type]  # a literal

    def put(self, accounts: Accounts, tokens: int, state: int = 0) -> None:
        self.workers[accounts.worker_contract] = WorkerData(
            owner=OWNER,
            proxy=accounts.contract,
            proxy_public_key=accounts.public_key,
            state=state,
            tokens=tokens,
            params=accounts.params.for_peer().to_cell(),
        )


class Payer:
    """Notes what it is asked to pay."""

    def __init__(self) -> None:
        self.deployed: list[Any] = []
        self.paid: list[Any] = []

    async def deploy(self, contract: Any) -> None:
        self.deployed.append(contract)

    async def payout(self, payment: Any) -> None:
        self.paid.append(payment)


@dataclass
class World:
    """Everything around one worker."""

    accounts: Accounts
    gateway: Gateway
    model: ModelServer
    registry: Registry
    chain: Chain
    payer: Payer
    book: Book
    requests: RequestRunner
    worker: Worker
    engine_up: list[bool]

    @property
    def record(self) -> ProxyRecord:
        return self.book.durable[self.accounts.contract]


def offer(coefficient: int = 1000) -> Offer:
    return Offer(OWNER, FULL_MODEL, coefficient, is_test=True, testnet=False, proxy_count=1, max_active_requests=4)


@asynccontextmanager
async def make_world(path: Path, *, protocol: int = 2, start: bool = True, **options: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        accounts = Accounts(make_params())
        gateway = await stack.enter_async_context(listening(Gateway(accounts, protocol)))
        model = await stack.enter_async_context(serving(ModelServer()))
        registry, chain, payer = Registry(accounts.params, (gateway.address,)), Chain(), Payer()
        engine = EngineClient(model)
        stack.push_async_callback(engine.close)
        book = Book(WorkerLedger(path / "worker.sqlite"), retry=0.05)
        stack.push_async_callback(book.close)
        rules = Rules(MODEL, options.pop("max_tokens", 100))
        requests = RequestRunner(engine, rules, CacheSalts(b"k" * 32), max_active=options.pop("max_active", 4))
        collector = Collector(book, chain, payer, PayoutTerms(minimum=1000, fee=10), OWNER)  # type: ignore[arg-type]  # reads only
        up = [True]
        worker = Worker(
            Settings(
                root=ROOT,
                image=bytes(32),
                check_images=options.pop("check_images", True),
                check_models=True,
                max_age=100.0,
                gateways=(),
                links=1,
            ),
            offer(),
            registry=registry,
            chain=chain,  # type: ignore[arg-type]  # the worker reads accounts only
            book=book,
            requests=requests,
            collector=collector,
            dialer=TcpDialer(),
            engine_ready=lambda: up[0],
            payer=payer,
            chance=random.Random(1),  # noqa: S311 - a test repeats
            tick=(0.01, 0.02),
            backoff=Backoff(initial=0.02, maximum=0.1),
            **options,
        )
        world = World(accounts, gateway, model, registry, chain, payer, book, requests, worker, up)
        if start:
            task = asyncio.create_task(worker.run())
            stack.push_async_callback(_ended, task)
            await until(lambda: bool(worker.links) and worker.links[0].ready)
        yield world


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
