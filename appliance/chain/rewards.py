"""Every nanoton of an owner's account explained.

In: proven transactions of the owner's account, of its worker contracts, and of the gateways' contracts that pay.
Out: an itemised :class:`Statement` whose sum is exactly what the account's balance changed by, with each payout tied
to the tokens it is for. A balance changes in a transaction by what came in, less its fees, less the value and the
forwarding fee of each message sent; storage fees are within the fees.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from appliance.chain.cells import Reader
from appliance.chain.errors import LayoutError
from appliance.chain.messages import Excesses, Op, Payout, WorkerPayoutPart, WorkerRequest
from appliance.chain.wallet import tons

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountState, ChainReader, Message, Transaction

_ALL = 1 << 16
_RICH_BOUNCE = 0xFFFFFFFE


class Kind(Enum):
    """What an item is."""

    PAYOUT = "payout"
    EXCESSES = "excesses"
    RECEIVED = "received"
    BOUNCED = "bounced"
    SENT = "sent"
    FORWARD_FEE = "forward fee"
    FEES = "fees"


@dataclass(frozen=True, slots=True)
class Item:
    """One change of the account. ``amount`` in nanotons, negative for what it cost; ``tokens`` for a known payout."""

    lt: int
    utime: int
    kind: Kind
    amount: int
    counterparty: Address | None = None
    query_id: int | None = None
    tokens: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class WorkerPayout:
    """A payout that a worker contract executed: ``tokens`` newly paid, ``worker_part`` in nanotons for its owner."""

    worker: Address
    proxy: Address
    query_id: int
    tokens: int
    worker_part: int
    lt: int


@dataclass(frozen=True, slots=True)
class Statement:
    """An account between two proven states.

    ``items`` add up to :attr:`explained`; ``observed`` is closing less opening balance. ``unpaid`` are payouts that a
    worker contract executed and whose money did not reach the account in this span.
    """

    items: tuple[Item, ...]
    opening: int
    closing: int
    unpaid: tuple[WorkerPayout, ...]

    @property
    def explained(self) -> int:
        """Sum of all items."""
        return sum(item.amount for item in self.items)

    @property
    def observed(self) -> int:
        """What the balance changed by."""
        return self.closing - self.opening

    @property
    def difference(self) -> int:
        """What is not explained: 0 when everything is."""
        return self.observed - self.explained

    @property
    def earned(self) -> int:
        """Nanotons received as payouts."""
        return self.total(Kind.PAYOUT)

    def total(self, kind: Kind) -> int:
        """Sum of the items of one kind."""
        return sum(item.amount for item in self.items if item.kind is kind)

    def lines(self) -> list[str]:
        """The statement for people."""
        rows = [
            f"{item.utime}  {item.kind.value:<11}  {tons(item.amount):>24}  "
            f"{item.counterparty.friendly() if item.counterparty else '-'}  {item.note}".rstrip()
            for item in self.items
        ]
        rows.append(
            f"explained {tons(self.explained)}, observed {tons(self.observed)}, difference {tons(self.difference)}"
        )
        rows += [
            f"not received yet: {tons(payout.worker_part)} for {payout.tokens} tokens, query {payout.query_id:016x}"
            for payout in self.unpaid
        ]
        return rows


def worker_payouts(transactions: Iterable[Transaction]) -> list[WorkerPayout]:
    """The payouts that a worker contract executed, from its proven transactions, oldest first.

    ``tokens`` is the step from one executed total to the next; the first one's step is counted from 0, so the
    transactions have to start with the contract's first. A payout whose request came back from the proxy contract
    was undone by the worker contract and is left out.
    """
    found: list[WorkerPayout] = []
    paid = 0
    for transaction in transactions:
        undone = _undone_query(transaction)
        for payout in found:
            if payout.query_id == undone:
                found.remove(payout)
                paid -= payout.tokens
                break
        report = _worker_report(transaction)
        if report is not None:
            proxy, request, part = report
            tokens, paid = request.tokens - paid, request.tokens
            payout = WorkerPayout(
                transaction.account, proxy, request.query_id, tokens, part.worker_part, transaction.lt
            )
            found.append(payout)
    return found


def statement(
    transactions: Sequence[Transaction], *, opening: int, closing: int, payouts: Iterable[WorkerPayout] = ()
) -> Statement:
    """Explain an account's transactions (oldest first) between two balances (nanotons)."""
    open_payouts = {(payout.proxy, payout.query_id): payout for payout in payouts}
    items: list[Item] = []
    for transaction in transactions:
        if transaction.inbound is not None and transaction.inbound.source is not None:
            items.append(_income(transaction, transaction.inbound, open_payouts))
        for message in transaction.outbound:
            note = "sent back" if message.bounced else ""
            items.append(_item(transaction, Kind.SENT, -message.value, message, note))
            if message.forward_fee:
                items.append(_item(transaction, Kind.FORWARD_FEE, -message.forward_fee, message, ""))
        if transaction.total_fees:
            items.append(Item(transaction.lt, transaction.utime, Kind.FEES, -transaction.total_fees))
    return Statement(tuple(items), opening, closing, tuple(open_payouts.values()))


async def explain(
    chain: ChainReader, owner: Address, workers: Sequence[Address] = (), *, since: AccountState | None = None
) -> Statement:
    """Read and explain an owner's account.

    Args:
        chain: Proven reads.
        owner: The account.
        workers: The owner's worker contracts, which tell what each payout is for.
        since: The account as of an earlier proven block, where the statement starts; None starts with nothing.

    Raises:
        ChainError: The chain cannot be read.
    """
    payouts: list[WorkerPayout] = []
    for worker in workers:
        payouts += worker_payouts(await chain.transactions(worker, limit=_ALL))
    after_lt = since.last_lt if since is not None else 0
    # Read until the last transaction is the one that the balance is as of: the account may change in between.
    while True:
        state = await chain.account(owner)
        transactions = await chain.transactions(owner, after_lt=after_lt, limit=_ALL)
        if (transactions[-1].lt if transactions else after_lt) == max(state.last_lt, after_lt):
            break
    opening = since.balance if since is not None else 0
    return statement(transactions, opening=opening, closing=state.balance, payouts=payouts)


def _worker_report(transaction: Transaction) -> tuple[Address, WorkerRequest, WorkerPayoutPart] | None:
    """What an executed payout sent to the proxy contract."""
    inbound = transaction.inbound
    if transaction.aborted or inbound is None:
        return None
    for message in transaction.outbound:
        try:
            request = WorkerRequest.from_cell(message.body)
            if request.payload is not None and message.destination is not None:
                return message.destination, request, WorkerPayoutPart.from_cell(request.payload)
        except LayoutError:
            continue
    return None


def _undone_query(transaction: Transaction) -> int | None:
    """The query id of a worker request that came back.

    A bounced body starts with 0xffffffff and the first 256 bits of the original, or with 0xfffffffe and a reference to
    it (``new_bounce_body`` of global version 12).
    """
    inbound = transaction.inbound
    if transaction.aborted or inbound is None or not inbound.bounced:
        return None
    try:
        reader = Reader(inbound.body, "bounced body")
        if reader.uint(32) == _RICH_BOUNCE:
            reader = Reader(reader.ref(), "original body")
        reader.constant(Op.WORKER_REQUEST, 32, "operation")
        return reader.uint(64)
    except LayoutError:
        return None


def _income(transaction: Transaction, message: Message, open_payouts: dict[tuple[Address, int], WorkerPayout]) -> Item:
    if message.bounced:
        return _item(transaction, Kind.BOUNCED, message.value, message, "a message of this account came back")
    try:
        query_id = Payout.from_cell(message.body).query_id
    except LayoutError:
        query_id = None
    if query_id is not None and message.source is not None:
        payout = open_payouts.pop((message.source, query_id), None)
        note = "payout of an unknown contract" if payout is None else _compare(payout, message.value)
        return Item(
            transaction.lt,
            transaction.utime,
            Kind.PAYOUT,
            message.value,
            message.source,
            query_id,
            None if payout is None else payout.tokens,
            note,
        )
    try:
        query_id = Excesses.from_cell(message.body).query_id
    except LayoutError:
        return _item(transaction, Kind.RECEIVED, message.value, message, "")
    return Item(transaction.lt, transaction.utime, Kind.EXCESSES, message.value, message.source, query_id)


def _compare(payout: WorkerPayout, received: int) -> str:
    text = f"{payout.tokens} tokens of worker contract {payout.worker.friendly()}"
    if received != payout.worker_part:
        text += f", the contract asked for {tons(payout.worker_part)}"
    return text


def _item(transaction: Transaction, kind: Kind, amount: int, message: Message, note: str) -> Item:
    other = message.source if kind in {Kind.BOUNCED, Kind.RECEIVED} else message.destination
    return Item(transaction.lt, transaction.utime, kind, amount, other, note=note)
