"""Attacks on GPU evidence, end to end through the production judge: each differs from its control in one word.

Classes are those of the attack list (specification, section 5): 1 relayed or swapped, 2 replayed, forged, withdrawn or
without the right manifest, 13 malformed. The control of every row is the same machine without the attack.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import (
    ChainFault,
    DeviceFault,
    GpuAttack,
    Mode,
    OcspFault,
    ReportFault,
    RimFault,
)
from appliance.lab.gpu_world_vendor import GpuVendor
from attestation.errors import CollectionError
from attestation.gpu.judge import judge_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.gpu.judge import DeviceJudgement

NOW = time.time()
NONCES = [bytes([index + 1]) * 32 for index in range(16)]

REPORTS = {
    ReportFault.REPLAYED: "gpu nonce",
    ReportFault.RENAMED: "gpu signature",
    ReportFault.BAD_SIGNATURE: "gpu signature",
    ReportFault.OTHER_SIGNER: "gpu signature",
    ReportFault.ALTERED: "gpu signature",
    ReportFault.WRONG_FWID: "gpu firmware id",
    ReportFault.UNNAMED_FWID: "gpu firmware id",
    ReportFault.TRUNCATED: "gpu evidence",
    ReportFault.TRAILING: "gpu evidence",
    ReportFault.LONG_RECORD: "gpu evidence",
    ReportFault.LONG_BLOCK: "gpu evidence",
    ReportFault.LONG_OPAQUE: "gpu evidence",
    ReportFault.LONG_FIELD: "gpu evidence",
    ReportFault.TWICE_MEASURED: "gpu evidence",
    ReportFault.TWICE_NAMED: "gpu evidence",
    ReportFault.OTHER_MESSAGE: "gpu evidence",
}
RIM_INDICES = {RimFault.CONFLICTING: "gpu manifest indices"}
RIMS = [fault for fault in RimFault if fault not in {RimFault.NONE, *RIM_INDICES}]
CHAINS = [fault for fault in ChainFault if fault is not ChainFault.NONE]
OCSPS = [fault for fault in OcspFault if fault is not OcspFault.NONE]
SUBJECTS = {
    "identity": {"gpu certificate revocation"},
    "provisioner": {"gpu certificate revocation"},
    "device": {"gpu certificate revocation"},
    "rim-ca": {"gpu driver manifest revocation", "gpu vbios manifest revocation"},
    "rim-issuer": {"gpu driver manifest revocation", "gpu vbios manifest revocation"},
    "driver": {"gpu driver manifest revocation"},
    "vbios": {"gpu vbios manifest revocation"},
}


@pytest.fixture(scope="module")
def vendor() -> GpuVendor:
    """One vendor for all rows: making roots is most of the work."""
    return GpuVendor(lambda: NOW)


@pytest.fixture
def machine(vendor: GpuVendor) -> Callable[..., SyntheticGpus]:
    def make(count: int = 1, *, switches: int = 0, **fields: Any) -> SyntheticGpus:
        attack = GpuAttack(**fields)
        return SyntheticGpus(count, attack=attack, switches=switches, clock=lambda: NOW, vendor=vendor)

    return make


async def judged(world: SyntheticGpus) -> list[DeviceJudgement]:
    rims, ocsp = world.rims(), world.ocsp()
    return [
        judge_device(evidence, nonce=NONCES[index], roots=world.roots(), rims=rims, ocsp=ocsp, now=NOW, index=index)
        for index, evidence in enumerate(await world.collect(NONCES.__getitem__))
    ]


async def failing(world: SyntheticGpus) -> list[set[str]]:
    """Names of the checks that each device failed; a device fails none exactly if it has claims."""
    found = await judged(world)
    assert all((one.claims is None) == bool(one.failed) for one in found)
    return [{check.name for check in one.failed} for one in found]


async def test_honest_machines_pass(machine: Callable[..., SyntheticGpus]) -> None:
    """The control of every row."""
    assert await failing(machine(2, switches=2)) == [set()] * 4
    alone = (await judged(machine(1)))[0].claims
    assert alone is not None
    assert (alone.driver, alone.vbios, alone.cc_mode, alone.devtools_mode) == (
        "550.90.07",
        "96.00.9F.00.01",
        True,
        False,
    )
    assert len(alone.unchecked) == 31


async def test_claims_tell_devices_apart(machine: Callable[..., SyntheticGpus]) -> None:
    world = machine(2, switches=1)
    claims = [one.claims for one in await judged(world)]
    assert tuple(one.device_id for one in claims if one) == world.device_ids
    gpus, switch = [one for one in claims[:2] if one], claims[2]
    assert switch is not None
    assert {one.pdi for one in gpus} <= switch.peers
    assert all(one.peers == {switch.pdi} for one in gpus)


@pytest.mark.parametrize(("fault", "check"), REPORTS.items(), ids=lambda row: getattr(row, "name", None))
async def test_a_bad_report_is_refused(machine: Callable[..., SyntheticGpus], fault: ReportFault, check: str) -> None:
    assert await failing(machine(2, report=fault)) == [{check}, set()]


@pytest.mark.parametrize(
    "fault", [fault for fault in ChainFault if fault is not ChainFault.NONE], ids=lambda one: one.name
)
async def test_a_bad_chain_is_refused(machine: Callable[..., SyntheticGpus], fault: ChainFault) -> None:
    assert await failing(machine(2, chain=fault, target=1)) == [set(), {"gpu certificate chain"}]


SWITCH_REPORTS = {
    fault: check
    for fault, check in REPORTS.items()
    if fault not in {ReportFault.WRONG_FWID, ReportFault.TWICE_NAMED}  # a switch's report has neither field
}


@pytest.mark.parametrize(("fault", "check"), SWITCH_REPORTS.items(), ids=lambda row: getattr(row, "name", None))
async def test_a_bad_report_of_a_switch_is_refused(
    machine: Callable[..., SyntheticGpus], fault: ReportFault, check: str
) -> None:
    assert await failing(machine(1, switches=2, report=fault, target=1)) == [set(), {check}, set()]


@pytest.mark.parametrize("fault", CHAINS, ids=lambda one: one.name)
async def test_a_bad_chain_of_a_switch_is_refused(machine: Callable[..., SyntheticGpus], fault: ChainFault) -> None:
    assert await failing(machine(1, switches=1, chain=fault, target=1)) == [set(), {"gpu certificate chain"}]


@pytest.mark.parametrize("role", ["driver", "vbios"])
@pytest.mark.parametrize("fault", [*RIMS, *RIM_INDICES], ids=lambda one: one.name)
async def test_a_bad_manifest_is_refused(machine: Callable[..., SyntheticGpus], fault: RimFault, role: str) -> None:
    check = RIM_INDICES.get(fault, f"gpu {role} manifest")
    assert await failing(machine(rim=fault, rim_of=role)) == [{check}]


@pytest.mark.parametrize("fault", OCSPS, ids=lambda one: one.name)
async def test_a_certificate_without_a_good_answer_is_refused(
    machine: Callable[..., SyntheticGpus], fault: OcspFault
) -> None:
    assert await failing(machine(2, ocsp=fault)) == [{"gpu certificate revocation"}, set()]


@pytest.mark.parametrize("fault", [OcspFault.REVOKED, OcspFault.ON_HOLD], ids=lambda one: one.name)
@pytest.mark.parametrize(("subject", "checks"), SUBJECTS.items())
async def test_every_certificate_can_be_withdrawn(
    machine: Callable[..., SyntheticGpus], fault: OcspFault, subject: str, checks: set[str]
) -> None:
    assert await failing(machine(ocsp=fault, ocsp_of=subject)) == [checks]


@pytest.mark.parametrize("index", [0, 9, 12, 21, 40])
async def test_another_measurement_is_refused(machine: Callable[..., SyntheticGpus], index: int) -> None:
    """Index 9 is the one that operators meet: it covers the confidential-computing mode."""
    (first, second) = await judged(machine(2, mismatched=(index,)))
    assert [(check.name, f"index {index}" in check.seen) for check in first.failed] == [("gpu measurements", True)]
    assert not second.failed


async def test_another_measurement_of_a_switch_is_refused(machine: Callable[..., SyntheticGpus]) -> None:
    assert await failing(machine(1, switches=1, mismatched=(4,), target=1)) == [set(), {"gpu measurements"}]
    assert await failing(machine(1, switches=1, mismatched=(7,), target=1)) == [set(), set()]


async def test_an_unnamed_index_is_said_to_be_unchecked(machine: Callable[..., SyntheticGpus]) -> None:
    """Control of the row above: no manifest speaks of index 50, so nobody can say what it should be; it is listed."""
    (only,) = await judged(machine(mismatched=(50,)))
    assert not only.failed
    assert [check.name for check in only.checks if not check.checked] == [
        "gpu measurements without reference",
        "gpu measurements without reference",
    ]


async def test_developer_tools_are_refused(machine: Callable[..., SyntheticGpus]) -> None:
    (only,) = await judged(machine(mode=Mode.DEVTOOLS))
    assert [check.name for check in only.failed] == ["gpu measurements"]
    assert "devtools" in only.failed[0].hint


async def test_without_confidential_computing_there_is_no_evidence(machine: Callable[..., SyntheticGpus]) -> None:
    with pytest.raises(CollectionError, match="not in confidential-computing mode"):
        await judged(machine(mode=Mode.OFF))


async def test_blackwell_is_recognised_and_refused(vendor: GpuVendor) -> None:
    world = SyntheticGpus(architecture="blackwell", clock=lambda: NOW, vendor=vendor)
    (only,) = await judged(world)
    assert [check.name for check in only.failed] == ["gpu architecture"]
    assert "Blackwell" in only.failed[0].hint


async def test_evidence_is_good_at_its_index_only(machine: Callable[..., SyntheticGpus]) -> None:
    """Two devices' evidence with their places exchanged: each answers the other's nonce (class 1)."""
    world = machine(2)
    shown = list(await world.collect(NONCES.__getitem__))
    rims, ocsp = world.rims(), world.ocsp()
    for order, expected in ((shown, set()), (shown[::-1], {"gpu nonce"})):
        for index, evidence in enumerate(order):
            one = judge_device(evidence, nonce=NONCES[index], roots=world.roots(), rims=rims, ocsp=ocsp, now=NOW)
            assert {check.name for check in one.failed} == expected


async def test_a_genuine_gpu_of_another_machine_passes_alone(machine: Callable[..., SyntheticGpus]) -> None:
    """Equal nonces prove no place: what refuses it is the binding to the quote and the rules over the set (class 1)."""
    honest, relayed = machine(2), machine(2, device=DeviceFault.RELAYED)
    assert await failing(relayed) == [set(), set()]
    (first, second) = [one.claims for one in await judged(relayed)]
    assert first is not None
    assert second is not None
    assert first.device_id not in relayed.device_ids
    assert second.device_id in relayed.device_ids
    assert {one.claims.device_id for one in await judged(honest) if one.claims} == set(honest.device_ids)


async def test_one_device_shown_twice_has_one_identity(machine: Callable[..., SyntheticGpus]) -> None:
    """Each report passes alone, with its own nonce; the rule over the set sees one device (class 1)."""
    claims = [one.claims for one in await judged(machine(2, device=DeviceFault.DUPLICATED))]
    assert len({one.device_id for one in claims if one}) == 1
    claims = [one.claims for one in await judged(machine(2))]
    assert len({one.device_id for one in claims if one}) == 2


@pytest.mark.parametrize(
    ("fields", "count"), [({}, 4), ({"missing": 1}, 3), ({"extra": 1}, 5), ({"missing_switches": 1}, 3)]
)
async def test_a_machine_may_show_fewer_or_more(
    machine: Callable[..., SyntheticGpus], fields: dict[str, int], count: int
) -> None:
    found = await judged(machine(2, switches=2, **fields))
    assert len(found) == count
    assert not any(one.failed for one in found)
