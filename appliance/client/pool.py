"""Links to gateways: found in the root contract, verified, authorised, kept up, chosen by load.

One supervising task a target: dial, verify, meet, pay, authorise, serve, and again after a back-off. What failed last
is kept for people (:meth:`GatewayPool.states`).
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import structlog

from appliance.client.errors import NoGatewayError
from appliance.client.verification import Proofs
from appliance.wire.errors import WireError
from appliance.wire.transport import dial
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.client.duties import Duties
    from appliance.client.session import GatewaySession
    from appliance.client.verification import Prover
    from appliance.wire.transport import Dialer

log = structlog.get_logger(__name__)

Stage = Literal["idle", "dialling", "verifying", "meeting", "paying", "authorising", "ready", "failed"]
FIRST_BACK_OFF_S = 1.0
LAST_BACK_OFF_S = 60.0
PAYMENT_POLL_S = (10.0, 20.0)
DUTY_POLL_S = (1.0, 2.0)


@dataclass(slots=True)
class Gateway:
    """One target and how it stands."""

    address: tuple[str, int]
    stage: Stage = "idle"
    reason: str = ""
    session: GatewaySession | None = None
    proofs: Proofs = field(default_factory=Proofs)


class GatewayPool:
    """All gateways of this client.

    Args:
        targets: Their client addresses, as the registry or the configuration names them now.
        dialer: How links are opened.
        prover: Judges evidence.
        duties: Contract and wallet work.
        sessions: Makes a session for the newest root state.
        connections: How many gateways to keep links to.
    """

    def __init__(
        self,
        targets: Callable[[], Sequence[tuple[str, int]]],
        dialer: Dialer,
        prover: Prover,
        duties: Duties,
        sessions: Callable[[], GatewaySession],
        *,
        connections: int = 1,
    ) -> None:
        self._targets = targets
        self._dialer = dialer
        self._prover = prover
        self._duties = duties
        self._sessions = sessions
        self._connections = connections
        self._gateways: dict[tuple[str, int], Gateway] = {}
        self._changed = asyncio.Event()

    def states(self) -> list[Gateway]:
        """Every target and how it stands."""
        return list(self._gateways.values())

    def ready(self) -> list[Gateway]:
        """Gateways that take requests, least loaded first."""
        usable = [gateway for gateway in self._gateways.values() if gateway.session and gateway.session.ready]
        return sorted(usable, key=lambda gateway: gateway.session.running if gateway.session else 0)

    async def pick(self, *, timeout: float) -> Gateway:  # noqa: ASYNC109 - the caller's own limit is passed down
        """A ready gateway; waits for one while links are being made.

        Raises:
            NoGatewayError: None became ready; the message has each one's reason.
        """
        try:
            async with asyncio.timeout(timeout):
                while not (usable := self.ready()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            states = "; ".join(f"{g.address[0]}:{g.address[1]} {g.stage}: {g.reason}" for g in self._gateways.values())
            raise NoGatewayError(
                f"no gateway is ready ({states or 'the root contract lists none'})",
                hint="see /status of this endpoint; chrysalis registry show lists the gateways",
            ) from None
        return usable[0]

    async def run(self) -> None:
        """Keep the links up until cancelled."""
        tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = list(self._targets())[: self._connections] if self._connections else list(self._targets())
                for address in wanted:
                    if address not in tasks:
                        gateway = self._gateways.setdefault(address, Gateway(address))
                        tasks[address] = group.create_task(self._keep(gateway))
                for address in [known for known in tasks if known not in wanted]:
                    tasks.pop(address).cancel()
                    self._gateways.pop(address, None)
                await asyncio.sleep(1.0)

    async def _keep(self, gateway: Gateway) -> None:
        delay = FIRST_BACK_OFF_S
        while True:
            try:
                await self._open(gateway)
                delay = FIRST_BACK_OFF_S
                await self._serve(gateway)
                reason: str = "the link was closed"
            except ChrysalisError as error:
                reason = str(error)
            finally:
                if gateway.session is not None and gateway.session.has_link:
                    gateway.session.link.close()
                gateway.session = None
            gateway.stage, gateway.reason = "failed", reason
            log.warning("gateway not usable", gateway=f"{gateway.address[0]}:{gateway.address[1]}", reason=reason)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            delay = min(2 * delay, LAST_BACK_OFF_S)

    async def _open(self, gateway: Gateway) -> None:
        session = self._sessions()
        gateway.stage, gateway.reason = "dialling", ""
        link = await dial(self._dialer, session, gateway.address)
        gateway.session = session
        await link.negotiate()
        gateway.stage = "verifying"
        gateway.proofs = Proofs(await self._prover.gateway(link))
        gateway.stage = "meeting"
        terms = await session.meet()
        gateway.stage = "paying"
        if await self._duties.prepare(terms):
            # The contract is new: on a fresh link the gateway may know it already, which saves the long way.
            link.close()
            raise WireError("the client contract was deployed; connecting again")
        gateway.stage = "authorising"
        await session.authorise(terms)
        gateway.stage = "ready"
        self._changed.set()
        log.info("gateway ready", gateway=f"{gateway.address[0]}:{gateway.address[1]}", contract=str(terms.contract))

    async def _serve(self, gateway: Gateway) -> None:
        session = gateway.session
        if session is None or session.terms is None:
            return
        lost = asyncio.create_task(session.link.wait_closed())
        loop = asyncio.get_running_loop()
        ask_at = 0.0
        try:
            while not lost.done():
                await asyncio.wait([lost], timeout=random.uniform(*DUTY_POLL_S))  # noqa: S311 - as above
                if not lost.done() and (loop.time() >= ask_at or self._duties.due(session.terms)):
                    await session.update_payment()
                    await self._duties.maintain(session.terms)
                    ask_at = loop.time() + random.uniform(*PAYMENT_POLL_S)  # noqa: S311 - as above
        finally:
            lost.cancel()
        if session.lost is not None:
            raise session.lost if isinstance(session.lost, ChrysalisError) else WireError("the link was lost")
