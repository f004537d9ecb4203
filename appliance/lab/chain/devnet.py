"""The lab's chain: real transactions, blocks, states and proofs, made by one validator in this process.

In: external messages, grants of the faucet, ticks of a clock. Out: blocks on disk and in memory, each published only
after it is stored. Block 1 is a key block that carries the configuration; more key blocks are made on request.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.errors import LayoutError
from appliance.lab.chain.archive import Archive, View
from appliance.lab.chain.blocks import (
    Header,
    ValueFlow,
    build_block,
    master_extra,
    shard_extra,
    shard_flow,
    zerostate,
)
from appliance.lab.chain.clock import Clock
from appliance.lab.chain.collation import LT_ALIGN, Collation, Collator
from appliance.lab.chain.config import ChainConfig, Validator
from appliance.lab.chain.errors import DevNetError, MessageRefusedError
from appliance.lab.chain.faucet import MAX_GRANTS, SUPPLY, Faucet, Grant
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN, Block
from appliance.lab.chain.ledger import (
    Fees,
    Ledger,
    account_key,
    empty_accounts,
    empty_previous,
    empty_queue,
    with_account,
    with_previous,
)
from appliance.lab.chain.messages import Message, TransactionHead, empty_shard_account, read_message
from appliance.lab.chain.proofs import cell_hashes, merkle_update
from appliance.lab.chain.states import master_state, shard_state, shard_top
from appliance.lab.chain.store import BlockRow, ChainStore, Change, TransactionRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.lab.chain.machine import Machine

DEFAULT_GLOBAL_ID = -777
DEFAULT_BLOCK_LIMIT = 512
MAX_MEMPOOL = 1024
MAX_MESSAGE_BYTES = 1 << 16
FILE_NAME = "chain.sqlite3"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """Where the chain stands: height, generation time of the newest block, and what there is in all."""

    seqno: int
    utime: int
    transactions: int
    accounts: int
    mempool: int
    queued: int


class DevNet:
    """A chain in a directory. Every method may be called from any thread; blocks are made one at a time.

    Args:
        machine: Executes messages; it is given this chain's configuration.
        directory: Where the chain lives; an empty one gets a new chain.
        base_config: Parameters of a new chain (fees, gas, limits); parameters 19, 28 and 34 are replaced.
        clock: Only for a new or reopened chain's time; by default real time.
        global_id: Network id of a new chain.
        block_limit: Most transactions of a block.

    Raises:
        DevNetError: The directory holds something else, or a damaged chain.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        *,
        base_config: Cell,
        clock: Clock | None = None,
        global_id: int = DEFAULT_GLOBAL_ID,
        block_limit: int = DEFAULT_BLOCK_LIMIT,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store = ChainStore(directory / FILE_NAME)
        self.archive = Archive(self.store)
        self._machine = machine
        self._limit = block_limit
        self._making = threading.RLock()
        self._mempool: deque[Message] = deque()
        self._grants: deque[Grant] = deque()
        self._subscribers: tuple[Callable[[View], None], ...] = ()
        self._on_work: Callable[[], None] = _nobody
        self._next_validator: Validator | None = None
        self._key_block_wanted = False
        try:
            if self.store.height() is None:
                _create(self.store, base_config, clock or Clock(), global_id)
            self.faucet = Faucet(Ed25519PrivateKey.from_private_bytes(self._meta("faucet_seed")))
            self._view = self.archive.view(self.store.height() or 0)
        except BaseException:
            self.store.close()
            raise
        self.clock = clock or Clock(offset=int(self._meta("clock_offset")), not_before=self._view.ledger.utime)
        self._known = {
            MASTERCHAIN: cell_hashes(self._view.master_state),
            BASECHAIN: cell_hashes(self._view.shard_state),
        }
        machine.configure(self._view.ledger.config.root)
        if self._view.seqno == 0:
            self.tick()

    def close(self) -> None:
        """Close the file; the executor stays its owner's."""
        with self._making:
            self.store.close()

    def subscribe(self, callback: Callable[[View], None]) -> None:
        """Have ``callback`` called after each block, by the thread that made it."""
        with self._making:
            self._subscribers = (*self._subscribers, callback)

    def unsubscribe(self, callback: Callable[[View], None]) -> None:
        """End what :meth:`subscribe` began; nothing when it did not."""
        with self._making:
            self._subscribers = tuple(each for each in self._subscribers if each != callback)

    def watch_work(self, callback: Callable[[], None] | None) -> None:
        """Have ``callback`` called, by any thread, when there is something for a block; None ends it."""
        self._on_work = callback or _nobody

    @property
    def view(self) -> View:
        """The newest height."""
        return self._view

    @property
    def has_work(self) -> bool:
        """Whether a block made now would hold transactions."""
        return bool(self._mempool or self._grants or self._view.ledger.queue)

    @property
    def zerostate(self) -> Block:
        """The masterchain's zerostate."""
        return self._required(MASTERCHAIN, 0)

    @property
    def key_block(self) -> Block:
        """The first key block: a trust point for clients."""
        return self._required(MASTERCHAIN, 1)

    def status(self) -> Status:
        """Where the chain stands."""
        transactions, accounts = self.store.counts()
        ledger = self._view.ledger
        queued = sum(1 for _ in ledger.queue.items())
        return Status(ledger.seqno, ledger.utime, transactions, accounts, len(self._mempool), queued)

    def shard_account(self, address: Address, view: View | None = None) -> Cell:
        """``ShardAccount`` at a height (the newest by default); that of no account where there is none."""
        accounts = (view or self._view).ledger.accounts
        leaf = accounts.get(account_key(address.hash)) if address.workchain == BASECHAIN else None
        return leaf or empty_shard_account()

    def send(self, boc: bytes) -> None:
        """Take an external message for the next block, once its contract accepts it against the newest state.

        Raises:
            MessageRefusedError: It is malformed, for another workchain, not accepted, or there are too many.
        """
        try:
            message = read_message(decode_boc(boc, max_bytes=MAX_MESSAGE_BYTES))
        except LayoutError as error:
            raise MessageRefusedError(f"cannot deserialize external message: {error.message}") from error
        if message.kind != "external_in" or message.destination is None:
            raise MessageRefusedError(f"an {message.kind} message, expected an inbound external one")
        if message.destination.workchain != BASECHAIN:
            raise MessageRefusedError(f"workchain {message.destination.workchain}, expected {BASECHAIN}")
        with self._making:
            if len(self._mempool) >= MAX_MEMPOOL:
                raise MessageRefusedError(f"{MAX_MEMPOOL} messages wait already", hint="try again after a block")
            ledger = self._view.ledger
            outcome = self._machine.execute(
                self.shard_account(message.destination),
                message.cell,
                now=max(ledger.utime, self.clock.now()),
                lt=ledger.lt + LT_ALIGN,
                seed=bytes(32),
            )
            if outcome.transaction is None:
                raise MessageRefusedError(f"cannot apply external message to current state : {outcome.refusal}")
            self._mempool.append(message)
        self._on_work()

    def grant(self, grant: Grant) -> int:
        """Have the faucet pay in the next block; raises :class:`DevNetError` for an amount that is not positive.

        Returns:
            The height before that block.
        """
        if not 0 < grant.amount <= SUPPLY:
            raise DevNetError(f"a grant of {grant.amount} nanotons, expected 1 to {SUPPLY}")
        with self._making:
            self._grants.append(grant)
            seqno = self._view.seqno
        self._on_work()
        return seqno

    def request_key_block(self) -> None:
        """Make the next block a key block with the same configuration."""
        with self._making:
            self._key_block_wanted = True

    def rotate_validator(self) -> None:
        """Make the next block a key block that names a new validator, who signs the blocks after it."""
        with self._making:
            current = self._view.ledger.validator
            since = self._view.seqno + 2
            self._next_validator = Validator(Ed25519PrivateKey.generate(), current.catchain_seqno + 1, since)
            self._key_block_wanted = True

    def run_method(self, address: Address, view: View, method_id: int, stack: Cell | None) -> tuple[int, Cell | None]:
        """Run a get-method at a height: exit code and stack."""
        account = self.shard_account(address, view)
        with self._making:
            return self._machine.run_method(account, address, method_id=method_id, stack=stack, now=view.ledger.utime)

    def advance_clock(self, seconds: int) -> int:
        """Go ahead in time, for good: the offset survives a restart. Returns the time."""
        with self._making:
            now = self.clock.advance(seconds)
            self.store.set_meta("clock_offset", str(self.clock.offset).encode())
        return now

    def tick(self) -> View:
        """Make the next block of both chains, store it, publish it."""
        with self._making:
            before = self._view
            utime = max(before.ledger.utime, self.clock.now())
            seed = os.urandom(32)
            start_lt = (before.ledger.lt // LT_ALIGN + 1) * LT_ALIGN
            ledger = before.ledger
            collator = Collator(self._machine, ledger.accounts, ledger.queue, utime, start_lt, seed, self._limit)
            collation = collator.run(self._externals(collator, utime))
            view, change = self._assemble(before, collation, utime, seed)
            self.store.commit(change)
            self.archive.remember(view)
            self._view = view
            if view.ledger.is_key:
                self._next_validator, self._key_block_wanted = None, False
                self._machine.configure(view.ledger.config.root)
            for callback in self._subscribers:
                callback(view)
        _log.debug("block made", seqno=view.seqno, transactions=len(collation.executions))
        return view

    def _externals(self, collator: Collator, now: int) -> Iterator[Message]:
        while self._grants:
            batch = [self._grants.popleft() for _ in range(min(MAX_GRANTS, len(self._grants)))]
            yield self.faucet.order(collator.shard_account(self.faucet.address.hash), batch, now)
        while self._mempool:
            yield self._mempool.popleft()

    def _assemble(self, before: View, collation: Collation, utime: int, seed: bytes) -> tuple[View, Change]:
        ledger = self._next_ledger(before, collation, utime)
        signer = before.ledger.validator
        previous_key = ledger.last_key.id.seqno if ledger.last_key else 0

        state = shard_state(ledger, before.master)
        header = Header(BASECHAIN, ledger, collation.start_lt, before.shard, previous_key, before.master, 0, 0)
        flow = shard_flow(collation, before.ledger.accounts.extra, ledger.accounts.extra)
        update = self._update(BASECHAIN, before.shard_state, state)
        shard = build_block(header, flow, update, shard_extra(collation, seed, signer.public_key))

        top = shard_top(shard, collation.fees, ledger.validator.catchain_seqno)
        over = master_state(ledger, top)
        header = Header(
            MASTERCHAIN,
            ledger,
            collation.start_lt,
            before.master,
            previous_key,
            None,
            signer.catchain_seqno,
            signer.list_hash,
        )
        flow = ValueFlow(fees_collected=collation.fees, fees_imported=collation.fees)
        update = self._update(MASTERCHAIN, before.master_state, over)
        master = build_block(header, flow, update, master_extra(ledger, top, seed, signer.public_key))
        master = replace(master, signature=signer.sign(master.id))
        view = View(ledger, master, shard, over, state, top)
        return view, _change(view, collation, self._next_validator if ledger.is_key else None)

    def _next_ledger(self, before: View, collation: Collation, utime: int) -> Ledger:
        old = before.ledger
        is_key = old.seqno == 0 or self._key_block_wanted
        after_key = old.is_key or old.seqno == 0
        config, validator = old.config, old.validator
        if self._next_validator is not None:
            validator = replace(self._next_validator, since=old.seqno + 2)
            config = config.with_validator(validator)
        return replace(
            old,
            seqno=old.seqno + 1,
            utime=utime,
            lt=collation.end_lt,
            accounts=collation.accounts,
            queue=collation.queue,
            previous=with_previous(old.previous, before.master),
            config=config,
            validator=validator,
            fees=Fees(collation.fees, old.fees.total + collation.fees),
            is_key=is_key,
            last_key=before.master if after_key else old.last_key,
        )

    def _update(self, workchain: int, old: Cell, new: Cell) -> Cell:
        known = self._known[workchain]
        update, gone, fresh = merkle_update(old, new, known)
        known -= gone
        known |= fresh
        return update

    def _meta(self, key: str) -> bytes:
        value = self.store.meta(key)
        if value is None:
            raise DevNetError(f"the chain's file has no {key}", hint="start with a new directory")
        return value

    def _required(self, workchain: int, seqno: int) -> Block:
        block = self.archive.block(workchain, seqno)
        if block is None:
            raise DevNetError(f"there is no block {seqno} of workchain {workchain}")
        return block


def _nobody() -> None:
    """Who is told of work when nobody makes blocks by it."""


def _create(store: ChainStore, base_config: Cell, clock: Clock, global_id: int) -> None:
    """Store the zerostates: the faucet's account with all the money, the configuration, the first validator."""
    faucet_key, validator = Ed25519PrivateKey.generate(), Validator(Ed25519PrivateKey.generate())
    faucet = Faucet(faucet_key)
    now = clock.now()
    config = ChainConfig.from_root(base_config).for_chain(global_id, validator)
    account = faucet.genesis_account(now)
    ledger = Ledger(
        global_id=global_id,
        seqno=0,
        utime=now,
        lt=0,
        accounts=with_account(empty_accounts(), faucet.address.hash, account, SUPPLY),
        queue=empty_queue(),
        previous=empty_previous(),
        config=config,
        validator=validator,
        fees=Fees(),
        supply=SUPPLY,
        is_key=False,
        last_key=None,
    )
    under = shard_state(ledger, None)
    shard = zerostate(under, BASECHAIN, ledger)
    over = master_state(ledger, shard_top(shard, 0, validator.catchain_seqno))
    master = zerostate(over, MASTERCHAIN, ledger)
    store.commit(
        Change(
            blocks=(_row(master, over, 0), _row(shard, under, 0)),
            accounts={faucet.address.hash: encode_boc(account)},
            validator=(validator.since, validator.catchain_seqno, validator.key.private_bytes_raw()),
            meta={
                "global_id": str(global_id).encode(),
                "supply": str(SUPPLY).encode(),
                "config": encode_boc(config.root),
                "faucet_seed": faucet_key.private_bytes_raw(),
                "clock_offset": str(clock.offset).encode(),
            },
        )
    )


def _change(view: View, collation: Collation, validator: Validator | None) -> Change:
    queue = view.ledger.queue
    kept = {key: leaf for key in collation.enqueued if (leaf := queue.get(key)) is not None}
    new = view.ledger.validator
    return Change(
        blocks=(_row(view.master, view.master_state, 0), _row(view.shard, view.shard_state, collation.fees)),
        accounts={a: None if cell is None else encode_boc(cell) for a, cell in collation.touched.items()},
        transactions=tuple(_transaction_row(execution.transaction, view) for execution in collation.executions),
        enqueued={_queue_bytes(key): encode_boc(leaf) for key, leaf in kept.items()},
        dequeued=tuple(_queue_bytes(key) for key in collation.dequeued),
        validator=None if validator is None else (new.since, new.catchain_seqno, new.key.private_bytes_raw()),
    )


def _transaction_row(head: TransactionHead, view: View) -> TransactionRow:
    return TransactionRow(head.account, head.lt, head.cell.hash, view.seqno, encode_boc(head.cell))


def _row(block: Block, state: Cell, fees: int) -> BlockRow:
    return BlockRow(
        block.id, block.utime, block.start_lt, block.end_lt, block.is_key, fees, state.hash, block.signature, block.boc
    )


def _queue_bytes(key: int) -> bytes:
    return key.to_bytes(44, "big")
