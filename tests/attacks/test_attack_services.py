"""Classes 5 and 8: the host chooses whose service of collateral is asked; what one says is signed, and still wrong."""

from __future__ import annotations

import time

import pytest
from attacks_support import Machine, failed, judged

from appliance.lab.collateral_faults import Fault, Service
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.tee import SyntheticTdx
from attestation.collateral import PccsCollateral, StaticCollateral


@pytest.fixture(scope="module")
def world() -> SyntheticTdx:
    return SyntheticTdx()


@pytest.mark.parametrize(
    ("service", "fault", "checks"),
    [
        (None, None, []),
        (Service.TCB_INFO, Fault.STALE, ["quote"]),
        (Service.TCB_INFO, Fault.WRONG, ["quote"]),
        (Service.TCB_INFO, Fault.REVOKED, ["quote"]),
        (Service.PCK_CRL, Fault.STALE, ["quote"]),
        (Service.PCK_CRL, Fault.REVOKED, ["quote"]),
        (Service.ROOT_CRL, Fault.REVOKED, ["quote"]),
        (Service.QE_IDENTITY, Fault.STALE, ["quote"]),
        (Service.QE_IDENTITY, Fault.WRONG, ["quote"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_service_that_the_host_names_can_refuse_and_not_lie(
    world: SyntheticTdx, service: Service | None, fault: Fault | None, checks: list[str]
) -> None:
    """What it says goes before what is stapled, so good collateral in the bundle does not hide a revocation."""
    now = time.time()
    bundle = await (await Machine.start(world)).bundle(made_at=now)
    async with CollateralServer(tdx=world) as server:
        if service is not None and fault is not None:
            server.fail(service, fault)
        assert failed(await judged(bundle, world, source=PccsCollateral(server.url), now=now)) == checks


async def test_collateral_of_another_root_is_no_collateral(world: SyntheticTdx) -> None:
    """A whole service of the host's own, for a platform of the same kind: TCB info, lists and chains under its root."""
    now = time.time()
    bundle = await (await Machine.start(world)).bundle(made_at=now)
    forger = SyntheticTdx()
    for shown, checks in ((world, []), (forger, ["quote"])):
        verdict = await judged(bundle, world, source=StaticCollateral(shown.collateral_json()), now=now)
        assert failed(verdict) == checks
