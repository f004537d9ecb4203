"""One machine of every synthetic world: what the seeds of the fuzz targets are made of, and roots that verify them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.lab.cloud_world_azure import AzureWorld
from appliance.lab.cloud_world_gcp import GcpWorld
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.paper_tpm import Booted
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from attestation import own_image
from attestation.claims import WorkloadStatement
from attestation.evidence import build_bundle
from attestation.ratls import Identity
from attestation.staple import Staple
from measurements.prediction import PredictedEvent
from measurements.tpm import TpmPrediction

if TYPE_CHECKING:
    from collections.abc import Sequence

_EVENTS = {
    register: (PredictedEvent(hashlib.sha256(b"%d" % register).digest(), "part", "fuzz"),) for register in (4, 9, 11)
}
NONCE = bytes(range(32))
DATA = bytes(range(64))


@dataclass(frozen=True)
class Worlds:
    """The machines, every one healthy, and the time (Unix seconds) at which their evidence is fresh."""

    tdx: SyntheticTdx
    snp: SyntheticSnp
    gpus: SyntheticGpus
    azure: AzureWorld
    gcp: GcpWorld
    identity: Identity
    bundle: bytes
    now: float


class TdxMachine:
    """The TDX machine as a platform."""

    name = "simulated"

    def __init__(self, world: SyntheticTdx) -> None:
        self._world = world

    async def collect(self, report_data: bytes) -> bytes:
        return self._world.quote(report_data)

    async def event_log(self) -> bytes | None:
        return self._world.event_log()


@functools.cache
def worlds() -> Worlds:
    """The worlds of this process."""
    return asyncio.run(_make())


async def _make() -> Worlds:
    tdx, snp, gpus = SyntheticTdx(), SyntheticSnp(), SyntheticGpus()
    booted = Booted(TpmPrediction("disk", ("ready",), _EVENTS), bytes(32))
    machine = TdxMachine(tdx)
    identity = await Identity.create(machine)

    async def staple(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
        return Staple(tdx=tdx.collateral_json(), rims=gpus.rims(), ocsp=gpus.ocsp())

    said = WorkloadStatement(
        image=own_image.own_image(tdx.quote(bytes(64))),
        measured_config=bytes(32),
        model="stub/model@main:" + "ab" * 32,
        model_hash=bytes.fromhex("ab" * 32),
        engine={"kind": "sglang", "flags": ["--device", "cpu"]},
        root_contract="0:" + "11" * 32,
        owner="0:" + "22" * 32,
        chain=bytes(32),
    )
    bundle = await build_bundle(machine, identity, said, NONCE, b"\7" * 32, devices=gpus, staple=staple)
    return Worlds(tdx, snp, gpus, AzureWorld(booted, snp=None), GcpWorld(booted, tdx), identity, bundle, time.time())
