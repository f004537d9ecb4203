"""Small structures that blocks, states and transactions share. Layout: TON's ``block.tlb``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from appliance.chain.cells import Reader

MASTERCHAIN = -1
MASTER_SHARD = -(1 << 63)


@dataclass(frozen=True, slots=True)
class ExtBlockRef:
    """``ExtBlkRef``: a block by logical time, number and hashes."""

    end_lt: int
    seqno: int
    root_hash: bytes
    file_hash: bytes


def read_ext_block_ref(reader: Reader) -> ExtBlockRef:
    """``end_lt:uint64 seq_no:uint32 root_hash:bits256 file_hash:bits256``."""
    return ExtBlockRef(reader.uint(64), reader.uint(32), reader.raw(32), reader.raw(32))


def read_currencies(reader: Reader) -> int:
    """``CurrencyCollection``: the nanotons; other currencies are skipped."""
    nanotons = reader.coins()
    reader.maybe_ref()
    return nanotons


def read_var_uint(reader: Reader, size_bits: int) -> int:
    """``VarUInteger n``: a byte count of ``size_bits`` bits and that many bytes."""
    return reader.uint(8 * reader.uint(size_bits))


def read_maybe_coins(reader: Reader) -> int:
    """``Maybe Grams``, 0 when absent."""
    return reader.coins() if reader.flag() else 0


def read_shard(reader: Reader) -> tuple[int, int]:
    """``ShardIdent``: workchain, and the shard as signed 64 bits with its marker bit (as in block identities)."""
    reader.constant(0, 2, "tag of a shard identity")
    length = reader.uint(6)
    workchain, prefix = reader.sint(32), reader.uint(64)
    if length > 60 or prefix & ((1 << (64 - length)) - 1):
        raise LayoutError(f"a shard identity has a prefix of {length} bits in 0x{prefix:016x}, which do not fit")
    marked = prefix | 1 << (63 - length)
    return workchain, marked - (1 << 64) if marked >> 63 else marked


def shard_contains(shard: int, account: bytes) -> bool:
    """Whether an account's 32-byte hash lies in a shard (signed 64 bits with marker bit)."""
    unsigned = shard & (1 << 64) - 1
    if not unsigned:
        return False
    marker = unsigned & -unsigned
    mask = ~(2 * marker - 1) & (1 << 64) - 1
    return (int.from_bytes(account[:8], "big") ^ unsigned) & mask == 0
