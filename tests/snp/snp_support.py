"""Helpers that the tests of this room share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from appliance.lab.snp_machine import LEVELS
from appliance.lab.snp_world import SnpAttack, SnpMachine, SnpPki, SyntheticSnp
from attestation.rules import AllOf, Subject
from attestation.snp import reader
from attestation.snp.rules import snp_rules
from attestation.verdict import NO_ATTESTATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.claims import WorkloadStatement
    from attestation.rules import Rule
    from attestation.snp.tcb import Product
    from attestation.verdict import Check

NOW = 1_795_000_000.0
"""A fixed clock (November 2026)."""

REPORT_DATA = bytes(range(64))
ALL_PRODUCTS = frozenset(LEVELS)
_pkis: dict[Product, SnpPki] = {}


def pki(product: Product) -> SnpPki:
    """AMD's keys for a product, made once: their making is slow."""
    if product not in _pkis:
        _pkis[product] = SnpPki(product, NOW)
    return _pkis[product]


def world(attack: SnpAttack | None = None, **machine: Any) -> SyntheticSnp:
    described = SnpMachine(**machine)
    return SyntheticSnp(attack, machine=described, pki=pki(described.product), clock=lambda: NOW)


def strict(machine: SyntheticSnp, **changes: Any) -> tuple[Rule, ...]:
    """Rules that pin all there is to pin to the machine as it was ordered."""
    settings: dict[str, Any] = {
        "tcb_minimum": {machine.machine.product: LEVELS[machine.machine.product]},
        "measurements": frozenset({machine.machine.measurement}),
        "machines": frozenset({machine.chip_id}),
    }
    return snp_rules(**{**settings, **changes})


def judge(
    evidence: bytes,
    collateral: bytes | None,
    roots: frozenset[bytes],
    rules: Sequence[Rule],
    *,
    report_data: bytes = REPORT_DATA,
    statement: WorkloadStatement | None = None,
    now: float = NOW,
) -> tuple[Check, ...]:
    """Everything that reader and rules say."""
    found, checks = reader.read(evidence, collateral, roots, now)
    if found is None:
        assert any(not check.passed for check in checks)
        return checks
    assert all(check.passed for check in checks)
    subject = Subject(
        report=None,
        claims=None,
        image_hash=found.image_hash or NO_ATTESTATION,
        report_data=report_data,
        now=now,
        statement=statement,
        snp=found,
    )
    return (*checks, *AllOf(tuple(rules)).appraise(subject).checks)


def judge_world(machine: SyntheticSnp, rules: Sequence[Rule] | None = None, **options: Any) -> tuple[Check, ...]:
    rules = strict(machine) if rules is None else rules
    return judge(machine.evidence(REPORT_DATA), machine.collateral(), machine.roots, rules, **options)


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if not check.passed}
