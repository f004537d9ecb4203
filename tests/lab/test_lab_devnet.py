"""The chain itself: money moves as it should, blocks are whole, time goes one way, restarts change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bitarray import bitarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab_support import TestWallet, account, balance_of, status_of
from pytoniq_core.tlb.block import Block as ParsedBlock
from pytoniq_core.tlb.block import ShardStateUnsplit
from pytoniq_core.tlb.utils import HashUpdate

from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.chain.cells import Writer
from appliance.lab.chain.clock import Clock
from appliance.lab.chain.errors import DevNetError, MessageRefusedError
from appliance.lab.chain.faucet import SUPPLY, Grant
from appliance.lab.chain.ledger import account_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.lab.chain.archive import View
    from appliance.lab.chain.devnet import DevNet

TON = 10**9


def parsed(view: View) -> tuple[Any, Any]:
    return tuple(ParsedBlock.deserialize(block.root.begin_parse()) for block in (view.shard, view.master))


def check_value_flow(net: DevNet, before: View, after: View) -> None:
    shard, master = parsed(after)
    for flow in (shard.value_flow, master.value_flow):
        there = flow.from_prev_blk.grams + flow.imported.grams + flow.fees_imported.grams
        assert there == flow.to_next_blk.grams + flow.exported.grams + flow.fees_collected.grams
    assert shard.value_flow.from_prev_blk.grams == before.ledger.accounts.extra
    assert shard.value_flow.to_next_blk.grams == after.ledger.accounts.extra
    assert master.value_flow.fees_imported.grams == shard.value_flow.fees_collected.grams
    in_queue = sum(_queued_value(leaf) for _, leaf in after.ledger.queue.items())
    assert after.ledger.accounts.extra + after.ledger.fees.total + in_queue == net.view.ledger.supply == SUPPLY


def _queued_value(leaf: Any) -> int:
    from appliance.lab.chain.descriptors import read_enqueued

    message = read_enqueued(leaf)
    return message.value + message.forward_fee


def test_a_grant_arrives_less_nothing(net: DevNet) -> None:
    net.grant(Grant(account(1), 3 * TON))
    before = net.view
    after = net.tick()
    assert balance_of(net, account(1)) == 3 * TON
    assert status_of(net, account(1)) == "uninit"
    check_value_flow(net, before, after)
    assert [row.address for row in net.store.block_transactions(after.seqno)].count(account(1).hash) == 1


@pytest.mark.parametrize("amount", [0, -1, SUPPLY + 1])
def test_grants_of_no_sense_are_refused(net: DevNet, amount: int) -> None:
    with pytest.raises(DevNetError, match="a grant of"):
        net.grant(Grant(account(1), amount))


def test_many_grants_share_orders_and_blocks(net: DevNet) -> None:
    for number in range(1, 12):
        net.grant(Grant(account(number), number * TON))
    view = net.tick()
    assert [balance_of(net, account(number)) for number in range(1, 12)] == [n * TON for n in range(1, 12)]
    assert len(net.store.block_transactions(view.seqno)) == 11 + 3  # three orders of up to four grants


def test_a_wallet_is_deployed_and_pays_by_external_message(net: DevNet) -> None:
    wallet = TestWallet(9)
    net.grant(Grant(wallet.address, 5 * TON, state_init=wallet.state_init))
    net.tick()
    assert status_of(net, wallet.address) == "active"
    order = wallet.order(net, Grant(account(1), TON), Grant(account(2), 2 * TON))
    net.send(order)
    before = net.view
    check_value_flow(net, before, net.tick())
    assert balance_of(net, account(1)) == TON
    assert balance_of(net, account(2)) == 2 * TON
    with pytest.raises(MessageRefusedError, match=r"cannot apply external message.*exitcode=33"):
        net.send(order)


def test_the_same_order_twice_in_one_block_is_executed_once(net: DevNet) -> None:
    wallet = TestWallet(9)
    net.grant(Grant(wallet.address, 5 * TON, state_init=wallet.state_init))
    net.tick()
    order = wallet.order(net, Grant(account(1), TON))
    net.send(order)
    net.send(order)
    net.tick()
    assert balance_of(net, account(1)) == TON


def test_a_bounce_returns_what_is_left(net: DevNet) -> None:
    wallet = TestWallet(9)
    net.grant(Grant(wallet.address, 5 * TON, state_init=wallet.state_init))
    net.tick()
    # bounce is set by hand: a payment to an address without code comes back
    body = Writer("empty").end()
    message = Writer("payment").uint(0b0110, 4).uint(0, 2).address(account(77)).coins(TON).uint(0, 1)
    message.coins(0).coins(0).uint(0, 64).uint(0, 32).uint(0, 1).maybe_ref(body)
    net.send(_order_with(wallet, net, message.end()))
    before = net.view
    after = net.tick()
    check_value_flow(net, before, after)
    assert status_of(net, account(77)) == "absent"
    assert 4.9 * TON < balance_of(net, wallet.address) < 5 * TON
    assert len(net.store.block_transactions(after.seqno)) == 3


def _order_with(wallet: TestWallet, net: DevNet, message: Any) -> bytes:
    from appliance.chain.cells import Reader
    from appliance.lab.chain.messages import external_message, read_account

    data = read_account(net.shard_account(wallet.address).refs[0]).data
    seqno = Reader(data, "data").uint(32)
    unsigned = Writer("order").uint(698983191, 32).uint(net.clock.now() + 60, 32).uint(seqno, 32)
    cell = unsigned.uint(3, 8).ref(message).end()
    signed = Writer("signed").raw(wallet._wallet.key.sign(cell.hash), 64).inline(cell).end()
    return encode_boc(external_message(wallet.address, signed))


def inbound(destination: Address) -> bytes:
    """An external message without a body that nobody accepts."""
    writer = Writer("external message").uint(0b1000, 4).address(destination).coins(0)
    return encode_boc(writer.uint(0, 2).end())


def internal(destination: Address) -> bytes:
    writer = Writer("internal message").uint(0b0100, 4).uint(0, 2).address(destination).coins(5).uint(0, 1)
    return encode_boc(writer.coins(0).coins(0).uint(0, 96).uint(0, 2).end())


@pytest.mark.parametrize(
    ("boc", "reason"),
    [
        (b"", "deserialize"),
        (b"\x00" * 100, "deserialize"),
        (encode_boc(Writer("nothing").end()), "deserialize"),
        (inbound(account(1)), "cannot apply"),
        (inbound(Address(-1, bytes(32))), "workchain"),
        (internal(account(1)), "internal message"),
    ],
)
def test_messages_that_cannot_be_taken_are_refused(net: DevNet, boc: bytes, reason: str) -> None:
    with pytest.raises(MessageRefusedError, match=reason):
        net.send(boc)
    assert not net.has_work


@st.composite
def cells(draw: st.DrawFn, depth: int = 0) -> Any:
    writer = Writer("random").bits(bitarray(draw(st.lists(st.integers(0, 1), max_size=60))))
    if depth < 2:
        for below in draw(st.lists(cells(depth + 1), max_size=2)):
            writer.ref(below)
    return writer.end()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([TestWallet(9).address, account(1), account(50)]), cells(), st.none() | cells())
def test_any_content_is_refused_or_executed(net: DevNet, target: Address, body: Any, init: Any) -> None:
    writer = Writer("external message").uint(0b1000, 4).address(target).coins(0)
    writer = writer.uint(0, 1) if init is None else writer.uint(0b11, 2).ref(init)
    with pytest.raises(MessageRefusedError):
        net.send(encode_boc(writer.maybe_ref(body).end()))
    net.grant(Grant(account(50), TON, body, init))
    before = net.view
    check_value_flow(net, before, net.tick())


def test_what_does_not_fit_opens_the_next_block(make_net: Callable[..., DevNet]) -> None:
    net = make_net(block_limit=2)
    for number in range(1, 5):
        net.grant(Grant(account(number), number * TON))
    heights = [net.view]
    kinds: set[str] = set()
    while net.has_work:
        heights.append(net.tick())
        extra = parsed(heights[-1])[0].extra
        kinds |= {message.type_ for part in (extra.in_msg_descr, extra.out_msg_descr) for message in part[0].values()}
        check_value_flow(net, heights[-2], heights[-1])
        assert len(net.store.block_transactions(heights[-1].seqno)) <= 2
    assert len(heights) == 4
    assert {"msg_export_new", "msg_import_fin", "msg_export_deq_imm"} <= kinds
    assert any(view.ledger.queue for view in heights)
    assert [balance_of(net, account(number)) for number in range(1, 5)] == [n * TON for n in range(1, 5)]
    assert not net.view.ledger.queue


def test_a_message_to_the_masterchain_waits_and_is_not_lost(net: DevNet) -> None:
    net.grant(Grant(Address(-1, bytes([3]) * 32), TON))
    before = net.view
    after = net.tick()
    assert len(list(after.ledger.queue.items())) == 1
    check_value_flow(net, before, after)
    check_value_flow(net, after, net.tick())


def test_every_block_is_what_its_header_says(net: DevNet) -> None:
    for number in range(1, 4):
        net.grant(Grant(account(number), TON))
        net.tick()
    previous = net.archive.view(0)
    for seqno in range(1, net.view.seqno + 1):
        view = net.archive.view(seqno)
        for block, master_block, state_before, state_after, parsed_block in zip(
            (view.shard, view.master),
            (previous.shard, previous.master),
            (previous.shard_state, previous.master_state),
            (view.shard_state, view.master_state),
            parsed(view),
            strict=True,
        ):
            info = parsed_block.info
            assert info.prev_ref.prev.root_hash == master_block.id.root_hash
            assert (info.seqno, info.start_lt, info.end_lt, info.gen_utime) == (
                seqno, block.start_lt, block.end_lt, block.utime,
            )  # fmt: skip
            assert info.start_lt > previous.shard.end_lt
            update = block.root.refs[2]
            assert update.data[1:33] == state_before.hash
            assert update.data[33:65] == state_after.hash
        shard, master = parsed(view)
        assert shard.info.master_ref.master.root_hash == previous.master.id.root_hash
        assert master.extra.custom.shard_hashes[0].list[0].root_hash == view.shard.id.root_hash
        assert bool(master.info.key_block) == (seqno == 1)
        previous = view


def test_account_blocks_and_descriptors_list_every_transaction(net: DevNet) -> None:
    for number in range(1, 4):
        net.grant(Grant(account(number), TON))
    before = net.view
    view = net.tick()
    rows = net.store.block_transactions(view.seqno)
    extra = parsed(view)[0].extra
    blocks = extra.account_blocks[0]
    listed = {(key, lt) for key, block in blocks.items() for lt in block.transactions[0]}
    assert listed == {(account_key(row.address), row.lt) for row in rows}
    arrived = extra.in_msg_descr[0]
    assert len(arrived) == len(rows)
    assert {message.type_ for message in arrived.values()} == {"msg_import_ext", "msg_import_imm"}
    sent = extra.out_msg_descr[0]
    assert len(sent) == 3
    assert {message.type_ for message in sent.values()} == {"msg_export_imm"}
    faucet = blocks[account_key(net.faucet.address.hash)]
    assert isinstance(faucet.state_update, HashUpdate)
    assert faucet.state_update.old_hash == net.shard_account(net.faucet.address, before).refs[0].hash
    assert faucet.state_update.new_hash == net.shard_account(net.faucet.address).refs[0].hash


def test_states_are_read_by_an_independent_parser(net: DevNet) -> None:
    net.grant(Grant(account(1), TON))
    view = net.tick()
    state = ShardStateUnsplit.deserialize(view.shard_state.begin_parse())
    assert state.total_balance.grams == view.ledger.accounts.extra
    assert state.total_validator_fees.grams == view.ledger.fees.total
    assert set(state.accounts[0]) == {account_key(net.faucet.address.hash), account_key(account(1).hash)}
    assert state.master_ref.master.seqno == view.seqno - 1
    master = ShardStateUnsplit.deserialize(view.master_state.begin_parse())
    assert master.custom.global_balance.grams == SUPPLY
    assert {19, 28, 34} <= set(master.custom.config.config)


def test_key_blocks_carry_the_configuration_and_name_the_next_validator(net: DevNet) -> None:
    first = net.view.ledger.validator
    net.rotate_validator()
    key = net.tick()
    assert key.master.is_key
    assert key.ledger.validator.public_key != first.public_key
    first.key.public_key().verify(key.master.signature, _signed(key.master))
    after = net.tick()
    assert not after.master.is_key
    key.ledger.validator.key.public_key().verify(after.master.signature, _signed(after.master))
    assert parsed(after)[1].info.gen_validator_list_hash_short == key.ledger.validator.list_hash
    assert parsed(after)[1].info.prev_key_block_seqno == key.seqno
    net.request_key_block()
    again = net.tick()
    assert again.master.is_key
    assert again.ledger.validator == key.ledger.validator
    assert net.store.key_blocks(0, again.seqno, 10) == [1, key.seqno, again.seqno]


def _signed(block: Any) -> bytes:
    return bytes.fromhex("706e0bc5") + block.id.root_hash + block.id.file_hash


def test_time_goes_one_way(net: DevNet) -> None:
    start = net.view.ledger.utime
    assert net.advance_clock(1000) >= start + 1000
    assert net.tick().ledger.utime >= start + 1000
    with pytest.raises(DevNetError, match="back"):
        net.advance_clock(-1)
    with pytest.raises(DevNetError, match="2038"):
        net.advance_clock(2**31)
    assert net.tick().ledger.utime >= start + 1000


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 10**9), st.tuples(st.integers(0, 10**6))), max_size=20))
def test_a_clock_never_goes_back(steps: list[Any]) -> None:
    real = [0]
    clock = Clock(lambda: real[0], not_before=500)
    seen = [500]
    for step in steps:
        if isinstance(step, tuple):
            clock.advance(step[0])
        else:
            real[0] = step
        seen.append(clock.now())
    assert seen == sorted(seen)


def test_a_reopened_chain_is_the_same_chain(make_net: Callable[..., DevNet]) -> None:
    net = make_net(block_limit=3)
    wallet = TestWallet(9)
    net.grant(Grant(wallet.address, 50 * TON, state_init=wallet.state_init))
    for number in range(1, 9):
        net.grant(Grant(account(number), TON))
    net.tick()
    net.rotate_validator()
    net.tick()
    net.advance_clock(3600)
    assert net.view.ledger.queue
    heights = [net.archive.view(seqno) for seqno in range(net.view.seqno + 1)]
    net.close()
    again = make_net(clock=None)
    assert again.clock.offset == 3600
    for old in heights:
        new = again.archive.view(old.seqno)
        assert (new.master.id, new.shard.id) == (old.master.id, old.shard.id)
        assert (new.master_state.hash, new.shard_state.hash) == (old.master_state.hash, old.shard_state.hash)
        assert new.ledger.validator.list_hash == old.ledger.validator.list_hash
        assert new.top.leaf.hash == old.top.leaf.hash
    before = again.view
    while again.has_work:
        check_value_flow(again, before, again.tick())
        before = again.view
    assert balance_of(again, account(1)) == TON


def test_old_heights_are_rebuilt_when_memory_lets_them_go(make_net: Callable[..., DevNet]) -> None:
    net = make_net()
    heights = []
    for number in range(1, 5):
        net.grant(Grant(account(number), TON))
        heights.append(net.tick())
    net.archive._views.clear()
    for old in heights:
        assert net.archive.view(old.seqno).shard_state.hash == old.shard_state.hash
        assert net.archive.view(old.seqno).master_state.hash == old.master_state.hash


def test_a_damaged_file_is_noticed(make_net: Callable[..., DevNet], tmp_path: Path) -> None:
    import sqlite3

    net = make_net()
    net.grant(Grant(account(1), TON))
    net.tick()
    net.close()
    with sqlite3.connect(tmp_path / "chain" / "chain.sqlite3") as db:
        db.execute("DELETE FROM account WHERE address = ?", (account(1).hash,))
    db.close()
    with pytest.raises(DevNetError, match="rebuilt state"):
        make_net()


def test_one_program_at_a_time_has_a_chain(make_net: Callable[..., DevNet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.lab.chain.store._LOCK_WAIT_S", 0.0)
    net = make_net()
    with pytest.raises(DevNetError, match="another program has this chain"):
        make_net()
    net.close()
    assert make_net().view.master.id == net.view.master.id


def test_another_file_is_not_taken_for_a_chain(make_net: Callable[..., DevNet], tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "other").mkdir()
    db = sqlite3.connect(tmp_path / "other" / "chain.sqlite3")
    db.execute("CREATE TABLE notes (text TEXT)")
    db.close()
    with pytest.raises(DevNetError, match="not a lab chain"):
        make_net("other")


def test_a_block_that_cannot_be_stored_was_never_made(net: DevNet, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    before = net.view
    net.grant(Grant(account(1), TON))

    def full(_change: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(net.store, "_write", full)
        with pytest.raises(DevNetError, match="cannot be stored"):
            net.tick()
    assert net.view is before
    assert net.store.height() == before.seqno
    net.grant(Grant(account(2), TON))
    after = net.tick()
    assert after.seqno == before.seqno + 1
    check_value_flow(net, before, after)
    assert balance_of(net, account(2)) == TON
