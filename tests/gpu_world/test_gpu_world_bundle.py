"""GPUs in a bundle: what binds them to the machine and to each other (attack class 1), through the whole verifier.

Each attack differs from its control, the first test, in one word.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
import structlog

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import DeviceFault, GpuAttack, Mode, OcspFault, ReportFault, RimFault
from appliance.lab.gpu_world_vendor import GpuVendor
from appliance.lab.tee import SyntheticTdx
from attestation import cbor, claims, policy
from attestation.claims import WorkloadStatement
from attestation.collateral import StaticCollateral
from attestation.evidence import build_bundle, parse_bundle
from attestation.gpu.rules import GpuCount, SwitchCount, gpu_rules
from attestation.gpu.versions import DriverRange, VbiosRange
from attestation.ratls import Identity
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attestation.verdict import Verdict

NOW = float(int(time.time()))
NONCE = b"\x4e" * 32


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The development policies warn; that is not what these tests are about."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()


class Platform:
    """A simulated TDX machine that answers in this process."""

    name = "simulated"

    def __init__(self, tdx: SyntheticTdx) -> None:
        self.tdx = tdx

    async def collect(self, report_data: bytes) -> bytes:
        return self.tdx.quote(report_data)


@dataclass
class Machine:
    """A platform with GPUs, and what is stapled."""

    gpus: SyntheticGpus
    platform: Platform
    identity: Identity

    @property
    def tdx(self) -> SyntheticTdx:
        return self.platform.tdx

    async def bundle(self, devices: Any = None, *, shows: bool = True, engine: dict[str, Any] | None = None) -> bytes:
        async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
            return Staple(rims=self.gpus.rims(), ocsp=self.gpus.ocsp())

        image = claims.image_hash(parse_quote(self.tdx.quote(bytes(64))).report.measurements)
        statement = WorkloadStatement(image=image, measured_config=bytes(32), engine=engine or {})
        return await build_bundle(
            self.platform,
            self.identity,
            statement,
            NONCE,
            b"",
            devices=(devices or self.gpus) if shows else None,
            staple=staple,
            made_at=NOW,
        )


@pytest.fixture(scope="module")
def vendor() -> GpuVendor:
    return GpuVendor(lambda: NOW)


@pytest.fixture(scope="module")
def tdx() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


@pytest.fixture
def machine(vendor: GpuVendor, tdx: SyntheticTdx) -> Callable[..., Any]:
    async def make(count: int = 2, *, switches: int = 0, **attack: Any) -> Machine:
        gpus = SyntheticGpus(count, attack=GpuAttack(**attack), switches=switches, clock=lambda: NOW, vendor=vendor)
        platform = Platform(tdx)
        return Machine(gpus, platform, await Identity.create(platform, clock=lambda: NOW))

    return make


async def judged(machine: Machine, bundle: bytes, **rules: Any) -> Verdict:
    chosen = policy.for_name("simulated", simulated_roots=(machine.tdx.root_der,), gpu_roots=machine.gpus.roots())
    wanted = {"count": GpuCount(2, 2), **rules}
    verifier = Verifier(
        chosen.demanding(*gpu_rules(**wanted)), StaticCollateral(machine.tdx.collateral_json()), clock=lambda: NOW
    )
    return await verifier.verify_bundle(bundle, nonce=NONCE, public_key=machine.identity.public_key)


def failed(verdict: Verdict) -> set[str]:
    """Failed checks by name; a device that does not verify fails every rule over the set, which is left out here."""
    return {check.name for check in verdict.failed if check.seen != "no verified devices"}


async def test_honest_machines_are_accepted(machine: Callable[..., Any]) -> None:
    alone, linked = await machine(), await machine(switches=2)
    for one, rules in ((alone, {}), (linked, {"switches": SwitchCount(2)})):
        allowed = frozenset(one.gpus.device_ids)
        verdict = await judged(one, await one.bundle(), devices=allowed, **rules)
        assert not verdict.failed
        assert verdict.devices is not None
        assert tuple(device.device_id for device in verdict.devices) == one.gpus.device_ids


async def test_a_relayed_gpu_is_not_on_the_list(machine: Callable[..., Any]) -> None:
    """A genuine GPU elsewhere answers the same nonce: only the list of devices keeps it out, and a policy says so."""
    honest, relayed = await machine(), await machine(device=DeviceFault.RELAYED)
    for one, expected in ((honest, set()), (relayed, {"devices listed"})):
        verdict = await judged(one, await one.bundle(), devices=frozenset(one.gpus.device_ids))
        assert failed(verdict) == expected
    unlisted = await judged(relayed, await relayed.bundle())
    assert not unlisted.failed
    assert "devices listed" in {check.name for check in unlisted.checks if not check.checked}


async def test_a_relayed_gpu_does_not_hang_on_the_switches(machine: Callable[..., Any]) -> None:
    """With switches, their signed reports name the machine's GPUs: no list is needed."""
    for fault, expected in ((DeviceFault.NONE, set()), (DeviceFault.RELAYED, {"gpu links"})):
        one = await machine(switches=2, device=fault)
        assert failed(await judged(one, await one.bundle())) == expected


async def test_gpus_swapped_after_the_quote_are_refused(machine: Callable[..., Any]) -> None:
    """Good evidence of other GPUs with the right nonces, signed into the bundle anew: the quote covers the first."""
    one, other = await machine(), await machine()
    bundle = await one.bundle()
    nonce = parse_bundle(bundle).device_nonce
    for source, expected in ((None, set()), (other.gpus, {"report data"})):
        content = cbor2.loads(bundle)
        if source is not None:
            content["gpu"] = list(await source.collect(nonce))
            content["collateral"] = Staple(rims=source.rims(), ocsp=source.ocsp()).to_value()
        del content["signature"]
        content["signature"] = one.identity.sign(b"chrysalis evidence bundle v2\0" + cbor.encode(content))
        assert failed(await judged(one, cbor.encode(content))) == expected


async def test_evidence_made_for_another_guest_is_refused(machine: Callable[..., Any]) -> None:
    """A GPU answers for a guest with other keys, at the same nonce of the verifier: its own nonce differs."""

    class Asked:
        """Asks the GPUs with the nonces of another guest."""

        async def collect(self, _: Callable[[int], bytes]) -> Sequence[bytes]:
            return await one.gpus.collect(parse_bundle(elsewhere).device_nonce)

    one, other = await machine(), await machine()
    elsewhere = await other.bundle()
    assert not (await judged(one, await one.bundle())).failed
    assert failed(await judged(one, await one.bundle(Asked()))) == {"gpu nonce"}


async def test_one_gpu_that_answers_for_two_is_refused(machine: Callable[..., Any]) -> None:
    for fault, expected in ((DeviceFault.NONE, set()), (DeviceFault.DUPLICATED, {"devices distinct"})):
        one = await machine(device=fault)
        assert failed(await judged(one, await one.bundle())) == expected


@pytest.mark.parametrize(
    ("attack", "switches", "check"),
    [
        ({"missing": 1}, 0, {"gpu count"}),
        ({"extra": 1}, 0, {"gpu count"}),
        ({"missing": 1}, 2, {"gpu count", "gpu links"}),
        ({"extra": 1}, 2, {"gpu count", "gpu links"}),
        ({"missing_switches": 1}, 2, {"gpu links", "switch count"}),
        ({"missing_switches": 2}, 2, {"gpu links", "switch count"}),
        ({"unlocked": True}, 2, {"gpu links"}),
        ({"unlinked": True}, 2, {"gpu links"}),
        ({"device": DeviceFault.RELAYED, "target": 2}, 2, {"gpu links"}),
        ({"device": DeviceFault.DUPLICATED, "target": 2}, 2, {"devices distinct", "gpu links"}),
    ],
)
async def test_other_devices_and_links_are_refused(
    machine: Callable[..., Any], attack: dict[str, int], switches: int, check: set[str]
) -> None:
    control, one = await machine(switches=switches), await machine(switches=switches, **attack)
    rules = {"switches": SwitchCount(switches)}
    assert not (await judged(control, await control.bundle(), **rules)).failed
    assert failed(await judged(one, await one.bundle(), **rules)) == check


@pytest.mark.parametrize(
    ("rules", "check"),
    [
        ({"driver": DriverRange(least="570.00")}, {"gpu driver"}),
        ({"driver": DriverRange(refused=frozenset({"550.90.07"}))}, {"gpu driver"}),
        ({"vbios": VbiosRange(least="96.00.CF.00.00")}, {"gpu vbios"}),
        ({"driver": DriverRange(least="550.90.07"), "vbios": VbiosRange(most="96.00.9F.00.01")}, set()),
    ],
)
async def test_versions_are_kept_to(machine: Callable[..., Any], rules: dict[str, Any], check: set[str]) -> None:
    one = await machine()
    assert failed(await judged(one, await one.bundle(), **rules)) == check


@pytest.mark.parametrize(
    ("attack", "check"),
    [
        ({"report": ReportFault.REPLAYED}, {"gpu nonce"}),
        ({"report": ReportFault.BAD_SIGNATURE}, {"gpu signature"}),
        ({"ocsp": OcspFault.ON_HOLD}, {"gpu certificate revocation"}),
        ({"rim": RimFault.EXPIRED}, {"gpu vbios manifest"}),
        ({"rim": RimFault.OTHER_VERSION}, {"gpu vbios manifest"}),
        ({"rim": RimFault.DUPLICATE_INDEX}, {"gpu vbios manifest"}),
        ({"mode": Mode.DEVTOOLS}, {"gpu measurements"}),
    ],
)
async def test_a_bad_device_refuses_the_bundle(
    machine: Callable[..., Any], attack: dict[str, Any], check: set[str]
) -> None:
    one = await machine(**attack)
    verdict = await judged(one, await one.bundle())
    assert failed(verdict) == check
    assert not verdict.accepted


async def test_a_release_policy_trusts_no_synthetic_vendor(machine: Callable[..., Any]) -> None:
    """The policy for production refuses every device of this world by its root, and the machine as well."""
    one = await machine()
    verifier = Verifier(policy.for_name("tdx"), StaticCollateral(one.tdx.collateral_json()), clock=lambda: NOW)
    verdict = await verifier.verify_bundle(await one.bundle(), nonce=NONCE, public_key=one.identity.public_key)
    assert "gpu certificate chain" in {check.name for check in verdict.failed}
    assert not verdict.accepted


async def test_a_simulated_policy_without_their_root_trusts_no_gpus(machine: Callable[..., Any]) -> None:
    one = await machine()
    chosen = policy.for_name("simulated", simulated_roots=(one.tdx.root_der,))
    verifier = Verifier(chosen, StaticCollateral(one.tdx.collateral_json()), clock=lambda: NOW)
    verdict = await verifier.verify_bundle(await one.bundle(), nonce=NONCE, public_key=one.identity.public_key)
    assert {check.name for check in verdict.failed} == {"gpu evidence"}


@pytest.mark.parametrize(("shows", "computes", "holds"), [(True, 2, True), (True, 3, False), (False, 2, False)])
async def test_a_machine_that_hides_its_gpus_is_refused(
    machine: Callable[..., Any], *, shows: bool, computes: int, holds: bool
) -> None:
    """The statement says on how many GPUs the engine computes: as many have to be shown, with no rule about a count."""
    one = await machine()
    bundle = await one.bundle(shows=shows, engine={"device": "cuda", "tensor_parallel": computes})
    chosen = policy.for_name("simulated", simulated_roots=(one.tdx.root_der,), gpu_roots=one.gpus.roots())
    verifier = Verifier(chosen, StaticCollateral(one.tdx.collateral_json()), clock=lambda: NOW)
    verdict = await verifier.verify_bundle(bundle, nonce=NONCE, public_key=one.identity.public_key)
    assert failed(verdict) == (set() if holds else {"stated devices"})
