"""Every attack on an SEV-SNP machine that can be staged: refused by the right check, beside a control that passes."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import pytest
from snp_support import ALL_PRODUCTS, NOW, REPORT_DATA, failed, judge, judge_world, strict, world

from appliance.lab.snp_world import SnpAttack
from attestation.claims import WorkloadStatement
from attestation.snp import AMD_ROOTS, Product, SnpEvidence, reader
from attestation.snp.rules import SnpIdKeys, SnpMachines, SnpSigner

CONFIGURATION = hashlib.sha256(b"the measured configuration").digest()
ATTACKS: list[tuple[dict[str, Any], set[str]]] = [
    # class 3: debug
    ({"debug_policy": True}, {"debug policy"}),
    # class 4: migration
    ({"migration_policy": True}, {"migration policy"}),
    ({"migration_agent": True}, {"migration agent"}),
    # class 5: patch level, collateral
    ({"outdated_tcb": True}, {"tcb", "committed tcb", "launch tcb"}),
    ({"uncommitted_tcb": True}, {"committed tcb"}),
    ({"old_launch": True}, {"launch tcb"}),
    ({"revoked_issuer": True}, {"revocation"}),
    ({"stale_crl": True}, {"revocation"}),
    ({"future_crl": True}, {"revocation"}),
    ({"forged_crl": True}, {"revocation"}),
    ({"missing_crl": True}, {"revocation"}),
    ({"expired_certificate": True}, {"certificate chain"}),
    ({"foreign_chain": True}, {"certificate chain"}),
    ({"foreign_issuer": True}, {"certificate chain"}),
    # class 9: another machine's key
    ({"other_chip_certificate": True}, {"report signature", "chip id"}),
    ({"masked_chip": True}, {"chip id"}),
    ({"replay": True}, {"report data"}),
    # class 11: a processor whose seed is out, saying that it is another
    ({"disguise": Product.MILAN}, {"processor"}),
    # class 12: BadRAM
    ({"aliases_unchecked": True}, {"memory alias check"}),
    # class 13: parsers
    ({"cut": 1}, {"snp evidence"}),
    ({"cut": 1183}, {"snp evidence"}),
    ({"trailing": 1}, {"snp evidence"}),
    ({"reserved_bytes": True}, {"snp evidence"}),
    # class 15: patch level from self-reported firmware
    ({"inflated_tcb": True}, {"reported tcb"}),
    # what else a host or a neighbour can do
    ({"vmpl": 1}, {"vmpl"}),
    ({"unknown_policy_bit": True}, {"policy bits"}),
    ({"unknown_platform_bit": True}, {"platform bits"}),
    ({"forged_signature": True}, {"report signature"}),
    ({"altered_measurement": True}, {"report signature"}),
    ({"claims_cloud_key": True}, {"signing key"}),
    ({"other_image": True}, {"measurement"}),
    ({"stranger_id_key": True}, {"id key"}),
]


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
@pytest.mark.parametrize("provider", ["", "lab cloud"])
def test_the_control_passes(product: Product, version: int, provider: str) -> None:
    checks = judge_world(world(product=product, version=version, provider=provider))
    assert failed(checks) == set()
    assert {"certificate chain", "report signature", "memory alias check", "tcb"} <= {check.name for check in checks}


@pytest.mark.parametrize("kind", [{"product": Product.GENOA}, {"product": Product.TURIN, "version": 5}], ids=str)
@pytest.mark.parametrize(("attack", "names"), ATTACKS, ids=lambda value: "-".join(value) if value else "")
def test_an_attack_is_refused_by_name(attack: dict[str, Any], names: set[str], kind: dict[str, Any]) -> None:
    assert failed(judge_world(world(SnpAttack(**attack), **kind))) == names
    assert failed(judge_world(world(SnpAttack(), **kind))) == set()


def test_every_attack_of_the_world_is_staged() -> None:
    elsewhere = {"other_configuration"}  # below: it needs a statement
    assert {name for attack, _ in ATTACKS for name in attack} | elsewhere == {item.name for item in fields(SnpAttack)}


def test_every_refusal_explains_itself() -> None:
    for attack, names in ATTACKS:
        for check in judge_world(world(SnpAttack(**attack))):
            if check.name in names:
                assert check.seen, check
                assert check.expected, check
                assert check.seen != check.expected, check


def test_milan_is_refused_with_the_reason() -> None:
    """Class 11: everything holds, and still nothing is proven."""
    machine = world(product=Product.MILAN)
    checks = judge_world(machine)
    assert failed(checks) == {"product"}
    said = next(check for check in checks if check.name == "product")
    assert said.seen == "EPYC Milan"
    assert "seed can be extracted" in said.hint
    assert failed(judge_world(machine, strict(machine, products=ALL_PRODUCTS))) == set()
    assert failed(judge_world(world(product=Product.GENOA))) == set()


def test_a_milan_report_of_version_2_cannot_hide_behind_its_silence() -> None:
    checks = judge_world(world(product=Product.MILAN, version=2))
    assert failed(checks) == {"product"}
    assert [check.checked for check in checks if check.name == "processor"] == [False]


def statement(image: bytes, configuration: bytes = CONFIGURATION) -> WorkloadStatement:
    return WorkloadStatement(image=image, measured_config=configuration)


def test_host_data_is_the_stated_configuration_or_nothing() -> None:
    for given in (CONFIGURATION, bytes(32)):
        machine = world(host_data=given)
        assert failed(judge_world(machine, statement=statement(bytes(32)))) == set()
    attacked = world(SnpAttack(other_configuration=True), host_data=CONFIGURATION)
    assert failed(judge_world(attacked, statement=statement(bytes(32)))) == {"host data"}
    assert failed(judge_world(attacked)) == set()  # without a statement the image hash pins it …
    seen, _ = reader.read(attacked.evidence(REPORT_DATA), attacked.collateral(), attacked.roots, NOW)
    honest = world(host_data=CONFIGURATION)
    right, _ = reader.read(honest.evidence(REPORT_DATA), honest.collateral(), honest.roots, NOW)
    assert seen is not None
    assert right is not None
    assert seen.image_hash != right.image_hash  # … which is another one


def test_the_synthetic_root_is_not_amds() -> None:
    machine = world()
    checks = judge(machine.evidence(REPORT_DATA), machine.collateral(), AMD_ROOTS, strict(machine))
    assert failed(checks) == {"certificate chain"}
    assert "not trusted" in checks[0].seen


def test_the_hosts_certificates_serve_and_lack_the_revocation_list() -> None:
    machine = world()
    assert failed(judge(machine.evidence(REPORT_DATA), None, machine.roots, strict(machine))) == {"revocation"}
    lenient = strict(machine, require_revocation_list=False)
    checks = judge(machine.evidence(REPORT_DATA), None, machine.roots, lenient)
    assert failed(checks) == set()
    assert [check.checked for check in checks if check.name == "revocation"] == [False]
    bare = world(host_certificates=False)
    assert failed(judge(bare.evidence(REPORT_DATA), None, bare.roots, lenient)) == {"snp collateral"}


def test_stapled_certificates_of_another_machine_do_not_fit() -> None:
    machine, other = world(), world()
    checks = judge(machine.evidence(REPORT_DATA), other.collateral(), machine.roots, strict(machine))
    assert failed(checks) == {"report signature", "chip id"}


def test_a_listed_machine_and_a_stranger() -> None:
    machine = world(product=Product.TURIN)
    short = frozenset({machine.chip_id[:8]})  # as AMD's service names the chip
    assert failed(judge_world(machine, (SnpMachines(short),))) == set()
    assert failed(judge_world(machine, (SnpMachines(frozenset({world().chip_id})),))) == {"machine"}
    masked = world(SnpAttack(masked_chip=True), provider="lab cloud")
    assert failed(judge_world(masked, (SnpMachines(frozenset({bytes(64)})),))) == {"machine"}


def test_a_cloud_has_to_be_an_allowed_one() -> None:
    machine = world(provider="lab cloud")
    for rule, names in (
        (SnpSigner(), set()),
        (SnpSigner(providers=frozenset({"lab cloud"})), set()),
        (SnpSigner(providers=frozenset({"another"})), {"signer"}),
        (SnpSigner(providers=frozenset()), {"signer"}),
    ):
        assert failed(judge_world(machine, (rule,))) == names
    assert failed(judge_world(world(), (SnpSigner(chips=False),))) == {"signer"}


def test_id_keys_are_none_or_listed() -> None:
    key, other = hashlib.sha384(b"ours").digest(), hashlib.sha384(b"theirs").digest()
    for seen, rule, names in (
        (bytes(48), SnpIdKeys(), set()),
        (bytes(48), SnpIdKeys(frozenset({key})), set()),
        (bytes(48), SnpIdKeys(frozenset({key}), required=True), {"id key"}),
        (key, SnpIdKeys(frozenset({key}), required=True), set()),
        (key, SnpIdKeys(), {"id key"}),
        (other, SnpIdKeys(frozenset({key})), {"id key"}),
    ):
        assert failed(judge_world(world(id_key_digest=seen), (rule,))) == names


def test_one_flipped_bit_anywhere_in_the_report_is_refused() -> None:
    machine = world()
    report, collateral = machine.report(REPORT_DATA), machine.collateral()
    rules = strict(machine)
    assert failed(judge(SnpEvidence(report).encode(), collateral, machine.roots, rules)) == set()
    for byte in range(0, len(report), 7):
        flipped = bytearray(report)
        flipped[byte] ^= 1 << byte % 8
        assert failed(judge(SnpEvidence(bytes(flipped)).encode(), collateral, machine.roots, rules)), byte
