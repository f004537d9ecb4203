"""The command line against a real local chain: wallets, a network of one's own, its lists, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TON = 10**9
IMAGE = "5c" * 32
MODEL = "Org/Model@abc:" + "00" * 32


def chrysalis(*words: str | Path, ok: bool = True) -> dict[str, Any]:
    """Run a command with --json; its last line."""
    command = [sys.executable, "-m", "appliance.cli", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) is ok, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running chain; its directory."""
    directory = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "appliance.cli", "lab", "chain", "-d", str(directory), "--block-time", "0.5"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            while not (directory / "network.json").exists():
                assert process.poll() is None, (directory / "log").read_text()
                time.sleep(0.1)
            yield directory
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def owner(lab: Path) -> dict[str, Any]:
    """A funded owner's wallet."""
    told = chrysalis("wallet", "new", lab / "owner.key")
    chrysalis("lab", "faucet", told["address"], "100", "-d", lab)
    return told


def test_a_wallet_is_funded_and_sends(lab: Path, owner: dict[str, Any]) -> None:
    network = lab / "network.json"
    assert chrysalis("wallet", "show", owner["address"], "-n", network)["balance"] == 100 * TON
    other = chrysalis("wallet", "new", lab / "other.key")
    chrysalis("wallet", "send", other["address"], "1.5", "-k", lab / "owner.key", "-n", network)
    shown = chrysalis("wallet", "show", other["address"], "-n", network)
    assert shown["balance"] == shown["explained"] == 3 * TON // 2
    left = chrysalis("wallet", "show", owner["address"], "-n", network)
    assert 98 * TON < left["balance"] == left["explained"] <= 98 * TON + TON // 2
    assert chrysalis("lab", "status", "-d", lab)["ok"]


def test_an_empty_folder_of_orders_sends_nothing(lab: Path, owner: dict[str, Any]) -> None:
    (lab / "orders").mkdir()
    words = ["wallet", "relay", lab / "orders", "-k", lab / "owner.key", "-n", lab / "network.json", "--once"]
    assert chrysalis(*words)["sent"] == 0
    assert owner["ok"]


def test_without_funds_the_error_says_what_to_send_to_whom(lab: Path) -> None:
    poor = chrysalis("wallet", "new", lab / "poor.key")
    told = chrysalis(
        "wallet", "send", poor["address"], "1", "-k", lab / "poor.key", "-n", lab / "network.json", ok=False
    )
    assert poor["address"] in told["error"]
    assert "send at least" in told["hint"]
    assert poor["address"] in told["hint"]


def test_a_network_of_ones_own(lab: Path, owner: dict[str, Any]) -> None:
    network, key = lab / "network.json", lab / "owner.key"
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


def test_strangers_get_the_message_to_send_and_cannot_send_it(lab: Path, owner: dict[str, Any]) -> None:
    network, prices = lab / "network.json", ["--price", "20", "--worker-fee", "17"]
    root = chrysalis("registry", "create", "-k", lab / "owner.key", "-n", network, *prices)["root"]
    told = chrysalis("registry", "add", "image", IMAGE, "-n", network, "--root", root)
    assert told["sent"] is False
    assert told["to"] == root
    assert told["body"]
    stranger = chrysalis("wallet", "new", lab / "stranger.key")
    chrysalis("lab", "faucet", stranger["address"], "10", "-d", lab)
    chrysalis("registry", "add", "image", IMAGE, "-k", lab / "stranger.key", "-n", network, "--root", root)
    assert chrysalis("registry", "show", "-n", network, "--root", root)["worker_images"] == []
    assert owner["address"] != stranger["address"]


def test_a_fee_above_the_price_is_refused(lab: Path, owner: dict[str, Any]) -> None:
    prices = ["--price", "17", "--worker-fee", "20"]
    told = chrysalis("registry", "create", "-k", lab / "owner.key", "-n", lab / "network.json", *prices, ok=False)
    assert "above the price" in told["error"]
    assert owner["ok"]
