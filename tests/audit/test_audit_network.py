"""The command against a real local chain: what its root contract lists, proven, is held against a release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from command_chain import chrysalis

from attestation.policies.reference_images import Configuration, image_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from audit_support import Release

STRANGE = "5c" * 32
DIGEST = bytes(range(32))


@pytest.mark.slow
@pytest.mark.usefixtures("audit_home")
def test_a_release_against_a_root_contract(release: Release, lab_chain: Path, tmp_path: Path) -> None:
    """Listed and explained; then with one image more that no manifest at hand explains."""
    manifest = release.write(tmp_path / "manifest.json")
    own = sorted(image_hashes(release.manifest, (Configuration("c", DIGEST),)).hashes)
    key, network = lab_chain / "owner.key", lab_chain / "network.json"
    chrysalis("lab", "faucet", chrysalis("wallet", "new", key)["address"], "100", "-d", lab_chain)
    root = chrysalis("registry", "create", "-k", key, "-n", network, "--price", "20", "--worker-fee", "17")["root"]
    at = ["-n", network, "--root", root]

    def audit(status: int, *more: str | Path) -> dict[str, Any]:
        words = ["audit", release.source, "--manifest", manifest, "--built", release.published, "--offline"]
        return chrysalis(*words, "--work", tmp_path / "work", *more, status=status)

    chrysalis("registry", "add", "image", own[0].hex(), "-k", key, *at)
    measured = ["--measured", DIGEST.hex()]
    good = next(step for step in audit(0, *at, *measured)["steps"] if step["name"] == "registry")
    assert good["inputs"]["root contract"] == root
    assert {row["stated"]: row["seen"] for row in good["rows"]}[own[0].hex()] == "listed"
    chrysalis("registry", "add", "image", STRANGE, "-k", key, *at)
    told = audit(1, *at, *measured)
    assert told["verdict"] == f"differs: listed worker image {STRANGE}"


@pytest.mark.usefixtures("audit_home")
def test_a_network_that_does_not_answer_is_no_difference(release: Release, tmp_path: Path) -> None:
    block = {"workchain": -1, "shard": -(2**63), "seqno": 1, "root_hash": "11" * 32, "file_hash": "22" * 32}
    network = tmp_path / "network.json"
    servers = [{"address": "127.0.0.1:9", "key": "Qk" * 21 + "Q="}]
    network.write_text(json.dumps({"global_id": -239, "zerostate": block, "key_block": block, "liteservers": servers}))
    words = ["audit", release.source, "--manifest", release.write(tmp_path / "manifest.json"), "--offline"]
    told = chrysalis(*words, "--built", release.published, "-n", network, "--work", tmp_path / "work", status=2)
    assert told["verdict"].startswith("could not be checked: the registry cannot be read: ")
    assert str(tmp_path) not in told["verdict"], "it is the server that does not answer, not a file"
