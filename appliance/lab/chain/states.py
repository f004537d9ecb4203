"""The states of the two chains as cells: ``ShardStateUnsplit`` with, for the masterchain, ``McStateExtra``.

In: a :class:`~appliance.lab.chain.ledger.Ledger` and the block it follows. Out: state roots. Layout: ``block.tlb``.
Simplified: there are no masterchain accounts, no public libraries, no overload history, no processed-up-to records (a
shard's own queue is drained in order), no block creator statistics, and one shard a workchain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.cells import Writer
from appliance.lab.chain.dictionaries import Dictionary, plain_dictionary
from appliance.lab.chain.layout import (
    BASECHAIN,
    MASTERCHAIN,
    SHARD_UNSIGNED,
    Block,
    write_block_reference,
    write_currency,
    write_shard,
)
from appliance.lab.chain.ledger import Ledger, empty_accounts, empty_queue

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

_SHARD_STATE = 0x9023AFE2
_MASTERCHAIN_EXTRA = 0xCC26
_NO_REFERENCE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ShardTop:
    """``ShardHashes`` with the one basechain shard: the dictionary, and the cell of its ``BinTree`` leaf."""

    hashes: Dictionary[None]
    leaf: Cell


def shard_top(shard: Block, fees_collected: int, catchain_seqno: int) -> ShardTop:
    """What the masterchain says of the newest shard block (``shard_descr#b``); fees in nanotons."""
    writer = Writer("shard description").uint(0, 1).uint(0xB, 4)
    writer.uint(shard.id.seqno, 32).uint(shard.id.seqno, 32).uint(shard.start_lt, 64).uint(shard.end_lt, 64)
    writer.raw(shard.id.root_hash, 32).raw(shard.id.file_hash, 32)
    writer.uint(0, 5).uint(0, 3)  # no split or merge, same catchain; flags
    writer.uint(catchain_seqno, 32).uint(SHARD_UNSIGNED, 64)
    writer.uint(max(0, shard.id.seqno - 1), 32).uint(shard.utime, 32).uint(0, 1)
    write_currency(write_currency(writer, fees_collected), 0)
    leaf = writer.end()
    return ShardTop(plain_dictionary(32).set(BASECHAIN, Writer("shard").ref(leaf).end(), None), leaf)


def shard_state(ledger: Ledger, master: Block | None) -> Cell:
    """The basechain's state; ``master`` is the masterchain block that its block refers to, None for the zerostate."""
    totals = Writer("totals of a state").uint(0, 64).uint(0, 64)
    write_currency(write_currency(totals, ledger.accounts.extra), ledger.fees.total).uint(0, 1)
    if master is None:
        totals.uint(0, 1)
    else:
        write_block_reference(totals.uint(1, 1), master)
    head = _head(ledger, BASECHAIN, max(0, ledger.seqno - 1))
    return _state(head, ledger.queue, ledger.accounts, totals.end(), None)


def master_state(ledger: Ledger, top: ShardTop) -> Cell:
    """The masterchain's state after the block that lists ``top``."""
    totals = Writer("totals of a state").uint(0, 64).uint(0, 64)
    write_currency(write_currency(totals, 0), ledger.fees.total).uint(0, 1).uint(0, 1)
    info = Writer("masterchain information").uint(0, 16)
    info.uint(ledger.validator.list_hash, 32).uint(ledger.validator.catchain_seqno, 32).uint(0, 1)
    ledger.previous.write(info).flag(ledger.is_key or ledger.seqno == 0)
    if ledger.last_key is None:
        info.uint(0, 1)
    else:
        write_block_reference(info.uint(1, 1), ledger.last_key)
    extra = top.hashes.write(Writer("masterchain state").uint(_MASTERCHAIN_EXTRA, 16))
    write_currency(ledger.config.write(extra).ref(info.end()), ledger.supply)
    head = _head(ledger, MASTERCHAIN, ledger.seqno - 1 if ledger.seqno else _NO_REFERENCE)
    return _state(head, empty_queue(), empty_accounts(), totals.end(), extra.end())


def _head(ledger: Ledger, workchain: int, min_referenced: int) -> Writer:
    writer = Writer("state").uint(_SHARD_STATE, 32).sint(ledger.global_id, 32)
    write_shard(writer, workchain).uint(ledger.seqno, 32).uint(0, 32).uint(ledger.utime, 32).uint(ledger.lt, 64)
    return writer.uint(min_referenced, 32)


def _state(head: Writer, queue: Dictionary[int], accounts: Dictionary[int], totals: Cell, custom: Cell | None) -> Cell:
    # OutMsgQueueInfo: the queue, no processed-up-to records, no extra
    queue_info = queue.write(Writer("queue information")).uint(0, 1).uint(0, 1).end()
    head.ref(queue_info).uint(0, 1).ref(accounts.write(Writer("accounts")).end()).ref(totals)
    return head.maybe_ref(custom).end()
