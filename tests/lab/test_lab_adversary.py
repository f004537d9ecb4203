"""Each dishonest server against libtonlibjson, beside an honest one that differs in the lie only.

What our own client makes of the same servers is tested in its room; here an independent implementation says that the
lies are lies, and that nothing but the lie is wrong with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from lab_support import account, friendly, served, tonlib
from pytoniq import LiteClient

from appliance.lab.chain import adversary
from appliance.lab.chain.config import Validator
from appliance.lab.chain.faucet import Grant
from appliance.lab.chain.liteserver import honest_answers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.lab.chain.devnet import DevNet

TON = 10**9
RICH, OTHER = account(1), account(2)


@pytest.fixture
def net(make_net: Callable[..., DevNet]) -> DevNet:
    net = make_net()
    for _ in range(3):
        net.grant(Grant(RICH, TON))
        net.grant(Grant(OTHER, 2 * TON))
        net.tick()
    return net


async def test_a_forged_chain_is_refused(
    net: DevNet, make_net: Callable[..., DevNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forged = make_net("forged")
    forged.grant(Grant(RICH, 10**6 * TON))
    forged.tick()
    async with (
        served(net) as honest,
        served(forged, answers=adversary.forged_chain(net.zerostate.id)) as server,
    ):
        config = honest.global_config()
        async with tonlib(config, tmp_path) as client:
            assert (await client("sync"))["seqno"] == net.view.seqno
        config["liteservers"] = server.global_config()["liteservers"]
        async with tonlib(config, tmp_path) as client:
            refused = await client("sync")
            assert refused["@type"] == "error", refused
        # only the link to the trust point is wrong: a client that does not ask for one reads the forged balance
        credulous = LiteClient.from_config(config, 0, trust_level=1)
        await credulous.connect()
        assert (await credulous.get_account_state(RICH.raw())).balance == 10**6 * TON
        await credulous.close()


@pytest.mark.parametrize("kind", ["foreign", "repeated"])
async def test_wrong_signatures_are_refused(net: DevNet, tmp_path: Path, kind: str) -> None:
    stranger = Validator(Ed25519PrivateKey.generate())
    answers = adversary.foreign_signature(stranger) if kind == "foreign" else adversary.repeated_signature(7)
    for served_answers, accepted in ((honest_answers, True), (answers, False)):
        async with served(net, answers=served_answers) as server, tonlib(server.global_config(), tmp_path) as client:
            answer = await client("sync")
            assert (answer["@type"] == "ton.blockIdExt") == accepted, answer


@pytest.mark.parametrize(
    "answers",
    [
        adversary.hidden_account(RICH),
        adversary.hidden_account_with_proof(RICH, OTHER),
        adversary.richer_account(RICH, 99 * TON),
        adversary.altered_state(RICH, 99 * TON),
    ],
    ids=["hidden", "hidden with another proof", "richer", "altered state"],
)
async def test_a_wrong_account_is_refused(net: DevNet, tmp_path: Path, answers: Any) -> None:
    async with served(net, answers=answers) as server, tonlib(server.global_config(), tmp_path) as client:
        await client("sync")
        honest = await client("raw.getAccountState", account_address=friendly(OTHER))
        assert honest["balance"] == str(6 * TON)
        lie = await client("raw.getAccountState", account_address=friendly(RICH))
        assert lie["@type"] == "error", lie
    async with served(net) as server, tonlib(server.global_config(), tmp_path) as client:
        truth = await client("raw.getAccountState", account_address=friendly(RICH))
        assert truth["balance"] == str(3 * TON)


@pytest.mark.parametrize(
    "answers",
    [adversary.missing_transaction(1), adversary.missing_transaction(0), adversary.swapped_transactions(OTHER)],
    ids=["one missing", "newest missing", "another account's"],
)
async def test_a_wrong_list_of_transactions_is_refused(net: DevNet, tmp_path: Path, answers: Any) -> None:
    for served_answers, accepted in ((honest_answers, True), (answers, False)):
        async with served(net, answers=served_answers) as server, tonlib(server.global_config(), tmp_path) as client:
            await client("sync")
            state = await client("raw.getAccountState", account_address=friendly(RICH))
            answer = await client(
                "raw.getTransactions",
                account_address=friendly(RICH),
                from_transaction_id=state["last_transaction_id"],
            )
            assert (answer["@type"] == "raw.transactions") == accepted, answer
            if accepted:
                assert len(answer["transactions"]) == 3


async def test_a_stale_server_is_behind_and_nothing_else(net: DevNet, tmp_path: Path) -> None:
    height = net.view.seqno - 1
    async with (
        served(net, answers=adversary.stale(height)) as server,
        tonlib(server.global_config(), tmp_path) as client,
    ):
        assert (await client("sync"))["seqno"] == height
        state = await client("raw.getAccountState", account_address=friendly(RICH))
        assert state["balance"] == str(2 * TON)
        net.tick()
        assert (await client("sync"))["seqno"] == height
