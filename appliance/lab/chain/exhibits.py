"""What a liteserver shows to prove an answer: header proofs, and proofs of parts of states and blocks.

In: a height's view or a block. Out: Merkle proof cells, to be put into bags by the answers. What each one keeps is
what TON's ``crypto/block/check-proof.cpp`` and the clients here read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.chain.boc import encode_boc
from appliance.lab.chain.layout import MASTERCHAIN
from appliance.lab.chain.ledger import account_key
from appliance.lab.chain.proofs import cell_hashes, merkle_proof

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.lab.chain.archive import View
    from appliance.lab.chain.layout import Block

_INFO, _UPDATE, _EXTRA = 0, 2, 3  # references of a block
_ACCOUNTS, _CUSTOM = 1, 3  # references of a state
_ACCOUNT_BLOCKS, _MASTER_EXTRA = 2, 3  # references of a block's extra
_RECENT_BLOCKS = 16
"""Earlier blocks that a configuration's proof shows: get-methods may ask for so many."""


def header_proof(block: Block) -> Cell:
    """The header and the hashes of the states before and after."""
    return merkle_proof(block.root, _header(block))


def account_proof(view: View, address: Address) -> bytes:
    """Two roots: the header of the block and the path to the account, or to where it would be, in the state."""
    if address.workchain == MASTERCHAIN:
        block, state, path = view.master, view.master_state, set[bytes]()
    else:
        block, state = view.shard, view.shard_state
        path = view.ledger.accounts.path(account_key(address.hash))
    keep = {state.hash, state.refs[_ACCOUNTS].hash} | path
    return encode_boc(header_proof(block), merkle_proof(state, keep))


def shard_proof(view: View) -> bytes:
    """Two roots: the masterchain header and the shard's top block in the masterchain state."""
    keep = _master_state(view) | _top(view)
    return encode_boc(header_proof(view.master), merkle_proof(view.master_state, keep))


def shards_proof(view: View) -> Cell:
    """The shard's top block inside the masterchain block itself."""
    extra = view.master.root.refs[_EXTRA]
    custom = extra.refs[_MASTER_EXTRA]
    return merkle_proof(view.master.root, _header(view.master) | {extra.hash, custom.hash} | _top(view))


def config_proof(view: View, params: Iterable[int] | None = None) -> Cell:
    """The configuration in the masterchain state; only some parameters, or all."""
    keep = _master_state(view) | _top(view)
    config = view.ledger.config
    if params is None:
        keep |= cell_hashes(config.root)
    for number in params or ():
        keep |= config.params.path(number & 0xFFFFFFFF)
        param = config.param(number & 0xFFFFFFFF)
        if param is not None:
            keep |= cell_hashes(param)
    last_key = view.ledger.last_key
    earlier = {0, last_key.id.seqno if last_key else 0} | set(range(max(0, view.seqno - _RECENT_BLOCKS), view.seqno))
    return merkle_proof(view.master_state, keep | _earlier(view, earlier))


def key_block_proof(block: Block) -> Cell:
    """The whole configuration inside a key block."""
    extra = block.root.refs[_EXTRA]
    custom = extra.refs[_MASTER_EXTRA]
    keep = _header(block) | {extra.hash, custom.hash, custom.refs[0].hash} | cell_hashes(custom.refs[-1])
    return merkle_proof(block.root, keep)


def earlier_block_proof(view: View, seqno: int) -> Cell:
    """An earlier masterchain block in the masterchain state, with the configuration of that time."""
    keep = _master_state(view) | cell_hashes(view.ledger.config.root)
    return merkle_proof(view.master_state, keep | _earlier(view, {0, seqno}))


def transactions_proof(block: Block, transactions: Iterable[bytes]) -> Cell:
    """The account blocks of a block; of the transactions themselves, only the hashes."""
    extra = block.root.refs[_EXTRA]
    pruned = set(transactions)
    keep = _header(block) | {extra.hash} | _hashes_above(extra.refs[_ACCOUNT_BLOCKS], pruned)
    return merkle_proof(block.root, keep)


def pruned_account(account: Cell) -> Cell:
    """An account without what its code and data hold."""
    return merkle_proof(account, {account.hash})


def _header(block: Block) -> set[bytes]:
    return {block.root.hash, block.root.refs[_INFO].hash, block.root.refs[_UPDATE].hash}


def _master_state(view: View) -> set[bytes]:
    """The state's root, its extra, and the inner cell, which some clients read without asking whether it is there."""
    custom = view.master_state.refs[_CUSTOM]
    return {view.master_state.hash, custom.hash, custom.refs[2].hash}


def _top(view: View) -> set[bytes]:
    root = view.top.hashes.root()
    return {view.top.leaf.hash} | ({root.hash} if root is not None else set())


def _earlier(view: View, seqnos: Iterable[int]) -> set[bytes]:
    return set[bytes]().union(*(view.ledger.previous.path(seqno) for seqno in seqnos))


def _hashes_above(root: Cell, stop: set[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    stack = [root]
    while stack:
        cell = stack.pop()
        if cell.hash not in stop and cell.hash not in found:
            found.add(cell.hash)
            stack.extend(cell.refs)
    return found
