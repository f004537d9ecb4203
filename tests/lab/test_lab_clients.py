"""Unmodified clients read the chain and agree: pytoniq at its three levels of trust, tonutils, libtonlibjson.

libtonlibjson checks the whole chain of proofs from the trust point, so that it accepts an answer says the most.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from lab_support import TestWallet, account, balance_of, friendly, served, tonlib
from pytoniq import LiteClient
from pytoniq_core import Cell
from ton_core import NetworkGlobalID
from tonutils.clients import LiteClient as TonutilsClient

from appliance.lab.chain.faucet import Grant
from appliance.lab.chain.layout import SHARD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.chain.types import BlockId
    from appliance.lab.chain.devnet import DevNet

TON = 10**9
NOBODY = account(99)


@pytest.fixture
def wallet() -> TestWallet:
    return TestWallet(9)


@pytest.fixture
def busy_net(make_net: Callable[..., DevNet], wallet: TestWallet) -> DevNet:
    """Accounts with and without code, several transactions each, two more key blocks, one with a new validator."""
    net = make_net()
    net.grant(Grant(wallet.address, 9 * TON, state_init=wallet.state_init))
    for number in range(1, 6):
        net.grant(Grant(account(number), number * TON))
    net.tick()
    net.rotate_validator()
    net.tick()
    for _ in range(2):
        net.send(wallet.order(net, Grant(account(1), TON)))
        net.tick()
    net.request_key_block()
    net.tick()
    net.tick()
    return net


async def pytoniq_view(config: dict[str, Any], trust_level: int, wallet: TestWallet) -> dict[str, Any]:
    client = LiteClient.from_config(config, 0, trust_level=trust_level)
    await client.connect()
    try:
        state = await client.get_account_state(wallet.address.raw())
        params = await client.get_config_all()
        nobody = await client.get_account_state(NOBODY.raw())
        transactions = await client.get_transactions(wallet.address.raw(), 10)
        stack = await client.run_get_method(wallet.address.raw(), "seqno", [])
        return {
            "head": client.last_mc_block.seqno,
            "balance": state.balance,
            "code": state.state.state_init.code.hash,
            "absent": nobody.balance == 0,
            "params": len(params),
            "lts": [transaction.lt for transaction in transactions],
            "seqno": stack,
        }
    finally:
        await client.close()


async def tonutils_view(config: dict[str, Any], wallet: TestWallet) -> dict[str, Any]:
    async with TonutilsClient.from_config(NetworkGlobalID.TESTNET, config=config, index=0) as client:
        info = await client.get_info(wallet.address.raw())
        nobody = await client.get_info(NOBODY.raw())
        transactions = await client.get_transactions(wallet.address.raw(), 10)
        head = await client.get_masterchain_info()
        return {
            "head": head.last.seqno,
            "balance": info.balance,
            "code": info.code.hash,
            "absent": nobody.balance == 0,
            "params": len(await client.get_config()),
            "lts": [transaction.lt for transaction in transactions],
            "seqno": await client.run_get_method(wallet.address.raw(), "seqno"),
        }


async def tonlib_view(config: dict[str, Any], folder: Path, wallet: TestWallet) -> dict[str, Any]:
    async with tonlib(config, folder) as client:
        head = await client("sync")
        state = await client("raw.getAccountState", account_address=friendly(wallet.address))
        nobody = await client("raw.getAccountState", account_address=friendly(NOBODY))
        params = await client("getConfigAll", mode=0)
        transactions = await client(
            "raw.getTransactions",
            account_address=friendly(wallet.address),
            from_transaction_id=state["last_transaction_id"],
        )
        contract = await client("smc.load", account_address=friendly(wallet.address))
        method = {"@type": "smc.methodIdName", "name": "seqno"}
        result = await client("smc.runGetMethod", id=contract["id"], method=method, stack=[])
        config_cell = Cell.one_from_boc(base64.b64decode(params["config"]["bytes"]))
        return {
            "head": head["seqno"],
            "balance": int(state["balance"]),
            "code": Cell.one_from_boc(base64.b64decode(state["code"])).hash,
            "absent": nobody["balance"] == "-1",
            "params": len(config_cell.begin_parse().load_hashmap(32)),
            "lts": [int(transaction["transaction_id"]["lt"]) for transaction in transactions["transactions"]],
            "seqno": [int(entry["number"]["number"]) for entry in result["stack"]],
        }


async def test_clients_agree_with_the_chain_and_with_each_other(
    busy_net: DevNet, wallet: TestWallet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # pytoniq keeps blocks in the working directory
    params = list(busy_net.view.ledger.config.params.items())
    transactions = [
        row.lt
        for seqno in range(busy_net.view.seqno, 0, -1)
        for row in reversed(busy_net.store.block_transactions(seqno))
        if row.address == wallet.address.hash
    ]
    expected = {
        "head": busy_net.view.seqno,
        "balance": balance_of(busy_net, wallet.address),
        "code": wallet.state_init.refs[0].hash,
        "absent": True,
        "params": len(params),
        "lts": transactions,
        "seqno": [2],
    }
    assert len(transactions) == 3
    async with served(busy_net) as server:
        config = server.global_config()
        for trust_level in (2, 1, 0):
            assert await pytoniq_view(config, trust_level, wallet) == expected, trust_level
        assert await tonutils_view(config, wallet) == expected
        assert await tonlib_view(config, tmp_path, wallet) == expected


async def test_tonlib_follows_blocks_both_ways(busy_net: DevNet, wallet: TestWallet, tmp_path: Path) -> None:
    async with served(busy_net) as server, tonlib(server.global_config(), tmp_path) as client:
        head = await client("sync")
        assert head["seqno"] == busy_net.view.seqno
        for seqno in (2, 1, 4, busy_net.view.seqno - 1):
            for workchain in (-1, 0):
                wanted = {"@type": "ton.blockId", "workchain": workchain, "shard": SHARD, "seqno": seqno}
                found = await client("blocks.lookupBlock", mode=1, id=wanted)
                block = busy_net.archive.block(workchain, seqno)
                assert found.get("root_hash") == _base64(block.id.root_hash), found
                header = await client("blocks.getBlockHeader", id=_block_id(block.id))
                assert header["@type"] == "blocks.header", header
                assert header["is_key_block"] == (workchain == -1 and block.is_key)
        old = busy_net.archive.view(2)
        function = {"@type": "raw.getAccountState", "account_address": friendly(account(1))}
        then = await client("withBlock", id=_block_id(old.master.id), function=function)
        assert int(then["balance"]) == TON
        assert balance_of(busy_net, account(1)) == 3 * TON
        lt = busy_net.archive.view(3).shard.end_lt
        at = {"@type": "ton.blockId", "workchain": 0, "shard": SHARD, "seqno": 0}
        by_time = await client("blocks.lookupBlock", mode=2, id=at, lt=lt)
        assert by_time["seqno"] == 3
        proof = await client("blocks.getShardBlockProof", id=_block_id(old.shard.id), mode=0)
        assert proof["mc_id"]["seqno"] == 2
        signed = await client("blocks.getMasterchainBlockSignatures", seqno=busy_net.view.seqno)
        assert len(signed["signatures"]) == 1


async def test_tonlib_lists_a_blocks_transactions(busy_net: DevNet, tmp_path: Path) -> None:
    block = busy_net.archive.view(2).shard
    expected = [row.lt for row in busy_net.store.block_transactions(2)]
    after = {"@type": "blocks.accountTransactionId", "account": _base64(bytes(32)), "lt": 0}
    async with served(busy_net) as server, tonlib(server.global_config(), tmp_path) as client:
        short = await client("blocks.getTransactions", id=_block_id(block.id), mode=7 + 32, count=3, after=after)
        assert [int(entry["lt"]) for entry in short["transactions"]] == expected[:3]
        assert short["incomplete"]
        last = short["transactions"][-1]
        after = {"@type": "blocks.accountTransactionId", "account": last["account"], "lt": last["lt"]}
        rest = await client("blocks.getTransactions", id=_block_id(block.id), mode=7 + 32 + 128, count=50, after=after)
        assert [int(entry["lt"]) for entry in rest["transactions"]] == expected[3:]
        assert not rest["incomplete"]
        full = await client("blocks.getTransactionsExt", id=_block_id(block.id), mode=7 + 32, count=50, after=after)
        assert len(full["transactions"]) == len(expected)


async def test_a_path_of_more_than_sixteen_links_is_followed(
    net: DevNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(18):
        net.rotate_validator()
        net.tick()
    net.tick()
    async with served(net) as server:
        client = LiteClient.from_config(server.global_config(), 0, trust_level=0)
        await client.connect()
        assert client.last_mc_block.seqno == net.view.seqno
        await client.close()
        assert server.counts["getBlockProof"] >= 2
        async with tonlib(server.global_config(), tmp_path) as oracle:
            assert (await oracle("sync"))["seqno"] == net.view.seqno


async def test_clients_send_messages(
    busy_net: DevNet, wallet: TestWallet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = balance_of(busy_net, account(5))
    async with served(busy_net) as server:
        client = LiteClient.from_config(server.global_config(), 0, trust_level=1)
        await client.connect()
        order = wallet.order(busy_net, Grant(account(5), TON))
        assert await client.raw_send_message(order) == 1
        busy_net.tick()
        with pytest.raises(Exception, match="cannot apply external message"):
            await client.raw_send_message(order)
        await client.close()
        async with tonlib(server.global_config(), tmp_path) as oracle:
            await oracle("sync")
            order = wallet.order(busy_net, Grant(account(5), TON))
            assert (await oracle("raw.sendMessage", body=_base64(order)))["@type"] == "ok"
            busy_net.tick()
            refused = await oracle("raw.sendMessage", body=_base64(order))
            assert refused["@type"] == "error"
    assert balance_of(busy_net, account(5)) == before + 2 * TON


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _block_id(block: BlockId) -> dict[str, Any]:
    return {
        "@type": "ton.blockIdExt",
        "workchain": block.workchain,
        "shard": block.shard,
        "seqno": block.seqno,
        "root_hash": _base64(block.root_hash),
        "file_hash": _base64(block.file_hash),
    }
