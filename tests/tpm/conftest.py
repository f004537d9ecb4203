"""A world with one booted software TPM, and its evidence, made once for the room."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest
import tpm_support as support
from tpm_images import IMAGE

from appliance.lab.tpm_world import TpmWorld
from measurements import tpm as predictor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measurements.tpm import TpmPrediction


@pytest.fixture(scope="session")
def prediction() -> TpmPrediction:
    return predictor.predict(IMAGE, boot="disk")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> TpmWorld:
    return TpmWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def made(world: TpmWorld, prediction: TpmPrediction) -> Iterator[support.Made]:
    report_data = secrets.token_bytes(64)

    async def show(machine: support.SoftwareTpm) -> tuple[bytes, bytes]:
        async with support.platform(world, machine) as platform:
            return await platform.collect(report_data), await platform.collect_with_logs(report_data)

    with support.software_tpm(world) as machine:
        machine.boot(prediction)
        certificate_form, fresh_form = asyncio.run(show(machine))
        yield support.Made(world, machine, prediction, report_data, certificate_form, fresh_form)
