"""The gateway as a program: parts put together from a configuration, served until a signal comes, then drained.

Start: key files, chain, root contract, ledger, own contract read up to the present; only then the listeners open.
SIGTERM: no new peers or requests, running requests finish (for a limited time), the last batch is written, links close.
A kill at any other moment is survived by the ledger's rules (:mod:`appliance.gateway.settlement`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from appliance.accounting.errors import LedgerError
from appliance.accounting.gateway_ledger import GatewayLedger
from appliance.assembly import collateral_sources, open_chain, open_registry, open_verifier, own_platform
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.errors import ChainError, StaleError
from appliance.chain.wallet import NodeWallet
from appliance.config.ports import host_port, loopback_port
from appliance.errors import leaf
from appliance.gateway import status
from appliance.gateway.admission import Checks
from appliance.gateway.book import Sequence
from appliance.gateway.desk import DeskLimits
from appliance.gateway.epoch import Epoch, Parts, Session
from appliance.gateway.errors import GatewayError, SettlementError
from appliance.gateway.evidence import EvidencePolicy
from appliance.gateway.retirement import Retirement
from appliance.gateway.tally import Tally
from appliance.gateway.terms import Identity, Terms
from appliance.keys import read_key
from appliance.releases import release_rules
from appliance.wire.transport import LinkProtocol
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.material import stapling
from attestation.policy import for_name
from attestation.ratls import Identity as TlsIdentity
from attestation.ratls import RatlsListener, RouterListener
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.chain.layouts import RootState
    from appliance.chain.registry import Registry
    from appliance.config import GatewayConfig, GatewayHost
    from appliance.wire.transport import Listener, Server
    from attestation.rules import Rule
    from attestation.verdict import Verdict

log = structlog.get_logger(__name__)

_REMEMBERED_REFUSALS = 20
_REFERENCE_POLICIES = frozenset({"any", "fake_tdx"})
"""Policies under which workers are taken that know nothing of fresh evidence: those that prove nothing anyway."""
TICK_S = 0.1
PREPARE_RETRY_S = 10.0
REFRESH_PAUSE_S = 3.0


async def run(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises the tree's errors when it cannot start."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        gateway, doors = await _assemble(config, stack)
        await gateway.serve(doors, config.host, stack)
        work = loop.create_task(gateway.work())
        stopping = loop.create_task(stopped.wait())
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        await gateway.drain(0.0 if work.done() else config.host.drain_s)
        for task in (work, stopping):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, stopping, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise leaf(error)


class Gateway:
    """The running gateway: the present epoch, the listeners in front of it, the registry behind it.

    Args:
        parts: What every epoch is made with.
        identity: Who this gateway is on chain.
        registry: The root contract's view, started.
        retry: Seconds between attempts at what chain or disk refused.
    """

    def __init__(self, parts: Parts, identity: Identity, registry: Registry, *, retry: float = PREPARE_RETRY_S) -> None:
        self._parts = parts
        self._identity = identity
        self._registry = registry
        self._retry = retry
        self._tally = Tally()
        self._changed = asyncio.Event()
        self._servers: list[Server] = []
        self._draining = False
        self._preparing = ""
        self._idle = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        self.epoch = Epoch(parts, Terms.of(identity, registry.state), self._tally)

    async def start(self) -> None:
        """Take over everything that the chain knows."""
        await self.epoch.settlement.start()
        self._registry.subscribe(self._root_changed)
        # What changed while the contract was read was told to nobody.
        self._root_changed(self._registry.state)
        self._retire_others()

    async def serve(self, doors: _Doors, host: GatewayHost, stack: contextlib.AsyncExitStack) -> None:
        """Open the listeners and the status port."""
        for listener, text, workers in (
            (doors.workers, host.listen_workers, True),
            (doors.clients, host.listen_clients, False),
        ):
            server = await listener.serve(partial(self._protocol, workers), *host_port(text))
            stack.callback(server.close)
            self._servers.append(server)
            log.info("listening", kind="workers" if workers else "clients", port=server.sockets[0].getsockname()[1])
        if host.status is not None:
            runner = await status.serve(self.status, *loopback_port(host.status, "host.status"))
            stack.push_async_callback(runner.cleanup)
            log.info("listening", kind="status", port=runner.addresses[0][1])

    async def work(self) -> None:
        """The loops, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._epochs())

    async def drain(self, limit_s: float) -> None:
        """Stop admitting, let running requests finish within the limit, write the last batch, close the links."""
        self._draining = True
        epoch = self.epoch
        epoch.close("the gateway is stopping")
        for server in self._servers:
            server.close()
        if limit_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._idle.wait()
        epoch.disconnect("the gateway is stopping")
        await epoch.settlement.commit()
        for task in tuple(self._retiring):
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def status(self) -> status.GatewayStatus:
        """A snapshot for the status port."""
        return self.epoch.status(wallet=self._identity.text(self._parts.wallet.address), root_age=self._registry.age())

    def _protocol(self, workers: bool) -> LinkProtocol:
        """One accepted connection, for whatever epoch is in force then."""
        handler = self.epoch.workers if workers else self.epoch.clients
        return LinkProtocol(handler, connecting=False)

    def _root_changed(self, state: RootState) -> None:
        terms = Terms.of(self._identity, state)
        if terms.params_version == self.epoch.desk.terms.params_version:
            self.epoch.take_over(terms)
        else:
            self._changed.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.epoch.desk.tick()
            if not self._draining:
                self.epoch.close(self._preparing or self._stale())
            elif not self.epoch.desk.open:
                self._idle.set()

    def _retire_others(self) -> None:
        """Retire every contract of this gateway but the present one, unless that is under way or done."""
        present = self.epoch.book.instance.contract
        under_way = {task.get_name() for task in self._retiring}
        for instance in self._parts.ledger.instances():
            if instance.contract == present or instance.stage == "closed" or instance.contract in under_way:
                continue
            retirement = Retirement(self._parts, self._parts.book(instance))
            task = asyncio.get_running_loop().create_task(retirement.run(), name=instance.contract)
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _stale(self) -> str:
        try:
            self._registry.require_fresh()
        except StaleError as error:
            return str(error)
        return ""

    async def _epochs(self) -> None:
        """Run the settlement of the present epoch; start the next one when the parameters change."""
        while True:
            running = asyncio.get_running_loop().create_task(self.epoch.settlement.run())
            changed = asyncio.get_running_loop().create_task(self._changed.wait())
            try:
                await asyncio.wait((running, changed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
                running.cancel()
                await asyncio.wait((running,))
            if not running.cancelled() and (error := running.exception()) is not None:
                raise error
            old = self.epoch
            log.warning("parameters changed", version=self._registry.state.params.params_version)
            self._preparing = "the network's parameters changed"
            old.close(self._preparing)
            old.disconnect("the network's parameters changed: connect again")
            await self._write_last(old)
            # From here on a change is one of the parameters that are read now.
            self._changed.clear()
            self.epoch = Epoch(self._parts, Terms.of(self._identity, self._registry.state), self._tally)
            await self._prepare()
            self._retire_others()

    async def _write_last(self, old: Epoch) -> None:
        """Have the old epoch's accounts on disk: its contract is retired by what is there."""
        while True:
            try:
                await old.settlement.commit()
            except LedgerError as error:
                self._preparing = f"the accounts cannot be written: {error}"
                log.error("ledger not written", error=type(error).__name__, reason=str(error))
                await asyncio.sleep(self._retry)
            else:
                return

    async def _prepare(self) -> None:
        """Deploy and read the new epoch's contract; until that is done, nobody is served and everybody is told why.

        Returns without it when the parameters change again: then there is another contract to prepare.
        """
        self._preparing = "the gateway's new contract is being prepared"
        while not self._changed.is_set():
            self.epoch.close(self._preparing)
            try:
                await self.epoch.settlement.start()
            except (ChainError, LedgerError, SettlementError) as error:
                self._preparing = f"the gateway's new contract cannot be prepared yet: {error}"
                log.error("new contract not ready", error=type(error).__name__, reason=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._retry):
                        await self._changed.wait()
            else:
                self._preparing = ""
                return


@dataclass(frozen=True, slots=True)
class _Doors:
    """The two listeners, and what they show of this gateway to clients that ask."""

    workers: Listener
    clients: Listener
    own_evidence: Callable[[bytes], Awaitable[bytes]] | None
    refused: deque[str]


async def _assemble(config: GatewayConfig, stack: contextlib.AsyncExitStack) -> tuple[Gateway, _Doors]:
    network, trust, host = config.measured.network, config.measured.trust, config.host
    key = read_key(host.key_file, "the gateway's key file")
    wallet_key = read_key(host.wallet_key_file, "the wallet's key file")
    ledger = GatewayLedger(host.state_dir / "gateway.sqlite")
    stack.callback(ledger.close)
    chain = await stack.enter_async_context(open_chain(network, host))
    registry = await stack.enter_async_context(open_registry(network, host, chain))
    owner = Address.parse(config.owner.address)
    checks = Checks(images=trust.check_images, models=trust.check_models)
    identity = Identity(
        root_contract=registry.root_address,
        owner=owner,
        public_key=key.public_key().public_bytes_raw(),
        is_test=network.is_test,
        testnet=network.testnet,
    )
    rules = await release_rules(config.measured.releases, host.manifests, host.state_dir, host.registry_poll_s, stack)
    doors = await _doors(config, registry, rules, stack)
    parts = Parts(
        ledger=ledger,
        session=Session.open(ledger),
        key=key,
        chain=chain,
        wallet=NodeWallet(chain, wallet_key, owner, contracts.load().wallet),
        checks=checks,
        evidence=EvidencePolicy(
            open_verifier(trust, host, *rules),
            checks,
            reference_workers=host.reference_workers or trust.policy in _REFERENCE_POLICIES,
            zerostate=bytes.fromhex(network.zerostate.root_hash),
        ),
        limits=DeskLimits(
            queue=host.queue_limit,
            client_share=host.client_share,
            stake_cap=host.max_stake_nanotons,
            timeout=host.request_timeout_s,
        ),
        commit_interval=host.commit_interval_s,
        payout_min=host.payout_min_nanotons,
        own_evidence=doors.own_evidence,
        newer_config=_refresher(registry),
        sequence=Sequence(ledger.seqno),
        writing=asyncio.Lock(),
        refused_at_the_door=doors.refused,
    )
    gateway = Gateway(parts, identity, registry)
    await gateway.start()
    return gateway, doors


async def _doors(
    config: GatewayConfig, registry: Registry, rules: tuple[Rule, ...], stack: contextlib.AsyncExitStack
) -> _Doors:
    """Listeners straight to the peers, or plain ones behind the router that stands beside this program.

    ``rules`` are what workers have to fulfil besides the configured policy.
    """
    trust, host = config.measured.trust, config.host
    if host.behind_router:
        return _Doors(RouterListener(), RouterListener(), None, deque())
    platform = own_platform(trust, host)
    identity = await TlsIdentity.create(platform)
    fresh = asyncio.get_running_loop().create_task(identity.keep_fresh())
    stack.callback(fresh.cancel)
    verifier = open_verifier(trust, host, *rules)
    strangers = Verifier(for_name("any"), collateral_sources(host))
    refused: deque[str] = deque(maxlen=_REMEMBERED_REFUSALS)

    def remember(verdict: Verdict) -> None:
        reasons = "; ".join(str(check) for check in verdict.failed)
        refused.append(f"certificate refused by policy {verdict.policy!r}: {reasons}")

    workers = RatlsListener(identity, verifier, host.pow_difficulty, on_refused=remember)
    clients = RatlsListener(identity, strangers, host.pow_difficulty)
    if platform is None:
        return _Doors(workers, clients, None, refused)
    verdict = await open_verifier(trust, host).verify_certificate(identity.certificate, role="server")
    if not verdict.accepted:
        reasons = "; ".join(str(check) for check in verdict.failed)
        raise GatewayError(f"this gateway's own certificate is refused by its policy: {reasons}")
    statement = WorkloadStatement(
        image=verdict.image_hash,
        measured_config=config.measured.digest(),
        root_contract=registry.root_address.raw(),
        owner=Address.parse(config.owner.address).raw(),
        role="gateway",
        chain=bytes.fromhex(config.measured.network.zerostate.root_hash),
    )
    own = EvidenceMaker(
        platform,
        identity,
        statement=lambda: statement,
        block_hash=lambda: registry.head.block.root_hash,
        staple=stapling(collateral_sources(host)),
    )
    stack.push_async_callback(own.close)
    return _Doors(workers, clients, own.bundle, refused)


def _refresher(registry: Registry) -> Callable[[], None]:
    """Read the root contract now: one read at a time, and not for every client that claims to know a newer one."""
    running: set[asyncio.Task[object]] = set()

    async def read() -> None:
        await registry.refresh()
        await asyncio.sleep(REFRESH_PAUSE_S)

    def refresh() -> None:
        if not running:
            task: asyncio.Task[object] = asyncio.get_running_loop().create_task(read())
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    return refresh
