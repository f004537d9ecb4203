"""Small pieces of ``block.tlb`` that states and blocks share, and the identities of this chain's two shards.

The chain has the masterchain and one basechain shard that is never split. Both are written with a shard prefix of no
bits, whose 64-bit number is 0 in cells and ``-2**63`` in block identities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.cells import Writer

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.types import BlockId

MASTERCHAIN = -1
BASECHAIN = 0
SHARD = -(1 << 63)
SHARD_UNSIGNED = 1 << 63


@dataclass(frozen=True, slots=True)
class Block:
    """One block of either chain, or its zerostate (``seqno`` 0, whose root is the state).

    ``boc`` is the file that ``id.file_hash`` is the SHA-256 of; ``utime`` in Unix seconds; ``signature`` is the
    validator's over a masterchain block (64 bytes, empty otherwise).
    """

    id: BlockId
    root: Cell
    boc: bytes
    utime: int
    start_lt: int
    end_lt: int
    is_key: bool
    signature: bytes = b""


def write_currency(writer: Writer, nanotons: int) -> Writer:
    """``CurrencyCollection`` without extra currencies."""
    return writer.coins(nanotons).uint(0, 1)


def write_shard(writer: Writer, workchain: int) -> Writer:
    """``shard_ident$00`` of the whole workchain."""
    return writer.uint(0, 2).uint(0, 6).sint(workchain, 32).uint(0, 64)


def write_block_reference(writer: Writer, block: Block) -> Writer:
    """``ExtBlkRef``: 608 bits."""
    writer.uint(block.end_lt, 64).uint(block.id.seqno, 32)
    return writer.raw(block.id.root_hash, 32).raw(block.id.file_hash, 32)


def block_reference(block: Block) -> Cell:
    """``^ExtBlkRef`` in a cell of its own."""
    return write_block_reference(Writer("block reference"), block).end()
