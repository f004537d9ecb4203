"""The worker as a whole: keeps its links, tells gateways how it stands, looks after payouts, drains at its end.

In: the rooms it works with (registry, chain, book, requests, dialer). Out: links that serve requests for as long as
nothing stands against it; :meth:`Worker.snapshot` for whoever looks.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.tokens import MAX_COEFFICIENT
from appliance.chain.admin import add_image, add_model
from appliance.chain.deploy import WorkerContract
from appliance.chain.errors import ChainError
from appliance.errors import ConfigError
from appliance.wire.reconnect import Backoff
from appliance.worker.gateways import Gateways
from appliance.worker.handshake import Recall, Recalled, Terms
from appliance.worker.link import Announcement, GatewayLink
from appliance.worker.payouts import contract_view
from appliance.worker.standing import Reason, Situation, reasons, refusal
from appliance.worker.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from appliance.chain.addresses import Address
    from appliance.chain.admin import OwnerOrder
    from appliance.chain.layouts import RootState
    from appliance.chain.types import ChainReader
    from appliance.wire.transport import Dialer
    from appliance.worker.book import Book
    from appliance.worker.handshake import Offer
    from appliance.worker.payouts import Collector, Payer
    from appliance.worker.requests import RequestRunner

log = structlog.get_logger(__name__)

TICK_S = (1.0, 2.0)
"""Between two looks at targets and standing (section 1.5)."""
COLLECT_S = (10.0, 20.0)
"""Between two looks at payouts (section 2.6)."""


class RegistryView(Protocol):
    """What the worker reads of the root contract (``appliance.chain.registry.Registry``)."""

    @property
    def state(self) -> RootState:
        """The newest proven state; raises ``RegistryError`` before the first."""

    def age(self) -> float:
        """Seconds since it was proven."""

    def image_listed(self, image: bytes) -> bool:
        """Whether a worker image is listed."""

    def proxy_image_listed(self, image: bytes) -> bool:
        """Whether a gateway image is listed."""

    def model_listed(self, model: str) -> bool:
        """Whether a full model name is listed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The worker's fixed values.

    Attributes:
        root: The root contract.
        image: This machine's image hash, 32 bytes (zeros without attestation).
        check_images: Whether images (own and gateways') must be listed.
        check_models: Whether the model must be listed.
        max_age: Seconds after which the root state is stale.
        gateways: Addresses that replace the registry's list; empty uses the list.
        links: How many gateways to be connected to.
    """

    root: Address
    image: bytes
    check_images: bool
    check_models: bool
    max_age: float
    gateways: tuple[str, ...]
    links: int


class Worker:
    """One worker.

    Args:
        settings: Fixed values.
        offer: What gateways are told; the coefficient may change later.
        registry: The root contract.
        chain: Proven reads.
        book: The accounts.
        requests: Where requests run.
        collector: Looks after payouts.
        dialer: How to connect to gateways.
        engine_ready: Whether the model server may be used now.
        payer: Deploys worker contracts; None where nobody pays gas here.
        evidence: Makes a fresh bundle for a nonce; None where there is none.
        generation: Evidence of one before it is over (:mod:`appliance.worker.generation`).
        chance: Source of draws and jitter.
        tick: Least and most seconds between two looks at targets and standing.
        backoff: How long to wait before a gateway is dialled again.
    """

    def __init__(
        self,
        settings: Settings,
        offer: Offer,
        *,
        registry: RegistryView,
        chain: ChainReader,
        book: Book,
        requests: RequestRunner,
        collector: Collector,
        dialer: Dialer,
        engine_ready: Callable[[], bool],
        payer: Payer | None = None,
        evidence: Callable[[bytes], Awaitable[bytes]] | None = None,
        generation: Callable[[], int] = int,
        chance: random.Random | None = None,
        tick: tuple[float, float] = TICK_S,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._offer = offer
        self._registry = registry
        self._chain = chain
        self._book = book
        self._requests = requests
        self._collector = collector
        self._engine_ready = engine_ready
        self._payer = payer
        self._evidence = evidence
        self._generation = generation
        self._random = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._tick = tick
        targets = Targets(settings.links, self._random, backoff or Backoff())
        self._gateways = Gateways(targets, dialer, self._make_link)
        self._side: set[asyncio.Task[None]] = set()
        self._params_version: int | None = None
        self._enabled = True
        self._draining = False
        self._reasons: tuple[Reason, ...] = ()
        self._cures: dict[str, str] = {}
        self._collect_now = asyncio.Event()

    # What links ask (``Surroundings``)

    @property
    def announcement(self) -> Announcement:
        """What is told to gateways as of now."""
        found = self.look()
        return Announcement(self._offer, bool(found), refusal(found), self._generation())

    @property
    def terms(self) -> Terms:
        """The current root contract; raises ``RegistryError`` before it was read."""
        return Terms(self._settings.root, self._registry.state.params)

    def peer_allowed(self, image_hash: bytes) -> bool:
        """Whether a gateway with this image may be talked to."""
        return not self._settings.check_images or self._registry.proxy_image_listed(image_hash)

    async def recall(self, step: Recall) -> Recalled:
        """The record and what the chain has paid; deploys a worker contract that is not there, in the background."""
        # What was heard on an earlier link goes to disk first: it is part of what is known.
        await self._book.settled(step.contract)
        record = self._book.durable.get(step.contract)
        try:
            view = await contract_view(self._chain, step.worker_contract)
        except ChainError as error:
            # Requests can be served all the same: the comparison then rests on disk and gateway.
            log.warning("worker contract not read", contract=step.worker_contract.raw(), error=type(error).__name__)
            return Recalled(record, None)
        if view.status is None and self._payer is not None:
            contract = WorkerContract(self._registry.state.params, self._offer.owner, step.contract, step.public_key)
            # Parameters that changed since the handshake began would make another contract than the one agreed on.
            if contract.address == step.worker_contract:
                self._aside(self._deploy(contract))
        return Recalled(record, view.tokens)

    def gateway_ready(self, link: GatewayLink) -> None:
        """A handshake is complete."""
        self._gateways.ready(link)

    def _make_link(self, address: str) -> GatewayLink:
        return GatewayLink(address, self, self._book, self._requests, evidence=self._evidence, random=self._random)

    # What the operator may do

    def set_enabled(self, enabled: bool) -> None:
        """Switch work on or off."""
        self._enabled = enabled
        self._announce()

    def set_coefficient(self, coefficient: int) -> None:
        """Change the price, in thousandths.

        Raises:
            ConfigError: It is negative or absurd.
        """
        if not 0 <= coefficient < MAX_COEFFICIENT:
            raise ConfigError(f"coefficient is {coefficient}, expected 0 to {MAX_COEFFICIENT - 1}")
        self._offer = replace(self._offer, coefficient=coefficient)
        self._announce()

    def collect_now(self) -> None:
        """Look at payouts without waiting for the next time."""
        self._collect_now.set()

    # Standing

    def look(self) -> tuple[Reason, ...]:
        """Why no work is taken, as of now; empty when it is."""
        settings = self._settings
        age = self._registry.age()
        known = age != float("inf")
        image = self._registry.image_listed(settings.image) if known and settings.check_images else None
        model = self._registry.model_listed(self._offer.model) if known and settings.check_models else None
        return reasons(
            Situation(
                engine_ready=self._engine_ready(),
                enabled=self._enabled,
                draining=self._draining,
                ledger_fault=self._book.fault,
                registry_age=age if known else None,
                max_age=settings.max_age,
                image=image,
                model=model,
                image_cure=self._cure(add_image(settings.root, settings.image)) if image is False else "",
                model_cure=self._cure(add_model(settings.root, self._offer.model)) if model is False else "",
            )
        )

    def _cure(self, order: OwnerOrder) -> str:
        """Who has to send what to whom; the first wording stays, since its query id is drawn anew each time."""
        return self._cures.setdefault(order.summary, order.explain(self._registry.state.owner))

    def _announce(self) -> None:
        found = self.look()
        if found != self._reasons:
            gone = {reason.name for reason in self._reasons} - {reason.name for reason in found}
            new = {reason.name for reason in found} - {reason.name for reason in self._reasons}
            if gone or new:
                log.info("standing changed", state="working" if not found else "paused",
                         reason="; ".join(reason.text for reason in found))  # fmt: skip
            self._reasons = found
        self._gateways.announce()

    # The life of the worker

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._book.run(), name="ledger")
                group.create_task(self._keep_links(), name="links")
                group.create_task(self._collect(), name="payouts")
        finally:
            await self._gateways.stop()
            for task in self._side:
                task.cancel()
            await asyncio.gather(*self._side, return_exceptions=True)

    async def drain(self, limit: float) -> bool:
        """Tell gateways that no more is taken, and wait for what runs; at most ``limit`` seconds.

        Returns:
            Whether everything had ended.
        """
        self._draining = True
        self._announce()
        try:
            async with asyncio.timeout(limit):
                await self._requests.wait_idle()
        except TimeoutError:
            log.warning("requests cut off", running=self._requests.active)
            return False
        # The gateway pays for the last answers with messages that follow them.
        await asyncio.sleep(min(1.0, limit))
        return True

    async def _keep_links(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(self._random.uniform(*self._tick))

    def tick(self) -> None:
        """One look at root parameters, targets and standing."""
        if self._registry.age() != float("inf"):
            self._follow_params()
            self._follow_images()
            if not self._draining:
                self._gateways.dial(self._listed())
        self._announce()

    def _follow_params(self) -> None:
        """Parameters that moved on make other addresses: every link is shaken hands with anew (section 2.7)."""
        version = self._registry.state.params.params_version
        if self._params_version is not None and version > self._params_version:
            log.info("root parameters changed", version=version)
            self._gateways.close()
        self._params_version = max(version, self._params_version or 0)

    def _follow_images(self) -> None:
        """A gateway whose image has left the list gets no answers any more, and sees no further prompt."""
        for link in self._gateways.links:
            if link.image is not None and not self.peer_allowed(link.image):
                log.warning("gateway's image is not listed any more", gateway=link.address)
                link.close()

    def _listed(self) -> Sequence[str]:
        """The gateways that may be dialled."""
        proxies = self._registry.state.registered_proxies
        return self._settings.gateways or tuple(proxy.worker_address for proxy in proxies)

    async def _collect(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._random.uniform(*COLLECT_S)):
                    await self._collect_now.wait()
            except TimeoutError:
                pass
            self._collect_now.clear()
            if self._registry.age() == float("inf"):
                continue
            try:
                await self._collector.round(self._registry.state.params, self._linked)
            except Exception as error:  # noqa: BLE001 - requests are served whatever becomes of payouts
                log.error("payouts failed in an unforeseen way", error=type(error).__name__)

    def _linked(self) -> frozenset[Address]:
        """The contracts of the gateways we have a link to."""
        return frozenset(link.session.contract for link in self._gateways.links if link.session is not None)

    def _aside(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def _deploy(self, contract: WorkerContract) -> None:
        if self._payer is None:
            return
        try:
            await self._payer.deploy(contract)
        except ChainError as error:
            log.warning("worker contract not deployed", contract=contract.address.raw(),
                        error=type(error).__name__, reason=error.message, hint=error.hint)  # fmt: skip

    # For whoever looks

    @property
    def offer(self) -> Offer:
        """What gateways are told."""
        return self._offer

    @property
    def links(self) -> tuple[GatewayLink, ...]:
        """The gateways we are, or try to be, connected to."""
        return self._gateways.links

    @property
    def troubles(self) -> Mapping[str, str]:
        """Why there is no link, by the gateway's address."""
        return self._gateways.troubles

    @property
    def requests(self) -> RequestRunner:
        """Where requests run."""
        return self._requests

    @property
    def book(self) -> Book:
        """The accounts."""
        return self._book

    @property
    def collector(self) -> Collector:
        """The payouts."""
        return self._collector

    @property
    def draining(self) -> bool:
        """The worker is about to end."""
        return self._draining
