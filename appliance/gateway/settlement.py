"""Money over time: what happened is written down, marked on the chain, heard from the chain and paid out.

In: the book, the ledger file, a chain, a wallet. Out: durable batches, marker and payout messages, and events of the
gateway's own contract handed on. Protocol specification, sections 2.6 and 6.9.

Order, so that a kill at any instant loses nothing that was acknowledged: a batch is on disk before its totals are told
to a peer as committed; a marker is on disk before it is sent; what the chain shows is on disk before it is signed for.
At start the contract's transactions are read up to the present *before* anything is written: a ledger restored from an
old backup learns from them which sequence numbers were used and what was already paid.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.errors import LedgerError
from appliance.accounting.gateway_ledger import NO_MARKER
from appliance.chain.deploy import proxy_deploy_message
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainError, ChainTimeoutError, FundsError
from appliance.chain.layouts import ContractStatus, ProxyData
from appliance.chain.messages import Op, ProxyPayout
from appliance.chain.watch import AccountWatcher
from appliance.gateway.contract_events import ClientSeen, Event, MarkerSeen, WorkerSeen, event_of, marker_body
from appliance.gateway.errors import SettlementError
from appliance.gateway.payments import query_id_of
from appliance.gateway.writing import see_through

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.accounting.gateway_ledger import Batch, GatewayLedger
    from appliance.chain.addresses import Address
    from appliance.chain.types import ChainReader, Transaction
    from appliance.gateway.book import Account, Book
    from appliance.gateway.payments import Payments
    from appliance.gateway.terms import Terms

log = structlog.get_logger(__name__)

COMMIT_S = 1.5
"""Time between database commits (section 2.6)."""
PAYOUT_VALUE = 700_000_000
"""Nanotons attached to a payout, charge or withdrawal by the gateway (section 2.6); what is not used comes back."""
MARKER_VALUE = 1
PAYOUT_RETRY_S = 600.0
MAX_MESSAGES = 4
_WAIT_HEAD_S = 30.0
_RETRY_S = 5.0


class GatewayWallet(Protocol):
    """What is needed of :class:`appliance.chain.wallet.NodeWallet`."""

    address: Address

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> Transaction:
        """Send one to four messages; returns when the chain shows it."""
        ...


class Settlement:
    """The loops of money under one gateway contract.

    Args:
        ledger: The file.
        book: The accounts.
        terms: Under which the contract was made.
        payments: Signs totals.
        chain: Where to read.
        wallet: Sends markers and payouts.
        heard: Called with each event of the contract, once it is on disk.
        trouble: Called with a reason when the ledger cannot be written, with None when it can again.
        monotonic: Seconds that only grow.
        commit_interval: Seconds between markers.
        payout_min: Nanotons that a payout, charge or withdrawal has to be worth.
        writing: Held while a batch gets its number and is written; shared by all who write this ledger.

    Attributes:
        problem: Why the last marker or payout could not be sent; empty when it could.
    """

    def __init__(  # noqa: PLR0917 - the parts it joins, in the order of the flow
        self,
        ledger: GatewayLedger,
        book: Book,
        terms: Terms,
        payments: Payments,
        chain: ChainReader,
        wallet: GatewayWallet,
        *,
        heard: Callable[[Event], None],
        trouble: Callable[[str | None], None],
        monotonic: Callable[[], float],
        commit_interval: float,
        payout_min: int,
        writing: asyncio.Lock | None = None,
    ) -> None:
        self._ledger = ledger
        self._book = book
        self._terms = terms
        self._payments = payments
        self._chain = chain
        self._wallet = wallet
        self._heard = heard
        self._trouble = trouble
        self._monotonic = monotonic
        self._commit_interval = commit_interval
        self._payout_min = payout_min
        self._watcher = AccountWatcher(chain, terms.contract, after_lt=book.instance.last_lt)
        self._writing = writing or asyncio.Lock()
        self._asked: dict[Address, float] = {}
        self._unheard: list[Event] = []
        self.problem = ""

    async def start(self) -> None:
        """Make sure the contract is there, and take over everything the chain knows.

        Raises:
            ChainError: The chain cannot be read, or the wallet cannot deploy the contract.
            SettlementError: The contract was closed.
            LedgerError: What the chain knows cannot be written down.
        """
        await self._ensure_contract()
        await self._read_contract()

    async def run(self) -> None:
        """Run until cancelled; a failure of chain or disk is reported and tried again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commit_loop())
            tasks.create_task(self._watch_loop())
            tasks.create_task(self._marker_loop())

    # Disk

    async def commit(self, name: str = "usage") -> None:
        """Write down what changed; raises ``LedgerError``, and then nothing of it counts as written."""
        async with self._writing:
            batch = self._book.batch(name)
            if batch is not None:
                await self._write(batch)

    async def _write(self, batch: Batch) -> None:
        try:
            await see_through(partial(self._ledger.write, batch))
        except BaseException as error:
            self._book.failed(batch)
            if isinstance(error, LedgerError):
                self._trouble(f"the ledger cannot be written: {error}")
            raise
        self._book.written(batch)
        self._trouble(None)

    async def _commit_loop(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_S)
            try:
                await self.commit()
            except LedgerError as error:
                log.error("ledger not written", error=type(error).__name__, reason=str(error))

    # Chain in

    async def _watch_loop(self) -> None:
        seqno = 0
        while True:
            try:
                head = await self._chain.wait_head(seqno, timeout=_WAIT_HEAD_S)
                seqno = head.block.seqno
                await self._read_contract()
            except ChainTimeoutError:
                continue
            except (ChainError, LedgerError) as error:
                log.warning("own contract not read", error=type(error).__name__, reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _read_contract(self) -> None:
        """Take the new transactions into account, oldest first."""
        transactions = await self._watcher.poll()
        for transaction in transactions:
            event = self._understood(transaction)
            if event is not None:
                self._observe(event)
                self._unheard.append(event)
        if transactions:
            self._book.advance(transactions[-1].lt)
        elif not self._unheard:
            return
        # What a full disk keeps from being written is handed on when it was written after all.
        await self.commit("observe")
        events, self._unheard = self._unheard, []
        for event in events:
            self._heard(event)

    def _understood(self, transaction: Transaction) -> Event | None:
        try:
            return event_of(transaction, self._terms, self._wallet.address)
        except Exception as error:  # noqa: BLE001 - anyone can send the contract anything: it must not stop the reading
            log.error("transaction not understood", lt=transaction.lt, error=type(error).__name__)
            return None

    def _observe(self, event: Event) -> None:
        book = self._book
        match event:
            case ClientSeen():
                book.observe_client(
                    event.owner,
                    event.contract,
                    status=event.status,
                    balance=event.balance,
                    stake=event.stake,
                    used=event.used,
                    secret_hash=event.secret_hash,
                )
            case WorkerSeen():
                book.observe_worker(event.owner, event.contract, event.paid)
            case MarkerSeen():
                book.observe_marker(event.seqno, event.session)
            case _:
                pass

    # Chain out

    async def _marker_loop(self) -> None:
        while True:
            await asyncio.sleep(self._commit_interval)
            try:
                await self.mark()
                await self._pay_out()
                self.problem = ""
            except (ChainError, LedgerError) as error:
                self.problem = str(error)
                log.warning("settlement put off", error=type(error).__name__, reason=str(error))

    async def mark(self) -> None:
        """Put the ledger's sequence on the chain: what it covers may be signed for once the contract shows it."""
        async with self._writing:
            batch = self._book.marker_batch()
            if batch is not None:
                await self._write(batch)
        instance = self._book.instance
        if instance.marker_seqno == NO_MARKER:
            return
        await self.commit()
        query_id = query_id_of(Op.DO_NOT_PROCESS, instance.marker_seqno, self._terms.contract)
        body = marker_body(instance.marker_seqno, instance.marker_session, query_id)
        await self._wallet.transfer([OutgoingMessage(self._terms.contract, MARKER_VALUE, body)])

    async def _pay_out(self) -> None:
        """Send payouts and charges that are worth it, and withdraw what the contract earned."""
        due = [
            (Op.WORKER_PAYOUT, account)
            for account in self._book.workers
            if self._is_due(account, self._terms.worker_fee)
        ] + [(Op.CLIENT_CHARGE, account) for account in self._book.clients if self._is_due(account, self._terms.price)]
        for start in range(0, len(due), MAX_MESSAGES):
            await self._send_payouts(due[start : start + MAX_MESSAGES])
        await self._withdraw()

    def _is_due(self, account: Account, nanotons: int) -> bool:
        if self._monotonic() - self._asked.get(account.contract, -PAYOUT_RETRY_S) < PAYOUT_RETRY_S:
            return False
        return (account.committed - account.on_chain) * nanotons >= max(self._payout_min, 1)

    async def _send_payouts(self, due: Sequence[tuple[Op, Account]]) -> None:
        messages = []
        for op, account in due:
            self._book.request_payout(account, account.committed)
            signed = self._payments.sign(op, account.committed, account.contract)
            messages.append(OutgoingMessage(account.contract, PAYOUT_VALUE, signed.to_cell()))
            self._asked[account.contract] = self._monotonic()
        await self.commit("payout")
        await self._transfer(messages, [account.contract for _, account in due])
        log.info("payouts sent", count=len(messages))

    async def _withdraw(self) -> None:
        contract = self._terms.contract
        if self._monotonic() - self._asked.get(contract, -PAYOUT_RETRY_S) < PAYOUT_RETRY_S:
            return
        state = await self._chain.account(contract)
        if state.data is None or ProxyData.from_cell(state.data).balance < max(self._payout_min, 1):
            return
        self._asked[contract] = self._monotonic()
        body = ProxyPayout(query_id_of(Op.PROXY_PAYOUT, state.last_lt, contract), self._wallet.address)
        await self._transfer([OutgoingMessage(contract, PAYOUT_VALUE, body.to_cell())], [contract])
        log.info("withdrawal sent")

    async def _transfer(self, messages: Sequence[OutgoingMessage], asked: Sequence[Address]) -> None:
        """Send; what an empty wallet did not send is asked for again as soon as it is funded."""
        try:
            await self._wallet.transfer(messages)
        except FundsError:
            for contract in asked:
                self._asked.pop(contract, None)
            raise

    async def _ensure_contract(self) -> None:
        """Deploy the gateway's contract with the least stake, if it is not there."""
        terms = self._terms
        state = await self._chain.account(terms.contract)
        if state.status == "active" and state.data is not None:
            status = ProxyData.from_cell(state.data).state
            if status != ContractStatus.OPEN:
                raise SettlementError(
                    f"gateway contract {terms.contract.raw()} is in state {status}, expected 0 (open)",
                    hint="its owner closed it: give this gateway another key_file, which makes another contract",
                )
            return
        # On disk before its stake is paid in: whatever happens now, the contract is known, and retired one day.
        self._book.move(self._book.instance)
        await self.commit("instance")
        identity, params = terms.identity, terms.state.params
        message = proxy_deploy_message(
            identity.root_contract,
            params,
            identity.owner,
            identity.public_key,
            stake=params.min_proxy_stake,
            excesses=self._wallet.address,
        )
        await self._wallet.transfer([message])
        log.info("gateway contract deployed", contract=terms.contract.raw())
