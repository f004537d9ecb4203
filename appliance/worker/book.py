"""The account book at run time: what gateways say, checked, and on disk before anybody acts on it.

In: records from handshakes, payments and totals from messages. Out: records. Two views are kept: *heard* is the newest
word of each gateway and is what the next word is compared with; *durable* is what is on disk, and the only thing that a
payout or a handshake uses. Writing runs in a thread of its own, so that a disk's flush never holds up an answer;
whatever is heard meanwhile goes to disk in one commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from appliance.accounting.errors import LedgerError, PaymentRefusedError
from appliance.accounting.reconcile import with_chain
from appliance.accounting.records import with_payment, with_totals
from appliance.wire.messages import ProxySignedPayment
from appliance.worker.errors import HandshakeError
from appliance.worker.handshake import verified

if TYPE_CHECKING:
    from collections.abc import Mapping

    from appliance.accounting.reconcile import Finding
    from appliance.accounting.records import ProxyRecord
    from appliance.accounting.worker_ledger import WorkerLedger
    from appliance.chain.addresses import Address
    from appliance.wire.messages import ProxySignedPaymentEmpty

log = structlog.get_logger(__name__)

GATHER_S = 0.25
"""Between two commits while nobody waits for one: what a gateway says with every request goes to disk together."""
RETRY_S = 5.0
"""Pause after a failed write: a full disk is not helped by hurry."""


class Book:
    """The records of all gateways.

    Args:
        ledger: Where they are kept; closed by :meth:`close`.
        retry: Seconds between attempts to write after a failure.
    """

    def __init__(self, ledger: WorkerLedger, *, retry: float = RETRY_S) -> None:
        self._ledger = ledger
        self._retry = retry
        self._heard: dict[Address, ProxyRecord] = ledger.records()
        self._durable = dict(self._heard)
        self._dirty: set[Address] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._changed = asyncio.Event()
        self._awaited = asyncio.Event()
        self._written = asyncio.Condition()
        self._closing = False
        self.fault: str | None = None

    @property
    def durable(self) -> Mapping[Address, ProxyRecord]:
        """What is on disk."""
        return self._durable

    def take(self, record: ProxyRecord) -> None:
        """Have a record written soon (see :meth:`settled`)."""
        if self._heard.get(record.contract) != record:
            self._heard[record.contract] = record
            self._dirty.add(record.contract)
            self._changed.set()

    async def keep(self, record: ProxyRecord) -> None:
        """Have a record on disk; returns when it is.

        Raises:
            LedgerError: It could not be written now.
        """
        self.take(record)
        await self.settled(record.contract)

    async def replace(self, known: ProxyRecord | None, record: ProxyRecord) -> None:
        """Have a record on disk in place of the one it was made from; returns when it is.

        Raises:
            PaymentRefusedError: Something newer was heard meanwhile (the same gateway has another link): nothing is
                overwritten.
            LedgerError: It could not be written now.
        """
        if self._heard.get(record.contract) != known:
            raise PaymentRefusedError(
                "the account changed while it was compared", hint="the comparison is made again with the next attempt"
            )
        await self.keep(record)

    async def level(self, contract: Address, paid: int) -> tuple[Finding, ...]:
        """Compare the newest word with what the chain has paid, and have the outcome on disk.

        Raises:
            LedgerError: It could not be written now.
        """
        compared = with_chain(self._heard[contract], paid)
        if compared.findings:
            await self.keep(compared.record)
        return compared.findings

    async def settled(self, contract: Address) -> None:
        """Return when all that was heard about a gateway is on disk.

        Raises:
            LedgerError: It could not be written now.
        """
        async with self._written:
            while contract in self._dirty:
                if self.fault is not None:
                    raise LedgerError(self.fault, hint="the worker takes no work until its ledger can be written")
                self._awaited.set()
                await self._written.wait()

    def hear(
        self,
        contract: Address,
        payment: ProxySignedPayment | ProxySignedPaymentEmpty,
        totals: tuple[int, int] | None = None,
    ) -> None:
        """Take a gateway's word into account (section 2.6).

        Args:
            contract: The gateway.
            payment: Its signed payment, or none.
            totals: Its db and max counters, where the message has them.

        Raises:
            PaymentRefusedError: The payment does not verify or is older, totals went back, or the account is closed.
                What was fine before the contradiction is kept.
        """
        record = self._heard.get(contract)
        if record is None:
            raise PaymentRefusedError(
                "the account with this gateway is closed", hint="the link is made anew, and with it an account"
            )
        # A gateway repeats its newest payment with every request: one that is stored was verified.
        if isinstance(payment, ProxySignedPayment) and payment.data != record.payment:
            try:
                tokens, boc = verified(payment, record.public_key, record.worker_contract)
            except HandshakeError as error:
                raise PaymentRefusedError(error.message, hint=error.hint) from error
            if boc is not None:
                record = with_payment(record, tokens, boc)
                self.take(record)
                # Signed money does not wait for company, unlike totals, which change with every request.
                self._awaited.set()
        if totals is not None:
            self.take(with_totals(record, *totals))

    def requested(self, contract: Address, tokens: int, query_id: int, now: int) -> ProxyRecord:
        """The record with a payout noted as asked for; to be kept before the payout is sent."""
        return replace(self._heard[contract], requested=tokens, requested_query_id=query_id, requested_at=now)

    async def forget(self, record: ProxyRecord) -> bool:
        """Drop a gateway whose contract is done with, unless something newer than ``record`` was heard of it.

        Returns:
            Whether it was dropped.

        Raises:
            LedgerError: It could not be; it is still there.
        """
        contract = record.contract
        await self.settled(contract)
        if self._heard.get(contract) != record:
            return False
        # Out of memory first: an account that is opened meanwhile is a new one, and goes to disk after this one left.
        del self._heard[contract]
        self._durable.pop(contract, None)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.forget, contract)
        except LedgerError:
            self._heard.setdefault(contract, record)
            self._durable.setdefault(contract, record)
            raise
        return True

    async def run(self) -> None:
        """Write what is heard, until cancelled or closed."""
        while not self._closing:
            await self._changed.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._awaited.wait()
            self._changed.clear()
            self._awaited.clear()
            await self._write()
            if self.fault is not None:
                await asyncio.sleep(self._retry)
                self._changed.set()

    async def _write(self) -> None:
        batch = {contract: self._heard[contract] for contract in self._dirty}
        if not batch:
            self.fault = None
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.save, list(batch.values()))
        except LedgerError as error:
            log.error("ledger not written", error=type(error).__name__, reason=error.message, hint=error.hint)
            self.fault = error.message
        else:
            self.fault = None
            self._durable.update(batch)
            # A record that changed meanwhile stays dirty.
            self._dirty -= {contract for contract, record in batch.items() if self._heard.get(contract) == record}
        async with self._written:
            self._written.notify_all()

    async def close(self) -> None:
        """Write what is left and let go of the ledger."""
        self._closing = True
        try:
            await self._write()
        finally:
            self._thread.shutdown(wait=True)
            self._ledger.close()
