"""When evidence is over: what counts as begun anew, and that gateways are told before anything else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker_world import make_world, until

from appliance.wire.extensions import ALL
from appliance.wire.messages import ChrysalisEvidenceEnded, WorkerEnabledDisabled
from appliance.worker import generation as generations
from appliance.worker.generation import Generation, watch_devices
from attestation.errors import CollectionError
from attestation.gpu.nvml import Gpu, Inventory

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_engines_first_start_is_none_and_each_later_one_is() -> None:
    begun = [0]
    generation = Generation(lambda: begun[0])
    seen = []
    for begun[0] in (0, 1, 1, 2, 4):
        seen.append(generation.look())
    assert seen == [0, 0, 0, 1, 3]


def test_devices_that_differ_from_the_last_look_are_another_generation() -> None:
    generation = Generation(lambda: 1)
    seen = []
    for state in (b"a", b"a", b"b", b"b", b"a"):
        generation.devices(state)
        seen.append(generation.look())
    assert seen == [0, 0, 1, 1, 2]


def inventory(*, ready: bool = True, driver: str = "550.90.07") -> Inventory:
    gpu = Gpu(0, "NVIDIA H100", "GPU-1", "96.00.9F.00.01", 80 << 30)
    return Inventory(driver, (gpu,), confidential=True, devtools=False, ready=ready)


async def test_a_reset_a_reload_and_a_lost_driver_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "WATCH_S", 0.0)
    module = tmp_path / "nvidia"
    module.mkdir()
    now: list[Inventory | CollectionError] = [inventory()]
    looked = [0]

    def ask() -> Inventory:
        looked[0] += 1
        if isinstance(now[0], CollectionError):
            raise now[0]
        return now[0]

    async def look() -> None:
        before = looked[0]
        await until(lambda: looked[0] > before + 2)

    generation = Generation(lambda: 1)
    watching = asyncio.create_task(watch_devices(generation, ask, module))
    await look()
    assert generation.look() == 0, "control: nothing happened"
    for number, state in enumerate(
        (inventory(ready=False), inventory(), CollectionError("no driver"), inventory(driver="550.90.08")), start=1
    ):
        now[0] = state
        await look()
        assert generation.look() == number
    module.rename(tmp_path / "old")
    module.mkdir()
    await look()
    assert generation.look() == 5
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_gateways_are_told_before_work_is_offered_again(tmp_path: Path) -> None:
    number = [0]

    async def bundle(_: bytes) -> bytes:
        return b"bundle"

    async with make_world(tmp_path, generation=lambda: number[0], evidence=bundle) as world:
        assert world.worker.links[0]._link is not None
        assert world.worker.links[0]._link.extensions == ALL
        world.engine_up[0] = False
        await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(1) in messages)
        number[0], world.engine_up[0] = 1, True
        await world.gateway.wait_for(lambda messages: WorkerEnabledDisabled(0) in messages)
        told = [m for m in world.gateway.messages if isinstance(m, ChrysalisEvidenceEnded | WorkerEnabledDisabled)]
        assert told[-3:] == [WorkerEnabledDisabled(1), ChrysalisEvidenceEnded(1), WorkerEnabledDisabled(0)]
        assert told.count(ChrysalisEvidenceEnded(1)) == 1
