"""The end of a gateway contract, after the network's parameters changed (protocol specification, section 6.8).

In: the accounts under the old contract. Out: messages, one after another: a signed close, a refund for each client with
its total, a last payout for each worker with its total, and after the contract's delay a signed complete close, which
pays what is left to the owner. :func:`next_step` decides and is pure; :class:`Retirement` executes. A step is written
down after it was sent: a step that a kill made uncertain is sent again, which the contracts refuse without harm.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import structlog

from appliance.accounting.errors import LedgerError
from appliance.chain.addresses import Address
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainError
from appliance.chain.layouts import ContractStatus, ProxyData
from appliance.chain.messages import Op
from appliance.chain.signed import sign_close
from appliance.gateway.payments import Payments, query_id_of
from appliance.gateway.writing import see_through

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.gateway.book import Book, ClientAccount, WorkerAccount
    from appliance.gateway.epoch import Parts

log = structlog.get_logger(__name__)

STEP_VALUE = 1_000_000_000
"""Nanotons attached to each message of a retirement; what is not used comes back (section 6.8)."""
UNLOCK_SLACK_S = 1.0
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Close:
    """Order the contract to start closing."""


@dataclass(frozen=True, slots=True)
class Refund:
    """Charge a client its total and give back the rest."""

    account: ClientAccount


@dataclass(frozen=True, slots=True)
class LastPayout:
    """Pay a worker its total and close its contract."""

    account: WorkerAccount


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until the Unix time ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Complete:
    """Order the contract to pay out everything and end."""


@dataclass(frozen=True, slots=True)
class Done:
    """The contract has ended."""


Step: TypeAlias = Close | Refund | LastPayout | Wait | Complete | Done


def next_step(book: Book, status: int | None, unlock_at: int, now: float) -> Step:
    """What comes next.

    Args:
        book: The accounts; those that had their last message are ``settled``.
        status: State of the gateway's contract on chain; None when it was never deployed.
        unlock_at: When it may be completed, Unix seconds.
        now: By the chain's clock.
    """
    if status is None or status == ContractStatus.CLOSED:
        return Done()
    if status == ContractStatus.OPEN:
        return Close()
    for client in book.clients:
        if not client.settled and client.status != ContractStatus.CLOSED:
            return Refund(client)
    for worker in book.workers:
        # A worker contract that nothing is due to needs no message, and a worker that earned nothing may have none.
        if not worker.settled and worker.tokens > worker.on_chain:
            return LastPayout(worker)
    if now < unlock_at + UNLOCK_SLACK_S:
        return Wait(unlock_at + UNLOCK_SLACK_S)
    return Complete()


class Retirement:
    """Retires one contract.

    Args:
        parts: The gateway's parts.
        book: The accounts under the old contract, not used by anybody else any more.
        wall: Unix seconds.
        retry: Seconds until a failed step is tried again.
    """

    def __init__(
        self, parts: Parts, book: Book, *, wall: Callable[[], float] = time.time, retry: float = RETRY_S
    ) -> None:
        self._parts = parts
        self._book = book
        self._wall = wall
        self._retry = retry
        self._contract = Address.parse(book.instance.contract)
        self._payments = Payments(parts.key, parts.wallet.address)

    async def run(self) -> None:
        """Go on until the contract has ended; failures of chain, wallet or disk are tried again."""
        log.warning("retiring a contract", contract=self._contract.raw())
        while True:
            try:
                if await self.advance():
                    log.info("contract retired", contract=self._contract.raw())
                    return
            except (ChainError, LedgerError) as error:
                log.warning("retirement put off", error=type(error).__name__, reason=str(error))
                await asyncio.sleep(self._retry)
            except Exception as error:  # noqa: BLE001 - other people's money lies there: nothing ends this before its end
                log.error("retirement failed in an unforeseen way", error=type(error).__name__)
                await asyncio.sleep(self._retry)

    async def advance(self) -> bool:
        """Take one step; True when there is none left. Raises ``ChainError`` or ``LedgerError``."""
        state = await self._parts.chain.account(self._contract)
        data = ProxyData.from_cell(state.data) if state.status == "active" and state.data is not None else None
        now = max(self._wall(), float(state.head.utime))
        step = next_step(self._book, data.state if data else None, data.unlock_ts if data else 0, now)
        match step:
            case Close():
                await self._send_close(Op.PROXY_CLOSE)
                self._stage("closing")
            case Refund():
                await self._send(Op.CLIENT_GRANT_REFUND, step.account)
                self._stage("refunding")
            case LastPayout():
                await self._send(Op.WORKER_LAST_PAYOUT, step.account)
                self._stage("paying")
            case Wait():
                self._stage("waiting", int(step.until))
                await self._write()
                # The chain's clock decides, so this one only says when to look again.
                await asyncio.sleep(min(RETRY_S, max(0.1, step.until - now)))
            case Complete():
                await self._send_close(Op.PROXY_COMPLETE_CLOSE)
                self._stage("completing")
            case Done():
                self._stage("closed")
        await self._write()
        return isinstance(step, Done)

    async def _send(self, op: Op, account: ClientAccount | WorkerAccount) -> None:
        """Send the account's last message, if its contract is there at all."""
        peer = await self._parts.chain.account(account.contract)
        if peer.status == "active":
            signed = self._payments.sign(op, account.db, account.contract)
            await self._parts.wallet.transfer([OutgoingMessage(account.contract, STEP_VALUE, signed.to_cell())])
        self._book.settle(account)

    async def _send_close(self, op: Op) -> None:
        query_id = query_id_of(op, 0, self._contract)
        signed = sign_close(self._parts.key, op, query_id, self._contract, self._parts.wallet.address)
        await self._parts.wallet.transfer([OutgoingMessage(self._contract, STEP_VALUE, signed.to_cell())])
        await self._parts.chain.wait_head((await self._parts.chain.head()).block.seqno, timeout=RETRY_S)

    def _stage(self, stage: Stage, unlock_at: int = 0) -> None:
        instance = self._book.instance
        self._book.move(replace(instance, stage=stage, unlock_at=unlock_at or instance.unlock_at))

    async def _write(self) -> None:
        async with self._parts.writing:
            batch = self._book.batch("retire")
            if batch is None:
                return
            try:
                await see_through(partial(self._parts.ledger.write, batch))
            except BaseException:
                self._book.failed(batch)
                raise
            self._book.written(batch)


if TYPE_CHECKING:
    from appliance.accounting.gateway_ledger import Stage
