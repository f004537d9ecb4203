"""Every height of the chain as a :class:`View`: from memory when it is recent, rebuilt from the store when it is not.

In: the store. Out: ledgers, state cells and blocks. A rebuilt state must have the hash that its block names, so a
damaged file is noticed and never served.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.boc import decode_boc
from appliance.chain.cells import empty_cell
from appliance.lab.chain.config import ChainConfig, Validator
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN, Block
from appliance.lab.chain.ledger import (
    Fees,
    Ledger,
    empty_accounts,
    empty_previous,
    empty_queue,
    with_account,
    with_previous,
)
from appliance.lab.chain.messages import read_account
from appliance.lab.chain.states import ShardTop, master_state, shard_state, shard_top

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.types import BlockId
    from appliance.lab.chain.store import BlockRow, ChainStore

_MAX_BYTES = 1 << 28
_MAX_CELLS = 1 << 22
_RECENT = 64


@dataclass(frozen=True, slots=True)
class View:
    """The chain at one height: both blocks and both states after them."""

    ledger: Ledger
    master: Block
    shard: Block
    master_state: Cell
    shard_state: Cell
    top: ShardTop

    @property
    def seqno(self) -> int:
        """The height."""
        return self.ledger.seqno


class Archive:
    """Views and blocks by height; keeps the newest ones it was asked for. Every method may be called by any thread."""

    def __init__(self, store: ChainStore, *, recent: int = _RECENT) -> None:
        self._store = store
        self._recent = recent
        self._views: OrderedDict[int, View] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, view: View) -> None:
        """Keep a view that was just made."""
        with self._lock:
            self._views[view.seqno] = view
            self._views.move_to_end(view.seqno)
            while len(self._views) > self._recent:
                self._views.popitem(last=False)

    def view(self, seqno: int) -> View:
        """The chain at one height; raises :class:`DevNetError` when there is none or the file is damaged."""
        with self._lock:
            view = self._views.get(seqno)
        if view is None:
            view = self._rebuilt(seqno)
            self.remember(view)
        return view

    def find(self, identity: BlockId) -> Block | None:
        """The block with exactly this identity."""
        if identity.workchain not in {MASTERCHAIN, BASECHAIN}:
            return None
        block = self.block(identity.workchain, identity.seqno)
        return block if block is not None and block.id == identity else None

    def block(self, workchain: int, seqno: int) -> Block | None:
        """One block; a zerostate for seqno 0."""
        with self._lock:
            view = self._views.get(seqno)
        if view is not None:
            return view.master if workchain == MASTERCHAIN else view.shard
        row = self._store.block(workchain, seqno)
        return None if row is None else _block(row)

    def validator(self, seqno: int) -> Validator:
        """Who signs the masterchain block ``seqno``."""
        row = self._store.validator(seqno)
        if row is None:
            raise DevNetError(f"no validator signs block {seqno}", hint="the chain's file is damaged")
        since, catchain_seqno, seed = row
        return Validator(Ed25519PrivateKey.from_private_bytes(seed), catchain_seqno, since)

    def _rebuilt(self, seqno: int) -> View:
        rows = [self._store.block(workchain, seqno) for workchain in (MASTERCHAIN, BASECHAIN)]
        if rows[0] is None or rows[1] is None:
            raise DevNetError(f"there is no block {seqno}")
        master_row, shard_row = rows[0], rows[1]
        ledger = self._ledger(master_row)
        master, shard = _block(master_row), _block(shard_row)
        top = shard_top(shard, shard_row.fees, ledger.validator.catchain_seqno)
        before = self.block(MASTERCHAIN, seqno - 1) if seqno else None
        view = View(ledger, master, shard, master_state(ledger, top), shard_state(ledger, before), top)
        for state, row in ((view.master_state, master_row), (view.shard_state, shard_row)):
            if state.hash != row.state_hash:
                raise DevNetError(
                    f"the rebuilt state of chain {row.id.workchain} at {seqno} has hash {state.hash.hex()}, "
                    f"expected {row.state_hash.hex()}",
                    hint="the chain's file is damaged: start with a new directory",
                )
        return view

    def _ledger(self, row: BlockRow) -> Ledger:
        seqno = row.id.seqno
        accounts, queue, previous = empty_accounts(), empty_queue(), empty_previous()
        nowhere = empty_cell()  # headers come without their files
        for address, boc in self._store.accounts(seqno):
            leaf = _cell(boc)
            accounts = with_account(accounts, address, leaf, read_account(leaf.refs[0]).balance)
        for key, boc in self._store.queue(seqno):
            leaf = _cell(boc)
            queue = queue.set(int.from_bytes(key, "big"), leaf, int(leaf.bits[:64].to01(), 2))
        for header in self._store.master_headers(seqno):
            previous = with_previous(previous, _block(header, nowhere))
        collected = self._store.block(BASECHAIN, seqno)
        last_key = self.block(MASTERCHAIN, self._store.last_key_block(seqno - 1) or 0) if seqno else None
        return Ledger(
            global_id=int(self._meta("global_id")),
            seqno=seqno,
            utime=row.utime,
            lt=row.end_lt,
            accounts=accounts,
            queue=queue,
            previous=previous,
            config=self._config(seqno),
            validator=self.validator(seqno + 1),
            fees=Fees(collected.fees if collected else 0, self._store.fees(seqno)),
            supply=int(self._meta("supply")),
            is_key=row.is_key,
            last_key=last_key,
        )

    def _config(self, seqno: int) -> ChainConfig:
        key = self._store.last_key_block(seqno)
        block = self.block(MASTERCHAIN, key) if key is not None else None
        if block is None:
            return ChainConfig.from_root(_cell(self._meta("config")))
        return ChainConfig.from_root(config_root(block))

    def _meta(self, key: str) -> bytes:
        value = self._store.meta(key)
        if value is None:
            raise DevNetError(f"the chain's file has no {key}", hint="start with a new directory")
        return value


def config_root(key_block: Block) -> Cell:
    """The configuration dictionary inside a key block (the last reference of ``McBlockExtra``)."""
    root: Cell = key_block.root.refs[3].refs[3].refs[-1]
    return root


def _cell(boc: bytes) -> Cell:
    return decode_boc(boc, max_bytes=_MAX_BYTES, max_cells=_MAX_CELLS)


def _block(row: BlockRow, root: Cell | None = None) -> Block:
    whole = _cell(row.boc) if root is None else root
    return Block(row.id, whole, row.boc, row.utime, row.start_lt, row.end_lt, row.is_key, row.signature)
