"""The client on the lab's chain: proven reads, fail-over, and servers that lie, lag or vanish."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chain_support import address_of, fund, key, live, reading, served, ticking, trust_of

from appliance.chain.addresses import Address
from appliance.chain.client import ChainClient, TrustPoint
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import (
    ChainTimeoutError,
    ChainTooOldError,
    ChainUnavailableError,
    LayoutError,
    ProofError,
    SendRefusedError,
)
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.transport import LiteserverAddress
from appliance.lab.chain.answers_accounts import AccountAnswers
from appliance.lab.chain.answers_blocks import BlockAnswers
from appliance.lab.chain.answers_links import LinkAnswers
from appliance.lab.chain.errors import QueryRefusedError
from appliance.lab.chain.faucet import Grant
from appliance.lab.chain.lite_api import block_id_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.lab.chain.archive import View
    from appliance.lab.chain.devnet import DevNet

SOMEBODY = Address(0, b"\x42" * 32)
NOBODY = Address(0, b"\x43" * 32)


def paid(net: DevNet, *amounts: int) -> None:
    for amount in amounts:
        net.grant(Grant(SOMEBODY, amount))
        net.tick()


async def test_what_the_chain_says(net: DevNet) -> None:
    paid(net, 5, 6, 7)
    async with served(net) as server, reading(net, server) as client:
        head = await client.head()
        assert head.block == net.view.master.id
        assert head.utime == net.view.ledger.utime
        somebody = await client.account(SOMEBODY)
        assert (somebody.status, somebody.balance, somebody.head) == ("uninit", 18, head)
        assert (await client.account(NOBODY)).status == "absent"
        assert (await client.account(Address(-1, b"\x55" * 32))).status == "absent"
        transactions = await client.transactions(SOMEBODY)
        assert [t.inbound.value for t in transactions if t.inbound] == [5, 6, 7]
        assert transactions[-1].hash == somebody.last_hash
        assert [t.lt for t in await client.transactions(SOMEBODY, after_lt=transactions[1].lt)] == [transactions[2].lt]
        newest = await client.transactions(SOMEBODY, limit=2)
        assert [t.lt for t in newest] == [t.lt for t in transactions[1:]]
        assert await client.transactions(NOBODY) == []
        parameter = await client.config_parameter(34)
        assert parameter is not None
        assert await client.config_parameter(-99) is None


async def test_long_histories_take_several_answers(net: DevNet) -> None:
    paid(net, *range(1, 41))
    async with served(net) as server, reading(net, server) as client:
        transactions = await client.transactions(SOMEBODY)
        assert [t.inbound.value for t in transactions if t.inbound] == list(range(1, 41))
        assert server.counts["getTransactions"] == 3


@pytest.mark.parametrize("start", ["zerostate", "key block", "ordinary block", "newest block"])
async def test_trust_can_start_at_any_block(net: DevNet, start: str) -> None:
    for _ in range(3):
        net.tick()
    net.rotate_validator()
    for _ in range(3):
        net.tick()
    points = {
        "zerostate": net.zerostate.id,
        "key block": net.key_block.id,
        "ordinary block": net.archive.view(3).master.id,
        "newest block": net.view.master.id,
    }
    async with (
        served(net) as server,
        ChainClient(TrustPoint(net.zerostate.id, points[start]), [address_of(server)]) as client,
    ):
        assert (await client.head()).block == net.view.master.id
        net.tick()
        assert (await client.head()).block == net.view.master.id


async def test_key_blocks_are_followed_and_remembered(net: DevNet) -> None:
    async with served(net) as server, reading(net, server) as client:
        await client.head()
        assert client.key_block == net.key_block.id
        for _ in range(3):
            net.rotate_validator()
            net.tick()
            newest_key = net.view.master.id
            net.tick()
            assert (await client.head()).block == net.view.master.id
            assert client.key_block == newest_key
        asked = server.counts["getBlockProof"]
        net.tick()
        await client.head()
        assert server.counts["getBlockProof"] == asked + 1


async def test_waiting_for_blocks(net: DevNet) -> None:
    async with served(net) as server, reading(net, server) as client:
        head = await client.head()
        waiting = [asyncio.create_task(client.wait_head(head.block.seqno, timeout=20)) for _ in range(3)]
        await asyncio.sleep(0.05)
        net.tick()
        assert {(await task).block.seqno for task in waiting} == {head.block.seqno + 1}
        assert (await client.wait_head(0, timeout=0)).block.seqno == head.block.seqno + 1
        with pytest.raises(ChainTimeoutError):
            await client.wait_head(head.block.seqno + 1, timeout=0.1)
        assert all(status.usable for status in client.servers())


async def test_a_refused_message_says_why(net: DevNet) -> None:
    from appliance.chain.boc import encode_boc
    from appliance.chain.contracts import load
    from appliance.chain.envelopes import WalletRequest, external_message
    from appliance.chain.stateinit import wallet_state

    state = wallet_state(load().wallet, SOMEBODY, key("node").public_key().public_bytes_raw())
    body = WalletRequest.of(7, 2**32 - 1, (OutgoingMessage(SOMEBODY, 1),)).sign(key("node")).to_cell()
    async with live(net) as client:
        await fund(net, client, state.address(), 10**10)
        with pytest.raises(SendRefusedError, match=r"1032 \(wallet seqno\)") as refused:
            await client.send(encode_boc(external_message(state.address(), body, state)))
        assert refused.value.exit_code == 1032


def refusing(net: DevNet, schema: Any) -> Any:
    """A server that says of every message that its contract refuses it."""

    class Refusing(AccountAnswers):
        def send_message(self, query: Any) -> bytes:
            raise QueryRefusedError("cannot apply external message to current state : exitcode=33")

    return BlockAnswers(net, schema), Refusing(net, schema), LinkAnswers(net, schema)


async def test_one_server_cannot_keep_messages_back(net: DevNet) -> None:
    async with (
        served(net, answers=refusing) as liar,
        served(net) as honest,
        ticking(net),
        reading(net, liar, honest) as client,
    ):
        owner = OwnerWallet(client, key("owner"))
        await fund(net, client, owner.address, 10**10)
        await owner.transfer([OutgoingMessage(SOMEBODY, 10**9, bounce=False)])
        await owner.transfer([OutgoingMessage(SOMEBODY, 10**9, bounce=False)])
        assert (await owner.report()).seqno == 2
        assert liar.counts["sendMessage"] >= 1
        async with reading(net, liar) as alone:
            with pytest.raises(SendRefusedError, match="33"):
                await OwnerWallet(alone, key("owner")).transfer([OutgoingMessage(SOMEBODY, 1)])


async def test_a_server_that_dies_is_replaced(net: DevNet) -> None:
    paid(net, 5)
    async with served(net) as second:
        async with served(net) as first:
            client = ChainClient(trust_of(net), [address_of(first), address_of(second)], connect_timeout=1)
            assert (await client.account(SOMEBODY)).balance == 5
            assert not second.counts
        paid(net, 6)
        assert (await client.account(SOMEBODY)).balance == 11
        assert second.counts
        assert [status.usable for status in client.servers()] == [False, True]
        assert "reached" in client.servers()[0].reason or "broke" in client.servers()[0].reason
        await client.close()


async def test_all_servers_gone_names_each(net: DevNet) -> None:
    async with served(net) as server:
        gone = address_of(server)
    async with ChainClient(trust_of(net), [gone], connect_timeout=1) as client:
        with pytest.raises(ChainUnavailableError, match=str(gone)) as error:
            await client.head()
        assert list(error.value.reasons) == [str(gone)]


@pytest.mark.parametrize("wrong", [b"\x07" * 32, key("another server").public_key().public_bytes_raw()])
async def test_a_server_with_another_key_is_not_spoken_to(net: DevNet, wrong: bytes) -> None:
    async with served(net) as server:
        address = LiteserverAddress("127.0.0.1", server.port, wrong)
        async with ChainClient(trust_of(net), [address], connect_timeout=1) as client:
            with pytest.raises(ChainUnavailableError, match="key"):
                await client.head()


async def test_a_connection_that_broke_is_opened_again(net: DevNet) -> None:
    async with served(net) as server, reading(net, server) as client:
        await client.head()
        for connection in list(server._connections):
            connection.abort()
        await asyncio.sleep(0.02)
        net.tick()
        assert (await client.head()).block == net.view.master.id


# Servers that lie. Each case has its control in the tests above: the same question to an honest server.


def changing(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Any]:
    """Honest answers, but for one kind of query, whose decoded answer goes through ``change``."""

    def make(net: DevNet, schema: Any) -> Any:
        groups = BlockAnswers(net, schema), AccountAnswers(net, schema), LinkAnswers(net, schema)

        class Changed:
            def __init__(self, group: Any) -> None:
                self._group = group

            def head(self) -> View:
                found: View = self._group.head()
                return found

            def table(self) -> dict[str, Any]:
                table = dict(self._group.table())
                if name in table:
                    honest = table[name]

                    def answer(query: Any) -> bytes:
                        value = change(schema.decode(honest(query)))
                        encoded: bytes = schema.encode(
                            value["@type"], **{field: part for field, part in value.items() if field != "@type"}
                        )
                        return encoded

                    table[name] = answer
                return table

        return tuple(Changed(group) for group in groups)

    return make


def without_account(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"state": b""}


def without_account_and_proof(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"state": b"", "proof": b"", "shard_proof": b""}


def other_block(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"id": value["id"] | {"seqno": value["id"]["seqno"] - 1}}


def altered_state(value: dict[str, Any]) -> dict[str, Any]:
    state = bytearray(value["state"])
    state[-1] ^= 1
    return value | {"state": bytes(state)}


def no_shard_proof(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"shard_proof": b""}


def shard_is_master(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"shardblk": value["id"], "shard_proof": b""}


@pytest.mark.parametrize(
    "lie", [without_account, without_account_and_proof, other_block, altered_state, no_shard_proof, shard_is_master]
)
async def test_lies_about_an_account(net: DevNet, lie: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    paid(net, 5)
    async with served(net, answers=changing("getAccountState", lie)) as liar:
        async with reading(net, liar) as client:
            with pytest.raises((ProofError, LayoutError)):
                await client.account(SOMEBODY)
        async with served(net) as honest, reading(net, liar, honest) as client:
            assert (await client.account(SOMEBODY)).balance == 5
            assert [status.usable for status in client.servers()] == [False, True]


def one_signature_many_times(value: dict[str, Any]) -> dict[str, Any]:
    for step in value["steps"]:
        step["signatures"]["signatures"] = step["signatures"]["signatures"] * 3
    return value


def no_signatures(value: dict[str, Any]) -> dict[str, Any]:
    for step in value["steps"]:
        step["signatures"]["signatures"] = []
    return value


def no_steps(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"steps": []}


@pytest.mark.parametrize("lie", [one_signature_many_times, no_signatures, no_steps])
async def test_lies_about_a_block(net: DevNet, lie: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    net.tick()
    async with served(net, answers=changing("getBlockProof", lie)) as liar, reading(net, liar) as client:
        with pytest.raises(ProofError):
            await client.head()


def fewer_transactions(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"ids": value["ids"][1:]}


async def test_transactions_of_another_account(net: DevNet) -> None:
    paid(net, 5, 6)
    net.grant(Grant(NOBODY, 9))
    net.tick()
    other: dict[str, bytes] = {}

    def swap(value: dict[str, Any]) -> dict[str, Any]:
        other.setdefault("first", value["transactions"])
        return value | {"transactions": other["first"]}

    async with served(net, answers=changing("getTransactions", swap)) as liar, reading(net, liar) as client:
        assert len(await client.transactions(SOMEBODY)) == 2
        with pytest.raises(ProofError, match="expected"):
            await client.transactions(NOBODY)


def forged(honest: DevNet) -> Callable[..., Any]:
    """An attacker's chain: its own validators and states, proven from the honest key block by their own."""

    class Links(LinkAnswers):
        def block_proof(self, query: Any) -> bytes:
            known, target = query["known_block"], self.head().master
            step = self.link(self.net.key_block, target)
            step["from"] = known
            return self.encode(
                "partialBlockProof",
                complete=True,
                **{"from": known, "to": block_id_value(target.id), "steps": [step]},
            )

    class Blocks(BlockAnswers):
        def table(self) -> dict[str, Any]:
            table = dict(super().table())
            info = table["getMasterchainInfo"]

            def masterchain_info(query: Any) -> bytes:
                value = self.schema.decode(info(query))
                zero = honest.zerostate.id
                init = {"workchain": -1, "root_hash": zero.root_hash, "file_hash": zero.file_hash}
                return self.encode(
                    "masterchainInfo", **{**{k: v for k, v in value.items() if k != "@type"}, "init": init}
                )

            table["getMasterchainInfo"] = masterchain_info
            return table

    return lambda net, schema: (Blocks(net, schema), AccountAnswers(net, schema), Links(net, schema))


async def test_a_forged_chain_is_refused(net: DevNet, make_net: Callable[..., DevNet]) -> None:
    attacker = make_net("attacker")
    paid(attacker, 10**12)
    for _ in range(3):
        attacker.tick()
    async with served(attacker, answers=forged(net)) as liar:
        async with reading(net, liar) as client:
            with pytest.raises(ProofError, match="the proof is for hash"):
                await client.account(SOMEBODY)
        # The control: who trusts the attacker's key block believes the same bytes.
        trust = TrustPoint(net.zerostate.id, attacker.key_block.id)
        async with ChainClient(trust, [address_of(liar)]) as client:
            assert (await client.account(SOMEBODY)).balance == 10**12
        async with served(net) as honest, reading(net, liar, honest) as client:
            assert (await client.account(SOMEBODY)).status == "absent"


async def test_another_network_s_server(net: DevNet, make_net: Callable[..., DevNet]) -> None:
    other = make_net("other")
    async with served(other) as server, reading(net, server) as client:
        with pytest.raises(ProofError, match="another network"):
            await client.head()


class _Frozen:
    """Answers of a server that stopped receiving blocks."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __call__(self, net: DevNet, schema: Any) -> Any:
        view = self._view
        groups = []
        for kind in (BlockAnswers, AccountAnswers, LinkAnswers):
            group = kind(net, schema)
            group.head = lambda: view  # type: ignore[method-assign]  # this server's newest block never changes
            groups.append(group)
        return groups


async def test_a_server_that_stands_still_is_left(net: DevNet) -> None:
    net.tick()
    async with (
        served(net, answers=_Frozen(net.view)) as frozen,
        served(net) as honest,
        reading(net, frozen, honest) as client,
    ):
        assert (await client.head()).block.seqno == net.view.seqno
        net.advance_clock(3600)
        paid(net, 5)
        # The clock of the client stands an hour ahead of the frozen server's block.
        client._clock = lambda: float(net.view.ledger.utime)
        assert (await client.head()).block == net.view.master.id
        assert [status.usable for status in client.servers()] == [False, True]
        assert (await client.account(SOMEBODY)).balance == 5


async def test_a_server_behind_what_is_proven(net: DevNet) -> None:
    net.tick()
    async with (
        served(net, answers=_Frozen(net.view)) as frozen,
        served(net) as honest,
        reading(net, honest, frozen) as client,
    ):
        paid(net, *range(1, 30))
        head = await client.head()
        client._servers._servers.reverse()
        assert (await client.head()) == head
        assert [status.usable for status in client.servers()] == [False, True]


async def test_an_old_chain_is_still_read_by_whoever_has_nothing_else(net: DevNet) -> None:
    async with served(net) as server, reading(net, server, clock=lambda: 2e10) as client:
        assert (await client.head()).block == net.view.master.id


async def test_a_new_signature_form_is_an_old_client(net: DevNet) -> None:
    net.tick()
    async with served(net) as server, reading(net, server) as client:
        honest = client._servers._servers[0].connection.query

        async def newer(payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109 - as the original
            answer = await honest(payload, timeout=timeout)
            return answer.replace((0xF644A6E6).to_bytes(4, "little"), (0x12345678).to_bytes(4, "little"))

        client._servers._servers[0].connection.query = newer  # type: ignore[method-assign]  # a network of the future
        with pytest.raises(ChainTooOldError, match="SignatureSet"):
            await client.head()


async def test_a_busy_chain_is_read_consistently(net: DevNet) -> None:
    async with served(net) as server, ticking(net), reading(net, server) as client:
        last = 0
        for amount in range(1, 12):
            net.grant(Grant(SOMEBODY, amount))
            state = await client.account(SOMEBODY)
            assert state.balance >= last
            last = state.balance
            for transaction in await client.transactions(SOMEBODY):
                assert transaction.account == SOMEBODY


TONLIB = Path(__file__).parents[1] / "lab" / "tonlib_client.py"


@pytest.mark.slow
async def test_libtonlib_reads_the_same(net: DevNet, tmp_path: Path) -> None:
    """The C++ client, which checks the whole chain of proofs itself, is the independent oracle."""
    pytest.importorskip("pytonlib")
    paid(net, 5, 6)
    async with served(net) as server, reading(net, server) as client:
        ours, history = await client.account(SOMEBODY), await client.transactions(SOMEBODY)
        keys = tmp_path / "keys"
        keys.mkdir()
        config = {"@type": "config", "config": json.dumps(server.global_config()), "blockchain_name": ""}
        config |= {"use_callbacks_for_network": False, "ignore_cache": True}
        store = {"@type": "keyStoreTypeDirectory", "directory": str(keys)}
        account = {"@type": "accountAddress", "account_address": SOMEBODY.friendly(bounceable=True)}
        requests: list[dict[str, Any]] = [
            {"@type": "init", "options": {"@type": "options", "config": config, "keystore_type": store}},
            {"@type": "sync"},
            {"@type": "raw.getAccountState", "account_address": account},
        ]
        text = "".join(json.dumps(request) + "\n" for request in requests).encode()
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(TONLIB), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
        )
        output, _ = await asyncio.wait_for(process.communicate(text), 60)
        theirs = [json.loads(line) for line in output.splitlines()][-1]
    assert theirs["@type"] == "raw.fullAccountState", theirs
    assert int(theirs["balance"]) == ours.balance == 11
    assert int(theirs["last_transaction_id"]["lt"]) == ours.last_lt == history[-1].lt
    assert theirs["block_id"]["seqno"] >= ours.head.block.seqno
