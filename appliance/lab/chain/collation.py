"""One block's work: messages in, transactions out, until nothing is left or the block is full.

In: the accounts and the queue before, external messages, and an executor (the TVM). Out: a :class:`Collation`. Order
is the network's: queued messages first, by logical time, then external ones; a message that a transaction sends to
this workchain is executed in the same block, at once after what was waiting (``msg_import_imm``). What does not fit
into the block goes to the queue and opens the next block; messages to other workchains wait there for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from appliance.chain.addresses import Address
from appliance.lab.chain.descriptors import Envelope, enqueued, queue_key, read_enqueued
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.layout import BASECHAIN
from appliance.lab.chain.ledger import account_key
from appliance.lab.chain.messages import Message, TransactionHead, empty_shard_account, read_account, read_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.dictionaries import Dictionary

LT_ALIGN = 1_000_000
"""Blocks start at multiples of this (TON, ``collator.cpp``)."""

LT_STEP = 1_000
"""Between transactions; a transaction has at most 256 messages, each one step of logical time."""

_log = structlog.get_logger(__name__)


class Outcome(Protocol):
    """What the executor says of one message: a transaction, or why there is none."""

    @property
    def shard_account(self) -> Cell | None:
        """``ShardAccount`` after; None when the message was not accepted."""
        ...

    @property
    def transaction(self) -> Cell | None:
        """The transaction; None when the message was not accepted."""
        ...

    @property
    def refusal(self) -> str:
        """Why the message was not accepted."""
        ...


class Executor(Protocol):
    """Executes one message on one account (the TVM, or a test's stand-in)."""

    def execute(self, shard_account: Cell, message: Cell, *, now: int, lt: int, seed: bytes) -> Outcome:
        """``now`` in Unix seconds, ``seed`` 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Execution:
    """One transaction: the message that caused it, where that came from, and what the TVM made."""

    source: Literal["external", "immediate", "queued"]
    message: Message
    transaction: TransactionHead


@dataclass(frozen=True, slots=True)
class Export:
    """A message that a transaction sent: executed in the same block, left in the queue, or gone outside."""

    message: Message
    sender: TransactionHead
    fate: Literal["immediate", "queued", "external"]


@dataclass(frozen=True, slots=True)
class Collation:
    """A block's content. ``accounts`` and ``queue`` are as after the block; ``end_lt`` is above every message."""

    start_lt: int
    end_lt: int
    accounts: Dictionary[int]
    queue: Dictionary[int]
    executions: tuple[Execution, ...]
    exports: tuple[Export, ...]
    touched: dict[bytes, Cell | None]
    enqueued: tuple[int, ...]
    dequeued: tuple[int, ...]

    @property
    def fees(self) -> int:
        """Nanotons collected: fees of transactions, and forwarding fees of the messages that arrived."""
        forwarded = sum(e.message.forward_fee for e in self.executions if e.source != "external")
        return forwarded + sum(e.transaction.total_fees for e in self.executions)


@dataclass(slots=True)
class Collator:
    """Runs messages one after another; ``limit`` is the most transactions of a block."""

    executor: Executor
    accounts: Dictionary[int]
    queue: Dictionary[int]
    now: int
    start_lt: int
    seed: bytes
    limit: int
    _lt: int = field(init=False)
    _executions: list[Execution] = field(init=False, default_factory=list)
    _exports: list[Export] = field(init=False, default_factory=list)
    _pending: deque[Export] = field(init=False, default_factory=deque)
    _touched: dict[bytes, Cell | None] = field(init=False, default_factory=dict)
    _dequeued: list[int] = field(init=False, default_factory=list)
    _external_hashes: set[bytes] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._lt = self.start_lt

    @property
    def full(self) -> bool:
        """Whether the block can take no further transaction."""
        return len(self._executions) >= self.limit

    def shard_account(self, address: bytes) -> Cell:
        """``ShardAccount`` as of now."""
        return self.accounts.get(account_key(address)) or empty_shard_account()

    def run(self, externals: Iterator[Message]) -> Collation:
        """Make the block; ``externals`` is read only as far as the block has room."""
        self._run_queue()
        self._run_pending()
        while not self.full:
            message = next(externals, None)
            if message is None:
                break
            if message.cell.hash in self._external_hashes:
                continue  # a descriptor has room for a message once
            self._external_hashes.add(message.cell.hash)
            if self._execute("external", message) is not None:
                self._run_pending()
        return self._finish()

    def _run_queue(self) -> None:
        waiting = [(key, read_enqueued(leaf)) for key, leaf in self.queue.items()]
        for key, message in sorted(waiting, key=lambda item: (item[1].created_lt, item[0])):
            if self.full:
                return
            if message.destination is None or message.destination.workchain != BASECHAIN:
                continue
            if self._execute("queued", message) is not None:
                self.queue = self.queue.delete(key)
                self._dequeued.append(key)

    def _run_pending(self) -> None:
        while self._pending and not self.full:
            export = self._pending.popleft()
            if self._execute("immediate", export.message) is not None:
                self._exports.append(export)

    def _execute(self, source: Literal["external", "immediate", "queued"], message: Message) -> TransactionHead | None:
        destination = message.destination or Address(BASECHAIN, bytes(32))
        before = self.shard_account(destination.hash)
        self._lt += LT_STEP
        outcome = self.executor.execute(before, message.cell, now=self.now, lt=self._lt, seed=self.seed)
        if outcome.transaction is None or outcome.shard_account is None:
            if source != "external":
                raise DevNetError(f"the TVM made no transaction of an internal message: {outcome.refusal}")
            _log.info("message not accepted", kind=message.kind)
            return None
        transaction = read_transaction(outcome.transaction)
        self._store(destination.hash, outcome.shard_account)
        self._executions.append(Execution(source, message, transaction))
        for sent in transaction.outbound:
            self._route(Export(sent, transaction, "immediate"))
        return transaction

    def _store(self, address: bytes, shard_account: Cell) -> None:
        view = read_account(shard_account.refs[0])
        if view.status == "absent":
            self.accounts = self.accounts.delete(account_key(address))
            self._touched[address] = None
        else:
            self.accounts = self.accounts.set(account_key(address), shard_account, view.balance)
            self._touched[address] = shard_account

    def _route(self, export: Export) -> None:
        destination = export.message.destination
        if destination is None:
            self._exports.append(Export(export.message, export.sender, "external"))
        elif destination.workchain != BASECHAIN:
            self._exports.append(Export(export.message, export.sender, "queued"))
        else:
            self._pending.append(export)

    def _finish(self) -> Collation:
        self._exports += [Export(left.message, left.sender, "queued") for left in self._pending]
        added = []
        for export in self._exports:
            if export.fate == "queued":
                key = queue_key(export.message)
                self.queue = self.queue.set(key, enqueued(Envelope(export.message)), export.message.created_lt)
                added.append(key)
        return Collation(
            self.start_lt,
            self._lt + LT_STEP,
            self.accounts,
            self.queue,
            tuple(self._executions),
            tuple(self._exports),
            self._touched,
            tuple(added),
            tuple(self._dequeued),
        )
