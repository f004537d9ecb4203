"""Transactions: parsed, and linked by hash to a proven account state.

In: the bag of a ``liteServer.transactionList`` answer and the (lt, hash) that a proven state or a proven newer
transaction names. Out: :class:`~appliance.chain.types.Transaction` values, newest first. Layout: ``block.tlb``
(``Transaction``, ``Message``, ``TransactionDescr``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc_roots
from appliance.chain.cells import Reader
from appliance.chain.errors import LayoutError, ProofError
from appliance.chain.proofs.dictionary import entries
from appliance.chain.proofs.merkle import MAX_PROOF_BYTES, MAX_PROOF_CELLS, proving
from appliance.chain.proofs.parts import read_currencies, read_maybe_coins
from appliance.chain.proofs.state import read_state_init
from appliance.chain.types import Message, Transaction

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

MAX_LIST = 64
_MAX_OUT_MESSAGES = 255


def verify_transactions(address: Address, lt: int, expected: bytes, bag: bytes) -> list[Transaction]:
    """Check a list of transactions, newest first, whose first one a proven state names.

    Args:
        address: The account.
        lt: Logical time of the first transaction.
        expected: Its 32-byte hash.
        bag: Bag with one root a transaction.

    Raises:
        ProofError: A transaction's hash, time or account is not the one that the state or its successor names.
    """
    what = f"transactions of {address.friendly()}"
    with proving(what):
        roots = decode_boc_roots(bag, max_bytes=MAX_PROOF_BYTES, max_cells=MAX_PROOF_CELLS, max_roots=MAX_LIST)
    proven = []
    for root in roots:
        if root.get_hash(0) != expected or root.level_mask.mask:
            raise ProofError(f"{what}: transaction {root.get_hash(0).hex()}, expected {expected.hex()} at lt {lt}")
        with proving(what):
            transaction = parse_transaction(root, address.workchain)
        if transaction.account != address or transaction.lt != lt:
            raise ProofError(
                f"{what}: a transaction of {transaction.account.raw()} at lt {transaction.lt}, expected lt {lt}"
            )
        proven.append(transaction)
        lt, expected = transaction.previous_lt, transaction.previous_hash
    return proven


def parse_transaction(root: Cell, workchain: int) -> Transaction:
    """Read one transaction; raises :class:`LayoutError`. The workchain is not in the cell."""
    reader = Reader(root, "transaction")
    reader.constant(0b0111, 4, "tag")
    account = Address(workchain, reader.raw(32))
    lt = reader.uint(64)
    previous_hash, previous_lt = reader.raw(32), reader.uint(64)
    utime = reader.uint(32)
    out_count = reader.uint(15)
    reader.uint(2 + 2)  # status before and after
    messages = Reader(reader.ref(), "messages of a transaction")
    inbound = messages.maybe_ref()
    outbound = [leaf.ref() for _, leaf in entries(messages.maybe_ref(), 15, "out messages", limit=_MAX_OUT_MESSAGES)]
    if len(outbound) != out_count:
        raise LayoutError(f"transaction: {len(outbound)} out messages, expected {out_count}")
    total_fees = read_currencies(reader)
    reader.ref()  # state update
    exit_code, action_code, aborted = _read_description(Reader(reader.ref(), "transaction description"))
    return Transaction(
        account=account,
        lt=lt,
        hash=root.get_hash(0),
        previous_lt=previous_lt,
        previous_hash=previous_hash,
        utime=utime,
        inbound=None if inbound is None else parse_message(inbound),
        outbound=tuple(parse_message(message) for message in outbound),
        total_fees=total_fees,
        exit_code=exit_code,
        aborted=aborted,
        action_code=action_code,
    )


def parse_message(cell: Cell) -> Message:
    """Read ``Message Any``; raises :class:`LayoutError`."""
    reader = Reader(cell, "message")
    source = destination = None
    value = created_lt = forward_fee = 0
    bounced = False
    if not reader.flag():  # int_msg_info$0
        reader.uint(1 + 1)  # ihr_disabled, bounce
        bounced = reader.flag()
        source, destination = _read_account(reader), _read_account(reader)
        value = read_currencies(reader)
        reader.coins()  # ihr_fee, which later versions use for flags; it carries no money any more
        forward_fee = reader.coins()
        created_lt = reader.uint(64)
        reader.uint(32)  # created_at
    elif not reader.flag():  # ext_in_msg_info$10
        _skip_external(reader)
        destination = _read_account(reader)
        reader.coins()  # import_fee
    else:  # ext_out_msg_info$11
        source = _read_account(reader)
        _skip_external(reader)
        created_lt = reader.uint(64)
        reader.uint(32)
    if reader.flag():  # init
        if reader.flag():
            reader.ref()
        else:
            read_state_init(reader)
    body = reader.ref() if reader.flag() else reader.rest()
    return Message(source, destination, value, body, bounced, created_lt, forward_fee)


def _read_account(reader: Reader) -> Address | None:
    """``MsgAddressInt``, or ``addr_none``; other kinds (anycast, variable length) have not been in use."""
    return reader.maybe_address()


def _skip_external(reader: Reader) -> None:
    tag = reader.uint(2)
    if tag == 1:
        reader.bits(reader.uint(9))
    elif tag:
        raise LayoutError(f"message: external address of kind {tag:02b}, expected 00 or 01")


def _read_description(reader: Reader) -> tuple[int | None, int | None, bool]:
    """Exit code (None when no code ran), action result code, and whether the transaction was aborted."""
    tag = reader.uint(3)
    if tag == 0b000 and not reader.uint(1):  # trans_ord$0000
        reader.uint(1)  # credit_first
        if reader.flag():
            _skip_storage_phase(reader)
        if reader.flag():  # credit phase
            read_maybe_coins(reader)
            read_currencies(reader)
    elif tag == 0b001:  # trans_tick_tock$001
        reader.uint(1)
        _skip_storage_phase(reader)
    else:  # storage, split and merge transactions run no code of ours
        return None, None, False
    exit_code = _read_compute_phase(reader)
    action = reader.maybe_ref()
    aborted = reader.flag()
    return exit_code, None if action is None else _read_action_code(Reader(action, "action phase")), aborted


def _skip_storage_phase(reader: Reader) -> None:
    reader.coins()
    read_maybe_coins(reader)
    _skip_status_change(reader)


def _skip_status_change(reader: Reader) -> None:
    if reader.flag():  # acst_unchanged$0, acst_frozen$10, acst_deleted$11
        reader.uint(1)


def _read_compute_phase(reader: Reader) -> int | None:
    if not reader.flag():  # tr_phase_compute_skipped$0: no state 00, bad state 01, no gas 10, suspended 110
        if reader.uint(2) == 0b11:
            reader.uint(1)
        return None
    reader.uint(1 + 1 + 1)  # success, msg_state_used, account_activated
    reader.coins()  # gas_fees
    details = Reader(reader.ref(), "compute phase")
    for _ in range(2):  # gas_used, gas_limit: VarUInteger 7
        details.uint(8 * details.uint(3))
    if details.flag():  # gas_credit: VarUInteger 3
        details.uint(8 * details.uint(2))
    details.uint(8)  # mode
    return details.sint(32)


def _read_action_code(reader: Reader) -> int:
    reader.uint(1 + 1 + 1)  # success, valid, no_funds
    _skip_status_change(reader)
    read_maybe_coins(reader)  # total_fwd_fees
    read_maybe_coins(reader)  # total_action_fees
    return reader.sint(32)
