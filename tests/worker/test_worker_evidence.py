"""Stapled collateral: for this machine's platform, or none and a word about it."""

from __future__ import annotations

from appliance.lab.tee import SyntheticTdx
from appliance.worker.evidence import staple
from attestation.batch import EvidenceMaker
from attestation.claims import WorkloadStatement
from attestation.errors import CollateralError
from attestation.platforms import FakeTdx
from attestation.policy import for_name
from attestation.ratls import Identity
from attestation.verifier import Verifier


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
    plain = await Identity.create(None)
    assert await staple(lambda: plain.certificate, None)() is None
    assert await staple(lambda: plain.certificate, Source(b"{}"))() is None, "a certificate without a quote"
    fake = await Identity.create(FakeTdx())
    source = Source(b"{}")
    assert await staple(lambda: fake.certificate, source)() is None, "a quote that names no platform"
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
    for with_source, accepted in ((source, True), (None, False)):
        maker = EvidenceMaker(
            Machine(world),
            identity,
            statement=lambda: statement,
            block_hash=lambda: b"\2" * 32,
            collateral=staple(lambda: identity.certificate, with_source),
        )
        bundle = await maker.bundle(b"\3" * 32)
        verdict = await verifier.verify_bundle(bundle, nonce=b"\3" * 32, public_key=identity.public_key)
        assert verdict.accepted == accepted, verdict.explain()
        await maker.close()
    assert source.asked


async def test_a_source_that_fails_costs_the_staple_only() -> None:
    identity = await Identity.create(Machine(SyntheticTdx()))
    source = Source(None)
    assert await staple(lambda: identity.certificate, source)() is None
    assert len(source.asked) == 1
