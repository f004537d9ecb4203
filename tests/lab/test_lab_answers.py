"""Answers that few clients ask for, and what is refused: asked of the server without a connection."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from lab_support import TestWallet, account
from pytoniq_core.tlb.vm_stack import VmStack

from appliance.chain.boc import decode_boc, decode_boc_roots, encode_boc
from appliance.chain.types import BlockId
from appliance.lab.chain.faucet import Grant
from appliance.lab.chain.layout import SHARD
from appliance.lab.chain.lite_api import block_id_value, lite_schema
from appliance.lab.chain.liteserver import LiteServer
from appliance.lab.tvm import method_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from appliance.lab.chain.devnet import DevNet

    Ask = Callable[..., Awaitable[dict[str, Any]]]

TON = 10**9
SCHEMA = lite_schema()
WALLET = TestWallet(9)
LARGE = {"max_bytes": 1 << 22, "max_cells": 1 << 16}


@pytest.fixture
def net(net: DevNet) -> DevNet:
    net.grant(Grant(WALLET.address, 9 * TON, state_init=WALLET.state_init))
    for number in range(1, 6):
        net.grant(Grant(account(number), number * TON))
    net.tick()
    net.tick()
    return net


@pytest.fixture
def ask(net: DevNet) -> Ask:
    server = LiteServer(net)

    async def ask(name: str, **fields: Any) -> dict[str, Any]:
        query = SCHEMA.encode("liteServer.query", data=SCHEMA.encode(f"liteServer.{name}", **fields))
        answer = SCHEMA.decode(await server.answer(query))
        answer["@type"] = answer["@type"].removeprefix("liteServer.")
        return answer

    return ask


def of(address: Any) -> dict[str, Any]:
    return {"workchain": address.workchain, "id": address.hash}


async def test_heads_name_block_and_state(net: DevNet, ask: Ask) -> None:
    plain, extended = await ask("getMasterchainInfo"), await ask("getMasterchainInfoExt", mode=0)
    for answer in (plain, extended):
        assert answer["last"]["root_hash"] == net.view.master.id.root_hash
        assert answer["state_root_hash"] == net.view.master_state.hash
        assert answer["init"]["file_hash"] == net.zerostate.id.file_hash
    assert extended["last_utime"] == net.view.ledger.utime
    assert (await ask("getMasterchainInfoExt", mode=1))["@type"] == "error"


@pytest.mark.parametrize("workchain", [-1, 0])
@pytest.mark.parametrize("seqno", [0, 2])
async def test_states_and_blocks_are_files_with_their_hashes(net: DevNet, ask: Ask, workchain: int, seqno: int) -> None:
    block = net.archive.block(workchain, seqno)
    view = net.archive.view(seqno)
    state = await ask("getState", id=block_id_value(block.id))
    assert hashlib.sha256(state["data"]).digest() == state["file_hash"]
    assert decode_boc(state["data"], **LARGE).hash == state["root_hash"]
    assert state["root_hash"] == (view.master_state if workchain else view.shard_state).hash
    data = await ask("getBlock", id=block_id_value(block.id))
    if seqno:
        assert hashlib.sha256(data["data"]).digest() == block.id.file_hash
        assert decode_boc(data["data"], **LARGE).hash == block.id.root_hash
    else:
        assert (state["root_hash"], state["file_hash"]) == (block.id.root_hash, block.id.file_hash)
        assert data["@type"] == "error"


async def test_a_pruned_account_has_the_accounts_hash(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.view.master.id)
    whole = await ask("getAccountState", id=identity, account=of(WALLET.address))
    small = await ask("getAccountStatePrunned", id=identity, account=of(WALLET.address))
    assert decode_boc(small["state"]).refs[0].get_hash(0) == decode_boc(whole["state"]).hash
    assert small["proof"] == whole["proof"]
    absent = await ask("getAccountStatePrunned", id=identity, account=of(account(99)))
    assert absent["state"] == b""
    assert len(decode_boc_roots(absent["proof"])) == 2


async def test_the_newest_block_may_be_left_to_the_server(net: DevNet, ask: Ask) -> None:
    newest = block_id_value(BlockId(-1, SHARD, 0xFFFFFFFF, bytes(32), bytes(32)))
    answer = await ask("getAccountState", id=newest, account=of(account(1)))
    assert answer["id"]["seqno"] == net.view.seqno


async def test_a_masterchain_account_is_proven_absent(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.view.master.id)
    answer = await ask("getAccountState", id=identity, account={"workchain": -1, "id": b"\x55" * 32})
    assert answer["state"] == b""
    assert answer["shardblk"] == answer["id"]
    header, state = decode_boc_roots(answer["proof"])
    assert header.refs[0].get_hash(0) == net.view.master.id.root_hash
    assert state.refs[0].get_hash(0) == net.view.master_state.hash


async def test_shards_are_told_in_three_ways(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.view.master.id)
    info = await ask("getShardInfo", id=identity, workchain=0, shard=SHARD, exact=True)
    assert info["shardblk"]["root_hash"] == net.view.shard.id.root_hash
    shards = await ask("getAllShardsInfo", id=identity)
    assert decode_boc(shards["proof"]).refs[0].get_hash(0) == net.view.master.id.root_hash
    proof = await ask("getShardBlockProof", id=block_id_value(net.view.shard.id))
    assert proof["masterchain_id"]["root_hash"] == net.view.master.id.root_hash
    own = await ask("getShardBlockProof", id=identity)
    assert own["links"] == []
    assert (await ask("getShardInfo", id=identity, workchain=-1, shard=SHARD, exact=True))["@type"] == "error"


@pytest.mark.parametrize(("mode", "extra"), [(1, {}), (2, {"lt": 0}), (4, {"utime": 0})])
async def test_lookups_find_blocks_in_three_ways(net: DevNet, ask: Ask, mode: int, extra: dict[str, int]) -> None:
    extra = {"lt": net.archive.view(2).shard.end_lt} if "lt" in extra else extra
    wanted = {"workchain": 0, "shard": SHARD, "seqno": 2}
    answer = await ask("lookupBlock", mode=mode, id=wanted, **extra)
    expected = 1 if mode == 4 else 2  # every block is after the time 0; the first is found
    assert answer["id"]["seqno"] == expected
    known = block_id_value(net.view.master.id)
    proven = await ask("lookupBlockWithProof", mode=mode, id=wanted, mc_block_id=known, **extra)
    assert proven["id"] == answer["id"]
    assert proven["mc_block_id"]["seqno"] == expected
    assert decode_boc(proven["shard_links"][0]["proof"]).refs[0].get_hash(0) == proven["mc_block_id"]["root_hash"]


@pytest.mark.parametrize("mode", [0, 3, 7])
async def test_lookups_need_exactly_one_way(ask: Ask, mode: int) -> None:
    wanted = {"workchain": 0, "shard": SHARD, "seqno": 2}
    answer = await ask("lookupBlock", mode=mode, id=wanted, lt=1, utime=1)
    assert (answer["@type"], answer["code"]) == ("error", 0)


async def test_a_blocks_transactions_are_paged_in_both_orders(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.archive.view(2).shard.id)
    expected = [row.lt for row in net.store.block_transactions(2)]
    for reverse in (0, 64):
        seen: list[int] = []
        after: dict[str, Any] = {}
        while True:
            mode = 7 | reverse | (128 if after else 0)
            page = await ask("listBlockTransactions", id=identity, mode=mode, count=3, **after)
            seen += [entry["lt"] for entry in page["ids"]]
            if not page["incomplete"]:
                break
            last = page["ids"][-1]
            after = {"after": {"account": last["account"], "lt": last["lt"]}}
        assert seen == (expected[::-1] if reverse else expected)
    empty = await ask("listBlockTransactionsExt", id=block_id_value(net.view.shard.id), mode=7, count=10)
    assert (empty["transactions"], empty["incomplete"]) == (b"", False)


async def test_one_transaction_is_proven_in_its_block_only(net: DevNet, ask: Ask) -> None:
    row = net.store.block_transactions(2)[0]
    identity = block_id_value(net.archive.view(2).shard.id)
    owner = {"workchain": 0, "id": row.address}
    answer = await ask("getOneTransaction", id=identity, account=owner, lt=row.lt)
    assert decode_boc(answer["transaction"]).hash == row.hash
    assert decode_boc(answer["proof"], **LARGE).refs[0].get_hash(0) == net.archive.view(2).shard.id.root_hash
    elsewhere = await ask("getOneTransaction", id=block_id_value(net.view.shard.id), account=owner, lt=row.lt)
    assert elsewhere["transaction"] == b""


async def test_configuration_in_parts_and_from_the_key_block(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.view.master.id)
    whole = await ask("getConfigAll", mode=0, id=identity)
    part = await ask("getConfigParams", mode=0, id=identity, param_list=[34, -999, 1000])
    assert len(part["config_proof"]) < len(whole["config_proof"])
    for answer in (whole, part):
        proof = decode_boc(answer["config_proof"], **LARGE)
        assert proof.refs[0].get_hash(0) == net.view.master_state.hash
    key = await ask("getConfigAll", mode=0x8000, id=identity)
    assert key["id"]["root_hash"] == net.key_block.id.root_hash
    assert decode_boc(key["config_proof"], **LARGE).refs[0].get_hash(0) == net.key_block.id.root_hash


async def test_get_methods_answer_with_what_was_asked_for(net: DevNet, ask: Ask) -> None:
    query = {"id": block_id_value(net.view.master.id), "method_id": method_id("seqno"), "params": b""}
    answer = await ask("runSmcMethod", mode=7, account=of(WALLET.address), **query)
    assert answer["exit_code"] == 0
    assert VmStack.deserialize(decode_boc(answer["result"]).begin_parse()) == [0]
    assert decode_boc(answer["state_proof"]).refs[0].get_hash(0) == net.shard_account(WALLET.address).refs[0].hash
    small = await ask("runSmcMethod", mode=0, account=of(WALLET.address), **query)
    assert not {"result", "proof", "state_proof"} & set(small)
    nothing = await ask("runSmcMethod", mode=4, account=of(account(99)), **query)
    assert (nothing["exit_code"], nothing["result"]) == (-256, b"")
    for params in (b"no bag", encode_boc(WALLET.state_init)):
        bad = await ask("runSmcMethod", mode=4, account=of(WALLET.address), **{**query, "params": params})
        assert bad["@type"] == "error"


async def test_links_go_forward_over_key_blocks_and_back_at_once(net: DevNet, ask: Ask) -> None:
    net.rotate_validator()
    net.tick()
    net.tick()
    zero, first, last = (block_id_value(net.archive.block(-1, seqno).id) for seqno in (0, 2, net.view.seqno))
    forward = await ask("getBlockProof", mode=1, known_block=first, target_block=last)
    kinds = [
        (step["@type"].rpartition(".")[2], step["from"]["seqno"], step["to"]["seqno"]) for step in forward["steps"]
    ]
    assert kinds == [("blockLinkBack", 2, 1), ("blockLinkForward", 1, 4), ("blockLinkForward", 4, 5)]
    backward = await ask("getBlockProof", mode=1, known_block=last, target_block=first)
    assert [step["@type"] for step in backward["steps"]] == ["liteServer.blockLinkBack"]
    from_zero = await ask("getBlockProof", mode=0, known_block=zero)
    assert [step["to"]["seqno"] for step in from_zero["steps"]] == [1, 4, 5]
    same = await ask("getBlockProof", mode=1, known_block=last, target_block=last)
    assert (same["complete"], same["steps"]) == (True, [])


async def test_there_are_no_libraries(net: DevNet, ask: Ask) -> None:
    assert (await ask("getLibraries", library_list=[bytes(32)]))["result"] == []
    proven = await ask("getLibrariesWithProof", id=block_id_value(net.view.master.id), mode=0, library_list=[bytes(32)])
    assert decode_boc(proven["data_proof"]).refs[0].get_hash(0) == net.view.master_state.hash


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seqno": 99}, 651),
        ({"root_hash": bytes(32)}, 651),
        ({"file_hash": bytes(32)}, 651),
        ({"shard": 1}, 651),
        ({"workchain": 5}, 651),
    ],
)
async def test_blocks_that_are_not_there_are_refused(net: DevNet, ask: Ask, change: dict[str, Any], code: int) -> None:
    identity = block_id_value(net.view.master.id)
    assert (await ask("getBlockHeader", id=identity, mode=0))["@type"] == "blockHeader"
    answer = await ask("getBlockHeader", id={**identity, **change}, mode=0)
    assert (answer["@type"], answer["code"]) == ("error", code)


async def test_unknown_accounts_transactions_and_queries_are_refused(net: DevNet, ask: Ask) -> None:
    identity = block_id_value(net.view.master.id)
    far = await ask("getAccountState", id=identity, account={"workchain": 7, "id": bytes(32)})
    assert far["@type"] == "error"
    lost = await ask("getTransactions", count=3, account=of(account(1)), lt=5, hash=bytes(32))
    assert lost["message"].endswith("lt not in db")
    assert (await ask("queryPrefix"))["code"] == 621
