"""The synthetic world's certification service, asked by the client that asks a real one, to the verdict."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.tee import SyntheticTdx
from attestation import dcap, policy
from attestation.collateral import PccsCollateral
from attestation.errors import CollateralError

if TYPE_CHECKING:
    from attestation.policy import Appraisal


async def appraised(world: SyntheticTdx, server: CollateralServer) -> Appraisal:
    """A verdict over a quote of ``world`` with what ``server`` says."""
    quote = world.quote(bytes(64))
    collateral = await PccsCollateral(server.url).get(*dcap.platform_of(quote))
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    return chosen.appraise(quote, collateral, report_data=bytes(64), now=time.time())


async def test_a_quote_of_the_world_verifies_with_what_its_service_says() -> None:
    world, other = SyntheticTdx(), SyntheticTdx()
    async with CollateralServer(tdx=world) as server:
        assert all(check.passed for check in (await appraised(world, server)).checks)
    async with CollateralServer(tdx=other) as server:
        with pytest.raises(CollateralError, match="status 404"):
            await appraised(world, server)


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        (Service.TCB_INFO, Fault.STALE),
        (Service.TCB_INFO, Fault.WRONG),
        (Service.TCB_INFO, Fault.REVOKED),
        (Service.PCK_CRL, Fault.STALE),
        (Service.PCK_CRL, Fault.WRONG),
        (Service.PCK_CRL, Fault.REVOKED),
        (Service.ROOT_CRL, Fault.STALE),
        (Service.ROOT_CRL, Fault.WRONG),
        (Service.ROOT_CRL, Fault.REVOKED),
        (Service.QE_IDENTITY, Fault.STALE),
        (Service.QE_IDENTITY, Fault.WRONG),
    ],
    ids=lambda one: one.name,
)
async def test_signed_answers_that_do_not_fit_fail_the_verdict(service: Service, fault: Fault) -> None:
    """Control: the same question to the same server without the fault."""
    world = SyntheticTdx()
    async with CollateralServer(tdx=world) as server:
        assert all(check.passed for check in (await appraised(world, server)).checks)
        server.fail(service, fault)
        assert not all(check.passed for check in (await appraised(world, server)).checks)


async def test_what_the_service_does_not_know_is_an_error_with_its_status() -> None:
    async with CollateralServer(tdx=SyntheticTdx()) as server:
        with pytest.raises(CollateralError, match="status 404"):
            await PccsCollateral(f"{server.url}/elsewhere").get("00906ED50000", "platform")
