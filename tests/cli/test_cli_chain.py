"""The command line against a real local chain: wallets, a network of one's own, its lists, and what goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from command_chain import chrysalis

if TYPE_CHECKING:
    from pathlib import Path

TON = 10**9
IMAGE = "5c" * 32
MODEL = "Org/Model@abc:" + "00" * 32


@pytest.fixture(scope="module")
def owner(lab_chain: Path) -> dict[str, Any]:
    """A funded owner's wallet."""
    told = chrysalis("wallet", "new", lab_chain / "owner.key")
    chrysalis("lab", "faucet", told["address"], "100", "-d", lab_chain)
    return told


def test_a_wallet_is_funded_and_sends(lab_chain: Path, owner: dict[str, Any]) -> None:
    network = lab_chain / "network.json"
    assert chrysalis("wallet", "show", owner["address"], "-n", network)["balance"] == 100 * TON
    other = chrysalis("wallet", "new", lab_chain / "other.key")
    chrysalis("wallet", "send", other["address"], "1.5", "-k", lab_chain / "owner.key", "-n", network)
    shown = chrysalis("wallet", "show", other["address"], "-n", network)
    assert shown["balance"] == shown["explained"] == 3 * TON // 2
    left = chrysalis("wallet", "show", owner["address"], "-n", network)
    assert 98 * TON < left["balance"] == left["explained"] <= 98 * TON + TON // 2
    assert chrysalis("lab", "status", "-d", lab_chain)["ok"]


def test_an_empty_folder_of_orders_sends_nothing(lab_chain: Path, owner: dict[str, Any]) -> None:
    (lab_chain / "orders").mkdir()
    words = [
        "wallet",
        "relay",
        lab_chain / "orders",
        "-k",
        lab_chain / "owner.key",
        "-n",
        lab_chain / "network.json",
        "--once",
    ]
    assert chrysalis(*words)["sent"] == 0
    assert owner["ok"]


def test_without_funds_the_error_says_what_to_send_to_whom(lab_chain: Path) -> None:
    poor = chrysalis("wallet", "new", lab_chain / "poor.key")
    told = chrysalis(
        "wallet", "send", poor["address"], "1", "-k", lab_chain / "poor.key", "-n", lab_chain / "network.json", status=1
    )
    assert poor["address"] in told["error"]
    assert "send at least" in told["hint"]
    assert poor["address"] in told["hint"]


def test_a_network_of_ones_own(lab_chain: Path, owner: dict[str, Any]) -> None:
    network, key = lab_chain / "network.json", lab_chain / "owner.key"
    prices = ["--price", "20", "--worker-fee", "17", "--completion", "80000"]
    root = chrysalis("registry", "create", "-k", key, "-n", network, *prices)["root"]
    at = ["-n", network, "--root", root]
    empty = chrysalis("registry", "show", *at)
    assert (empty["worker_images"], empty["gateways"], empty["price_per_token"]) == ([], [], 20)
    assert empty["owner"] == owner["raw"]
    for kind, value in (("image", IMAGE), ("gateway-image", IMAGE), ("model", MODEL), ("gateway", "10.1.2.3:11001")):
        assert chrysalis("registry", "add", kind, value, "-k", key, *at)["sent"]
    full = chrysalis("registry", "show", *at)
    assert full["worker_images"] == full["gateway_images"] == [IMAGE]
    assert len(full["model_hashes"]) == 1
    assert [gateway["text"] for gateway in full["gateways"]] == ["10.1.2.3:11001"]
    assert full["version"] == empty["version"] + 4
    number = str(full["gateways"][0]["seqno"])
    for kind, value in (("image", IMAGE), ("model", MODEL), ("gateway", number)):
        chrysalis("registry", "remove", kind, value, "-k", key, *at)
    bare = chrysalis("registry", "show", *at)
    assert (bare["worker_images"], bare["model_hashes"], bare["gateways"]) == ([], [], [])
    assert bare["gateway_images"] == [IMAGE]


def test_strangers_get_the_message_to_send_and_cannot_send_it(lab_chain: Path, owner: dict[str, Any]) -> None:
    network, prices = lab_chain / "network.json", ["--price", "20", "--worker-fee", "17"]
    root = chrysalis("registry", "create", "-k", lab_chain / "owner.key", "-n", network, *prices)["root"]
    told = chrysalis("registry", "add", "image", IMAGE, "-n", network, "--root", root)
    assert told["sent"] is False
    assert told["to"] == root
    assert told["body"]
    stranger = chrysalis("wallet", "new", lab_chain / "stranger.key")
    chrysalis("lab", "faucet", stranger["address"], "10", "-d", lab_chain)
    chrysalis("registry", "add", "image", IMAGE, "-k", lab_chain / "stranger.key", "-n", network, "--root", root)
    assert chrysalis("registry", "show", "-n", network, "--root", root)["worker_images"] == []
    assert owner["address"] != stranger["address"]


def test_a_fee_above_the_price_is_refused(lab_chain: Path, owner: dict[str, Any]) -> None:
    prices = ["--price", "17", "--worker-fee", "20"]
    told = chrysalis(
        "registry", "create", "-k", lab_chain / "owner.key", "-n", lab_chain / "network.json", *prices, status=1
    )
    assert "above the price" in told["error"]
    assert owner["ok"]
