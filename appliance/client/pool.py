"""Links to gateways: found in the root contract, verified, authorised, kept up, chosen by model and load.

One supervising task a target: dial, verify, meet, pay, authorise, serve, and again after a back-off. A target that
keeps failing makes room for another one. What failed last is kept for people (:meth:`GatewayPool.states`).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import structlog

from appliance.accounting.errors import LedgerError, PaymentRefusedError
from appliance.chain.errors import ChainError
from appliance.client.errors import ModelNotFoundError, NoGatewayError
from appliance.client.texts import plain_text
from appliance.client.verification import Proofs
from appliance.wire.errors import LinkClosedError, QueryError, QueryTimeoutError
from appliance.wire.transport import dial
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from appliance.chain.layouts import RootState
    from appliance.client.duties import Duties
    from appliance.client.money import Purse
    from appliance.client.session import GatewaySession
    from appliance.client.verification import Prover
    from appliance.wire.messages import ClientWorkerTypeV2
    from appliance.wire.transport import Dialer

log = structlog.get_logger(__name__)

Stage = Literal["idle", "dialling", "verifying", "meeting", "paying", "authorising", "ready", "failed"]
Address = tuple[str, int]
FIRST_BACK_OFF_S = 1.0
LAST_BACK_OFF_S = 60.0
PAYMENT_POLL_S = (10.0, 20.0)
DUTY_POLL_S = (1.0, 2.0)
TARGETS_POLL_S = 1.0
MODELS_FRESH_S = 5.0
"""How old a list of models may be before it is asked for again."""
MISSED_FRESH_S = 0.05
"""The same where a model is not in the list: its worker may have come a moment ago."""
MODELS_TOLD = 20
REASON_CHARACTERS = 4000
PATIENCE = 3
"""Failures in a row after which a target makes room for another one."""


@dataclass(slots=True)
class Gateway:
    """One target and how it stands.

    Attributes:
        address: Host and port of its client port.
        stage: How far its link is.
        reason: Why it failed last, or what is not as it should be.
        session: Its link, from the moment that is up.
        proofs: What it has proven on this link.
        models: Number of enabled workers by model, as it said last; None when it does not say.
        models_at: When it said so, in the loop's time.
        failures: In a row.
        wanted: Whether the link is to be kept up; a link that is not wanted any more ends with its last request.
    """

    address: Address
    stage: Stage = "idle"
    reason: str = ""
    session: GatewaySession | None = None
    proofs: Proofs = field(default_factory=Proofs)
    models: Mapping[str, int] | None = None
    models_at: float = float("-inf")
    failures: int = 0
    wanted: bool = True

    @property
    def name(self) -> str:
        """Address and port, for people."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self.stage == "ready" and self.wanted and self.session is not None and self.session.ready

    @property
    def load(self) -> int:
        """Requests in flight."""
        return self.session.running if self.session is not None else 0


class GatewayPool:
    """All gateways of this client.

    Args:
        targets: Their client addresses, as the registry or the configuration names them now.
        dialer: How links are opened.
        prover: Judges evidence.
        duties: Contract and wallet work.
        purse: Knows which gateways are barred.
        sessions: Makes a session for the newest root state.
        root: The newest proven root state.
        connections: How many gateways to keep links to.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[Address]],
        dialer: Dialer,
        *,
        prover: Prover,
        duties: Duties,
        purse: Purse,
        sessions: Callable[[], GatewaySession],
        root: Callable[[], RootState],
        connections: int = 1,
    ) -> None:
        self._targets = targets
        self._dialer = dialer
        self._prover = prover
        self._duties = duties
        self._purse = purse
        self._sessions = sessions
        self._root = root
        self._connections = connections
        self._gateways: dict[Address, Gateway] = {}
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def states(self) -> list[Gateway]:
        """Every target that is or was tried, and how it stands."""
        return list(self._gateways.values())

    def ready(self) -> list[Gateway]:
        """Gateways that take requests, least loaded first."""
        return sorted((gateway for gateway in self._gateways.values() if gateway.ready), key=lambda known: known.load)

    async def pick(self, model: str | None = None, *, timeout: float) -> Gateway:  # noqa: ASYNC109 - the caller's own limit is passed down
        """The least loaded ready gateway that offers a model; waits for one while links are being made.

        Args:
            model: Base name; None for any.
            timeout: Seconds to wait at most.

        Raises:
            NoGatewayError: None became ready; the message has each one's reason.
            ModelNotFoundError: Those that are ready do not offer the model; the hint names what they offer.
        """
        try:
            async with asyncio.timeout(timeout):
                while not (usable := self.ready()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NoGatewayError(
                f"no gateway is ready ({self._reasons()})",
                hint="see /status of this endpoint; 'chrysalis registry show' lists the gateways",
            ) from None
        if model is None:
            return usable[0]
        for gateway in usable:
            if gateway.models is None or model in gateway.models:
                return gateway
        for gateway in usable:
            await self._refresh_models(gateway, MISSED_FRESH_S)
            if gateway.ready and (gateway.models is None or model in gateway.models):
                return gateway
        offered = sorted({plain_text(name, 100) for gateway in usable for name in gateway.models or ()})[:MODELS_TOLD]
        raise ModelNotFoundError(
            "no gateway offers this model",
            hint=f"on offer: {', '.join(offered) or 'none now'}; GET /v1/models lists them",
        )

    async def run(self) -> None:
        """Keep the links up until cancelled."""
        try:
            while True:
                self._choose()
                await asyncio.sleep(TARGETS_POLL_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _choose(self) -> None:
        """Which targets to have a link to: those that work, then those that may, then those that failed longest ago."""
        named = list(dict.fromkeys(self._targets()))
        known = [self._gateways.setdefault(address, Gateway(address)) for address in named]
        known.sort(key=lambda gateway: gateway.failures if gateway.failures >= PATIENCE else 0)
        kept = [gateway for gateway in known if gateway.address in self._tasks and gateway.failures < PATIENCE]
        others = [gateway for gateway in known if gateway not in kept]
        chosen = (kept + others)[: self._connections]
        for gateway in self._gateways.values():
            gateway.wanted = gateway in chosen
        for address, task in list(self._tasks.items()):
            gateway = self._gateways[address]
            if not gateway.wanted and gateway.load == 0:
                task.cancel()
            if task.done():
                del self._tasks[address]
                if address not in named:
                    del self._gateways[address]
        for gateway in chosen:
            if gateway.address not in self._tasks:
                self._tasks[gateway.address] = asyncio.create_task(self._keep(gateway))

    async def _keep(self, gateway: Gateway) -> None:
        delay = FIRST_BACK_OFF_S
        while True:
            reason = "the link was closed"
            try:
                if not await self._open(gateway):
                    continue
                delay, gateway.failures = FIRST_BACK_OFF_S, 0
                await self._serve(gateway)
            except ChrysalisError as error:
                reason = plain_text(str(error), REASON_CHARACTERS)
                if isinstance(error, PaymentRefusedError):
                    gateway.failures = max(gateway.failures, PATIENCE)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one gateway must not end the others
                reason = f"internal error ({type(error).__name__})"
            finally:
                await self._close(gateway)
            gateway.failures += 1
            gateway.stage, gateway.reason = "failed", reason
            log.warning("gateway not usable", gateway=gateway.name, reason=reason)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            delay = min(2 * delay, LAST_BACK_OFF_S)

    async def _close(self, gateway: Gateway) -> None:
        session, gateway.session = gateway.session, None
        gateway.stage = "idle"
        if session is not None and session.has_link:
            session.link.close()
            # Until it is told, the session's requests hold money.
            await session.link.wait_closed()

    async def _open(self, gateway: Gateway) -> bool:
        """Make a link that takes requests; False where it has to be made anew right away."""
        session = self._sessions()
        gateway.stage, gateway.reason = "dialling", ""
        link = await dial(self._dialer, session, gateway.address)
        gateway.session = session
        await link.negotiate()
        gateway.stage = "verifying"
        gateway.proofs = await self._prover.gateway(link)
        session.workers_changed = gateway.proofs.forget_workers
        gateway.stage = "meeting"
        terms = await session.meet()
        self._purse.require_trusted(terms)
        gateway.stage = "paying"
        if await self._duties.prepare(terms):
            # The contract is new: on a fresh link the gateway may know it already, which saves the long way.
            return False
        gateway.stage = "authorising"
        await session.authorise(terms)
        await self._refresh_models(gateway, MODELS_FRESH_S)
        gateway.stage = "ready"
        self._changed.set()
        log.info("gateway ready", gateway=gateway.name, contract=str(terms.contract))
        return True

    async def _serve(self, gateway: Gateway) -> None:
        """Look after a ready link until it is over."""
        session, loop = gateway.session, asyncio.get_running_loop()
        if session is None or session.terms is None:
            return
        lost = asyncio.create_task(session.link.wait_closed())
        work: asyncio.Task[None] | None = None
        ask_at = 0.0
        try:
            while not lost.done():
                await asyncio.wait([lost], timeout=random.uniform(*DUTY_POLL_S))  # noqa: S311 - as above
                if lost.done():
                    break
                if work is not None and work.done():
                    done, work = work, None
                    done.result()
                if self._root().params != session.terms.params:
                    raise LinkClosedError("the network's parameters changed: connecting again with new contracts")
                if self._prover.due(gateway.proofs):
                    shown = await self._prover.gateway(session.link)
                    gateway.proofs.gateway, gateway.proofs.gateway_at = shown.gateway, shown.gateway_at
                self._prover.require_gateway(session.link, gateway.proofs)
                if work is None and (loop.time() >= ask_at or self._duties.due(session.terms)):
                    # On the side: the wallet may take minutes, and a lost link is to be noticed at once.
                    work = asyncio.create_task(self._look_after(gateway, session))
                    ask_at = loop.time() + random.uniform(*PAYMENT_POLL_S)  # noqa: S311 - as above
        finally:
            lost.cancel()
            if work is not None:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        if session.lost is not None:
            raise session.lost

    async def _look_after(self, gateway: Gateway, session: GatewaySession) -> None:
        """Payments, models and the stake. Trouble with chain or disk is told, and does not end running answers."""
        if session.terms is None:
            return
        try:
            await session.update_payment()
            await self._refresh_models(gateway, MODELS_FRESH_S)
        except (QueryError, QueryTimeoutError) as error:
            log.warning("gateway tells nothing", gateway=gateway.name, error=type(error).__name__)
        try:
            await self._duties.maintain(session.terms)
        except PaymentRefusedError:
            raise
        except (ChainError, LedgerError) as error:
            gateway.reason = str(error)
            log.warning(
                "stake not looked after", gateway=gateway.name, error=type(error).__name__, reason=error.message
            )
        else:
            gateway.reason = ""

    async def _refresh_models(self, gateway: Gateway, fresh_s: float) -> None:
        loop = asyncio.get_running_loop()
        session = gateway.session
        if session is None or loop.time() - gateway.models_at < fresh_s:
            return
        try:
            offered = count_workers(await session.worker_types())
        except QueryError:
            gateway.models = None
            return
        for model in gateway.models or ():
            if offered.get(model) != (gateway.models or {}).get(model):
                gateway.proofs.forget_workers(model)
        gateway.models, gateway.models_at = offered, loop.time()

    def _reasons(self) -> str:
        tried = [f"{gateway.name} {gateway.stage}: {gateway.reason}" for gateway in self._gateways.values()]
        return "; ".join(tried) or "the root contract lists none"


def count_workers(types: Sequence[ClientWorkerTypeV2]) -> dict[str, int]:
    """Number of workers by model."""
    return {kind.name: len(kind.workers) for kind in types if kind.workers}
