"""Stapled collateral: for this machine's platform, or none and a word about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from appliance import assembly
from appliance.assembly import own_devices
from appliance.lab import gpu_world_service
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.collateral.sources import Sources
from attestation.errors import CollateralError
from attestation.gpu.nvml import Inventory, NvmlCollector
from attestation.material import stapling
from attestation.platforms import FakeTdx
from attestation.platforms.simulated_gpus import SimulatedGpus, devices_path
from attestation.policy import for_name
from attestation.ratls import Identity
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path


class Source:
    """Has collateral, or says that it has none."""

    def __init__(self, collateral: bytes | None) -> None:
        self.collateral = collateral
        self.asked: list[tuple[str, str]] = []

    async def get(self, fmspc: str, ca: str) -> bytes:
        self.asked.append((fmspc, ca))
        if self.collateral is None:
            raise CollateralError("none here")
        return self.collateral


async def test_nothing_is_stapled_where_there_is_nothing() -> None:
    source = Source(b"{}")
    fake = await FakeTdx().collect(bytes(64))
    assert not await stapling(Sources())(fake, ())
    assert not await stapling(Sources(tdx=source))(fake, ()), "a quote that names no platform"
    assert source.asked == []


class Machine:
    """A machine of the synthetic world."""

    name = "simulated"

    def __init__(self, world: SyntheticTdx) -> None:
        self._world = world

    async def collect(self, report_data: bytes) -> bytes:
        return self._world.quote(report_data)


async def test_a_verifier_without_a_source_judges_by_what_is_stapled() -> None:
    world = SyntheticTdx()
    identity = await Identity.create(Machine(world))
    source = Source(world.collateral_json())
    verifier = Verifier(for_name("simulated", simulated_roots=(world.root_der,)), None)
    image = (await Verifier(verifier.policy, source).verify_certificate(identity.certificate)).image_hash
    statement = WorkloadStatement(image=image, measured_config=b"\1" * 32)
    for with_source, accepted in ((Sources(tdx=source), True), (Sources(), False)):
        maker = EvidenceMaker(
            Machine(world),
            identity,
            statement=lambda: statement,
            block_hash=lambda: b"\2" * 32,
            staple=stapling(with_source),
        )
        bundle = await maker.bundle(b"\3" * 32)
        verdict = await verifier.verify_bundle(bundle, nonce=b"\3" * 32, public_key=identity.public_key)
        assert verdict.accepted == accepted, verdict.explain()
        await maker.close()
    assert source.asked


async def test_a_source_that_fails_costs_the_staple_only() -> None:
    quote = SyntheticTdx().quote(bytes(64))
    source = Source(None)
    assert not await stapling(Sources(tdx=source))(quote, ())
    assert len(source.asked) == 1


# The machine's devices


def configured(device: str, *, platform: str, source: str | None = None, development: bool = True) -> tuple[Any, Any]:
    """The parts of a configuration that :func:`own_devices` reads."""
    trust = SimpleNamespace(policy=platform, development=development)
    host = SimpleNamespace(platform=platform, quote_source=source)
    return SimpleNamespace(trust=trust, engine=SimpleNamespace(device=device)), host


async def test_a_simulated_machine_has_the_gpus_of_its_device_service(tmp_path: Path) -> None:
    source = str(tmp_path / "worker.quotes")
    assert await own_devices(*configured("cpu", platform="simulated")) is None
    assert await own_devices(*configured("cpu", platform="simulated", source=source)) is None, "no service"
    server = await gpu_world_service.start(devices_path(tmp_path / "worker.quotes"), SyntheticGpus(2))
    found = await own_devices(*configured("cpu", platform="simulated", source=source))
    assert isinstance(found, SimulatedGpus)
    assert len(await found.collect(lambda index: bytes([index]) * 32)) == 2
    server.close()


@pytest.mark.parametrize(
    ("device", "development", "confidential", "asked"),
    [
        ("cpu", False, True, False),
        ("cuda", False, False, True),  # a release's machine shows what it has, or fails: it never leaves its GPUs out
        ("cuda", False, True, True),
        ("cuda", True, True, True),
        ("cuda", True, False, False),
    ],
)
async def test_a_machine_that_computes_on_gpus_shows_them(
    monkeypatch: pytest.MonkeyPatch, device: str, development: bool, confidential: bool, asked: bool
) -> None:
    found = Inventory("550", (), confidential=confidential, devtools=False, ready=True)
    monkeypatch.setattr(assembly, "inventory", lambda: found)
    collector = await own_devices(*configured(device, platform="tdx", development=development))
    assert isinstance(collector, NvmlCollector) is asked
