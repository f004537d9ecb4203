"""Blocks as cells: ``BlockInfo``, ``ValueFlow``, the update of the state, ``BlockExtra`` and ``McBlockExtra``.

In: a collation, the ledgers before and after, the blocks before. Out: a :class:`~appliance.lab.chain.layout.Block`.
Layout: ``block.tlb``. Real: the header's links, the flow of value (it balances, see :class:`ValueFlow`), account
blocks, message descriptors and the Merkle update. Simplified: nothing is created, minted or recovered, shard blocks
name no validator set, and a masterchain block carries no signatures of the one before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.boc import encode_boc
from appliance.chain.cells import Writer
from appliance.chain.types import BlockId
from appliance.lab.chain.descriptors import ImportFees, inbound_descriptor, outbound_descriptor
from appliance.lab.chain.dictionaries import Augmentation, Dictionary
from appliance.lab.chain.layout import (
    BASECHAIN,
    MASTERCHAIN,
    SHARD,
    SHARD_UNSIGNED,
    Block,
    block_reference,
    write_currency,
    write_shard,
)

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.collation import Collation, Execution
    from appliance.lab.chain.ledger import Ledger
    from appliance.lab.chain.states import ShardTop

_BLOCK = 0x11EF55AA
_INFO = 0x9BC7A987
_VALUE_FLOW = 0xB8E48DFB
_EXTRA = 0x4A33F6FD
_MASTERCHAIN_EXTRA = 0xCCA5


@dataclass(frozen=True, slots=True)
class ValueFlow:
    """Nanotons: ``before + imported + fees_imported = after + exported + fees_collected`` for the shard.

    The masterchain has no accounts: it collects what it imports.
    """

    before: int = 0
    after: int = 0
    imported: int = 0
    exported: int = 0
    fees_collected: int = 0
    fees_imported: int = 0

    def cell(self) -> Cell:
        """``value_flow#b8e48dfb``."""
        moved = Writer("value moved")
        for amount in (self.before, self.after, self.imported, self.exported):
            write_currency(moved, amount)
        made = write_currency(Writer("value made"), self.fees_imported)
        for _ in range(3):  # recovered, created, minted
            write_currency(made, 0)
        writer = Writer("value flow").uint(_VALUE_FLOW, 32).ref(moved.end())
        return write_currency(writer, self.fees_collected).ref(made.end()).end()


@dataclass(frozen=True, slots=True)
class Header:
    """What a block says of itself: its chain, the ledger after it, its logical times and the blocks before it."""

    workchain: int
    ledger: Ledger
    start_lt: int
    previous: Block
    previous_key_seqno: int
    master: Block | None
    catchain_seqno: int
    validators_hash: int

    def cell(self) -> Cell:
        """``block_info#9bc7a987``."""
        ledger = self.ledger
        is_key = ledger.is_key and self.workchain == MASTERCHAIN
        writer = Writer("block header").uint(_INFO, 32).uint(0, 32).flag(self.master is not None).uint(0, 5)
        writer.flag(is_key).uint(0, 1).uint(1, 8).uint(ledger.seqno, 32).uint(0, 32)
        write_shard(writer, self.workchain).uint(ledger.utime, 32).uint(self.start_lt, 64).uint(ledger.lt, 64)
        writer.uint(self.validators_hash, 32).uint(self.catchain_seqno, 32)
        writer.uint(max(0, ledger.seqno - 1), 32).uint(self.previous_key_seqno, 32)
        version, capabilities = ledger.config.version
        writer.uint(0xC4, 8).uint(version, 32).uint(capabilities, 64)
        if self.master is not None:
            writer.ref(block_reference(self.master))
        return writer.ref(block_reference(self.previous)).end()


@dataclass(frozen=True, slots=True)
class Extra:
    """``BlockExtra`` of either chain."""

    inbound: Cell
    outbound: Cell
    accounts: Cell
    seed: bytes
    creator: bytes
    custom: Cell | None

    def cell(self) -> Cell:
        """``block_extra#4a33f6fd``."""
        writer = Writer("block extra").uint(_EXTRA, 32).ref(self.inbound).ref(self.outbound).ref(self.accounts)
        return writer.raw(self.seed, 32).raw(self.creator, 32).maybe_ref(self.custom).end()


def shard_extra(collation: Collation, seed: bytes, creator: bytes) -> Extra:
    """The content of a basechain block."""
    inbound = inbound_descriptor(collation.executions)
    outbound = outbound_descriptor(collation.exports, collation.executions)
    accounts = account_blocks(collation.executions)
    return Extra(_whole(inbound), _whole(outbound), _whole(accounts), seed, creator, None)


def shard_flow(collation: Collation, before: int, after: int) -> ValueFlow:
    """The basechain's flow; ``before`` and ``after`` are the sums of all balances."""
    imported = sum(inbound_value(execution) for execution in collation.executions)
    exported = sum(e.message.value + e.message.forward_fee for e in collation.exports if e.fate == "queued")
    return ValueFlow(before, after, imported, exported, collation.fees)


def inbound_value(execution: Execution) -> int:
    """What a message from the queue brought back into the accounts and fees."""
    return execution.message.value + execution.message.forward_fee if execution.source == "queued" else 0


def master_extra(ledger: Ledger, top: ShardTop, seed: bytes, creator: bytes) -> Extra:
    """The content of a masterchain block: the shard's top block and its fees; a key block's configuration."""
    writer = top.hashes.write(Writer("masterchain block").uint(_MASTERCHAIN_EXTRA, 16).flag(ledger.is_key))
    _shard_fees(ledger.fees.collected).write(writer)
    writer.ref(Writer("signatures").uint(0, 3).end())
    if ledger.is_key:
        ledger.config.write(writer)
    nothing = (inbound_descriptor(()), outbound_descriptor((), ()), account_blocks(()))
    inbound, outbound, accounts = (_whole(part) for part in nothing)
    return Extra(inbound, outbound, accounts, seed, creator, writer.end())


def account_blocks(executions: tuple[Execution, ...]) -> Dictionary[int]:
    """``ShardAccountBlocks``: for each account its transactions by logical time, and its hash before and after."""
    currency = Augmentation(0, int.__add__, write_currency)
    by_account: dict[bytes, list[Execution]] = {}
    for execution in executions:
        by_account.setdefault(execution.transaction.account, []).append(execution)
    blocks = Dictionary(256, currency)
    for account, done in by_account.items():
        transactions = Dictionary(64, currency)
        for execution in done:
            leaf = Writer("transaction").ref(execution.transaction.cell).end()
            transactions = transactions.set(execution.transaction.lt, leaf, execution.transaction.total_fees)
        root = transactions.root()
        if root is None:
            continue
        update = Writer("state update").uint(0x72, 8).raw(done[0].transaction.old_hash, 32)
        update.raw(done[-1].transaction.new_hash, 32)
        block = Writer("account block").uint(5, 4).raw(account, 32).inline(root).ref(update.end())
        blocks = blocks.set(int.from_bytes(account, "big"), block.end(), transactions.extra)
    return blocks


def build_block(header: Header, flow: ValueFlow, update: Cell, extra: Extra) -> Block:
    """Put a block together; it is not signed yet."""
    ledger = header.ledger
    writer = Writer("block").uint(_BLOCK, 32).sint(ledger.global_id, 32)
    root = writer.ref(header.cell()).ref(flow.cell()).ref(update).ref(extra.cell()).end()
    is_key = ledger.is_key and header.workchain == MASTERCHAIN
    return _block(root, header.workchain, ledger, header.start_lt, is_key=is_key)


def zerostate(state: Cell, workchain: int, ledger: Ledger) -> Block:
    """The zerostate of a chain as the block with seqno 0."""
    return _block(state, workchain, ledger, 0, is_key=False)


def _block(root: Cell, workchain: int, ledger: Ledger, start_lt: int, *, is_key: bool) -> Block:
    boc = encode_boc(root)
    identity = BlockId(workchain, SHARD, ledger.seqno, root.hash, hashlib.sha256(boc).digest())
    return Block(identity, root, boc, ledger.utime, start_lt, ledger.lt, is_key)


def _whole(dictionary: Dictionary[ImportFees] | Dictionary[int]) -> Cell:
    return dictionary.write(Writer("descriptor")).end()


def _shard_fees(collected: int) -> Dictionary[int]:
    """``ShardFees`` (``HashmapAugE 96 ShardFeeCreated ShardFeeCreated``) of the one shard; nothing is created."""
    fees = Dictionary(96, Augmentation(0, int.__add__, _write_fees_created))
    leaf = Writer("shard fees")
    _write_fees_created(leaf, collected)
    return fees.set(BASECHAIN << 64 | SHARD_UNSIGNED, leaf.end(), collected)


def _write_fees_created(writer: Writer, collected: int) -> object:
    return write_currency(write_currency(writer, collected), 0)
