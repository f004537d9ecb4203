"""What the chain itself reads of messages, transactions and accounts.

In: cells that the TVM made, and external messages from anyone. Out: a few plain values. Layout: ``block.tlb``
(``CommonMsgInfo``, ``Transaction``, ``Account``). Everything else in these cells is opaque here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from appliance.chain.cells import Reader, Writer
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountStatus

MessageKind = Literal["internal", "external_in", "external_out"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message's head. Amounts in nanotons; external messages have none, and no ``created_lt`` when inbound."""

    cell: Cell
    kind: MessageKind
    destination: Address | None
    value: int = 0
    forward_fee: int = 0
    created_lt: int = 0


@dataclass(frozen=True, slots=True)
class TransactionHead:
    """What the chain needs of one transaction; hashes are those of the account before and after."""

    cell: Cell
    account: bytes
    lt: int
    previous_hash: bytes
    previous_lt: int
    utime: int
    total_fees: int
    old_hash: bytes
    new_hash: bytes
    outbound: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account's status, balance in nanotons, and code and data when it is active."""

    status: AccountStatus
    balance: int = 0
    code: Cell | None = None
    data: Cell | None = None


def read_message(cell: Cell) -> Message:
    """Read a message's head; raises ``LayoutError``."""
    reader = Reader(cell, "message")
    if not reader.flag():
        reader.bits(3)  # ihr_disabled, bounce, bounced
        reader.maybe_address()
        destination = reader.address()
        value = reader.coins()
        reader.maybe_ref()  # extra currencies
        reader.coins()  # ihr_fee; extra_flags since global version 12
        return Message(cell, "internal", destination, value, reader.coins(), reader.uint(64))
    if not reader.flag():
        _skip_external_address(reader)
        return Message(cell, "external_in", reader.address())
    reader.maybe_address()
    _skip_external_address(reader)
    return Message(cell, "external_out", None, created_lt=reader.uint(64))


def read_transaction(cell: Cell) -> TransactionHead:
    """Read a transaction as the TVM made it; raises ``LayoutError``."""
    reader = Reader(cell, "transaction")
    reader.constant(0b0111, 4, "tag")
    account, lt = reader.raw(32), reader.uint(64)
    previous_hash, previous_lt, utime = reader.raw(32), reader.uint(64), reader.uint(32)
    reader.bits(15 + 2 + 2)  # number of messages, status before and after
    messages = Reader(reader.ref(), "messages of a transaction")
    messages.maybe_ref()
    outbound = messages.dictionary(15, _reference)
    fees = reader.coins()
    reader.maybe_ref()
    update = Reader(reader.ref(), "state update of a transaction")
    update.constant(0x72, 8, "tag")
    old_hash, new_hash = update.raw(32), update.raw(32)
    ordered = tuple(read_message(outbound[key]) for key in sorted(outbound))
    return TransactionHead(cell, account, lt, previous_hash, previous_lt, utime, fees, old_hash, new_hash, ordered)


def read_account(account: Cell) -> AccountView:
    """Read ``Account`` (the reference of a ``ShardAccount``); raises ``LayoutError``."""
    reader = Reader(account, "account")
    if not reader.flag():
        return AccountView("absent")
    skip_to_balance(reader)
    balance = reader.coins()
    reader.maybe_ref()
    if not reader.flag():
        return AccountView("frozen" if reader.flag() else "uninit", balance)
    if reader.flag():
        reader.uint(5)  # split depth
    if reader.flag():
        reader.bits(2)  # tick and tock
    return AccountView("active", balance, reader.maybe_ref(), reader.maybe_ref())


def skip_to_balance(reader: Reader) -> None:
    """Go over what an existing account says before its balance."""
    reader.address()
    for _ in range(2):  # StorageUsed: cells and bits, VarUInteger 7
        reader.uint(8 * reader.uint(3))
    if reader.uint(3) == 1:  # storage_extra_info$001 dict_hash:uint256
        reader.raw(32)
    reader.uint(32)
    if reader.flag():
        reader.coins()  # due payment
    reader.uint(64)


def empty_shard_account() -> Cell:
    """``ShardAccount`` of an account that does not exist."""
    nothing = Writer("account").uint(0, 1).end()
    return Writer("shard account").ref(nothing).raw(bytes(32), 32).uint(0, 64).end()


def external_message(destination: Address, body: Cell) -> Cell:
    """An inbound external message without a state."""
    writer = Writer("external message").uint(0b10, 2).uint(0, 2).address(destination).coins(0)
    return writer.uint(0, 1).uint(1, 1).ref(body).end()


def _reference(reader: Reader) -> Cell:
    return reader.ref()


def _skip_external_address(reader: Reader) -> None:
    tag = reader.uint(2)
    if tag == 1:
        reader.bits(reader.uint(9))
    elif tag:
        raise LayoutError(f"message: external address of kind {tag:02b}, expected 00 or 01")
