"""The lab's chain: real transactions, blocks, states and proofs, made by one validator in this process.

In: external messages, grants of the faucet, ticks of a clock. Out: blocks on disk and in memory, each published only
after it is stored. Block 1 is a key block that carries the configuration; more key blocks are made on request.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.boc import decode_boc
from appliance.chain.errors import LayoutError
from appliance.lab.chain.archive import Archive, View
from appliance.lab.chain.assembly import KeyBlock, Updates, assemble, change_of, next_ledger
from appliance.lab.chain.clock import Clock
from appliance.lab.chain.collation import LT_ALIGN, Collator
from appliance.lab.chain.config import Validator
from appliance.lab.chain.errors import DevNetError, MessageRefusedError
from appliance.lab.chain.faucet import MAX_GRANTS, SUPPLY, Faucet, Grant
from appliance.lab.chain.genesis import create_chain
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN, Block
from appliance.lab.chain.ledger import account_key
from appliance.lab.chain.messages import Message, empty_shard_account, read_message
from appliance.lab.chain.store import ChainStore

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
        clock: Real time, with the offset that the chain was left with, when None.
        global_id: Network id of a new chain.
        block_limit: Most transactions of a block.

    Raises:
        DevNetError: The directory holds something else or a damaged chain, or another program has it.
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
        self._key_block: KeyBlock | None = None
        try:
            if self.store.height() is None:
                create_chain(self.store, base_config, clock or Clock(), global_id)
            self.faucet = Faucet(Ed25519PrivateKey.from_private_bytes(self._meta("faucet_seed")))
            self._view = self.archive.view(self.store.height() or 0)
            self.clock = clock or Clock(offset=int(self._meta("clock_offset")), not_before=self._view.ledger.utime)
            self._updates = Updates(self._view)
            machine.configure(self._view.ledger.config.root)
            if self._view.seqno == 0:
                self.tick()
        except BaseException:
            self.store.close()
            raise

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
            self._key_block = self._key_block or KeyBlock()

    def rotate_validator(self) -> None:
        """Make the next block a key block that names a new validator, who signs the blocks after it."""
        with self._making:
            current = self._view.ledger.validator
            self._key_block = KeyBlock(Validator(Ed25519PrivateKey.generate(), current.catchain_seqno + 1))

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
            ledger = next_ledger(before, collation, utime, self._key_block)
            view = assemble(before, ledger, collation, seed, self._updates)
            self.store.commit(change_of(before, view, collation))
            self.archive.remember(view)
            self._view = view
            if view.ledger.is_key:
                self._key_block = None
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
