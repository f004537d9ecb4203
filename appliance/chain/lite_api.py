"""The liteserver's language: queries as bytes, answers as values.

In: plain values, or bytes of an answer (hostile: every length is checked and every byte must be consumed). Out: bytes,
or values that are not proven yet. Only what this package asks is here. Layout: TON's ``lite_api.tl``; constructor
numbers are CRC-32 of its lines. pytoniq's own codec is not used: it drops ``string`` fields when writing, and when
reading it guesses nested objects inside ``bytes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.errors import ChainTooOldError, LayoutError, LiteserverError
from appliance.chain.proofs.links import BackwardLink, ForwardLink
from appliance.chain.proofs.parts import MASTER_SHARD
from appliance.chain.proofs.validators import BlockSignatures
from appliance.chain.tl import TlReader, tl_bytes, tl_uint
from appliance.chain.types import BlockId

if TYPE_CHECKING:
    from appliance.chain.addresses import Address

_QUERY = 0x798C06DF
_ERROR = 0xBBA9E148
_WAIT = 0xBAEAB892
_GET_MASTERCHAIN_INFO, _MASTERCHAIN_INFO = 0x89B5E62E, 0x85832881
_GET_BLOCK_PROOF, _PARTIAL_BLOCK_PROOF = 0x8AEA9C44, 0x8ED0D2C1
_LINK_BACK, _LINK_FORWARD = 0xEF7E1BEF, 0x520FCE1C
_SIGNATURES_ORDINARY, _SIGNATURES_SIMPLEX = 0xF644A6E6, 0xAC249800
_GET_BLOCK_HEADER, _BLOCK_HEADER = 0x21EC069E, 0x752D8219
_GET_ACCOUNT_STATE, _ACCOUNT_STATE = 0x6B890E25, 0x7079C751
_GET_CONFIG_ALL, _CONFIG_INFO = 0x911B26B7, 0xAE7B272F
_GET_TRANSACTIONS, _TRANSACTION_LIST = 0x1C40E7A1, 0x6F26C60B
_SEND_MESSAGE, _SEND_STATUS = 0x690AD482, 0x3950E597
_MAX_LINKS = 256
_MAX_SIGNATURES = 1 << 12
_MAX_TRANSACTIONS = 64


@dataclass(frozen=True, slots=True)
class MasterchainInfo:
    """What a server says its newest block and its zerostate are."""

    last: BlockId
    zerostate: BlockId


@dataclass(frozen=True, slots=True)
class PartialBlockProof:
    """Links from ``source`` towards ``target``; not ``complete`` when more have to be asked for."""

    complete: bool
    source: BlockId
    target: BlockId
    links: tuple[ForwardLink | BackwardLink, ...]


@dataclass(frozen=True, slots=True)
class AccountAnswer:
    """An account's state with its proofs, as bags of cells."""

    block: BlockId
    shard_block: BlockId
    shard_proof: bytes
    proof: bytes
    state: bytes


def query(method: bytes, *, wait_for: int | None = None, wait_ms: int = 0) -> bytes:
    """``liteServer.query`` around a method, which the server holds back until it has masterchain block ``wait_for``."""
    prefix = b"" if wait_for is None else tl_uint(_WAIT) + tl_uint(wait_for) + tl_uint(wait_ms)
    return tl_uint(_QUERY) + tl_bytes(prefix + method)


def get_masterchain_info() -> bytes:
    """Ask for the newest block."""
    return tl_uint(_GET_MASTERCHAIN_INFO)


def get_block_proof(known: BlockId, target: BlockId) -> bytes:
    """Ask for links from ``known`` to ``target``."""
    return tl_uint(_GET_BLOCK_PROOF) + tl_uint(1) + _block_id(known) + _block_id(target)


def get_block_header(block: BlockId) -> bytes:
    """Ask for a header's proof."""
    return tl_uint(_GET_BLOCK_HEADER) + _block_id(block) + tl_uint(0)


def get_account_state(block: BlockId, address: Address) -> bytes:
    """Ask for an account as of a masterchain block."""
    return tl_uint(_GET_ACCOUNT_STATE) + _block_id(block) + _account(address)


def get_transactions(address: Address, lt: int, transaction_hash: bytes, count: int) -> bytes:
    """Ask for at most ``count`` transactions, newest first, starting with the one named."""
    return tl_uint(_GET_TRANSACTIONS) + tl_uint(count) + _account(address) + lt.to_bytes(8, "little") + transaction_hash


def get_config(block: BlockId) -> bytes:
    """Ask for the configuration in a masterchain block's state."""
    return tl_uint(_GET_CONFIG_ALL) + tl_uint(0) + _block_id(block)


def send_message(boc: bytes) -> bytes:
    """Hand over an external message."""
    return tl_uint(_SEND_MESSAGE) + tl_bytes(boc)


def read_masterchain_info(answer: bytes) -> MasterchainInfo:
    """Answer of :func:`get_masterchain_info`."""
    reader = _open(answer, _MASTERCHAIN_INFO, "masterchainInfo")
    last = _read_block_id(reader)
    reader.take(32)  # state root hash: read from the proven header instead
    workchain = reader.sint()
    zerostate = BlockId(workchain, MASTER_SHARD, 0, reader.take(32), reader.take(32))
    reader.end()
    return MasterchainInfo(last, zerostate)


def read_block_proof(answer: bytes) -> PartialBlockProof:
    """Answer of :func:`get_block_proof`."""
    reader = _open(answer, _PARTIAL_BLOCK_PROOF, "partialBlockProof")
    complete, source, target = reader.flag(), _read_block_id(reader), _read_block_id(reader)
    links = tuple(_read_link(reader) for _ in range(reader.count(_MAX_LINKS)))
    reader.end()
    return PartialBlockProof(complete, source, target, links)


def read_block_header(answer: bytes) -> tuple[BlockId, bytes]:
    """Answer of :func:`get_block_header`: the block and the bag with the proof."""
    reader = _open(answer, _BLOCK_HEADER, "blockHeader")
    block = _read_block_id(reader)
    reader.uint()  # mode
    proof = reader.blob()
    reader.end()
    return block, proof


def read_account_state(answer: bytes) -> AccountAnswer:
    """Answer of :func:`get_account_state`."""
    reader = _open(answer, _ACCOUNT_STATE, "accountState")
    parts = AccountAnswer(_read_block_id(reader), _read_block_id(reader), reader.blob(), reader.blob(), reader.blob())
    reader.end()
    return parts


def read_transactions(answer: bytes) -> bytes:
    """Answer of :func:`get_transactions`: the bag; which blocks hold them is not needed."""
    reader = _open(answer, _TRANSACTION_LIST, "transactionList")
    for _ in range(reader.count(_MAX_TRANSACTIONS)):
        _read_block_id(reader)
    bag = reader.blob()
    reader.end()
    return bag


def read_config(answer: bytes) -> tuple[BlockId, bytes, bytes]:
    """Answer of :func:`get_config`: the block, the bags with the proofs of its header and of its state."""
    reader = _open(answer, _CONFIG_INFO, "configInfo")
    reader.uint()  # mode
    parts = _read_block_id(reader), reader.blob(), reader.blob()
    reader.end()
    return parts


def read_send_status(answer: bytes) -> int:
    """Answer of :func:`send_message`."""
    reader = _open(answer, _SEND_STATUS, "sendMsgStatus")
    status = reader.sint()
    reader.end()
    return status


def _read_link(reader: TlReader) -> ForwardLink | BackwardLink:
    tag = reader.uint()
    if tag not in {_LINK_BACK, _LINK_FORWARD}:
        raise ChainTooOldError("liteServer.BlockLink", tag, f"0x{_LINK_BACK:x} and 0x{_LINK_FORWARD:x}")
    to_key, source, target = reader.flag(), _read_block_id(reader), _read_block_id(reader)
    if tag == _LINK_BACK:
        return BackwardLink(source, target, to_key, reader.blob(), reader.blob(), reader.blob())
    return ForwardLink(source, target, to_key, reader.blob(), reader.blob(), _read_signatures(reader))


def _read_signatures(reader: TlReader) -> BlockSignatures:
    tag = reader.uint()
    if tag not in {_SIGNATURES_ORDINARY, _SIGNATURES_SIMPLEX}:
        known = f"0x{_SIGNATURES_ORDINARY:x} and 0x{_SIGNATURES_SIMPLEX:x}"
        raise ChainTooOldError("liteServer.SignatureSet", tag, known)
    reader.take(8)  # set hash and catchain number (in an order that differs): the proven header has both
    signatures = tuple((reader.take(32), reader.blob()) for _ in range(reader.count(_MAX_SIGNATURES)))
    if tag == _SIGNATURES_ORDINARY:
        return BlockSignatures(signatures)
    return BlockSignatures(signatures, session=reader.take(32), slot=reader.sint(), candidate=reader.blob())


def _open(answer: bytes, expected: int, name: str) -> TlReader:
    reader = TlReader(answer)
    tag = reader.uint()
    if tag == _ERROR:
        code, text = reader.sint(), reader.blob()
        raise LiteserverError(code, text[:500].decode(errors="replace"))
    if tag != expected:
        raise LayoutError(f"a liteserver's answer starts with 0x{tag:08x}, expected liteServer.{name} 0x{expected:08x}")
    return reader


def _block_id(block: BlockId) -> bytes:
    head = block.workchain.to_bytes(4, "little", signed=True) + block.shard.to_bytes(8, "little", signed=True)
    return head + tl_uint(block.seqno) + block.root_hash + block.file_hash


def _account(address: Address) -> bytes:
    return address.workchain.to_bytes(4, "little", signed=True) + address.hash


def _read_block_id(reader: TlReader) -> BlockId:
    workchain = reader.sint()
    shard = int.from_bytes(reader.take(8), "little", signed=True)
    return BlockId(workchain, shard, reader.uint(), reader.take(32), reader.take(32))
