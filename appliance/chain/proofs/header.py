"""Block headers: what a proven block says about itself.

In: the virtual root of a block whose hash is bound to the block's identity. Out: :class:`BlockHeader`, and the roots
that deeper proofs start from. Layout: TON's ``block.tlb`` (``Block``, ``BlockInfo``, ``McBlockExtra``).
New values of ``version`` and new flag bits are read as long as the structure's tag is the known one, because a tag
fixes the layout; an unknown tag is :class:`~appliance.chain.errors.ChainTooOldError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytoniq_core.boc.exotic import CellTypes

from appliance.chain.cells import Reader
from appliance.chain.errors import ChainTooOldError, ProofError
from appliance.chain.proofs.merkle import parse_roots, proving, require_hash, virtual_root
from appliance.chain.proofs.parts import read_currencies, read_shard

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.types import BlockId

_BLOCK = 0x11EF55AA
_BLOCK_INFO = 0x9BC7A987
_BLOCK_EXTRA = 0x4A33F6FD
_MC_BLOCK_EXTRA = 0xCCA5


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The parts of a header that proofs use. ``state_hash`` is the state after the block; ``utime`` Unix seconds."""

    block: BlockId
    utime: int
    start_lt: int
    end_lt: int
    key_block: bool
    validator_list_hash: int
    catchain_seqno: int
    prev_key_block_seqno: int
    state_hash: bytes


def check_tag(reader: Reader, bits: int, known: int, structure: str) -> None:
    """Read a constructor tag; raises :class:`ChainTooOldError` for another one."""
    seen = reader.uint(bits)
    if seen != known:
        raise ChainTooOldError(structure, seen, f"0x{known:x}")


def parse_header(root: Cell, block: BlockId, what: str) -> BlockHeader:
    """Read the header of ``block`` from the virtual root of a proof.

    Args:
        root: Virtual root of a Merkle proof (or a whole block).
        block: The identity the caller wants it to be.
        what: Names the proof in errors.

    Raises:
        ProofError: The root's hash, number, workchain or shard is not the block's, or a part is pruned.
        ChainTooOldError: A structure has an unknown tag.
    """
    require_hash(root, block.root_hash, what)
    with proving(what):
        body = Reader(root, "block")
        check_tag(body, 32, _BLOCK, "block")
        body.sint(32)  # global_id: the root hash is bound already
        info = Reader(body.ref(), "block header")
        body.ref()  # value flow
        state_hash = _new_state_hash(body.ref(), what)
        check_tag(info, 32, _BLOCK_INFO, "block header")
        info.uint(32)  # version: see the module's docstring
        info.uint(6)  # not_master after_merge before_split after_split want_split want_merge
        key_block = info.flag()
        info.uint(1 + 8)  # vert_seqno_incr, flags
        seqno = info.uint(32)
        info.uint(32)  # vert_seq_no
        workchain, shard = read_shard(info)
        if (workchain, shard, seqno) != (block.workchain, block.shard, block.seqno):
            raise ProofError(
                f"{what}: the header is of block {seqno} in {workchain}:{shard & (1 << 64) - 1:016x}, "
                f"expected {block.seqno} in {block.workchain}:{block.shard & (1 << 64) - 1:016x}"
            )
        utime, start_lt, end_lt = info.uint(32), info.uint(64), info.uint(64)
        validators, catchain = info.uint(32), info.uint(32)
        info.uint(32)  # min_ref_mc_seqno
        previous_key = info.uint(32)
    return BlockHeader(block, utime, start_lt, end_lt, key_block, validators, catchain, previous_key, state_hash)


def prove_header(proof: bytes, block: BlockId, what: str) -> tuple[BlockHeader, Cell]:
    """A header and the block's virtual root from a bag with one Merkle proof."""
    root = virtual_root(parse_roots(proof, 1, what)[0], what, expected=block.root_hash)
    return parse_header(root, block, what), root


def key_block_config(root: Cell, what: str) -> Cell:
    """The configuration dictionary's root inside a key block (``McBlockExtra.config``).

    ``root`` must be bound to the block already; raises :class:`ProofError` when it is not a key block's.
    """
    with proving(what):
        body = Reader(root, "block")
        for _ in range(3):  # info, value flow, state update
            body.ref()
        extra = Reader(body.ref(), "block extra")
        check_tag(extra, 32, _BLOCK_EXTRA, "block extra")
        for _ in range(3):  # in messages, out messages, account blocks
            extra.ref()
        extra.uint(256 + 256)  # rand_seed, created_by
        custom = extra.maybe_ref()
        if custom is None:
            raise ProofError(f"{what}: the block has no masterchain part, expected a key block's")
        master = Reader(custom, "masterchain block extra")
        check_tag(master, 16, _MC_BLOCK_EXTRA, "masterchain block extra")
        if not master.flag():
            raise ProofError(f"{what}: the block carries no configuration, expected a key block")
        master.maybe_ref()  # shard hashes
        master.maybe_ref()  # shard fees, and their sums
        read_currencies(master)
        read_currencies(master)
        master.ref()  # signatures and recovery messages
        master.uint(256)  # address of the configuration contract
        return master.ref()


def _new_state_hash(update: Cell, what: str) -> bytes:
    """The second hash a Merkle update states (TVM paper 3.1.7); the parser compared it with its second reference."""
    if update.type_ != CellTypes.merkle_update:
        raise ProofError(f"{what}: the state update is a cell of type {update.type_}, expected a Merkle update (4)")
    data: bytes = update.data
    return data[33:65]
