"""The worker as a program: parts put together from a configuration, run until a signal comes, then drained.

The status page comes first and explains the rest. Chain and root contract are waited for; the engine loads while links
are made (the worker is disabled until it answers sanely). SIGTERM: gateways are told, running requests end (for a
limited time), the ledger is written, links close.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import tenacity
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.accounting.worker_ledger import WorkerLedger
from appliance.assembly import (
    collateral_sources,
    open_chain,
    open_dialer,
    open_registry,
    open_verifier,
    own_devices,
    own_platform,
)
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.errors import ChainError
from appliance.chain.payouts import PayoutTerms
from appliance.chain.relay import FileRelay
from appliance.chain.wallet import NodeWallet
from appliance.config.ports import loopback_port
from appliance.engine.errors import EngineUnavailableError
from appliance.engine.rules import Rules
from appliance.errors import ConfigError, StageError, leaf
from appliance.keys import read_key, read_secret, write_secret
from appliance.worker import attested
from appliance.worker.book import Book
from appliance.worker.engine import describe_engine, open_engine
from appliance.worker.generation import Generation, watch_devices
from appliance.worker.handshake import Offer
from appliance.worker.intake import CacheSalts
from appliance.worker.payer import RelayPayer, WalletPayer
from appliance.worker.payouts import Collector
from appliance.worker.requests import RequestRunner
from appliance.worker.service import Settings, Worker
from appliance.worker.stages import Stages
from appliance.worker.status import StatusPage
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.gpu.nvml import inventory
from attestation.material import stapling
from attestation.ratls import Identity
from attestation.ratls.pow import open_pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from appliance.chain.client import ChainClient
    from appliance.chain.registry import Registry
    from appliance.config import EngineConfig, WorkerConfig
    from appliance.engine.counters import EngineCounters
    from appliance.worker.engine import Engine
    from appliance.worker.payouts import Payer
    from appliance.worker.stages import Stage
    from attestation.platforms import Platform
    from attestation.verifier import Verifier

log = structlog.get_logger(__name__)

STAGES = ("chain", "identity", "ledger", "links", "engine")
DRIVER_MODULE = Path("/sys/module/nvidia")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is otherwise where the worker does not run as a program of its own host.

    Attributes:
        engine: Makes the model server's side from the configuration.
        report: Told of each change of a stage.
        watch: Runs beside the worker and is cancelled with it.
    """

    engine: Callable[[WorkerConfig], Engine] = open_engine
    report: Callable[[Stage], None] | None = None
    watch: Callable[[Worker], Coroutine[Any, Any, None]] | None = None


async def run(config: WorkerConfig, surroundings: Surroundings | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raises the tree's errors for what no waiting cures."""
    around = surroundings or Surroundings()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        program = Program(config, stack, around)
        await program.open_status()
        starting = loop.create_task(program.start())
        stopping = loop.create_task(stopped.wait())
        stack.callback(stopping.cancel)
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        worker = starting.result()
        working = loop.create_task(worker.run())
        if around.watch is not None:
            watching = loop.create_task(around.watch(worker))
            stack.callback(watching.cancel)
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        if not working.done():
            await worker.drain(config.host.drain_s)
            working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        if not working.cancelled() and (error := working.exception()) is not None:
            raise leaf(error)


class Program:
    """One start of the worker.

    Args:
        config: The whole configuration.
        stack: What is opened is closed with it, in the opposite order.
        around: Where it runs.
    """

    def __init__(self, config: WorkerConfig, stack: contextlib.AsyncExitStack, around: Surroundings) -> None:
        self._config = config
        self._stack = stack
        self._open_engine = around.engine
        self._key = Ed25519PrivateKey.generate()
        self._stages = Stages(*STAGES, report=around.report)
        self._worker: Worker | None = None
        self._engine: Engine | None = None
        self._image = bytes(32)
        self._generation = Generation(lambda: self._engine.begun if self._engine is not None else 0)

    async def open_status(self) -> None:
        """Serve the status page, if one is configured; raises ``ConfigError`` unless it is on loopback."""
        listen = self._config.host.status
        if listen is None:
            return
        address, port = loopback_port(listen, "host.status")
        page = StatusPage(
            lambda: self._worker, self._stages, lambda: self._image, self._control_key(), self._engine_counters
        )
        runner = web.AppRunner(page.application(), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {listen}: {error.strerror}", hint="set host.status") from None
        log.info("status page", listen=f"{address}:{runner.addresses[0][1]}")

    async def start(self) -> Worker:
        """Bring everything up but the engine, which loads meanwhile; returns the worker, not yet running."""
        config, stack = self._config, self._stack
        network, trust, host = config.measured.network, config.measured.trust, config.host
        settings = config.measured.engine
        if settings is None or config.measured.model is None:
            raise ConfigError("a worker's [measured] needs model and [measured.engine]")
        with self._stages.stage("chain"):
            chain = await stack.enter_async_context(open_chain(network, host))
            registry = open_registry(network, host, chain)
            stack.push_async_callback(registry.close)
            await _until_read(registry, lambda why: self._stages.note("chain", why))
        with self._stages.stage("identity"):
            platform, identity, verifier = await self._identify()
        with self._stages.stage("ledger"):
            ledger = WorkerLedger(host.state_dir / "worker.sqlite")
            if ledger.restored:
                log.warning(
                    "the ledger is older than at its last use",
                    hint="if a backup was put back: totals it lacks come back from gateways and the chain",
                )
            book = Book(ledger)
            stack.push_async_callback(book.close)
        engine = self._engine = self._open_engine(config)
        stack.push_async_callback(engine.stop)
        loading = asyncio.create_task(self._load(engine), name="engine")
        stack.callback(loading.cancel)
        if settings.device == "cuda":
            watching = asyncio.create_task(watch_devices(self._generation, inventory, DRIVER_MODULE), name="gpus")
            stack.callback(watching.cancel)
        owner = Address.parse(config.owner.address)
        payer = self._payer(chain, owner)
        requests = RequestRunner(
            engine.client,
            Rules(config.measured.base_model, settings.max_tokens),
            # A server that is not SGLang may refuse a key it does not know; it is for development only.
            CacheSalts() if settings.kind == "sglang" else None,
            max_active=settings.max_active_requests,
        )
        terms = PayoutTerms(config.owner.payout_min_nanotons, config.owner.payout_max_fee_share)
        offer = Offer(
            owner=owner,
            model=config.measured.model,
            coefficient=config.owner.coefficient,
            is_test=network.is_test,
            testnet=network.testnet,
            proxy_count=host.gateway_connections,
            max_active_requests=settings.max_active_requests,
        )
        pool = stack.enter_context(open_pool())
        evidence = await self._evidence(platform, identity, registry, settings)
        if host.attested is not None and evidence is not None:
            await attested.serve(stack, host.attested, self._key, identity, evidence)
        with self._stages.stage("links"):
            worker = Worker(
                Settings(
                    root=registry.root_address,
                    image=self._image,
                    check_images=trust.check_images,
                    check_models=trust.check_models,
                    max_age=network.root_max_age_s,
                    gateways=host.gateways,
                    links=host.gateway_connections,
                ),
                offer,
                registry=registry,
                chain=chain,
                book=book,
                requests=requests,
                collector=Collector(book, chain, payer, terms, owner),
                dialer=open_dialer(host, identity, verifier, max_difficulty=host.pow_max_difficulty, pool=pool),
                engine_ready=engine.ready,
                payer=payer,
                evidence=evidence,
                generation=self._generation.look,
            )
        self._worker = worker
        return worker

    async def _engine_counters(self) -> EngineCounters:
        if self._engine is None:
            raise EngineUnavailableError("the engine was not started yet")
        return await self._engine.counters()

    def _control_key(self) -> str:
        """The key of the operator's orders: made once, readable by this user alone."""
        path = self._config.host.state_dir / "control.key"
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32).encode())
        return read_secret(path, "the control key").decode("ascii", "replace")

    async def _identify(self) -> tuple[Platform | None, Identity, Verifier]:
        """Key, certificate, and what our own policy says about them: what it refuses, gateways would refuse too."""
        trust, host = self._config.measured.trust, self._config.host
        platform = own_platform(trust, host)
        identity = await Identity.create(platform, key=self._key)
        renewing = asyncio.create_task(identity.keep_fresh(), name="certificate")
        self._stack.callback(renewing.cancel)
        verifier = open_verifier(trust, host)
        if platform is not None:
            verdict = await verifier.verify_certificate(identity.certificate, role="client")
            if not verdict.accepted:
                failed = "; ".join(str(check) for check in verdict.failed)
                raise StageError(
                    f"this machine's own evidence is refused by policy {trust.policy!r}: {failed}",
                    hint="gateways apply the same policy; see the failed check",
                )
            self._image = verdict.image_hash
        return platform, identity, verifier

    async def _evidence(
        self, platform: Platform | None, identity: Identity, registry: Registry, settings: EngineConfig
    ) -> Callable[[bytes], Awaitable[bytes]] | None:
        if platform is None:
            return None
        if self._config.host.router is not None:
            # The link's key is the router's: evidence over a key of this process would be of another channel.
            log.warning("no fresh evidence behind a router", hint="gateways have to take reference workers")
            return None
        measured, owner = self._config.measured, self._config.owner
        model = measured.model or ""
        devices = await own_devices(measured, self._config.host)

        def statement() -> WorkloadStatement:
            return WorkloadStatement(
                image=self._image,
                measured_config=measured.digest(),
                model=model,
                model_hash=bytes.fromhex(model.rpartition(":")[2]),
                engine=describe_engine(settings),
                root_contract=registry.root_address.raw(),
                owner=Address.parse(owner.address).raw(),
                coefficient=self._worker.offer.coefficient if self._worker else owner.coefficient,
                role="worker",
                chain=bytes.fromhex(measured.network.zerostate.root_hash),
                generation=self._generation.look(),
            )

        maker = EvidenceMaker(
            platform,
            identity,
            statement=statement,
            block_hash=lambda: registry.head.block.root_hash,
            staple=stapling(collateral_sources(self._config.host, of_devices=devices is not None)),
            devices=devices,
        )
        self._stack.push_async_callback(maker.close)
        return maker.bundle

    def _payer(self, chain: ChainClient, owner: Address) -> Payer | None:
        """The node wallet if there is a gas key, else the relay, else nobody."""
        if self._config.owner.gas_key_file is not None:
            key = read_key(self._config.owner.gas_key_file, "the gas key file")
            return WalletPayer(chain, NodeWallet(chain, key, owner, contracts.load().wallet))
        if self._config.host.relay is not None:
            return RelayPayer(FileRelay(self._config.host.relay))
        log.warning("nobody collects payouts", hint="set owner.gas_key_file or host.relay")
        return None

    async def _load(self, engine: Engine) -> None:
        """Start the engine; a failure is shown, and keeps the worker up and disabled."""
        with contextlib.suppress(Exception), self._stages.stage("engine"):
            await engine.start()


async def _until_read(registry: Registry, note: Callable[[str], None]) -> None:
    """Read the root contract; without the chain there is nothing to do but to say why and to try again."""

    def say_why(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ChainError):
            note(str(error))
            log.warning("root contract not read", attempt=state.attempt_number, error=type(error).__name__,
                        reason=error.message, hint=error.hint)  # fmt: skip

    async for attempt in tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(ChainError),
        wait=tenacity.wait_random_exponential(multiplier=1, max=30),
        before_sleep=say_why,
    ):
        with attempt:
            await registry.start()
