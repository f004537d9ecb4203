"""The root contract as a program keeps it: proven, refreshed, never older than allowed.

In: a chain and the root's address. Out: the newest :class:`~appliance.chain.layouts.RootState`, its age, and checks
whose refusals say what the root's owner has to send. Rules: protocol specification, 2.7 (versions) and section 8,
items 20 and 21 (staleness; a node does not exit because the root changed).
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import structlog

from appliance.chain.admin import OwnerOrder, add_image, add_model, add_proxy_image, model_hash
from appliance.chain.errors import ChainError, NotListedError, RegistryError, StaleError
from appliance.chain.layouts import RegisteredProxy, RootState, parse_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from appliance.chain.addresses import Address
    from appliance.chain.types import ChainReader, Head

    Subscriber = Callable[[RootState], None]

_log = structlog.get_logger(__name__)


class Registry:
    """A view of one root contract.

    Args:
        chain: Proven reads.
        root_address: The root contract.
        max_age: Seconds after which the state counts as stale (section 8, item 20).
        refresh_interval: Least and most seconds between two looks; each pause is drawn between them.
        is_test: What ``is_test`` of the parameters must be (2.7); None accepts either.
        clock: Wall clock in Unix seconds.
    """

    def __init__(
        self,
        chain: ChainReader,
        root_address: Address,
        max_age: float = 7200.0,
        *,
        refresh_interval: tuple[float, float] = (30.0, 60.0),
        is_test: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root_address = root_address
        self._chain = chain
        self._max_age = max_age
        self._interval = refresh_interval
        self._is_test = is_test
        self._clock = clock
        self._state: RootState | None = None
        self._head: Head | None = None
        self._refreshed_at = 0.0
        self._subscribers: list[Subscriber] = []
        self._task: asyncio.Task[None] | None = None
        self._last_error: ChainError | None = None

    async def start(self) -> None:
        """Read the root once, then keep it fresh in the background.

        Raises:
            RegistryError: There is no root contract at the address, or it is of another network.
            ChainError: The chain cannot be read.
        """
        await self.refresh()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_fresh(), name="registry")

    async def close(self) -> None:
        """Stop refreshing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def state(self) -> RootState:
        """The newest proven state; raises :class:`RegistryError` before the first one."""
        if self._state is None:
            raise RegistryError("the root contract was not read yet") from self._last_error
        return self._state

    @property
    def head(self) -> Head:
        """The masterchain block the state was last seen in; raises :class:`RegistryError` before the first one."""
        if self._head is None:
            raise RegistryError("the root contract was not read yet")
        return self._head

    def age(self) -> float:
        """Seconds since the state was last proven: by the chain's own time, and by when this program looked."""
        if self._head is None:
            return float("inf")
        return max(0.0, self._clock() - self._head.utime, time.monotonic() - self._refreshed_at)

    def require_fresh(self) -> None:
        """Raise :class:`StaleError` when new work must not be taken on this state."""
        age = self.age()
        if age > self._max_age:
            reason = f"; the last attempt failed: {self._last_error}" if self._last_error else ""
            raise StaleError(
                f"the root contract's state is {age:.0f} s old, allowed are {self._max_age:.0f} s{reason}",
                hint="check the liteservers and this machine's clock; work resumes by itself",
            )

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back with each state whose version is higher than the last one's; returns what ends that."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._subscribers.remove(callback)

        return unsubscribe

    async def refresh(self) -> RootState:
        """Read the root now. A higher version replaces the state, an equal one renews its time, a lower one is ignored.

        Raises:
            RegistryError: There is no root contract at the address, or it is of another network.
            LayoutError: Its data is of an unknown layout; an older state is kept.
            ChainError: The chain cannot be read; an older state is kept.
        """
        account = await self._chain.account(self.root_address)
        if account.status != "active" or account.data is None:
            raise RegistryError(
                f"the root contract {self.root_address.friendly(bounceable=True)} is {account.status}",
                hint="check the root address and the network in the configuration",
            )
        state = parse_root(account.data)
        if self._is_test is not None and state.params.is_test != self._is_test:
            raise RegistryError(
                f"the root contract says is_test {state.params.is_test}, the configuration {self._is_test}",
                hint="the root address belongs to another network",
            )
        known = self._state
        if known is not None and state.version < known.version:
            _log.warning("root contract with a lower version ignored", version=state.version, known=known.version)
            return known
        self._head, self._refreshed_at, self._last_error = account.head, time.monotonic(), None
        if known is None or state.version > known.version:
            self._state = state
            self._publish(state)
        return self.state

    def image_listed(self, image: bytes) -> bool:
        """Whether a worker image hash is listed."""
        return image in self.state.worker_hashes

    def proxy_image_listed(self, image: bytes) -> bool:
        """Whether a gateway image hash is listed."""
        return image in self.state.proxy_hashes

    def model_listed(self, model: str) -> bool:
        """Whether a model's full name (``name@commit:hash``) is listed."""
        return model_hash(model) in self.state.model_hashes

    def require_image(self, image: bytes) -> None:
        """Raise :class:`NotListedError` that says what to send to whom."""
        if not self.image_listed(image):
            raise self._not_listed(f"worker image {image.hex()}", add_image(self.root_address, image))

    def require_proxy_image(self, image: bytes) -> None:
        """Raise :class:`NotListedError` that says what to send to whom."""
        if not self.proxy_image_listed(image):
            raise self._not_listed(f"gateway image {image.hex()}", add_proxy_image(self.root_address, image))

    def require_model(self, model: str) -> None:
        """Raise :class:`NotListedError` that says what to send to whom."""
        if not self.model_listed(model):
            raise self._not_listed(f"model {model}", add_model(self.root_address, model))

    def gateways(self) -> tuple[RegisteredProxy, ...]:
        """The registered gateways, by number; raises :class:`RegistryError` when there is none."""
        proxies = self.state.registered_proxies
        if not proxies:
            raise RegistryError(
                f"no gateway is registered in the root contract {self.root_address.friendly(bounceable=True)}",
                hint=f"its owner {self.state.owner.friendly()} registers one: chrysalis registry add gateway ip:port",
            )
        return proxies

    def _not_listed(self, what: str, cure: OwnerOrder) -> NotListedError:
        return NotListedError(
            f"{what} is not listed in the root contract {self.root_address.friendly(bounceable=True)} "
            f"(version {self.state.version})",
            hint=cure.explain(self.state.owner),
        )

    def _publish(self, state: RootState) -> None:
        for callback in tuple(self._subscribers):
            try:
                callback(state)
            except Exception:  # noqa: BLE001 - one subscriber's fault must not keep the others from the new state
                _log.exception("a subscriber of the registry failed")

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(*self._interval))  # noqa: S311 - spreads load, guards nothing
            try:
                await self.refresh()
            except ChainError as error:
                # Item 21: the node stays up, keeps the old state, and says why.
                self._last_error = error
                _log.warning("root contract not refreshed", error=type(error).__name__, age=round(self.age()))
