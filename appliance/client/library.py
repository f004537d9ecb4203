"""The client as a library: verified completions over the network, for the local endpoint and for programs.

::

    async with Client(...) as client:
        answer = await client.complete("/v1/chat/completions", body)
        head = await answer.head()
        async for part in answer.parts(): ...
        answer.used, client.cost(answer)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Self

import structlog

from appliance.client.errors import ClientError
from appliance.client.request import Limits, Prepared, prepare
from appliance.errors import ErrorCode, RequestError
from appliance.wire.errors import WireError
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.client.answers import Answer
    from appliance.client.money import Purse
    from appliance.client.pool import Gateway, GatewayPool
    from appliance.client.verification import Prover
    from attestation.verdict import Verdict

log = structlog.get_logger(__name__)

PICK_TIMEOUT_S = 30.0
FLUSH_S = 1.0


class Client:
    """Verified access to the network.

    Args:
        pool: Links to gateways.
        prover: Judges the workers behind them.
        purse: Budget and accounts.
        limits: What a request may ask for.
        salt_secret: From which the cache salt is derived; 16 bytes or more, known to nobody else.
        price: The current price of an adjusted token, in nanotons.
        check_workers: Whether the workers' evidence is demanded before a prompt leaves.
    """

    def __init__(
        self,
        pool: GatewayPool,
        prover: Prover,
        purse: Purse,
        limits: Limits,
        *,
        salt_secret: bytes,
        price: Callable[[], int],
        check_workers: bool = True,
    ) -> None:
        self.pool = pool
        self.purse = purse
        self._prover = prover
        self._limits = limits
        self._salt = hmac.digest(salt_secret, b"chrysalis cache salt v1", hashlib.sha256).hex()
        self._price = price
        self._check_workers = check_workers
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        """Start keeping links up."""
        self._tasks = [asyncio.create_task(self.pool.run()), asyncio.create_task(self._flush())]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the links and write the accounts."""
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
            RequestError: The body breaks a rule.
            BudgetError: It may cost too much.
            NoGatewayError: No gateway is verified and ready.
            WorkerRefusedError: A worker of the model is not what it has to be.
        """
        prepared = prepare(method, path, payload, self._limits, salt=self._salt)
        gateway = await self.pool.pick(timeout=min(PICK_TIMEOUT_S, prepared.timeout_s))
        await self.verify_workers(gateway, prepared.model)
        session = gateway.session
        if session is None:
            raise WireError("the link to the gateway was lost", hint="send the request again")
        answer = await session.run(prepared)
        self._watch(gateway, answer, prepared)
        return answer

    def cancel(self, gateway_answer: Answer) -> None:
        """Give an answer up: the caller has gone."""
        error = RequestError("the caller has gone", code=ErrorCode.CANCELLED)
        for gateway in self.pool.states():
            if gateway.session is not None:
                gateway.session.cancel(gateway_answer, error)

    def cost(self, answer: Answer) -> int:
        """What a finished answer cost, in nanotons."""
        return answer.used.total_tokens_used * self._price()

    async def verify_workers(self, gateway: Gateway, model: str) -> tuple[Verdict, ...]:
        """The verdicts on all workers that a gateway offers for a model (recent ones are used again)."""
        if not self._check_workers:
            return ()
        if gateway.session is None:
            raise WireError("the link to the gateway was lost", hint="send the request again")
        return await self._prover.workers(gateway.session.link, gateway.proofs, model)

    async def models(self) -> list[dict[str, Any]]:
        """The models on offer at the least loaded gateway, as ``/v1/models`` lists them."""
        gateway = await self.pool.pick(timeout=PICK_TIMEOUT_S)
        if gateway.session is None:
            raise ClientError("the link to the gateway was lost", hint="ask again")
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
            for kind in await gateway.session.worker_types()
        ]

    def _watch(self, gateway: Gateway, answer: Answer, prepared: Prepared) -> None:
        """Fail the answer when its time is over and nobody else ended it."""

        def expire() -> None:
            session = gateway.session
            if not answer.finished and session is not None:
                late = RequestError(f"no complete answer within {prepared.timeout_s:g} s", code=ErrorCode.TIMEOUT)
                session.cancel(answer, late)

        handle = asyncio.get_running_loop().call_later(prepared.timeout_s, expire)
        answer.on_end(handle.cancel)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                self.purse.flush()
            except ChrysalisError as error:
                log.error("accounts not written", reason=str(error))
