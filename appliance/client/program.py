"""The client as a program: parts put together from a configuration, an HTTP endpoint served until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from appliance.accounting.client_ledger import ClientLedger
from appliance.assembly import open_chain, open_dialer, open_registry, open_verifier
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.wallet import NodeWallet
from appliance.client.access import Access
from appliance.client.duties import MESSAGE_VALID_S, Duties
from appliance.client.endpoint import Endpoint
from appliance.client.errors import ClientError
from appliance.client.handshake import Self
from appliance.client.library import Client
from appliance.client.metrics import ClientMetrics
from appliance.client.money import Purse
from appliance.client.pool import GatewayPool
from appliance.client.refunds import RefundReport, Refunds
from appliance.client.request import Limits
from appliance.client.session import GatewaySession
from appliance.client.verification import Demand, Prover
from appliance.config.ports import host_port
from appliance.errors import ConfigError
from appliance.keys import read_key, read_secret
from appliance.releases import release_rules
from attestation.ratls import Identity
from attestation.ratls.pow import open_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from appliance.chain.client import ChainClient
    from appliance.chain.layouts import RootState
    from appliance.chain.registry import Registry
    from appliance.config import ClientConfig

log = structlog.get_logger(__name__)

_REFERENCE_POLICIES = frozenset({"any", "fake_tdx"})
"""Policies under which peers are taken that know nothing of fresh evidence: those that prove nothing anyway."""
SHUTDOWN_S = 10.0
"""How long answers may still run after SIGTERM."""


@contextlib.asynccontextmanager
async def open_client(config: ClientConfig) -> AsyncIterator[Client]:
    """A started client, for programs that use the library; see :class:`~appliance.client.library.Client`."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _assemble(config, stack)


async def run(config: ClientConfig) -> None:
    """Serve the endpoint until SIGTERM or SIGINT; raises the tree's errors when it cannot start."""
    host = config.host
    key = read_secret(host.api_key_file, "the endpoint's key file").decode("latin-1")
    address, port = host_port(host.listen)
    access = Access(key, frozenset(host.allowed_origins), frozenset({address.lower()}))
    async with contextlib.AsyncExitStack() as stack:
        # Before the client starts, because that may already cost a deposit.
        listening = stack.enter_context(bind(address, port))
        client = await _assemble(config, stack)
        port = await serve(Endpoint(client, access, ClientMetrics()), listening, stack)
        log.info("client endpoint listens", listen=f"{address}:{port}")
        await _until_signal()


def bind(address: str, port: int) -> socket.socket:
    """Take the endpoint's port; 0 takes a free one. Callers wait until :func:`serve`.

    Raises:
        ClientError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise ClientError(
            f"cannot listen on {address}:{port}: {error.strerror or error}",
            hint="another program has the port, or the address is not this machine's: set host.listen",
        ) from None


async def serve(endpoint: Endpoint, listening: socket.socket, stack: contextlib.AsyncExitStack) -> int:
    """Answer HTTP until the stack is unwound; the port."""
    runner = web.AppRunner(
        endpoint.application(),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
        logger=_http_log(),
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.SockSite(runner, listening).start()
    port: int = listening.getsockname()[1]
    return port


async def refund(config: ClientConfig, gateway: Address | None = None) -> list[RefundReport]:
    """Ask for the stakes of all gateways of the ledger, or of one, and tell where each stands. To be called again.

    Raises:
        StoreBusyError: The client runs: it must not use a stake that is on its way back.
        ClientError: There is no account with that gateway.
        ChainError: The wallet has too little, or the chain does not answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        purse = Purse(_open_ledger(config, stack), budget=None)
        accounts = [known for known in purse.accounts() if gateway is None or known.contract == gateway]
        if gateway is not None and not accounts:
            raise ClientError(
                f"the ledger has no account with gateway contract {gateway}",
                hint="leave it out to see every contract",
            )
        chain = await stack.enter_async_context(open_chain(config.measured.network, config.host))
        refunds = Refunds(chain, _wallet(config, chain), purse)
        return [await refunds.step(account) for account in accounts if not account.closed]


async def _assemble(config: ClientConfig, stack: contextlib.AsyncExitStack) -> Client:
    network, trust, host = config.measured.network, config.measured.trust, config.host
    secret = read_secret(host.secret_file, "the secret file")
    ledger = _open_ledger(config, stack)
    chain = await stack.enter_async_context(open_chain(network, host))
    wallet = _wallet(config, chain)
    registry = await stack.enter_async_context(open_registry(network, host, chain))
    purse = Purse(ledger, budget=host.budget_nanotons, longest_s=host.request_timeout_s)
    duties = Duties(chain, wallet, purse, secret=secret, top_up=host.top_up_nanotons)
    me = Self(registry.root_address, wallet.address, secret, network.is_test, network.testnet)
    rules = await release_rules(config.measured.releases, host.manifests, host.state_dir, host.registry_poll_s, stack)
    verifier = open_verifier(trust, host, *rules)
    reference = trust.policy in _REFERENCE_POLICIES
    demand = Demand(
        trust.check_images,
        trust.check_models,
        registry.root_address,
        bytes.fromhex(network.zerostate.root_hash),
        reference_gateways=reference,
    )

    def root() -> RootState:
        return registry.state

    prover = Prover(verifier, demand, root)
    processes = stack.enter_context(open_pool())
    identity = await Identity.create(None)
    fresh = asyncio.create_task(identity.keep_fresh())
    stack.callback(fresh.cancel)
    pool = GatewayPool(
        _targets(registry, host.gateways),
        open_dialer(host, identity, verifier, max_difficulty=host.pow_max_difficulty, pool=processes),
        prover=prover,
        duties=duties,
        purse=purse,
        sessions=lambda: GatewaySession(me, registry.state, purse, duties.register),
        root=root,
        connections=host.gateway_connections,
    )
    client = Client(
        pool,
        prover,
        purse,
        Refunds(chain, wallet, purse),
        Limits(host.max_coefficient, host.default_max_tokens, host.request_timeout_s),
        root=root,
        require_fresh=registry.require_fresh,
        salt_secret=secret,
        check_workers=not reference,
    )
    return await stack.enter_async_context(client)


def _open_ledger(config: ClientConfig, stack: contextlib.AsyncExitStack) -> ClientLedger:
    ledger = ClientLedger(config.host.state_dir / "client.sqlite")
    stack.callback(ledger.close)
    return ledger


def _wallet(config: ClientConfig, chain: ChainClient) -> NodeWallet:
    key = read_key(config.host.wallet_key_file, "the wallet's key file")
    owner = Address.parse(config.owner.address)
    return NodeWallet(chain, key, owner, contracts.load().wallet, valid=MESSAGE_VALID_S)


def _targets(registry: Registry, configured: Sequence[str]) -> Callable[[], Sequence[tuple[str, int]]]:
    """The gateways' client addresses, newest word first: the configured ones, else the root contract's."""

    def now() -> list[tuple[str, int]]:
        named = configured or [proxy.client_address for proxy in registry.state.registered_proxies]
        found = []
        for address in named:
            # A text in the root contract that is no address is its owner's mistake, and one gateway less.
            with contextlib.suppress(ConfigError):
                found.append(host_port(address))
        return found

    return now


class _ToStructlog(logging.Handler):
    """aiohttp's own log: what happened, never the exception's text, which may quote a caller's bytes."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        log.warning("http trouble", error=kind)


def _http_log() -> logging.Logger:
    logger = logging.Logger("client endpoint", logging.WARNING)  # noqa: LOG001 - one for this runner, not the process's
    logger.addHandler(_ToStructlog())
    return logger


async def _until_signal() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping")
