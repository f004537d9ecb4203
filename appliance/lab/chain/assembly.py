"""From a collation to the next height: both ledgers, states, blocks, the signature, and what is to be stored.

In: the height before, a collation, what a key block is to change. Out: a :class:`~appliance.lab.chain.archive.View`
and the store's :class:`~appliance.lab.chain.store.Change`. Nothing is kept here but which cells the newest states
have, from which Merkle updates are made small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.chain.boc import encode_boc
from appliance.lab.chain.archive import View
from appliance.lab.chain.blocks import Header, ValueFlow, build_block, master_extra, shard_extra, shard_flow
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN, Block
from appliance.lab.chain.ledger import Fees, Ledger, with_previous
from appliance.lab.chain.proofs import cell_hashes, merkle_update
from appliance.lab.chain.states import master_state, shard_state, shard_top
from appliance.lab.chain.store import BlockRow, Change, TransactionRow

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.collation import Collation
    from appliance.lab.chain.config import Validator
    from appliance.lab.chain.messages import TransactionHead

_QUEUE_KEY_BYTES = 44


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """That the next block is a key block; ``validator`` replaces the current one for the blocks after it."""

    validator: Validator | None = None


class Updates:
    """Merkle updates of the two states, one block after another."""

    def __init__(self, view: View) -> None:
        self._known = {MASTERCHAIN: cell_hashes(view.master_state), BASECHAIN: cell_hashes(view.shard_state)}

    def make(self, workchain: int, old: Cell, new: Cell) -> Cell:
        """The update from the newest state to the next one."""
        known = self._known[workchain]
        update, gone, fresh = merkle_update(old, new, known)
        known -= gone
        known |= fresh
        return update


def next_ledger(before: View, collation: Collation, utime: int, key: KeyBlock | None) -> Ledger:
    """The ledger after a block; the chain's first block is a key block in any case."""
    old = before.ledger
    is_key = old.seqno == 0 or key is not None
    after_key = old.is_key or old.seqno == 0
    config, validator = old.config, old.validator
    if key is not None and key.validator is not None:
        validator = replace(key.validator, since=old.seqno + 2)
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


def assemble(before: View, ledger: Ledger, collation: Collation, seed: bytes, updates: Updates) -> View:
    """The blocks and states of the next height; ``seed`` is the blocks' random seed (32 bytes)."""
    signer = before.ledger.validator
    previous_key = ledger.last_key.id.seqno if ledger.last_key else 0

    state = shard_state(ledger, before.master)
    header = Header(BASECHAIN, ledger, collation.start_lt, before.shard, previous_key, before.master, 0, 0)
    flow = shard_flow(collation, before.ledger.accounts.extra, ledger.accounts.extra)
    update = updates.make(BASECHAIN, before.shard_state, state)
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
    update = updates.make(MASTERCHAIN, before.master_state, over)
    master = build_block(header, flow, update, master_extra(ledger, top, seed, signer.public_key))
    master = replace(master, signature=signer.sign(master.id))
    return View(ledger, master, shard, over, state, top)


def change_of(before: View, view: View, collation: Collation) -> Change:
    """What the store keeps of a height."""
    queue = view.ledger.queue
    kept = {key: leaf for key in collation.enqueued if (leaf := queue.get(key)) is not None}
    old, new = before.ledger.validator, view.ledger.validator
    return Change(
        blocks=(block_row(view.master, view.master_state, 0), block_row(view.shard, view.shard_state, collation.fees)),
        accounts={a: None if cell is None else encode_boc(cell) for a, cell in collation.touched.items()},
        transactions=tuple(_transaction_row(execution.transaction, view) for execution in collation.executions),
        enqueued={_queue_bytes(key): encode_boc(leaf) for key, leaf in kept.items()},
        dequeued=tuple(_queue_bytes(key) for key in collation.dequeued),
        validator=None if new == old else (new.since, new.catchain_seqno, new.key.private_bytes_raw()),
    )


def block_row(block: Block, state: Cell, fees: int) -> BlockRow:
    """A block as the store keeps it; ``fees`` in nanotons, ``state`` the one after it."""
    return BlockRow(
        block.id, block.utime, block.start_lt, block.end_lt, block.is_key, fees, state.hash, block.signature, block.boc
    )


def _transaction_row(head: TransactionHead, view: View) -> TransactionRow:
    return TransactionRow(head.account, head.lt, head.cell.hash, view.seqno, encode_boc(head.cell))


def _queue_bytes(key: int) -> bytes:
    return key.to_bytes(_QUEUE_KEY_BYTES, "big")
