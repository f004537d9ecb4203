"""A client's surroundings for tests: a network's root, a chain, a wallet, and a scripted gateway on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.accounting.client_ledger import ClientLedger
from appliance.chain import messages as msg
from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError
from appliance.chain.layouts import ClientConstants, ClientData, Params, RootState
from appliance.chain.signed import sign_payment
from appliance.chain.stateinit import client_address, proxy_address
from appliance.chain.types import AccountState, BlockId, Head, Message, Transaction
from appliance.client.access import Access
from appliance.client.duties import Duties
from appliance.client.endpoint import Endpoint
from appliance.client.handshake import Self, Terms
from appliance.client.library import Client
from appliance.client.metrics import ClientMetrics
from appliance.client.money import Purse
from appliance.client.pool import GatewayPool
from appliance.client.program import bind, serve
from appliance.client.refunds import Refunds
from appliance.client.request import Limits
from appliance.client.session import GatewaySession
from appliance.client.verification import Demand, Prover
from appliance.wire import extensions
from appliance.wire import messages as tl
from appliance.wire.codec import decode, encode
from appliance.wire.errors import QueryError
from appliance.wire.transport import Link, LinkProtocol, TcpDialer, TcpListener
from attestation.claims import WorkloadStatement, image_hash
from attestation.collateral import StaticCollateral
from attestation.evidence import build_bundle
from attestation.policy import for_name
from attestation.ratls import Identity, Peer
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.envelopes import OutgoingMessage
    from appliance.lab.tee import SyntheticTdx
    from appliance.wire.base import TLObject

TON = 1_000_000_000
STAKE = 10 * TON
PRICE = 20
MODEL = "org/model"
FULL_MODEL = f"{MODEL}@main:{'ab' * 32}"
ROOT = Address(0, bytes([2]) * 32)
OWNER = Address(0, bytes([1]) * 32)
WALLET = Address(0, bytes([3]) * 32)
SECRET = b"a secret that the client keeps"
API_KEY = "a-key-of-the-local-endpoint"
KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
ZEROSTATE = bytes([9]) * 32
ORIGIN = "https://app.example"
_MEASURED = ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def code(number: int) -> Cell:
    """A cell that stands for a contract's code: addresses follow from it, nothing runs it."""
    return Writer("code").uint(number, 8).end()


def root_params(**changes: Any) -> Params:
    """Parameters in which an answer's tokens cost more than a prompt's."""
    values: dict[str, Any] = {
        "params_version": 3,
        "unique_id": 9,
        "is_test": True,
        "price_per_token": PRICE,
        "worker_fee_per_token": 15,
        "proxy_delay_before_close": 600,
        "client_delay_before_close": 300,
        "prompt_tokens_price_multiplier": 10_000,
        "cached_tokens_price_multiplier": 1_000,
        "completion_tokens_price_multiplier": 20_000,
        "reasoning_tokens_price_multiplier": 20_000,
        "min_proxy_stake": STAKE,
        "min_client_stake": STAKE,
        "proxy_code": code(1),
        "worker_code": code(2),
        "client_code": code(3),
    }
    return Params(**(values | changes))


def root_state(params: Params | None = None, **changes: Any) -> RootState:
    """A root contract's contents that list the model."""
    values: dict[str, Any] = {
        "owner": OWNER,
        "version": 5,
        "proxy_hashes": frozenset(),
        "registered_proxies": (),
        "last_proxy_seqno": 0,
        "worker_hashes": frozenset(),
        "model_hashes": frozenset({hashlib.sha256(FULL_MODEL.encode()).digest()}),
        "params": params or root_params(),
    }
    return RootState(**(values | changes))


def terms(params: Params | None = None, *, short: bool = True, nonce: int = 0) -> Terms:
    """What a client derives for the scripted gateway."""
    params = params or root_params()
    contract = proxy_address(ROOT, params, OWNER, PUBLIC)
    mine = client_address(params, WALLET, contract, PUBLIC)
    return Terms(PUBLIC, OWNER, contract, mine, 2, short, nonce, params)


def charge(tokens: int, at: Terms | None = None, key: Ed25519PrivateKey = KEY) -> tl.ProxySignedPayment:
    """A charge that the gateway signed."""
    contract = (at or terms()).client_contract
    return tl.ProxySignedPayment(sign_payment(key, msg.Op.CLIENT_CHARGE, 1, tokens, contract, WALLET).to_boc())


def used(prompt: int = 10, completion: int = 5, *, total: int | None = None) -> tl.TokensUsed:
    """A final info's tokens."""
    return tl.TokensUsed(prompt, 0, completion, 0, prompt + completion if total is None else total)


class Ticks:
    """A clock that tests move."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeChain:
    """Proven reads of accounts that the test writes; a ``ChainReader``."""

    def __init__(self, utime: int = 1_800_000_000) -> None:
        self.utime = utime
        self.accounts: dict[Address, tuple[Cell | None, int]] = {}
        self.found: dict[Address, list[Transaction]] = {}
        self.broken: Exception | None = None
        self.seqno = 1
        self._lts = itertools.count(10, 10)

    def put(self, address: Address, data: ClientData | None) -> None:
        """The account has this data now."""
        self.accounts[address] = (None if data is None else data.to_cell(), next(self._lts))
        self.seqno += 1

    def happen(self, account: Address, body: Cell, *, sent: Sequence[Cell] = (), aborted: bool = False) -> None:
        """A transaction on an account: a message in, messages out."""
        lt = next(self._lts)
        where = Address(0, bytes(32))
        outbound = tuple(Message(account, where, 1, cell, False, lt, 0) for cell in sent)
        self.found.setdefault(account, []).append(
            Transaction(
                account=account,
                lt=lt,
                hash=lt.to_bytes(32, "big"),
                previous_lt=0,
                previous_hash=bytes(32),
                utime=self.utime,
                inbound=Message(WALLET, account, 1, body, False, lt, 0),
                outbound=outbound,
                total_fees=0,
                exit_code=0,
                aborted=aborted,
            )
        )
        data, _ = self.accounts.get(account, (None, 0))
        self.accounts[account] = (data, lt)
        self.seqno += 1

    async def head(self) -> Head:
        if self.broken is not None:
            raise self.broken
        return Head(BlockId(-1, -(2**63), self.seqno, bytes(32), bytes(32)), self.utime)

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Head:  # noqa: ASYNC109 - the reader's protocol
        await asyncio.sleep(0.01)
        return await self.head()

    async def account(self, address: Address) -> AccountState:
        head = await self.head()
        data, lt = self.accounts.get(address, (None, 0))
        status: Any = "absent" if data is None else "active"
        return AccountState(address, status, 10 * TON, code(1) if data else None, data, lt, bytes(32), head)

    async def transactions(self, address: Address, *, after_lt: int = 0, limit: int = 256) -> Sequence[Transaction]:
        await self.head()
        return [transaction for transaction in self.found.get(address, []) if transaction.lt > after_lt][-limit:]

    async def send(self, boc: bytes) -> None:
        raise AssertionError("the wallet sends, nobody else")


def client_data(
    at: Terms, *, balance: int = STAKE, state: int = 0, secret: bytes = SECRET, **changes: Any
) -> ClientData:
    """A client contract."""
    data = ClientData(
        state,
        balance,
        STAKE,
        0,
        0,
        hashlib.sha256(secret).digest(),
        ClientConstants(WALLET, at.contract, at.public_key),
        at.params.for_peer().to_cell(),
    )
    return replace(data, **changes)


class FakeWallet:
    """A wallet whose messages the chain shows at once, later, or never.

    ``when`` is "now" (the contract has it when transfer returns), "sent" (only the wallet's transaction is there) or
    "lost" (nothing is).
    """

    address = WALLET

    def __init__(self, chain: FakeChain, at: Terms) -> None:
        self.chain = chain
        self.at = at
        self.when = "now"
        self.sent: list[OutgoingMessage] = []
        self.fails: Exception | None = None

    async def require_funds(self, amount: int = 0) -> None:
        if self.fails is not None:
            raise self.fails

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> None:
        for message in messages:
            self.sent.append(message)
            if self.when != "lost":
                self.chain.happen(WALLET, code(9), sent=[message.body] if message.body is not None else [])
            if self.when == "now":
                self.arrive(message)

    def arrive(self, message: OutgoingMessage, *, aborted: bool = False) -> None:
        """The contract gets a message and does what the real one does."""
        assert message.body is not None
        known, _ = self.chain.accounts.get(message.destination, (None, 0))
        data = client_data(self.at, balance=0) if known is None else ClientData.from_cell(known)
        reader = Reader(message.body, "body")
        op = reader.uint(32)
        reader.uint(64)
        if op in {msg.Op.CLIENT_TOP_UP, msg.Op.CLIENT_CHANGE_SECRET_AND_TOP_UP} and not aborted:
            data = replace(data, balance=data.balance + reader.coins())
        if op == msg.Op.CLIENT_CHANGE_SECRET:
            data = replace(data, secret_hash=reader.raw(32))
        if op == msg.Op.CLIENT_REQUEST_REFUND:
            started = data.state == 0
            data = (
                replace(data, state=1, unlock_ts=self.chain.utime + 300)
                if started
                else replace(data, state=2, balance=0)
            )
        self.chain.put(message.destination, data)
        self.chain.happen(message.destination, message.body, aborted=aborted)

    def operations(self) -> list[int]:
        """Operations of what was sent."""
        return [Reader(message.body, "sent").uint(32) for message in self.sent if message.body is not None]


class Machine:
    """A synthetic confidential machine with an identity: makes evidence of any statement."""

    name = "simulated"

    def __init__(self, tdx: SyntheticTdx, identity: Identity) -> None:
        self.tdx = tdx
        self.identity = identity
        self.image = image_hash(b"".join(tdx.registers.get(name, bytes(48)) for name in _MEASURED))

    async def collect(self, report_data: bytes) -> bytes:
        return self.tdx.quote(report_data)

    def statement(self, **changes: Any) -> WorkloadStatement:
        values: dict[str, Any] = {
            "image": self.image,
            "measured_config": bytes(32),
            "root_contract": ROOT.raw(),
            "owner": OWNER.raw(),
            "role": "gateway",
            "chain": ZEROSTATE,
        }
        return WorkloadStatement(**(values | changes))

    def worker_statement(self, **changes: Any) -> WorkloadStatement:
        values = {"role": "worker", "model": FULL_MODEL, "model_hash": bytes.fromhex("ab" * 32)}
        return self.statement(**(values | changes))

    async def bundle(self, nonce: bytes, statement: WorkloadStatement) -> bytes:
        return await build_bundle(self, self.identity, statement, nonce, bytes(32))


class Told:
    """A transport that says who the peer is."""

    def __init__(self, transport: asyncio.Transport, peer: Peer | None) -> None:
        self._transport = transport
        self._peer = peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peer if name == "peer" else self._transport.get_extra_info(name, default)


class TellingDialer(TcpDialer):
    """Plain TCP that tells the peer as the handshake would have."""

    def __init__(self, peer: Peer | None) -> None:
        self.peer = peer
        self.dialled = 0

    async def connect(
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        self.dialled += 1

        def factory() -> asyncio.Protocol:
            protocol = protocol_factory()
            made = protocol.connection_made
            protocol.connection_made = lambda transport: made(Told(transport, self.peer))  # type: ignore[method-assign,arg-type]
            return protocol

        return await super().connect(factory, host, port)


def connected(at: Terms, *, auth: Any = None, mine: str | None = None, **changes: Any) -> tl.ClientConnectedToProxy:
    """An honest gateway's first answer, with changes to its parameters."""
    values: dict[str, Any] = {
        "flags": 3,
        "proxy_public_key": PUBLIC,
        "proxy_owner_address": OWNER.friendly(),
        "proxy_sc_address": at.contract.friendly(),
        "is_test": True,
        "proto_version": 2,
    }
    auth = auth or tl.ClientProxyConnectionAuthShort(hashlib.sha256(SECRET).digest(), 5)
    mine = at.client_contract.friendly() if mine is None else mine
    return tl.ClientConnectedToProxy(tl.ProxyParams(**(values | changes)), mine, auth, tl.ProxySignedPaymentEmpty())


class ScriptedGateway:
    """The far end of the links: a gateway whose every word the test decides; by default an honest one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.params = root_params()
        self.links: list[Link] = []
        self.heard: asyncio.Queue[tl.ClientRunQueryEx] = asyncio.Queue()
        self.cancelled: asyncio.Queue[bytes] = asyncio.Queue()
        self.queries: list[str] = []
        self.answers: dict[str, Any] = {}
        self.total = 0
        self.signed = 0
        self.short = True
        self.nonce = 5
        self.statement = machine.statement()
        self.workers: list[WorkloadStatement] = [machine.worker_statement()]
        self.models = {MODEL: 1}
        self.offered = extensions.ALL
        self.port = 0

    # The handler's side

    def link_ready(self, link: Link) -> None:
        self.links.append(link)

    def message_received(self, link: Link, message: TLObject) -> None:
        if isinstance(message, tl.ClientRunQueryEx):
            self.heard.put_nowait(message)
        elif isinstance(message, tl.ChrysalisCancel):
            self.cancelled.put_nowait(message.request_id)

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        self.links.remove(link)

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        self.queries.append(query.TL_NAME)
        scripted = self.answers.get(query.TL_NAME)
        if callable(scripted):
            scripted = await scripted(query)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted if scripted is not None else await self._honest(query)

    async def _honest(self, query: TLObject) -> TLObject:
        at = terms(self.params)
        match query:
            case tl.ClientConnectToProxy():
                auth: Any = tl.ClientProxyConnectionAuthLong(self.nonce)
                if self.short:
                    auth = tl.ClientProxyConnectionAuthShort(hashlib.sha256(SECRET).digest(), self.nonce)
                return connected(at, auth=auth)
            case tl.ClientAuthorizeWithProxyShort() | tl.ClientAuthorizeWithProxyLong():
                return tl.ClientAuthorizationWithProxySuccess(charge(self.signed, at), self.total, self.total)
            case tl.ClientUpdatePaymentStatus():
                return tl.ClientPaymentStatus(charge(self.signed, at), self.total, self.total)
            case tl.ClientGetWorkerTypesV2():
                instance = tl.ClientWorkerInstanceV2(0, 1000, 0, 4)
                types = tuple(tl.ClientWorkerTypeV2(name, (instance,) * count) for name, count in self.models.items())
                return tl.ClientWorkerTypesV2(types)
            case tl.ChrysalisGetEvidence():
                return tl.ChrysalisEvidence(await self.machine.bundle(query.nonce, self.statement))
            case tl.ChrysalisGetWorkerEvidence():
                shown = [await self.machine.bundle(query.nonce, statement) for statement in self.workers]
                return tl.ChrysalisWorkerEvidence(tuple(shown))
        raise QueryError("Lost promise", code=0)

    # The test's side

    @property
    def link(self) -> Link:
        """The newest link."""
        return self.links[-1]

    async def next(self) -> tl.ClientRunQueryEx:
        """The next request."""
        async with asyncio.timeout(10):
            return await self.heard.get()

    async def next_cancel(self) -> bytes:
        """The next request that was cancelled."""
        async with asyncio.timeout(10):
            return await self.cancelled.get()

    def send(self, *messages: TLObject) -> None:
        for message in messages:
            self.link.send(message)

    def head(
        self, request: tl.ClientRunQueryEx, *, stream: bool = True, status: int = 200, payload: bytes = b""
    ) -> None:
        """The head of an answer."""
        self.send(tl.ClientQueryAnswerEx(request.request_id, head(stream=stream, status=status, payload=payload), 0))

    def part(self, request: tl.ClientRunQueryEx, data: bytes) -> None:
        self.send(tl.ClientQueryAnswerPartEx(request.request_id, data, 0))

    def end(self, request: tl.ClientRunQueryEx, data: bytes = b"", tokens: tl.TokensUsed | None = None) -> None:
        """The last part; what it used is counted as an honest gateway counts it."""
        tokens = tokens or used()
        self.total += max(0, tokens.total_tokens_used)
        self.send(tl.ClientQueryAnswerPartEx(request.request_id, data, 1, final(tokens)))

    def payment(self, request_id: bytes, tokens: int, *, signed: int | None = None) -> None:
        """What an honest gateway says after a request."""
        shown = charge(self.signed if signed is None else signed, terms(self.params))
        self.send(tl.ProxyClientRequestPayment(request_id, shown, self.total, self.total, tokens))

    async def answer(self, text: str = "Paris.", *, tokens: tl.TokensUsed | None = None) -> tl.ClientRunQueryEx:
        """Take the next request and answer it as a model server does."""
        request = await self.next()
        body = json.loads(request_body(request))
        if body.get("stream"):
            self.head(request)
            for word in text.split(" "):
                self.part(request, event({"choices": [{"index": 0, "delta": {"content": word}}]}))
            self.end(request, b"data: [DONE]\n\n", tokens)
        else:
            self.head(request, stream=False)
            self.end(request, json.dumps(completion(text)).encode(), tokens)
        return request


def final(tokens: tl.TokensUsed) -> tl.ClientQueryFinalInfo:
    """A final info."""
    return tl.ClientQueryFinalInfo(0, tokens)


def head(
    *, stream: bool = True, status: int = 200, payload: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """A boxed ``http.response``."""
    kind = "text/event-stream; charset=utf-8" if stream else "application/json"
    named = {"content-type": kind} | (headers or {})
    return encode(
        tl.HttpResponse("HTTP/1.1", status, "OK", tuple(tl.HttpHeader(*item) for item in named.items()), payload)
    )


def request_body(request: tl.ClientRunQueryEx) -> bytes:
    """The JSON that would reach the model server."""
    return decode(request.query, tl.HttpRequest).payload


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL} | value
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def completion(text: str) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }


def chat(text: str = "Where?", **options: Any) -> bytes:
    """A request's body."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    return json.dumps(body | options).encode()


class World:
    """Everything around one client; what a test changes, it changes before :meth:`start`."""

    def __init__(self, directory: Path, machine: Machine, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.machine = machine
        self.gateway = ScriptedGateway(machine)
        self.root = root_state(
            proxy_hashes=frozenset({machine.image}),
            worker_hashes=frozenset({machine.image}),
        )
        self.chain = FakeChain()
        self.at = terms()
        self.chain.put(self.at.client_contract, client_data(self.at))
        self.wallet = FakeWallet(self.chain, self.at)
        self.monotonic = Ticks()
        self.unix = Ticks()
        self.stale: Exception | None = None
        self.budget: int | None = None
        self.limits = Limits(4000, 100, 20.0)
        self.reference_gateways = False
        self.check_workers = True
        self.dialer = TellingDialer(Peer(machine.image, machine.identity.public_key, None, "test"))
        self.metrics = ClientMetrics()
        self.url = ""
        self.targets: Callable[[], list[tuple[str, int]]] = lambda: [("127.0.0.1", self.gateway.port)]
        self.client: Client
        self.purse: Purse
        self.pool: GatewayPool
        self._stack = stack

    async def listen(self) -> None:
        """The gateway listens."""
        protocol = lambda: LinkProtocol(self.gateway, connecting=False, offered=self.gateway.offered)  # noqa: E731
        server = await TcpListener().serve(protocol, "127.0.0.1", self.gateway.port)
        self.gateway.port = server.sockets[0].getsockname()[1]
        self._stack.callback(server.close)

    async def start(self, *, listen: bool = True, ready: bool = True) -> None:
        """Start the client and its endpoint, and wait until the gateway is ready."""
        if listen:
            await self.listen()
        self.purse = Purse(
            ClientLedger(self.directory / "client.sqlite"), budget=self.budget, longest_s=20.0, clock=self.monotonic
        )
        duties = Duties(
            self.chain,
            self.wallet,
            self.purse,
            secret=SECRET,
            top_up=STAKE,
            clock=lambda: float(self.chain.utime),
            monotonic=self.monotonic,
        )
        roots = (self.machine.tdx.root_der,)
        verifier = Verifier(
            for_name("simulated", simulated_roots=roots), StaticCollateral(self.machine.tdx.collateral_json())
        )
        demand = Demand(True, True, ROOT, ZEROSTATE, reference_gateways=self.reference_gateways)
        offset = time.time() - self.unix.now
        prover = Prover(verifier, demand, lambda: self.root, clock=lambda: self.unix.now + offset)
        me = Self(ROOT, WALLET, SECRET, True, False)
        self.pool = GatewayPool(
            lambda: self.targets(),  # noqa: PLW0108 - a test may change it later
            self.dialer,
            prover=prover,
            duties=duties,
            purse=self.purse,
            sessions=lambda: GatewaySession(me, self.root, self.purse, duties.register),
            root=lambda: self.root,
        )
        self.client = Client(
            self.pool,
            prover,
            self.purse,
            Refunds(self.chain, self.wallet, self.purse, monotonic=self.monotonic),
            self.limits,
            root=lambda: self.root,
            require_fresh=self._fresh,
            salt_secret=SECRET,
            check_workers=self.check_workers,
        )
        await self._stack.enter_async_context(self.client)
        access = Access(API_KEY, frozenset({ORIGIN}))
        port = await serve(Endpoint(self.client, access, self.metrics), bind("127.0.0.1", 0), self._stack)
        self.url = f"http://127.0.0.1:{port}"
        if ready:
            await self.until(lambda: bool(self.pool.ready()))

    def _fresh(self) -> None:
        if self.stale is not None:
            raise self.stale

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for something that the client does by itself."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)

    @property
    def account(self) -> Any:
        """The client's account with the gateway."""
        return self.purse.account(self.at.contract)


@asynccontextmanager
async def open_world(directory: Path, machine: Machine) -> AsyncIterator[World]:
    """A world that is taken down at the end."""
    async with AsyncExitStack() as stack:
        world = World(directory, machine, stack)
        yield world
    # The far ends see that their connections are closed.
    await world.until(lambda: not world.gateway.links)


def random_id() -> bytes:
    """A request id."""
    return secrets.token_bytes(32)


def is_top_up(body: Cell) -> bool:
    """Whether a message deposits."""
    try:
        return Reader(body, "body").uint(32) in {msg.Op.CLIENT_TOP_UP, msg.Op.CLIENT_CHANGE_SECRET_AND_TOP_UP}
    except LayoutError:
        return False
