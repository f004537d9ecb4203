"""From the command to the verdict: one exported file judges a machine with GPUs where there is no network."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from appliance.cli.main import build
from appliance.lab.collateral_faults import Fault
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation import claims, policy
from attestation.claims import WorkloadStatement
from attestation.collateral import CollateralSettings, Sources, open_collateral, open_sources
from attestation.evidence import build_bundle
from attestation.gpu.rules import GpuCount, gpu_rules
from attestation.ratls import Identity
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.verdict import Verdict

DAY = 86400.0
NONCE = b"\x4e" * 32


class Platform:
    """A simulated TDX machine that answers in this process."""

    name = "simulated"

    def __init__(self, tdx: SyntheticTdx) -> None:
        self._tdx = tdx

    async def collect(self, report_data: bytes) -> bytes:
        return self._tdx.quote(report_data)


@dataclass
class Shown:
    """A machine with GPUs and a bundle of it to which nothing is stapled."""

    tdx: SyntheticTdx
    gpus: SyntheticGpus
    identity: Identity
    bundle: bytes
    made_at: float

    async def judged(self, sources: Sources, *, later: float = 0.0, at: float | None = None) -> Verdict:
        chosen = policy.for_name("simulated", simulated_roots=(self.tdx.root_der,), gpu_roots=self.gpus.roots())
        verifier = Verifier(
            chosen.demanding(*gpu_rules(count=GpuCount(2, 2))), sources, clock=lambda: time.time() + later
        )
        return await verifier.verify_bundle(self.bundle, nonce=NONCE, public_key=self.identity.public_key, at=at)


@pytest.fixture(scope="module")
def worlds() -> tuple[SyntheticTdx, SyntheticGpus]:
    return SyntheticTdx(), SyntheticGpus(2)


@pytest.fixture
async def shown(worlds: tuple[SyntheticTdx, SyntheticGpus]) -> Shown:
    tdx, gpus = worlds
    platform = Platform(tdx)
    identity = await Identity.create(platform)
    image = claims.image_hash(parse_quote(tdx.quote(bytes(64))).report.measurements)
    statement = WorkloadStatement(image=image, measured_config=bytes(32))
    made_at = time.time()
    bundle = await build_bundle(platform, identity, statement, NONCE, b"", devices=gpus, made_at=made_at)
    return Shown(tdx, gpus, identity, bundle, made_at)


async def export(server: CollateralServer, folder: Path, evidence: Path) -> Path:
    words = ["collateral", "export", str(folder / "collateral.cbor"), str(evidence), "--cache", str(folder / "cache")]
    words += ["--pcs", server.url, "--rim-service", server.url, "--ocsp", server.ocsp_url, "--kds", "none"]
    done = await asyncio.to_thread(CliRunner().invoke, build("collateral"), [*words, "--proxy", "off"])
    assert done.exit_code == 0, done.output
    return folder / "collateral.cbor"


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.failed}


async def test_an_exported_file_is_all_that_a_verdict_needs(shown: Shown, tmp_path: Path) -> None:
    """Control: the same bundle without the file is refused, for what the file has."""
    (tmp_path / "bundle").write_bytes(shown.bundle)
    async with CollateralServer(tdx=shown.tdx, gpus=shown.gpus) as server:
        path = await export(server, tmp_path, tmp_path / "bundle")
    offline = open_collateral(str(path))
    verdict = await shown.judged(offline)
    assert verdict.accepted, verdict.explain()
    without = await shown.judged(open_collateral(None))
    assert not without.accepted
    assert "collateral" in failed(without)
    then = await shown.judged(offline, later=3650 * DAY, at=shown.made_at)
    assert then.accepted, then.explain()  # in ten years, as of its own time
    later = await shown.judged(offline, later=3 * DAY)
    assert not later.accepted  # a response about revocation holds for a day
    assert any("revocation" in name or "ocsp" in name.lower() for name in failed(later)), failed(later)


async def test_while_services_are_down_the_old_is_used_and_the_verdict_says_what_ended(
    shown: Shown, tmp_path: Path
) -> None:
    async with CollateralServer(tdx=shown.tdx, gpus=shown.gpus) as server:
        settings = CollateralSettings(
            tdx=server.url, kds=None, rim=server.url, ocsp=server.ocsp_url, proxy="off", cache=tmp_path, attempts=1
        )
        assert (await shown.judged(open_sources(settings))).accepted
        server.fail_all(Fault.DOWN)
        assert (await shown.judged(open_sources(settings))).accepted
        ended = await shown.judged(open_sources(settings), later=400 * DAY)
    assert not ended.accepted
    assert "collateral" not in failed(ended)  # it is there, and what is wrong with it is said
    assert any("expired" in check.seen.lower() or "valid" in check.seen.lower() for check in ended.failed)
