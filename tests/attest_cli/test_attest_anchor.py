"""A bundle's digest on a real chain: sent, found with proofs, demanded by a policy; and what is no anchor."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import Site, chrysalis

from appliance.chain.anchors import anchor_body, anchor_text, read_anchor
from appliance.chain.cells import Writer
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from pathlib import Path

    from attest_cli_lab import LabChain


def told(*words: str | Path, ok: bool) -> dict[str, Any]:
    done = chrysalis(*words, "--json", ok=ok)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_anchor_is_a_text_that_any_wallet_can_send() -> None:
    digest = hashlib.sha256(b"evidence").digest()
    assert anchor_text(digest) == f"chrysalis sha256 {digest.hex()}"
    assert read_anchor(anchor_body(digest)) == digest
    other = Writer("text").uint(0, 32).raw(b"chrysalis sha256 " + b"zz" * 32, 81).end()
    for body in (other, Writer("op").uint(1, 32).end(), Writer("empty").end()):
        assert read_anchor(body) is None
    with pytest.raises(LayoutError, match="32"):
        anchor_text(b"short")


@pytest.mark.slow
def test_what_is_anchored_is_found_and_can_be_demanded(site: Site, attest_chain: LabChain) -> None:
    directory, network = attest_chain.directory, attest_chain.network
    key = directory / "anchor.key"
    address = told("wallet", "new", key, ok=True)["address"]
    told("lab", "faucet", address, "5", "-d", directory, ok=True)
    demanding = site.policy("anchored", freshness={"anchored": True})
    verify = ["attest", "verify", site.file, "--policy", demanding, "--at", "made"]
    refused = told(*verify, ok=False)
    assert [check["name"] for check in refused["checks"] if not check["passed"]] == ["not made after"]

    anchor = ["attest", "anchor", site.file, "-k", key, "-n", network]
    planned = told(*anchor, "--dry-run", ok=True)
    digest = hashlib.sha256(site.bundle).hexdigest()
    assert (planned["sent"], planned["comment"]) == (False, f"chrysalis sha256 {digest}")
    looked = told(*verify, "--anchor", address, "-n", network, ok=False)
    assert "anchor" in [check["name"] for check in looked["checks"] if not check["passed"]]

    done = told(*anchor, ok=True)
    assert done["sent"] is True
    found = told(*verify, "--anchor", address, "-n", network, ok=True)
    assert found["evidence"]["anchored_at"] == done["anchored_at"]
    lines = chrysalis(*verify, "--anchor", address, "-n", network, ok=True).stdout
    assert "its digest is on chain since" in lines

    other = site.directory / "other.cbor"
    other.write_bytes(site.bundle[:-1] + bytes([site.bundle[-1] ^ 1]))
    missed = told("attest", "verify", other, "--policy", demanding, "--anchor", address, "-n", network, ok=False)
    assert missed["evidence"]["anchored_at"] is None
