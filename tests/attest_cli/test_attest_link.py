"""Evidence over the network's own port (proof of work, mutual RA-TLS, the evidence query), and of this machine."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import Site, TdxMachine, chrysalis, statement

from appliance.lab import tee_service
from appliance.wire import messages as tl
from appliance.wire.errors import QueryError
from appliance.wire.extensions import ALL, Extension
from appliance.wire.transport import LinkProtocol
from attestation.evidence import build_bundle
from attestation.policy import Policy
from attestation.ratls import Identity
from attestation.ratls.direct import RatlsListener
from attestation.readers import NoReader
from attestation.rules import AllOf
from attestation.staple import Staple
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from appliance.wire.base import TLObject
    from appliance.wire.link import Link


class Gateway:
    """The answering side: evidence of a machine of the synthetic world, and nothing else."""

    def __init__(self, site: Site, identity: Identity) -> None:
        self._site = site
        self._identity = identity

    def link_ready(self, link: Link) -> None:
        """Nothing to prepare."""

    def message_received(self, link: Link, message: TLObject) -> None:
        """Nothing is expected."""

    async def query_received(self, link: Link, query: TLObject) -> TLObject:
        if not isinstance(query, tl.ChrysalisGetEvidence):
            raise QueryError("only evidence is served here", code=1)

        async def staple(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
            return Staple(tdx=self._site.tdx.collateral_json())

        said = statement(self._site.image, engine={}, role="gateway")
        platform = TdxMachine(self._site.tdx)
        return tl.ChrysalisEvidence(await build_bundle(platform, self._identity, said, query.nonce, b"", staple=staple))

    def link_lost(self, link: Link, reason: Exception | None) -> None:
        """The asker is gone."""


@asynccontextmanager
async def listening(site: Site, offered: frozenset[Extension]) -> AsyncIterator[str]:
    identity = await Identity.create(TdxMachine(site.tdx))
    anybody = Verifier(Policy("anybody", "none", NoReader(), AllOf(())))
    gateway = Gateway(site, identity)
    server = await RatlsListener(identity, anybody, 4).serve(
        lambda: LinkProtocol(gateway, connecting=False, offered=offered), "127.0.0.1", 0
    )
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await asyncio.sleep(0.05)
        server.close()
        await server.wait_closed()


async def told(*words: str | Path, ok: bool) -> dict[str, Any]:
    done = await asyncio.to_thread(chrysalis, *words, "--json", ok=ok)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def test_a_gateway_is_judged_by_fresh_evidence(site: Site) -> None:
    good = site.policy("gateway", workload={"role": "gateway"}, freshness={"max_age_s": 60})
    other = site.policy("not-gateway", workload={"role": "worker"})
    bundle = site.directory / "gateway.cbor"
    async with listening(site, ALL) as address:
        found = await told("attest", "verify", address, "--policy", good, ok=True)
        refused = await told("attest", "verify", address, "--policy", other, ok=False)
        collected = await told("attest", "collect", address, "-o", bundle, ok=True)
    assert found["evidence"]["nonce_ours"] is True
    assert {check["name"] for check in found["checks"] if check["checked"]} >= {"channel key", "nonce", "report data"}
    assert [check["name"] for check in refused["checks"] if not check["passed"]] == ["statement role"]
    kept = await told("attest", "verify", bundle, "--policy", good, "--nonce", collected["nonce"], ok=True)
    assert kept["public_key"] == collected["public_key"]


@pytest.mark.parametrize("offered", [frozenset[Extension](), ALL - {Extension.EVIDENCE}], ids=["reference", "without"])
async def test_a_peer_without_the_query_shows_its_certificate(site: Site, offered: frozenset[Extension]) -> None:
    collateral = site.directory / "collateral.json"
    collateral.write_bytes(site.tdx.collateral_json())
    async with listening(site, offered) as address:
        options = ["attest", "verify", address, "--policy", site.policy(), "--collateral", collateral]
        found = await told(*options, ok=True)
        refused = await asyncio.to_thread(chrysalis, *options, "--at", "made", ok=False)
        fresh = site.policy("fresh", freshness={"max_age_s": 1e9})
        stale = await told(*options[:4], fresh, *options[5:], ok=False)
        nothing = await asyncio.to_thread(chrysalis, "attest", "collect", address, ok=False)
    assert found["evidence"]["sha256"] is None
    assert "fresh evidence" in [check["name"] for check in stale["checks"] if not check["passed"]]
    assert "certificate purpose" in [check["name"] for check in found["checks"]]
    assert "certificate alone" in refused.stderr
    assert "no fresh evidence" in nothing.stderr


async def test_this_machine_s_evidence_is_collected_by_its_platform(site: Site, tmp_path: Path) -> None:
    """A machine that runs nothing of ours: its statement names the measured image, and the evidence is judged."""
    server = await tee_service.start(tmp_path / "quotes", site.tdx)
    file = tmp_path / "here.cbor"
    try:
        found = await told(
            "attest", "collect", "--platform", "simulated", "--quote-source", tmp_path / "quotes", "-o", file, ok=True
        )
    finally:
        server.close()
        await server.wait_closed()
    collateral = tmp_path / "collateral.json"
    collateral.write_bytes(site.tdx.collateral_json())
    options = ["attest", "verify", file, "--policy", site.policy(), "--nonce", found["nonce"]]
    good = await told(*options, "--collateral", collateral, "--image", site.image.hex(), ok=True)
    assert good["statement"]["role"] == "collected"
    refused = await told(*options, ok=False)
    assert "collateral" in [check["name"] for check in refused["checks"] if not check["passed"]]
