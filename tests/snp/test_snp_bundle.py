"""A bundle and a certificate of an SEV-SNP machine, from the guest's side to a verdict, and what breaks them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from snp_support import NOW, world

from appliance.lab.snp_world import SnpAttack, SyntheticSnp
from attestation import cbor, policy
from attestation.claims import WorkloadStatement
from attestation.collateral.sources import Sources
from attestation.errors import CollateralError
from attestation.evidence import build_bundle, parse_bundle
from attestation.ratls import Identity
from attestation.snp import Product, reader
from attestation.snp.collateral import SnpCollateral
from attestation.staple import Staple
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from attestation.verdict import Verdict

CONFIGURATION = hashlib.sha256(b"the measured configuration").digest()
NONCE = bytes(range(32))


class Source:
    """Collateral of one machine, as a verifier's own source would have it."""

    def __init__(self, machine: SyntheticSnp) -> None:
        self._machine = machine
        self.asked: list[tuple[str, bytes, bool]] = []

    async def get(
        self, product: str, chip_id: bytes, tcb: Mapping[str, int] | bytes, *, vlek: bool, leaf: bytes | None = None
    ) -> bytes:
        self.asked.append((product, chip_id, vlek))
        if tcb != self._machine.tcb.raw:
            raise CollateralError("no certificate for this patch level")
        return self._machine.collateral()


def machine(attack: SnpAttack | None = None, **described: Any) -> SyntheticSnp:
    return world(attack, **{"host_data": CONFIGURATION, **described})


async def identity(of: SyntheticSnp) -> Identity:
    return await Identity.create(of, clock=lambda: NOW)


def statement(of: SyntheticSnp, configuration: bytes = CONFIGURATION) -> WorkloadStatement:
    found, _ = reader.read(of.evidence(bytes(64)), of.collateral(), of.roots, NOW)
    image = found.image_hash if found else bytes(32)
    return WorkloadStatement(image=image, measured_config=configuration)


async def bundle(of: SyntheticSnp, who: Identity, *, stapled: bool = True) -> bytes:
    async def staple(quote: bytes, devices: Sequence[bytes]) -> Staple:
        return Staple(snp=of.collateral())

    return await build_bundle(of, who, statement(of), NONCE, b"", staple=staple if stapled else None, made_at=NOW)


def verifier(of: SyntheticSnp, sources: Sources | None = None) -> Verifier:
    simulated = policy.for_name("simulated", snp_roots=[of.root_der])
    return Verifier(simulated, sources, clock=lambda: NOW)


async def judged(of: SyntheticSnp) -> Verdict:
    who = await identity(of)
    return await verifier(of).verify_bundle(await bundle(of, who), nonce=NONCE, public_key=who.public_key)


@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
@pytest.mark.parametrize("provider", ["", "lab cloud"])
async def test_a_bundle_is_accepted_offline(product: Product, provider: str) -> None:
    of = machine(product=product, provider=provider)
    verdict = (await judged(of)).require()
    assert verdict.image_hash == statement(of).image
    assert verdict.machine == of.chip_id
    assert verdict.root_key_id in of.roots
    assert verdict.assurance == "none"  # a synthetic root proves nothing to a stranger
    assert NOW < verdict.expires_at < float("inf")


async def test_a_verifiers_own_source_serves_a_bare_bundle() -> None:
    of = machine()
    who = await identity(of)
    bare = await bundle(of, who, stapled=False)
    source = Source(of)
    verdict = await verifier(of, Sources(snp=source)).verify_bundle(bare, nonce=NONCE, public_key=who.public_key)
    assert verdict.require().accepted
    assert source.asked == [("Genoa", of.chip_id, False)]
    alone = await verifier(of).verify_bundle(bare, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in alone.failed} == {"revocation"}  # the host's certificates come without a list


class WithoutList(Source):
    """A source that AMD's list cannot be had from."""

    async def get(
        self, product: str, chip_id: bytes, tcb: Mapping[str, int] | bytes, *, vlek: bool, leaf: bytes | None = None
    ) -> bytes:
        return replace(SnpCollateral.parse(await super().get(product, chip_id, tcb, vlek=vlek)), crl=None).encode()


async def test_a_stapled_revocation_list_serves_where_our_own_source_has_none() -> None:
    """Control: the same source and the bundle without anything stapled."""
    of = machine()
    who = await identity(of)
    judge = verifier(of, Sources(snp=WithoutList(of)))
    verdict = await judge.verify_bundle(await bundle(of, who), nonce=NONCE, public_key=who.public_key)
    assert verdict.require().accepted
    bare = await bundle(of, who, stapled=False)
    alone = await judge.verify_bundle(bare, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in alone.failed} == {"revocation"}


async def test_a_stapled_list_is_checked_like_any_other_and_a_strangers_is_not_taken() -> None:
    of = machine()
    own = replace(SnpCollateral.parse(of.collateral()), crl=None)
    forged = SnpCollateral.parse(machine(SnpAttack(forged_crl=True)).collateral())
    with_forged = own.with_revocation_list_of(forged)
    found, checks = reader.read(of.evidence(bytes(64)), with_forged.encode(), of.roots, NOW)
    assert found is None
    assert {check.name for check in checks if not check.passed} == {"revocation"}
    assert own.with_revocation_list_of(SnpCollateral.parse(machine(product=Product.TURIN).collateral())) is own
    assert with_forged.with_revocation_list_of(SnpCollateral.parse(of.collateral())) is with_forged


async def test_a_certificate_is_accepted() -> None:
    of = machine()
    certificate = (await identity(of)).certificate
    verdict = await verifier(of, Sources(snp=Source(of))).verify_certificate(certificate)
    assert verdict.require().machine == of.chip_id


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (SnpAttack(debug_policy=True), "debug policy"),
        (SnpAttack(aliases_unchecked=True), "memory alias check"),
        (SnpAttack(inflated_tcb=True), "reported tcb"),
        (SnpAttack(revoked_issuer=True), "revocation"),
        (SnpAttack(replay=True), "report data"),
        (SnpAttack(vmpl=1), "vmpl"),
        (SnpAttack(other_configuration=True), "host data"),
    ],
)
async def test_an_attack_reaches_the_verdict(attack: SnpAttack, name: str) -> None:
    verdict = await judged(machine(attack))
    assert not verdict.accepted
    assert name in {check.name for check in verdict.failed}
    assert (await judged(machine())).accepted


async def test_milan_is_refused_by_the_policies_in_a_verdict_that_says_why() -> None:
    verdict = await judged(machine(product=Product.MILAN))
    assert {check.name for check in verdict.failed} == {"product"}
    assert "seed can be extracted" in " ".join(verdict.explain())


async def test_another_image_than_the_stated_one_is_refused() -> None:
    of, honest = machine(SnpAttack(other_image=True)), machine()
    who = await identity(of)
    told = await build_bundle(of, who, statement(honest), NONCE, b"", made_at=NOW)
    verdict = await verifier(of, Sources(snp=Source(of))).verify_bundle(told, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in verdict.failed} == {"statement image"}


async def test_a_policy_that_rests_on_the_makers_refuses_a_synthetic_machine() -> None:
    of = machine()
    who = await identity(of)
    made = await bundle(of, who)
    production = Verifier(policy.for_name("hardware"), clock=lambda: NOW)
    verdict = await production.verify_bundle(made, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in verdict.failed} == {"certificate chain"}
    intel_alone = Verifier(policy.for_name("tdx"), clock=lambda: NOW)
    assert not (await intel_alone.verify_bundle(made, nonce=NONCE, public_key=who.public_key)).accepted


async def test_one_changed_byte_of_what_was_stapled_or_shown_is_seen() -> None:
    of = machine()
    who = await identity(of)
    made = await bundle(of, who)
    judge = verifier(of)
    assert (await judge.verify_bundle(made, nonce=NONCE, public_key=who.public_key)).accepted
    for offset in range(0, len(made), 97):
        altered = bytearray(made)
        altered[offset] ^= 4
        assert not (await judge.verify_bundle(bytes(altered), nonce=NONCE, public_key=who.public_key)).accepted, offset


async def test_evidence_of_the_wrong_kind_of_map_is_refused() -> None:
    of = machine()
    who = await identity(of)
    parsed = parse_bundle(await bundle(of, who))
    value = cbor.decode(parsed.quote, max_length=64 * 1024)

    class Lying:
        name = "snp"

        async def collect(self, report_data: bytes) -> bytes:
            return cbor.encode({**value, "kind": "other"})

    told = await build_bundle(Lying(), who, statement(of), NONCE, b"", made_at=NOW)
    verdict = await verifier(of).verify_bundle(told, nonce=NONCE, public_key=who.public_key)
    assert {check.name for check in verdict.failed} == {"quote"}
