"""Bundles and certificates of both clouds' machines, from the guest's side to a verdict, and what breaks them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, TypeAlias

import pytest
from cloud_support import BOOTED, MEASURED, REFERENCE

from appliance.lab.cloud_world_azure import PARAVISOR, AzureAttack, AzureWorld
from appliance.lab.cloud_world_gcp import GcpAttack, GcpWorld
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import SyntheticTdx
from appliance.lab.tee_faults import Faults
from attestation import claims, policy
from attestation.azure import references as azure
from attestation.claims import WorkloadStatement
from attestation.collateral import StaticCollateral
from attestation.collateral.sources import Sources
from attestation.evidence import build_bundle
from attestation.gcp import references as gcp
from attestation.gcp.evidence import parse_gcp
from attestation.policy_file import load_policy
from attestation.ratls import Identity
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.lab.snp_world import SnpPki
    from attestation.policy import Policy
    from attestation.verdict import CheckGroup, Verdict

NONCE = bytes(range(32))
Machine: TypeAlias = "AzureWorld | GcpWorld"


class AmdSource:
    """Collateral of one processor, as a verifier's own source would have it."""

    def __init__(self, snp: SyntheticSnp) -> None:
        self._snp = snp

    async def get(self, product: str, chip_id: bytes, tcb: object, *, vlek: bool, leaf: bytes | None = None) -> bytes:
        assert (product, chip_id, vlek) == ("Genoa", self._snp.chip_id, False)
        return self._snp.collateral()


@pytest.fixture
def azure_machine(genoa: SnpPki) -> AzureWorld:
    return AzureWorld(BOOTED, SyntheticSnp(machine=PARAVISOR, pki=genoa))


@pytest.fixture
def google_machine(tdx: SyntheticTdx) -> GcpWorld:
    return GcpWorld(BOOTED, tdx, ecc=True)


def image_of(machine: Machine) -> bytes:
    if isinstance(machine, AzureWorld):
        return azure.image_hash(machine.snp.machine.measurement, BOOTED.registers)
    quote = parse_gcp(machine.evidence(bytes(64))).tdx
    identity = None if quote is None else claims.image_hash(parse_quote(quote).report.measurements)
    return gcp.image_hash(BOOTED.registers, identity)


def policy_for(machine: Machine, tdx: SyntheticTdx) -> Policy:
    if isinstance(machine, AzureWorld):
        return policy.for_name("simulated", snp_roots=[machine.snp.root_der], tpm_references=[REFERENCE])
    return policy.for_name(
        "simulated", simulated_roots=[tdx.root_der], gcp_roots=machine.roots, tpm_references=[REFERENCE]
    )


def collateral_of(machine: Machine, tdx: SyntheticTdx) -> Staple:
    return (
        Staple(snp=machine.snp.collateral()) if isinstance(machine, AzureWorld) else Staple(tdx=tdx.collateral_json())
    )


async def made(machine: Machine, who: Identity, tdx: SyntheticTdx, *, image: bytes | None = None) -> bytes:
    async def staple(quote: bytes, devices: Sequence[bytes]) -> Staple:
        return collateral_of(machine, tdx)

    statement = WorkloadStatement(image=image or image_of(machine), measured_config=MEASURED)
    return await build_bundle(machine, who, statement, NONCE, b"", staple=staple)


async def judged(machine: Machine, tdx: SyntheticTdx) -> Verdict:
    who = await Identity.create(machine)
    bundle = await made(machine, who, tdx)
    return await Verifier(policy_for(machine, tdx)).verify_bundle(bundle, nonce=NONCE, public_key=who.public_key)


def groups(tree: CheckGroup) -> set[str]:
    below = [item for item in tree.checks if not hasattr(item, "hint")]
    return {tree.name}.union(*(groups(item) for item in below))  # type: ignore[arg-type] # a node is no check


@pytest.fixture(params=["azure", "gcp"])
def machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.getfixturevalue("azure_machine" if request.param == "azure" else "google_machine")
    return found


async def test_a_bundle_is_accepted_offline(machine: Machine, tdx: SyntheticTdx) -> None:
    verdict = (await judged(machine, tdx)).require()
    assert verdict.image_hash == image_of(machine)
    assert len(verdict.machine) in {32, 64}
    assert verdict.assurance == "none", "a synthetic root proves nothing to a stranger"
    assert {"platform", "vtpm", "processor", "workload"} <= groups(verdict.tree)


async def test_a_certificate_is_accepted(machine: Machine, tdx: SyntheticTdx) -> None:
    who = await Identity.create(machine)
    sources = Sources(tdx=StaticCollateral(tdx.collateral_json()))
    if isinstance(machine, AzureWorld):
        bare = await Verifier(policy_for(machine, tdx), sources).verify_certificate(who.certificate)
        assert {check.name for check in bare.failed} == {"revocation"}, "Azure keeps no revocation list"
        sources = Sources(tdx=sources.tdx, snp=AmdSource(machine.snp))
    verdict = await Verifier(policy_for(machine, tdx), sources).verify_certificate(who.certificate)
    assert verdict.require().image_hash == image_of(machine)


async def test_a_policy_that_rests_on_the_makers_refuses_a_synthetic_machine(
    machine: Machine, tdx: SyntheticTdx
) -> None:
    who = await Identity.create(machine)
    bundle = await made(machine, who, tdx)
    for name, check in (("hardware", {"certificate chain", "attestation key certificate"}), ("tdx", {"quote"})):
        verifier = Verifier(policy.for_name(name))
        verdict = await verifier.verify_bundle(bundle, nonce=NONCE, public_key=who.public_key)
        assert {item.name for item in verdict.failed} & check, name


async def test_another_image_than_the_stated_one_is_refused(machine: Machine, tdx: SyntheticTdx) -> None:
    who = await Identity.create(machine)
    bundle = await made(machine, who, tdx, image=bytes(range(32)))
    verifier = Verifier(policy_for(machine, tdx))
    verdict = await verifier.verify_bundle(bundle, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in verdict.failed} == {"statement image"}


async def test_one_changed_byte_is_seen(machine: Machine, tdx: SyntheticTdx) -> None:
    who = await Identity.create(machine)
    bundle = await made(machine, who, tdx)
    verifier = Verifier(policy_for(machine, tdx))
    assert (await verifier.verify_bundle(bundle, nonce=NONCE, public_key=who.public_key)).accepted
    for offset in range(0, len(bundle), 397):
        altered = bytearray(bundle)
        altered[offset] ^= 4
        verdict = await verifier.verify_bundle(bytes(altered), nonce=NONCE, public_key=who.public_key)
        assert not verdict.accepted, offset


@pytest.mark.parametrize(
    ("attack", "check"),
    [
        (AzureAttack(report_of_another=True), "runtime data"),
        (AzureAttack(replayed=True), "report data"),
        (AzureAttack(stale_report=True), "user data"),
        (AzureAttack(tdx=True), "paravisor hardware"),
    ],
)
async def test_an_attack_on_azures_evidence_reaches_the_verdict(
    genoa: SnpPki, tdx: SyntheticTdx, attack: AzureAttack, check: str
) -> None:
    snp = SyntheticSnp(machine=PARAVISOR, pki=genoa)
    verdict = await judged(AzureWorld(BOOTED, snp, attack=attack), tdx)
    assert check in {item.name for item in verdict.failed}
    assert (await judged(AzureWorld(BOOTED, snp), tdx)).accepted


@pytest.mark.parametrize(
    ("attack", "check"),
    [
        (GcpAttack(foreign_root=True), "attestation key certificate"),
        (GcpAttack(replayed=True), "report data"),
        (GcpAttack(td_of_another=True), "report data"),
        (GcpAttack(td_missing=True), "confidential machine"),
    ],
)
async def test_an_attack_on_googles_evidence_reaches_the_verdict(
    tdx: SyntheticTdx, attack: GcpAttack, check: str
) -> None:
    verdict = await judged(GcpWorld(BOOTED, tdx, ecc=True, attack=attack), tdx)
    assert check in {item.name for item in verdict.failed}
    assert (await judged(GcpWorld(BOOTED, tdx, ecc=True), tdx)).accepted


class Logging(GcpWorld):
    """A Google machine whose TDX log is there, too, as :class:`attestation.platforms.gcp.Gcp` gathers it."""

    def __init__(self, tdx: SyntheticTdx, *, log: bool = True) -> None:
        super().__init__(BOOTED, tdx, ecc=True)
        self.tdx, self.log = tdx, log

    async def event_log(self) -> bytes | None:
        return self.tdx.event_log() if self.log else None


def failing(verdict: Verdict) -> set[tuple[str, str]]:
    return {(check.group, check.name) for check in verdict.failed}


@pytest.mark.parametrize(
    ("faults", "wrong"),
    [
        (Faults(log_edited=True), {"event log"}),
        (Faults(log_foreign=True), {"event log"}),
        (Faults(unlogged_extend=True), {"event log", "rtmr3 log"}),
    ],
)
async def test_the_log_of_a_google_machines_td_is_judged(faults: Faults, wrong: set[str]) -> None:
    """Control: the same machine with the log of what it booted."""
    honest, lying = SyntheticTdx(), SyntheticTdx(faults)
    good = await judged(Logging(honest), honest)
    assert good.require().accepted
    named = {check.name: check for check in good.checks if check.group == "event log"}
    assert set(named) == {"event log", "rtmr3 log"}
    assert named["event log"].checked
    assert failing(await judged(Logging(lying), lying)) == {("event log", name) for name in wrong}


def test_a_policys_file_may_demand_the_log_of_a_google_machines_td(tmp_path: Path) -> None:
    tdx = SyntheticTdx()
    for required, log, wrong in (
        (False, False, set()),
        (True, True, set()),
        (True, False, {("event log", "event log")}),
    ):
        machine = Logging(tdx, log=log)
        for name, root in (("tdx", tdx.root_der), ("gcp", machine.roots[0])):
            (tmp_path / f"{name}.der").write_bytes(root)
        path = tmp_path / "policy.json"
        document = {"name": "logs", "platforms": ["gcp"], "event_log": {"required": required}}
        path.write_text(json.dumps({**document, "simulated": {"tdx": ["tdx.der"], "gcp": ["gcp.der"]}}))

        async def verdict(machine: Logging = machine, path: Path = path) -> Verdict:
            who = await Identity.create(machine)
            verifier = Verifier(load_policy(path))
            return await verifier.verify_bundle(await made(machine, who, tdx), nonce=NONCE, public_key=who.public_key)

        assert failing(asyncio.run(verdict())) == wrong
