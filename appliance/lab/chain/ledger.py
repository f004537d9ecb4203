"""The logical state of the whole chain after one block, of which the two states and their cells are a function.

In: a block's facts. Out: :class:`Ledger`, an immutable value. Dictionaries are persistent, so that consecutive ledgers
share all that did not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.cells import Writer
from appliance.lab.chain.dictionaries import Augmentation, Dictionary
from appliance.lab.chain.layout import Block, write_block_reference, write_currency

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.config import ChainConfig, Validator

KeyMaxLt = tuple[bool, int]
OUT_QUEUE_KEY_BITS = 352


@dataclass(frozen=True, slots=True)
class Fees:
    """Money that left the accounts, in nanotons: what this shard block collected, and all that validators hold."""

    collected: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that the states at one height say.

    ``accounts`` maps the 256-bit address to ``ShardAccount``, ``queue`` the 352-bit key to ``EnqueuedMsg``,
    ``previous`` a masterchain seqno below this one to ``KeyExtBlkRef``. ``supply`` is all money there is, in nanotons.
    ``last_key`` is the newest key block before this height, None up to the first; ``validator`` signs the next block.
    """

    global_id: int
    seqno: int
    utime: int
    lt: int
    accounts: Dictionary[int]
    queue: Dictionary[int]
    previous: Dictionary[KeyMaxLt]
    config: ChainConfig
    validator: Validator
    fees: Fees
    supply: int
    is_key: bool
    last_key: Block | None


def empty_accounts() -> Dictionary[int]:
    """``ShardAccounts`` (``HashmapAugE 256 ShardAccount DepthBalanceInfo``); the extra is the balance."""
    return Dictionary(256, Augmentation(0, int.__add__, _write_depth_balance))


def empty_queue() -> Dictionary[int]:
    """``OutMsgQueue`` (``HashmapAugE 352 EnqueuedMsg uint64``); the extra is the lowest logical time."""
    return Dictionary(OUT_QUEUE_KEY_BITS, Augmentation(0, min, _write_lt))


def empty_previous() -> Dictionary[KeyMaxLt]:
    """``OldMcBlocksInfo`` (``HashmapAugE 32 KeyExtBlkRef KeyMaxLt``)."""
    return Dictionary(32, Augmentation((False, 0), _combine_key_lt, _write_key_lt))


def with_previous(previous: Dictionary[KeyMaxLt], block: Block) -> Dictionary[KeyMaxLt]:
    """With ``block`` among the masterchain blocks before this one. The zerostate counts as a key block."""
    is_key = block.is_key or block.id.seqno == 0
    leaf = write_block_reference(Writer("old block").flag(is_key), block).end()
    return previous.set(block.id.seqno, leaf, (is_key, block.end_lt))


def account_key(address: bytes) -> int:
    """The key of an account: its 32-byte hash as a number."""
    return int.from_bytes(address, "big")


def with_account(accounts: Dictionary[int], address: bytes, shard_account: Cell, balance: int) -> Dictionary[int]:
    """With one account's ``ShardAccount``; ``balance`` in nanotons."""
    return accounts.set(account_key(address), shard_account, balance)


def _write_depth_balance(writer: Writer, nanotons: int) -> object:
    return write_currency(writer.uint(0, 5), nanotons)


def _write_lt(writer: Writer, lt: int) -> object:
    return writer.uint(lt, 64)


def _combine_key_lt(left: KeyMaxLt, right: KeyMaxLt) -> KeyMaxLt:
    return left[0] or right[0], max(left[1], right[1])


def _write_key_lt(writer: Writer, extra: KeyMaxLt) -> object:
    return writer.flag(extra[0]).uint(extra[1], 64)
