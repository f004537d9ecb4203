"""Google's evidence, and every way to falsify it that can be staged; each has the untouched evidence as its control."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import cbor2
import pytest
from cloud_support import BOOTED, OTHER_PREDICTION, PREDICTION, REFERENCE, judge_gcp, statement, tdx_rules
from cryptography import x509

from appliance.lab.cloud_world_gcp import INSTANCE, GcpAttack, GcpWorld
from appliance.lab.tee import SyntheticTdx
from attestation import cbor, claims
from attestation.gcp.evidence import parse_gcp
from attestation.gcp.references import image_hash
from attestation.gcp.roots import GOOGLE_ROOT_KEY_IDS
from attestation.gcp.rules import InstancePlace, gcp_rules
from attestation.tdx import parse_quote
from attestation.tpm.chain import root_key_id

if TYPE_CHECKING:
    from collections.abc import Callable

YEAR = 366 * 86400.0


@pytest.fixture(scope="module", params=[False, True], ids=["rsa", "p-256"])
def honest(request: pytest.FixtureRequest, tdx: SyntheticTdx) -> GcpWorld:
    return GcpWorld(BOOTED, tdx, ecc=request.param)


@pytest.fixture(scope="module")
def plain() -> GcpWorld:
    """A machine that is no TDX guest."""
    return GcpWorld(BOOTED, None, ecc=True)


def test_an_honest_machine_is_accepted(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    judged = judge_gcp(honest, tdx, question)
    assert judged.failed == []
    quote = parse_gcp(honest.evidence(question)).tdx
    assert quote is not None
    assert judged.machine == INSTANCE.machine
    identity = claims.image_hash(parse_quote(quote).report.measurements)
    assert judged.image_hash == image_hash(BOOTED.registers, identity)
    assert judged.expires_at < time.time() + YEAR
    assert {"tpm", "attestation key revocation"} <= set(judged.unchecked)


def test_its_certificate_form_is_accepted(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    judged = judge_gcp(honest, tdx, question, fresh=False)
    assert judged.failed == []
    assert "event log" in judged.unchecked
    assert len(honest.evidence(question, fresh=False)) < 16 * 1024


def test_a_vtpm_alone_is_too_little_unless_a_policy_takes_it(plain: GcpWorld, question: bytes) -> None:
    demanding = gcp_rules(references=(REFERENCE,))
    assert judge_gcp(plain, None, question, rules=demanding).failed == ["confidential machine"]
    lenient = gcp_rules(references=(REFERENCE,), demand_tdx=False)
    judged = judge_gcp(plain, None, question, rules=lenient)
    assert judged.failed == []
    assert "confidential machine" in judged.unchecked


def test_an_image_that_firmware_measured_elsewhere_is_not_the_listed_one(plain: GcpWorld, question: bytes) -> None:
    """Firmware of Intel machines leaves 4 to whoever runs there; the control is a machine that measures into 4."""
    itself = OTHER_PREDICTION.events[4][2]
    forged = replace(BOOTED, prediction=replace(PREDICTION, events={2: (itself,), **PREDICTION.events}))
    other = GcpWorld(forged, None, ecc=True)
    assert {number for number, value in forged.registers.items() if value != BOOTED.registers[number]} == {2}
    rules = gcp_rules(references=(REFERENCE,), demand_tdx=False)
    honest, judged = (judge_gcp(world, None, question, rules=rules) for world in (plain, other))
    assert honest.failed == []
    assert judged.failed == ["PCR 2 (code of devices; on Google's Intel machines image and kernel)"]
    assert judged.image_hash != honest.image_hash
    stated = replace(REFERENCE, registers={**REFERENCE.registers, 2: forged.registers[2]})
    rules = gcp_rules(references=(stated,), demand_tdx=False)
    assert judge_gcp(other, None, question, rules=rules).failed == []


ATTACKS = {
    "foreign_root": "attestation key certificate",
    "endorsement_certificate": "attestation key certificate",
    "other_certificate": "certified key",
    "no_instance": "instance",
    "test_instance": "instance on production hosts",
    "other_vtpm": "quote signature",
    "unrestricted_key": "attestation key",
    "replayed": "report data",
    "register_altered": "register digest",
    "log_altered": "event log",
    "td_of_another": "report data",
    "td_missing": "confidential machine",
}


@pytest.mark.parametrize(("field", "check"), ATTACKS.items())
def test_an_attack_is_refused(tdx: SyntheticTdx, question: bytes, field: str, check: str) -> None:
    """The control, the same machine without the attack, is ``test_an_honest_machine_is_accepted``."""
    world = GcpWorld(BOOTED, tdx, ecc=True, attack=GcpAttack(**{field: True}))
    rules = gcp_rules(tdx=tdx_rules(tdx), references=(REFERENCE,))
    assert judge_gcp(world, tdx, question, rules=rules).failed == [check]


def test_every_attack_of_the_world_is_in_the_table() -> None:
    assert {field.name for field in fields(GcpAttack)} == set(ATTACKS)


def test_the_td_of_the_listed_image_beside_the_vtpm_of_another_is_not_listed(
    tdx: SyntheticTdx, question: bytes
) -> None:
    listed = judge_gcp(GcpWorld(BOOTED, tdx, ecc=True), tdx, question).image_hash
    other = GcpWorld(replace(BOOTED, prediction=OTHER_PREDICTION), tdx, ecc=True)
    rules = gcp_rules(tdx=tdx_rules(tdx))
    judged = judge_gcp(other, tdx, question, rules=rules)
    assert judged.failed == [], "without references the image hash alone says"
    assert judged.image_hash != listed
    assert judge_gcp(other, tdx, question, rules=rules, said=statement(listed)).failed == ["statement image"]


def test_a_debug_td_is_refused_by_the_rules_for_tds(question: bytes) -> None:
    tdx = SyntheticTdx(registers={"td_attributes": (1 << 28 | 1 << 63).to_bytes(8, "little")})
    world = GcpWorld(BOOTED, tdx, ecc=True)
    assert judge_gcp(world, tdx, question).failed == ["td_attributes"]


def test_a_td_quote_needs_a_policy_that_trusts_its_root(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    assert judge_gcp(honest, None, question).failed == ["quote"]
    stranger = SyntheticTdx()
    assert judge_gcp(honest, stranger, question).failed == ["quote"]


def test_a_root_can_be_pinned_by_its_key(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    root = x509.load_der_x509_certificate(honest.roots[0])
    assert judge_gcp(honest, tdx, question, roots=(root_key_id(root),)).failed == []
    refused = judge_gcp(honest, tdx, question, roots=GOOGLE_ROOT_KEY_IDS)
    assert refused.failed == ["attestation key certificate"]


def test_a_pinned_root_has_to_have_signed_itself(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    """Whoever only knows the pinned key cannot make a certificate of it that says what they like."""
    evidence = parse_gcp(honest.evidence(question))
    leaf, issuer, _ = evidence.tpm.chain
    pinned = (root_key_id(x509.load_der_x509_certificate(issuer)),)
    cut = replace(evidence, tpm=replace(evidence.tpm, chain=(leaf, issuer))).encode()
    assert judge_gcp(honest, tdx, question, data=cut, roots=pinned).failed == ["attestation key certificate"]


def test_certificates_end(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    judged = judge_gcp(honest, tdx, question, now=time.time() + YEAR)
    assert judged.failed == ["attestation key certificate"]


def test_places_can_be_demanded(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    def failed(place: InstancePlace) -> list[str]:
        rules = gcp_rules(tdx=tdx_rules(tdx), references=(REFERENCE,), place=place)
        return judge_gcp(honest, tdx, question, rules=rules).failed

    here = InstancePlace(
        projects=frozenset({INSTANCE.project_id}),
        zones=frozenset({INSTANCE.zone}),
        machines=frozenset({INSTANCE.machine}),
    )
    assert failed(here) == []
    assert failed(replace(here, projects=frozenset({"another"}))) == ["project"]
    assert failed(replace(here, zones=frozenset({"moon-a"}))) == ["zone"]
    assert failed(replace(here, machines=frozenset({bytes(32)}))) == ["instance"]


def _fields(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        value = cbor2.loads(data)
        change(value)
        return cbor.encode(value)

    return changed


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "trailing": lambda data: data + b"\0",
    "another version": _fields(lambda value: value.update(version=True)),
    "another kind": _fields(lambda value: value.update(kind="tpm")),
    "a field more": _fields(lambda value: value.update(more=1)),
    "a field less": _fields(lambda value: value.pop("tdx")),
    "a quote that is text": _fields(lambda value: value.update(tdx="quote")),
    "a quote that is too long": _fields(lambda value: value.update(tdx=bytes(40_000))),
    "an empty vtpm": _fields(lambda value: value.update(tpm=b"")),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_evidence_is_a_failed_check(
    honest: GcpWorld, tdx: SyntheticTdx, question: bytes, change: Callable[[bytes], bytes]
) -> None:
    data = honest.evidence(question)
    assert judge_gcp(honest, tdx, question, data=data).failed == []
    assert judge_gcp(honest, tdx, question, data=change(data)).failed == ["google evidence"]


def test_a_chain_that_is_left_out_is_a_failed_check(honest: GcpWorld, tdx: SyntheticTdx, question: bytes) -> None:
    evidence = parse_gcp(honest.evidence(question))
    bare = replace(evidence, tpm=replace(evidence.tpm, chain=())).encode()
    assert judge_gcp(honest, tdx, question, data=bare).failed == ["attestation key certificate"]
