"""The client as a program: parts put together from a configuration, an HTTP endpoint served until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from appliance.accounting.client_ledger import ClientLedger
from appliance.assembly import host_port, open_chain, open_dialer, open_registry, open_verifier
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.wallet import NodeWallet
from appliance.client.access import Access
from appliance.client.duties import Duties
from appliance.client.endpoint import Endpoint
from appliance.client.errors import ClientError
from appliance.client.handshake import Self
from appliance.client.library import Client
from appliance.client.metrics import ClientMetrics
from appliance.client.money import Purse
from appliance.client.pool import GatewayPool
from appliance.client.request import Limits
from appliance.client.session import GatewaySession
from appliance.client.verification import Demand, Prover
from appliance.keys import read_key, read_secret
from attestation.ratls import Identity
from attestation.ratls.pow import open_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from appliance.chain.registry import Registry
    from appliance.config import ClientConfig

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_client(config: ClientConfig) -> AsyncIterator[Client]:
    """A started client, for programs that use the library; see :class:`~appliance.client.library.Client`."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _assemble(config, stack)


async def run(config: ClientConfig) -> None:
    """Serve the endpoint until SIGTERM or SIGINT; raises the tree's errors when it cannot start."""
    host = config.host
    key = read_secret(host.api_key_file, "the endpoint's key file").decode("ascii", "replace")
    access = Access(key, frozenset(host.allowed_origins))
    async with contextlib.AsyncExitStack() as stack:
        client = await _assemble(config, stack)
        runner = web.AppRunner(Endpoint(client, access, ClientMetrics()).application(), access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        address, port = host_port(host.listen)
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            raise ClientError(f"cannot listen on {host.listen}: {error.strerror}", hint="set host.listen") from None
        log.info("client endpoint listens", listen=f"{address}:{runner.addresses[0][1]}")
        await _until_signal()


async def _assemble(config: ClientConfig, stack: contextlib.AsyncExitStack) -> Client:
    network, trust, host = config.measured.network, config.measured.trust, config.host
    chain = await stack.enter_async_context(open_chain(network, host))
    registry = await stack.enter_async_context(open_registry(network, host, chain))
    owner = Address.parse(config.owner.address)
    wallet = NodeWallet(chain, read_key(host.wallet_key_file, "the wallet's key file"), owner, contracts.load().wallet)
    secret = read_secret(host.secret_file, "the secret file")
    ledger = ClientLedger(host.state_dir / "client.sqlite")

    def price() -> int:
        return registry.state.params.price_per_token

    purse = Purse(ledger, price=price, budget=host.budget_nanotons)
    duties = Duties(chain, wallet, purse, lambda: registry.state, secret=secret, top_up=host.top_up_nanotons)
    me = Self(registry.root_address, wallet.address, secret, network.is_test, network.testnet)
    verifier = open_verifier(trust, host)
    demand = Demand(trust.check_images, trust.check_models, network.root_contract)
    prover = Prover(verifier, demand, lambda: registry.state)
    processes = stack.enter_context(open_pool())
    dialer = open_dialer(
        host, await Identity.create(None), verifier, max_difficulty=host.pow_max_difficulty, pool=processes
    )
    pool = GatewayPool(
        _targets(registry, host.gateways),
        dialer,
        prover,
        duties,
        lambda: GatewaySession(me, registry.state, purse, duties.register),
        connections=host.gateway_connections,
    )
    limits = Limits(host.max_coefficient, host.default_max_tokens, host.request_timeout_s)
    client = Client(
        pool,
        prover,
        purse,
        limits,
        salt_secret=secret,
        price=price,
        check_workers=trust.policy in ("tdx", "simulated"),
    )
    return await stack.enter_async_context(client)


def _targets(registry: Registry, configured: Sequence[str]) -> Callable[[], Sequence[tuple[str, int]]]:
    """The gateways' client addresses, newest word first: the configured ones, else the root contract's."""

    def now() -> list[tuple[str, int]]:
        named = configured or [proxy.client_address for proxy in registry.state.registered_proxies]
        return [host_port(address) for address in named if address]

    return now


async def _until_signal() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    log.info("stopping")
