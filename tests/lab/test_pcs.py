"""The synthetic world's certification service, asked by the client that asks a real one."""

from __future__ import annotations

import time

import pytest

from appliance.lab.pcs import serving
from appliance.lab.tee import SyntheticTdx
from attestation import dcap, policy
from attestation.collateral import PccsCollateral
from attestation.errors import CollateralError


async def test_a_quote_of_the_world_verifies_with_what_its_service_says() -> None:
    world, other = SyntheticTdx(), SyntheticTdx()
    quote = world.quote(bytes(64))
    platform = dcap.platform_of(quote)
    chosen = policy.for_name("simulated", simulated_roots=(world.root_der,))
    for served, holds in ((world, True), (other, False)):
        async with serving(served) as port:
            collateral = await PccsCollateral(f"http://127.0.0.1:{port}").get(*platform)
        appraisal = chosen.appraise(quote, collateral, report_data=bytes(64), now=time.time())
        assert all(check.passed for check in appraisal.checks) is holds


async def test_what_the_service_does_not_know_is_an_error_with_its_status() -> None:
    async with serving(SyntheticTdx()) as port:
        with pytest.raises(CollateralError, match="status 404"):
            await PccsCollateral(f"http://127.0.0.1:{port}/elsewhere").get("00906ED50000", "platform")
