"""The client as a library: verified completions over the network, for the local endpoint and for programs.

::

    async with open_client(config) as client:
        answer = await client.complete("/v1/chat/completions", body)
        head = await answer.head()
        async for part in answer.parts(): ...
        answer.used, answer.cost
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Self

import structlog

from appliance.client.request import Limits, prepare
from appliance.errors import ErrorCode, RequestError
from appliance.wire.errors import LinkClosedError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.chain.layouts import RootState
    from appliance.client.answers import Answer
    from appliance.client.money import Purse
    from appliance.client.pool import Gateway, GatewayPool
    from appliance.client.refunds import Refunds
    from appliance.client.session import GatewaySession
    from appliance.client.verification import Prover
    from attestation.verdict import Verdict

log = structlog.get_logger(__name__)

PICK_TIMEOUT_S = 30.0
FLUSH_S = 1.0
WIND_UP_S = 30.0


class Client:
    """Verified access to the network.

    Args:
        pool: Links to gateways.
        prover: Judges the workers behind them.
        purse: Budget and accounts; closed at the end.
        refunds: Winds up what belongs to older parameters.
        limits: What a request may ask for.
        root: The newest proven root state.
        require_fresh: Raises when that state is too old to act on.
        salt_secret: From which the cache salt is derived; 16 bytes or more, known to nobody else.
        check_workers: Whether the workers' evidence is demanded before a prompt leaves.
    """

    def __init__(
        self,
        pool: GatewayPool,
        prover: Prover,
        purse: Purse,
        refunds: Refunds,
        limits: Limits,
        *,
        root: Callable[[], RootState],
        require_fresh: Callable[[], None],
        salt_secret: bytes,
        check_workers: bool = True,
    ) -> None:
        self.pool = pool
        self.purse = purse
        self._prover = prover
        self._refunds = refunds
        self._limits = limits
        self._root = root
        self._require_fresh = require_fresh
        self._salt = hmac.digest(salt_secret, b"chrysalis cache salt v1", hashlib.sha256).hex()
        self._check_workers = check_workers
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start keeping links up."""
        work = (self.pool.run(), self._flush(), self._wind_up())
        self._tasks = [asyncio.create_task(part) for part in work]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the links, which ends what still runs, and write the accounts."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.purse.close()

    async def complete(self, path: str, payload: bytes, *, method: str = "POST") -> Answer:
        """Send one request; returns when it was sent. The proofs were checked before its first byte left.

        Args:
            path: ``/v1/chat/completions`` or ``/v1/completions``.
            payload: The JSON body.
            method: POST.

        Raises:
            RequestError: The body breaks a rule, or there was no time to send it.
            StaleError: The root contract's state is too old to act on.
            NoGatewayError: No gateway is verified and ready.
            ModelNotFoundError: No gateway offers the model.
            GatewayRefusedError: The gateway's proof has expired, or its image was delisted.
            WorkerRefusedError: A worker of the model is not what it has to be.
            BudgetError: It may cost too much.
            LedgerError: The disk does not take what it may cost.
            WireError: The link was lost before it was sent, or the request does not fit a frame.
        """
        prepared = prepare(method, path, payload, self._limits, salt=self._salt)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + prepared.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                self._require_fresh()
                gateway = await self.pool.pick(prepared.model, timeout=min(PICK_TIMEOUT_S, prepared.timeout_s))
                session = _session(gateway)
                self._prover.require_gateway(session.link, gateway.proofs)
                await self.verify_workers(gateway, prepared.model)
                answer = await session.run(prepared)
        except TimeoutError:
            raise RequestError(
                f"the request could not be sent within {prepared.timeout_s:g} s", code=ErrorCode.TIMEOUT
            ) from None
        late = RequestError(f"no complete answer within {prepared.timeout_s:g} s", code=ErrorCode.TIMEOUT)
        answer.on_end(loop.call_at(deadline, answer.cancel, late).cancel)
        return answer

    async def verify_workers(self, gateway: Gateway, model: str) -> tuple[Verdict, ...]:
        """The verdicts on the workers that a gateway shows for a model (recent ones are used again).

        Raises:
            WorkerRefusedError: One is not what it has to be.
            WireError: The link was lost.
        """
        if not self._check_workers:
            return ()
        return await self._prover.workers(_session(gateway).link, gateway.proofs, model)

    async def models(self) -> list[dict[str, Any]]:
        """The models on offer at the least loaded gateway, as ``/v1/models`` lists them.

        Raises:
            NoGatewayError: No gateway is verified and ready.
            WireError: The gateway answered with an error or not at all.
        """
        gateway = await self.pool.pick(timeout=PICK_TIMEOUT_S)
        return [
            {
                "id": kind.name,
                "object": "model",
                "created": 0,
                "owned_by": "chrysalis",
                "workers": [
                    {
                        "coefficient": worker.coefficient,
                        "running_requests": worker.active_requests,
                        "max_running_requests": worker.max_active_requests,
                    }
                    for worker in kind.workers
                ],
            }
            for kind in await _session(gateway).worker_types()
        ]

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                self.purse.flush()
            except ChrysalisError as error:
                # What was authorised is on disk; new requests fail where that is not enough.
                log.error("accounts not written", error=type(error).__name__, reason=error.message)

    async def _wind_up(self) -> None:
        while True:
            await asyncio.sleep(WIND_UP_S)
            try:
                await self._refunds.wind_up(self._root().params)
            except ChrysalisError as error:
                log.warning("older contracts not wound up", error=type(error).__name__, reason=error.message)


def _session(gateway: Gateway) -> GatewaySession:
    if gateway.session is None:
        raise LinkClosedError("the link to the gateway was lost", hint="nothing was sent: try again")
    return gateway.session
