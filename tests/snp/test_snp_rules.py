"""What a policy may demand of an SEV-SNP machine, option by option; what it leaves open is listed as unchecked."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from snp_support import NOW, REPORT_DATA, failed, judge_world, world

from appliance.lab.snp_machine import LEVELS, SnpMachine
from appliance.lab.snp_world import SnpAttack
from attestation.rules import AllOf, Subject
from attestation.snp import Product, snp_rules
from attestation.snp.machine_rules import SnpGuestPolicy, SnpPlatform, SnpPrivilege, SnpTcbMinimum
from attestation.snp.report import GuestPolicy, PlatformInfo
from attestation.snp.rules import SnpIdKeys, SnpMachines, SnpMeasurements, SnpRevocation

POLICY, INFO = SnpMachine().policy, SnpMachine().platform_info
GUEST_OPTIONS: list[tuple[dict[str, Any], int, str]] = [
    ({"allow_smt": False}, POLICY & ~GuestPolicy.SMT, "smt policy"),
    ({"require_single_socket": True}, POLICY | GuestPolicy.SINGLE_SOCKET, "single socket policy"),
    ({"require_aes_256": True}, POLICY | GuestPolicy.MEM_AES_256_XTS, "memory cipher policy"),
    ({"require_rapl_disabled": True}, POLICY | GuestPolicy.RAPL_DIS, "power readings policy"),
    ({"require_ciphertext_hiding": True}, POLICY | GuestPolicy.CIPHERTEXT_HIDING_DRAM, "ciphertext hiding policy"),
    ({"require_no_page_swap": True}, POLICY | GuestPolicy.PAGE_SWAP_DISABLE, "page swap policy"),
    ({"min_abi": (1, 55)}, POLICY | 1 << 8 | 55, "firmware abi policy"),
]
PLATFORM_OPTIONS: list[tuple[dict[str, Any], int, str]] = [
    ({"allow_smt": False}, INFO & ~PlatformInfo.SMT_EN, "smt"),
    ({"require_tsme": True}, INFO | PlatformInfo.TSME_EN, "memory encryption of the host"),
    ({"require_rapl_disabled": True}, INFO | PlatformInfo.RAPL_DIS, "power readings off"),
    ({"require_ciphertext_hiding": True}, INFO | PlatformInfo.CIPHERTEXT_HIDING_DRAM_EN, "ciphertext hiding"),
]


@pytest.mark.parametrize(("options", "right", "name"), GUEST_OPTIONS, ids=str)
def test_what_may_be_demanded_of_the_guests_policy(options: dict[str, Any], right: int, name: str) -> None:
    rule = SnpGuestPolicy(**options)
    assert failed(judge_world(world(policy=right), (rule,))) == set()
    assert failed(judge_world(world(), (rule,))) == {name}
    left_open = judge_world(world(), (SnpGuestPolicy(),))
    assert [(check.passed, check.checked) for check in left_open if check.name == name] == [(True, False)]


def test_every_option_of_the_guests_policy_is_tried() -> None:
    tried = {name for options, _, _ in GUEST_OPTIONS for name in options}
    assert tried | {"allow_cxl"} == {item.name for item in fields(SnpGuestPolicy)}


@pytest.mark.parametrize(("options", "right", "name"), PLATFORM_OPTIONS, ids=str)
def test_what_may_be_demanded_of_the_machine(options: dict[str, Any], right: int, name: str) -> None:
    rule = SnpPlatform(**options)
    assert failed(judge_world(world(platform_info=right), (rule,))) == set()
    assert failed(judge_world(world(), (rule,))) == {name}


def test_every_option_of_the_machine_is_tried() -> None:
    tried = {name for options, _, _ in PLATFORM_OPTIONS for name in options}
    assert tried | {"require_alias_check", "require_ecc"} == {item.name for item in fields(SnpPlatform)}


def test_ecc_and_alias_check() -> None:
    rule = SnpPlatform(require_ecc=True)
    assert failed(judge_world(world(), (rule,))) == set()
    assert failed(judge_world(world(platform_info=INFO & ~PlatformInfo.ECC_EN), (rule,))) == {"ecc memory"}
    unchecked = world(SnpAttack(aliases_unchecked=True))
    said = judge_world(unchecked, (SnpPlatform(require_alias_check=False),))
    assert failed(said) == set()
    assert [check.checked for check in said if check.name == "memory alias check"] == [False]


def test_cxl_is_refused_unless_it_is_allowed() -> None:
    machine = world(policy=POLICY | GuestPolicy.CXL_ALLOW)
    assert failed(judge_world(machine, (SnpGuestPolicy(),))) == {"cxl policy"}
    assert failed(judge_world(machine, (SnpGuestPolicy(allow_cxl=True),))) == set()


def test_the_bit_that_is_always_one() -> None:
    machine = world(policy=POLICY & ~GuestPolicy.RESERVED_ONE)
    assert failed(judge_world(machine, (SnpGuestPolicy(),))) == {"policy bits"}


@pytest.mark.parametrize("level", ["bootloader", "tee", "snp", "microcode"])
def test_one_level_below_its_minimum_is_enough(level: str) -> None:
    machine = world()
    at = machine.tcb.levels
    passing = SnpTcbMinimum({Product.GENOA: at})
    demanding = SnpTcbMinimum({Product.GENOA: {**at, level: at[level] + 1}})
    assert failed(judge_world(machine, (passing,))) == set()
    said = judge_world(machine, (demanding,))
    assert failed(said) == {"tcb", "committed tcb", "launch tcb"}
    assert all(level in check.hint for check in said if not check.passed)


def test_a_minimum_of_another_product_leaves_the_level_unchecked() -> None:
    for minimum in ({}, {Product.TURIN: {"snp": 200}}, {Product.GENOA: {}}):
        said = judge_world(world(), (SnpTcbMinimum(minimum),))
        assert failed(said) == set()
        assert [check.checked for check in said if check.name == "tcb"] == [False]


def test_the_minimum_is_taken_from_the_certificate() -> None:
    """Class 15: firmware that claims more than it is certified for does not get past the reader, let alone the rule."""
    minimum = SnpTcbMinimum({Product.GENOA: {**LEVELS[Product.GENOA], "microcode": 85}})
    claims_more = world(SnpAttack(inflated_tcb=True))
    assert failed(judge_world(claims_more, (minimum,))) == {"reported tcb"}


def test_another_privilege_level_can_be_demanded() -> None:
    below = world(SnpAttack(vmpl=2))
    assert failed(judge_world(below, (SnpPrivilege(2),))) == set()
    assert failed(judge_world(world(), (SnpPrivilege(2),))) == {"vmpl"}
    assert failed(judge_world(below, snp_rules(vmpl=2))) == set()


def test_every_rule_refuses_where_nothing_was_verified() -> None:
    rules = snp_rules(
        measurements=frozenset(), machines=frozenset(), tcb_minimum={Product.GENOA: {"snp": 1}}, products=None
    )
    nothing = Subject(
        report=None, claims=None, image_hash=bytes(32), report_data=REPORT_DATA, now=NOW, statement=None, snp=None
    )
    for rule in rules:
        checks = rule.appraise(nothing).checks
        assert not checks or not any(check.passed for check in checks), rule
    assert not AllOf(rules).appraise(nothing).passed


def test_production_rules_judge_or_list_every_bit_and_field_and_say_why() -> None:
    said = judge_world(world(version=5), snp_rules())
    assert failed(said) == set()
    assert {check.name for check in said if not check.checked} == {
        "tcb", "smt", "ecc memory", "memory encryption of the host", "power readings off", "ciphertext hiding",
        "smt policy", "single socket policy", "memory cipher policy", "power readings policy", "page swap policy",
        "ciphertext hiding policy", "firmware abi policy",
        "firmware version", "current tcb", "id block", "trusted io", "iommu", "mitigations",
    }  # fmt: skip
    silent = {check.name for check in said if check.checked and not check.why}
    assert silent == set()


def test_rules_are_values() -> None:
    assert SnpMeasurements(frozenset({bytes(48)})) == SnpMeasurements(frozenset({bytes(48)}))
    assert len({SnpRevocation(), SnpRevocation(True), SnpIdKeys(), SnpMachines(frozenset()), SnpTcbMinimum()}) == 4
