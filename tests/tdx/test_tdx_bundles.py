"""From the machine to the verdict: logs in bundles, attacks on them, and what a machine list adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tdx_support import NOW

from appliance.lab.tee import Faults, SyntheticTdx
from attestation import claims, evidence, policy
from attestation.claims import WorkloadStatement
from attestation.collateral import StaticCollateral
from attestation.ratls import Identity
from attestation.rules import AllOf
from attestation.tdx import parse_quote
from attestation.tdx_log_rules import BootSequence, EventDigests
from attestation.tdx_rules import MachineListed
from attestation.verdict import CheckGroup
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from attestation.rules import Rule
    from attestation.verdict import Verdict

NONCE = b"\x4e" * 32
HEALTHY = SyntheticTdx(clock=lambda: NOW)
KERNEL = frozenset({HEALTHY.log.registers[1][0].digest})


@dataclass
class Machine:
    """A guest's platform that answers in this process."""

    world: SyntheticTdx
    name: str = "tdx"

    async def collect(self, report_data: bytes) -> bytes:
        return self.world.quote(report_data)

    async def event_log(self) -> bytes | None:
        return self.world.event_log()


async def verdict_of(
    world: SyntheticTdx, *rules: Rule, identity: Identity | None = None, judge: SyntheticTdx | None = None
) -> Verdict:
    """A fresh bundle of the machine, judged under the simulated policy."""
    identity = identity or await Identity.create(Machine(world), clock=lambda: NOW)
    image = claims.image_hash(parse_quote(world.quote(bytes(64))).report.measurements)
    statement = WorkloadStatement(image=image, measured_config=b"\x0c" * 32)
    bundle = await evidence.build_bundle(Machine(world), identity, statement, NONCE, b"", made_at=NOW - 5)
    judge = judge or world
    chosen = policy.for_name("simulated", simulated_roots=(judge.root_der,)).demanding(*rules)
    verifier = Verifier(chosen, StaticCollateral(judge.collateral_json()), clock=lambda: NOW)
    return await verifier.verify_bundle(bundle, nonce=NONCE, public_key=identity.public_key)


async def test_a_log_is_a_group_of_the_verdict(machine: SyntheticTdx) -> None:
    verdict = (await verdict_of(machine, BootSequence())).require()
    groups = {item.name: item for item in verdict.tree.checks if isinstance(item, CheckGroup)}
    names = [check.name for check in groups["event log"].checks]
    assert names[:2] == ["event log", "rtmr3 log"]
    assert {"separators", "exit boot services"} <= set(names)
    assert "22 events lead to the four registers" in "\n".join(verdict.explain())


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        ("log_edited", {"event log", "rtmr1 events", "separators"}),
        ("log_cut", {"event log", "rtmr1 events", "separators"}),
        ("log_foreign", {"event log", "rtmr1 events", "separators"}),
        ("unlogged_extend", {"event log", "rtmr3 log", "separators"}),
        ("duplicate_separator", {"separators"}),
        ("no_exit_boot_services", {"exit boot services"}),
        ("log_rewritten", set()),
    ],
)
async def test_a_bundle_with_a_log_that_lies_is_refused(fault: str, checks: set[str]) -> None:
    """The control is ``log_rewritten``: names and texts alone are others, and nothing rests on them."""
    rules = AllOf((EventDigests(register=1, required={0: KERNEL}), BootSequence()))
    verdict = await verdict_of(SyntheticTdx(Faults(**{fault: True}), clock=lambda: NOW), rules)  # type: ignore[arg-type]  # every one is a flag
    assert {check.name for check in verdict.failed} == checks
    assert verdict.accepted is not bool(checks)


async def test_a_key_that_leaked_speaks_for_no_other_machine_on_a_list(machine: SyntheticTdx) -> None:
    """Class 9: another machine of the same image holds the key, so its evidence is as good but for the list."""
    identity = await Identity.create(Machine(machine), clock=lambda: NOW)
    relay = machine.neighbour()
    assert (await verdict_of(relay, identity=identity, judge=machine)).accepted
    listed = MachineListed(frozenset({machine.ppid}))
    assert (await verdict_of(machine, listed, identity=identity)).accepted
    refused = await verdict_of(relay, listed, identity=identity, judge=machine)
    assert [check.name for check in refused.failed] == ["machine"]


async def test_a_machine_without_a_log_says_so(machine: SyntheticTdx, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(_: Machine) -> None:
        return None

    monkeypatch.setattr(Machine, "event_log", none)
    verdict = await verdict_of(HEALTHY)
    check = next(item for item in verdict.checks if item.name == "event log")
    assert (verdict.accepted, check.checked) == (True, False)
    assert [item.name for item in (await verdict_of(machine)).failed] == ["rtmr3 log"]
