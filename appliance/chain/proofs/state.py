"""States: the masterchain's and a shard's, down to one account or the proof that it does not exist.

In: the bags of a ``liteServer.accountState`` answer and a proven masterchain block. Out: :class:`ProvenAccount`.
The chain of binding is block hash → state hash (in the block's Merkle update) → shard list → shard block hash → its
state hash → accounts' dictionary → account cell. Layout: ``block.tlb`` (``ShardStateUnsplit``, ``McStateExtra``,
``ShardDescr``, ``ShardAccounts``, ``Account``); the checks are those of TON's ``AccountState::validate``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.boc import decode_boc
from appliance.chain.cells import Reader
from appliance.chain.errors import ChainTooOldError, ProofError
from appliance.chain.proofs.dictionary import lookup
from appliance.chain.proofs.header import check_tag, parse_header, prove_header
from appliance.chain.proofs.merkle import (
    MAX_PROOF_BYTES,
    MAX_PROOF_CELLS,
    parse_roots,
    proving,
    require_hash,
    virtual_root,
)
from appliance.chain.proofs.parts import (
    MASTERCHAIN,
    read_currencies,
    read_maybe_coins,
    read_shard,
    read_var_uint,
    shard_contains,
)

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountStatus, BlockId

_SHARD_STATE = 0x9023AFE2
_MC_STATE_EXTRA = 0xCC26
_SHARD_DESCRIPTIONS = {0xA, 0xB}
_MAX_SPLITS = 60


@dataclass(frozen=True, slots=True)
class MasterchainState:
    """The parts of a masterchain state that proofs use; roots of dictionaries, None when empty."""

    seqno: int
    utime: int
    shards: Cell | None
    config: Cell
    previous_blocks: Cell | None


@dataclass(frozen=True, slots=True)
class ProvenAccount:
    """An account in a proven state. ``balance`` in nanotons; code and data are None unless active."""

    status: AccountStatus
    balance: int
    code: Cell | None
    data: Cell | None
    last_lt: int
    last_hash: bytes


ABSENT = ProvenAccount("absent", 0, None, None, 0, bytes(32))


def parse_masterchain_state(root: Cell, what: str) -> MasterchainState:
    """Read a masterchain state from a virtual root whose hash is bound already; raises :class:`ProofError`."""
    with proving(what):
        state, workchain, seqno, utime = _open_state(root)
        if workchain != MASTERCHAIN:
            raise ProofError(f"{what}: the state is of workchain {workchain}, expected the masterchain")
        state.ref()  # accounts
        state.ref()  # totals
        custom = state.maybe_ref()
        if custom is None:
            raise ProofError(f"{what}: the masterchain state has no masterchain part")
        extra = Reader(custom, "masterchain state extra")
        check_tag(extra, 16, _MC_STATE_EXTRA, "masterchain state extra")
        shards = extra.maybe_ref()
        extra.uint(256)  # address of the configuration contract
        config = extra.ref()
        rest = extra.ref()
        # Pruned in proofs that do not need it; previous blocks are read only by backward links.
        previous = None if rest.is_exotic else _read_previous_blocks(Reader(rest, "masterchain state info"))
    return MasterchainState(seqno, utime, shards, config, previous)


def verify_config(master: BlockId, header_proof: bytes, state_proof: bytes, parameter: int) -> Cell | None:
    """One configuration parameter's cell as of ``master`` (proven), or None where its absence is proven.

    Raises:
        ProofError: The proofs are not for ``master``, or prune the parameter.
    """
    what = f"configuration at block {master.seqno}"
    header, _ = prove_header(header_proof, master, what)
    root = virtual_root(parse_roots(state_proof, 1, what)[0], what, expected=header.state_hash)
    state = parse_masterchain_state(root, what)
    with proving(what):
        leaf = lookup(state.config, parameter & 0xFFFFFFFF, 32, "configuration")
        return None if leaf is None else leaf.ref()


def verify_shard(proof: bytes, master: BlockId, shard_block: BlockId) -> None:
    """Check that ``shard_block`` is the newest block of its shard that ``master`` (proven) refers to.

    Raises:
        ProofError: The proof is not for ``master``, or names another block.
    """
    what = f"shard list of block {master.seqno}"
    header_proof, state_proof = parse_roots(proof, 2, what)
    header = parse_header(virtual_root(header_proof, what), master, what)
    state_root = virtual_root(state_proof, what, expected=header.state_hash)
    state = parse_masterchain_state(state_root, what)
    with proving(what):
        leaf = lookup(state.shards, shard_block.workchain & 0xFFFFFFFF, 32, "shard hashes")
        if leaf is None:
            raise ProofError(f"{what}: workchain {shard_block.workchain} has no shards")
        shard, description = _find_shard(leaf.ref(), shard_block.shard)
        tag = description.uint(4)
        if tag not in _SHARD_DESCRIPTIONS:
            raise ChainTooOldError("shard description", tag, "0xa and 0xb")
        seqno = description.uint(32)
        description.uint(32 + 64 + 64)  # reg_mc_seqno start_lt end_lt
        root_hash, file_hash = description.raw(32), description.raw(32)
    seen = (shard, seqno, root_hash, file_hash)
    if seen != (shard_block.shard, shard_block.seqno, shard_block.root_hash, shard_block.file_hash):
        raise ProofError(
            f"{what}: the shard's newest block is {seqno} ({root_hash.hex()}), "
            f"the answer names {shard_block.seqno} ({shard_block.root_hash.hex()})"
        )


def verify_account(
    address: Address,
    master: BlockId,
    *,
    shard_block: BlockId,
    shard_proof: bytes,
    proof: bytes,
    account: bytes,
) -> ProvenAccount:
    """Check an account's state, or its absence, as of a proven masterchain block.

    Args:
        address: The account asked for.
        master: The proven masterchain block the question was about.
        shard_block: The block the server says holds the account.
        shard_proof: Bag with the proofs of ``master``'s header and state; empty for a masterchain account.
        proof: Bag with the proofs of ``shard_block``'s header and state.
        account: Bag with the account's cell; empty when the server says there is none.

    Raises:
        ProofError: Any link of the binding is broken, or absence is not proven.
    """
    what = f"account {address.friendly()} at block {master.seqno}"
    if address.workchain != shard_block.workchain or not shard_contains(shard_block.shard, address.hash):
        raise ProofError(f"{what}: the answer is from a shard of workchain {shard_block.workchain} that cannot hold it")
    if shard_block != master:
        verify_shard(shard_proof, master, shard_block)
    header_proof, state_proof = parse_roots(proof, 2, what)
    header = parse_header(virtual_root(header_proof, what), shard_block, what)
    state_root = virtual_root(state_proof, what, expected=header.state_hash)
    with proving(what):
        state, workchain, _, _ = _open_state(state_root)
        accounts = Reader(state.ref(), "accounts").maybe_ref()
        leaf = lookup(accounts, int.from_bytes(address.hash, "big"), 256, "accounts")
    if workchain != address.workchain:
        raise ProofError(f"{what}: the state is of workchain {workchain}, expected {address.workchain}")
    if leaf is None:
        if account:
            raise ProofError(f"{what}: the server sent an account that the state proves absent")
        return ABSENT
    with proving(what):
        leaf.uint(5)  # extra: DepthBalanceInfo
        read_currencies(leaf)
        expected = leaf.ref().get_hash(0)
        last_hash, last_lt = leaf.raw(32), leaf.uint(64)
    if not account:
        raise ProofError(f"{what}: the server sent no account although the state holds one")
    with proving(what):
        cell = decode_boc(account, max_bytes=MAX_PROOF_BYTES, max_cells=MAX_PROOF_CELLS)
        require_hash(cell, expected, what)
        return _parse_account(cell, address, last_lt, last_hash, what)


def _open_state(root: Cell) -> tuple[Reader, int, int, int]:
    """The reader of a state at its ``accounts`` reference, and the state's workchain, number and time."""
    state = Reader(root, "state")
    check_tag(state, 32, _SHARD_STATE, "shard state")
    state.sint(32)  # global_id
    workchain, _ = read_shard(state)
    seqno = state.uint(32)
    state.uint(32)  # vert_seq_no
    utime = state.uint(32)
    state.uint(64 + 32)  # gen_lt, min_ref_mc_seqno
    state.ref()  # out message queue
    state.uint(1)  # before_split
    return state, workchain, seqno, utime


def _read_previous_blocks(info: Reader) -> Cell | None:
    info.uint(16)  # flags: they add fields behind those read here
    info.uint(32 + 32 + 1)  # validator_list_hash_short, catchain_seqno, nx_cc_updated
    return info.maybe_ref()


def _find_shard(tree: Cell, wanted: int) -> tuple[int, Reader]:
    """Walk ``BinTree ShardDescr`` towards a shard; the shard of the leaf reached, and a reader on it."""
    unsigned = wanted & (1 << 64) - 1
    prefix, bit = 1 << 63, 1 << 63
    for depth in range(_MAX_SPLITS + 1):
        node = Reader(tree, "shard tree")
        if not node.flag():
            return prefix - (1 << 64) if prefix >> 63 else prefix, node
        branches = node.ref(), node.ref()
        right = bool(unsigned & bit)
        tree = branches[right]
        half = 1 << (62 - depth)
        prefix = prefix + half if right else prefix - half
        bit >>= 1
    raise ProofError("shard tree: deeper than 60 splits")


def _parse_account(cell: Cell, address: Address, last_lt: int, last_hash: bytes, what: str) -> ProvenAccount:
    reader = Reader(cell, "account")
    if not reader.flag():
        return ProvenAccount("absent", 0, None, None, last_lt, last_hash)
    seen = reader.address()
    if seen != address:
        raise ProofError(f"{what}: the account cell is of {seen.raw()}")
    read_var_uint(reader, 3)  # storage used: cells, bits
    read_var_uint(reader, 3)
    extra = reader.uint(3)
    if extra == 1:
        reader.uint(256)  # hash of the storage dictionary
    elif extra:
        raise ChainTooOldError("storage info of an account", extra, "0x0 and 0x1")
    reader.uint(32)  # last_paid
    read_maybe_coins(reader)  # due_payment
    reader.uint(64)  # last_trans_lt (of the storage: one past the transaction's)
    balance = read_currencies(reader)
    if reader.flag():
        code, data = read_state_init(reader)
        return ProvenAccount("active", balance, code, data, last_lt, last_hash)
    status: AccountStatus = "frozen" if reader.flag() else "uninit"
    return ProvenAccount(status, balance, None, None, last_lt, last_hash)


def read_state_init(reader: Reader) -> tuple[Cell | None, Cell | None]:
    """``StateInit``: code and data."""
    if reader.flag():
        reader.uint(5)  # split_depth
    if reader.flag():
        reader.uint(2)  # tick, tock
    code, data = reader.maybe_ref(), reader.maybe_ref()
    reader.maybe_ref()  # library
    return code, data
