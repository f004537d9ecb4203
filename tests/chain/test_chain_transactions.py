"""Transactions: every form of message and phase, an independent parser beside ours, and lists that do not link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from chain_support import TON, fund, key, live
from hypothesis import given
from hypothesis import strategies as st
from pytoniq_core import Transaction as PytoniqTransaction

from appliance.chain.addresses import Address
from appliance.chain.boc import decode_boc, decode_boc_roots, encode_boc
from appliance.chain.cells import Writer
from appliance.chain.contracts import load
from appliance.chain.envelopes import OutgoingMessage, external_message, internal_message
from appliance.chain.errors import LayoutError, ProofError
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.proofs import parse_message, parse_transaction, verify_transactions
from appliance.chain.stateinit import StateInit
from appliance.chain.wallet import NodeWallet

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.devnet import DevNet

A, B = Address(0, b"\x0a" * 32), Address(-1, b"\x0b" * 32)
NOBODY = Address(0, b"\x0e" * 32)
BODY = Writer("body").uint(0x12345678, 32).uint(5, 64).end()
INIT = StateInit(BODY, BODY)


def test_internal_messages() -> None:
    message = parse_message(internal_message(source=A, destination=B, value=5, body=BODY, created_lt=9))
    assert (message.source, message.destination, message.value, message.created_lt) == (A, B, 5, 9)
    assert message.body.hash == BODY.hash
    assert not message.bounced
    deploy = parse_message(internal_message(source=A, destination=B, value=5, body=BODY, init=INIT))
    assert deploy.body.hash == BODY.hash
    assert len(parse_message(internal_message(source=A, destination=B, value=5)).body.bits) == 0


def test_external_messages() -> None:
    message = parse_message(external_message(A, BODY, INIT))
    assert (message.source, message.destination, message.body.hash) == (None, A, BODY.hash)
    log = Writer("log").uint(0b11, 2).address(A).uint(0b01, 2).uint(8, 9).uint(0xAB, 8).uint(77, 64).uint(1, 32)
    message = parse_message(log.uint(0, 1).uint(0, 1).uint(0xFE, 8).end())
    assert (message.source, message.destination, message.created_lt) == (A, None, 77)
    assert message.body.data == b"\xfe"


def test_bounced_messages_and_inline_states() -> None:
    head = Writer("bounced").uint(0b0101, 4).address(A).address(B).coins(7).uint(0, 1).coins(0).coins(3)
    inline = head.uint(4, 64).uint(5, 32).uint(0b10, 2)
    inline.uint(1, 1).uint(3, 5).uint(0, 1).uint(0b11, 2).ref(BODY).ref(BODY).uint(0, 1)  # StateInit with a depth
    message = parse_message(inline.uint(0, 1).uint(9, 8).end())
    assert (message.bounced, message.value, message.forward_fee) == (True, 7, 3)
    assert message.body.data == b"\x09"


@given(st.binary(max_size=120))
def test_noise_is_no_message(noise: bytes) -> None:
    cell = Writer("noise").raw(noise, len(noise)).end()
    for parse in (parse_message, lambda c: parse_transaction(c, 0)):
        try:
            parse(cell)
        except LayoutError:
            continue
        assert parse is parse_message


def described(description: Writer) -> Cell:
    messages = Writer("messages").uint(0, 2).end()
    writer = Writer("transaction").uint(0b0111, 4).raw(A.hash, 32).uint(7, 64).raw(bytes(32), 32).uint(0, 64)
    writer.uint(1000, 32).uint(0, 15).uint(0, 4).ref(messages).coins(9).uint(0, 1).ref(BODY).ref(description.end())
    return writer.end()


def vm_phase(writer: Writer, exit_code: int) -> Writer:
    details = Writer("vm").uint(1, 3).uint(5, 8).uint(1, 3).uint(9, 8).uint(1, 1).uint(1, 2).uint(3, 8)
    details.uint(0, 8).sint(exit_code, 32).uint(0, 1).uint(1, 32).raw(bytes(32), 32).raw(bytes(32), 32)
    return writer.uint(1, 1).uint(0b100, 3).coins(4).ref(details.end())


def action_phase(code: int) -> Cell:
    writer = Writer("action").uint(0b110, 3).uint(0b10, 2).uint(1, 1).coins(5).uint(1, 1).coins(6)
    return writer.sint(code, 32).uint(0, 1).uint(0, 64).raw(bytes(32), 32).uint(0, 6).end()


def test_ordinary_transactions() -> None:
    storage = Writer("ordinary").uint(0, 4).uint(1, 1).uint(1, 1).coins(2).uint(1, 1).coins(3).uint(0b11, 2)
    credit = storage.uint(1, 1).uint(1, 1).coins(1).coins(8).uint(0, 1)
    found = parse_transaction(
        described(vm_phase(credit, -14).uint(1, 1).ref(action_phase(37)).uint(1, 1).uint(0, 2)), 0
    )
    assert (found.exit_code, found.action_code, found.aborted, found.total_fees) == (-14, 37, True, 9)


@pytest.mark.parametrize("reason", [0b00, 0b01, 0b10, 0b110])
def test_a_skipped_compute_phase_has_no_exit_code(reason: int) -> None:
    writer = Writer("ordinary").uint(0, 4).uint(0, 3).uint(0, 1).uint(reason, max(2, reason.bit_length()))
    found = parse_transaction(described(writer.uint(0, 1).uint(1, 1).uint(0, 2)), 0)
    assert (found.exit_code, found.action_code, found.aborted) == (None, None, True)


def test_tick_tock_and_rare_kinds() -> None:
    tick = Writer("tick").uint(0b001, 3).uint(1, 1).coins(2).uint(0, 1).uint(0, 1)
    found = parse_transaction(described(vm_phase(tick, 0).uint(0, 1).uint(0, 1).uint(0, 1)), -1)
    assert (found.account, found.exit_code, found.aborted) == (Address(-1, A.hash), 0, False)
    assert parse_transaction(described(Writer("storage").uint(0b0001, 4)), 0).exit_code is None
    assert parse_transaction(described(Writer("split").uint(0b0100, 4)), 0).exit_code is None


async def test_an_independent_parser_sees_the_same(net: DevNet) -> None:
    async with live(net) as client:
        owner = OwnerWallet(client, key("owner"))
        node = NodeWallet(client, key("node"), owner.address, load().wallet)
        await fund(net, client, owner.address, 10 * TON)
        await owner.transfer([OutgoingMessage(node.address, 3 * TON, bounce=False), OutgoingMessage(A, 1)])
        await node.deploy()
        # Unknown operations bounce, and so does the message to an account without a contract.
        await owner.transfer([OutgoingMessage(node.address, TON, BODY), OutgoingMessage(NOBODY, TON // 10)])
        head = await client.head()
        for _ in range(4):
            head = await client.wait_head(head.block.seqno, timeout=20)
        seen = set()
        for address in (owner.address, node.address, A):
            for ours in await client.transactions(address):
                row = net.store.transaction(address.hash, ours.lt)
                assert row is not None
                theirs = PytoniqTransaction.deserialize(_cell(net, row).begin_parse())
                assert ours.lt == theirs.lt
                assert ours.utime == theirs.now
                assert ours.total_fees == theirs.total_fees.grams
                assert (ours.previous_lt, ours.previous_hash) == (theirs.prev_trans_lt, theirs.prev_trans_hash)
                compute = theirs.description.compute_ph
                assert ours.exit_code == getattr(compute, "exit_code", None)
                assert ours.aborted == bool(theirs.description.aborted)
                action = theirs.description.action
                assert ours.action_code == (None if action is None else action.result_code)
                assert len(ours.outbound) == len(theirs.out_msgs)
                for mine, other in zip(ours.outbound, theirs.out_msgs, strict=True):
                    assert mine.body.hash == other.body.hash
                    assert mine.value == (other.info.value.grams if other.is_internal else 0)
                    assert mine.forward_fee == (other.info.fwd_fee if other.is_internal else 0)
                seen.add((ours.exit_code, ours.aborted))
        assert len(seen) >= 3


def _cell(net: DevNet, row: object) -> Cell:
    from appliance.lab.chain.answers_accounts import AccountAnswers
    from appliance.lab.chain.lite_api import lite_schema

    return AccountAnswers(net, lite_schema())._transaction(row)  # type: ignore[arg-type]  # the store's row


async def test_lists_must_link(net: DevNet) -> None:
    async with live(net) as client:
        owner = OwnerWallet(client, key("owner"))
        for _ in range(3):
            await fund(net, client, owner.address, (await client.account(owner.address)).balance + TON)
        state = await client.account(owner.address)
        listed = await client.transactions(owner.address)
        cells = []
        for transaction in reversed(listed):
            row = net.store.transaction(owner.address.hash, transaction.lt)
            assert row is not None
            cells.append(_cell(net, row))
    bag = encode_boc(*cells)
    found = verify_transactions(owner.address, state.last_lt, state.last_hash, bag)
    assert [transaction.hash for transaction in found] == [transaction.hash for transaction in reversed(listed)]
    for bad in (encode_boc(*cells[1:]), encode_boc(cells[0], cells[2]), encode_boc(*reversed(cells))):
        with pytest.raises(ProofError):
            verify_transactions(owner.address, state.last_lt, state.last_hash, bad)
    with pytest.raises(ProofError):
        verify_transactions(A, state.last_lt, state.last_hash, bag)
    with pytest.raises(ProofError):
        verify_transactions(owner.address, state.last_lt + 1, state.last_hash, bag)
    for position in range(0, len(bag), 97):
        altered = bag[:position] + bytes([bag[position] ^ 0x40]) + bag[position + 1 :]
        try:
            again = verify_transactions(owner.address, state.last_lt, state.last_hash, altered)
        except ProofError:
            continue
        assert [t.hash for t in again] == [t.hash for t in found][: len(again)]
    assert len(decode_boc_roots(bag)) == len(cells)
    assert decode_boc(encode_boc(cells[0])).hash == listed[-1].hash
