"""Machines of both clouds, and how their evidence is judged here: reader and rules as policies put them together."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parents[1] / "measurements"))

from measure_support import uki

from appliance.lab.paper_tpm import Booted
from attestation.azure import reader as azure_reader
from attestation.azure.rules import azure_rules
from attestation.claims import WorkloadStatement
from attestation.gcp import reader as gcp_reader
from attestation.gcp.rules import gcp_rules
from attestation.readers import DcapReader
from attestation.rules import AllOf, Subject
from attestation.tdx_rules import RootKey, TcbStatus
from attestation.tpm.references import TpmReference
from measurements import tpm as predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.lab.cloud_world_azure import AzureWorld
    from appliance.lab.cloud_world_gcp import GcpWorld
    from appliance.lab.tee import SyntheticTdx
    from attestation.rules import Rule
    from attestation.verdict import Check

MEASURED = bytes(range(32))
"""Digest of the measured configuration of the machines made here."""

PREDICTION = predictor.predict(uki(), boot="disk")
OTHER_PREDICTION = predictor.predict(uki({".uname": b"6.13.0"}), boot="disk")
BOOTED = Booted(PREDICTION, MEASURED)
REFERENCE = TpmReference("release 1", {**PREDICTION.registers, 14: predictor.configuration_register(MEASURED)})


@dataclass(frozen=True)
class Judged:
    """What reader and rules said.

    Attributes:
        checks: All of them, the reader's first.
        image_hash: Zeros where the reader refused.
        machine: Likewise empty.
        expires_at: Zero where the reader refused.
    """

    checks: tuple[Check, ...]
    image_hash: bytes = bytes(32)
    machine: bytes = b""
    expires_at: float = 0.0

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if not check.passed]

    @property
    def unchecked(self) -> list[str]:
        return [check.name for check in self.checks if not check.checked]

    def of(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)


def statement(image: bytes, measured: bytes = MEASURED) -> WorkloadStatement:
    return WorkloadStatement(image=image, measured_config=measured)


def subject_of(report_data: bytes, image: bytes, said: WorkloadStatement | None, now: float) -> Subject:
    return Subject(None, None, image, report_data, now, said)


def judge_azure(
    world: AzureWorld,
    report_data: bytes,
    *,
    data: bytes | None = None,
    fresh: bool = True,
    rules: Sequence[Rule] | None = None,
    roots: frozenset[bytes] | None = None,
    collateral: bytes | bool | None = True,
    said: WorkloadStatement | None = None,
    now: float | None = None,
) -> Judged:
    """Judge what a machine shows; ``collateral`` is its processor's unless it is given or ``None``."""
    now = time.time() if now is None else now
    evidence = world.evidence(report_data, fresh=fresh) if data is None else data
    given = world.snp.collateral() if collateral is True else collateral or None
    found, checks = azure_reader.read(evidence, given, world.roots if roots is None else roots, now)
    if found is None:
        return Judged(checks)
    said = said or (statement(found.image_hash) if fresh else None)
    rule = AllOf(tuple(azure_rules(references=(REFERENCE,)) if rules is None else rules))
    finding = rule.appraise(replace(subject_of(report_data, found.image_hash, said, now), azure=found))
    return Judged((*checks, *finding.checks), found.image_hash, found.machine, found.expires_at)


def tdx_rules(tdx: SyntheticTdx) -> tuple[Rule, ...]:
    """The production rules for TDX under a world's root."""
    from attestation.policy import production_rules, root_key_id

    return (RootKey(frozenset({root_key_id(tdx.root_der)})), *production_rules(tcb=TcbStatus()))


def judge_gcp(
    world: GcpWorld,
    tdx: SyntheticTdx | None,
    report_data: bytes,
    *,
    data: bytes | None = None,
    fresh: bool = True,
    rules: Sequence[Rule] | None = None,
    roots: tuple[bytes, ...] | None = None,
    said: WorkloadStatement | None = None,
    now: float | None = None,
) -> Judged:
    """Judge what a machine shows under the roots of its world and of its processor."""
    now = time.time() if now is None else now
    evidence = world.evidence(report_data, fresh=fresh) if data is None else data
    collateral, reader = None, None
    if tdx is not None:
        collateral, reader = tdx.collateral_json(), DcapReader((tdx.root_der,))
    found, checks = gcp_reader.read(evidence, collateral, world.roots if roots is None else roots, now, tdx=reader)
    if found is None:
        return Judged(checks)
    said = said or (statement(found.image_hash) if fresh else None)
    if rules is None:
        rules = gcp_rules(tdx=tdx_rules(tdx) if tdx else (), references=(REFERENCE,), demand_tdx=tdx is not None)
    finding = AllOf(tuple(rules)).appraise(replace(subject_of(report_data, found.image_hash, said, now), gcp=found))
    return Judged((*checks, *finding.checks), found.image_hash, found.machine, found.expires_at)
