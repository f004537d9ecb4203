"""The rules about a machine's devices: each with the devices that it accepts and those that differ in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gpu_evidence_support import by_name, claims, failed
from hypothesis import given
from hypothesis import strategies as st

from attestation.claims import WorkloadStatement
from attestation.errors import EvidenceError, PolicyError
from attestation.gpu.claims import MultiGpu
from attestation.gpu.fabric import Fabric
from attestation.gpu.rules import (
    CcMode,
    DevicesListed,
    DriverRange,
    GpuCount,
    GpuDistinct,
    SwitchCount,
    VbiosRange,
    gpu_rules,
)
from attestation.gpu.versions import Version
from attestation.rules import AllOf, Subject

if TYPE_CHECKING:
    from attestation.gpu.claims import GpuClaims
    from attestation.rules import Rule

STATEMENT = WorkloadStatement(image=bytes(32), measured_config=bytes(32))


def subject(*devices: GpuClaims, statement: WorkloadStatement | None = STATEMENT) -> Subject:
    return Subject(None, None, bytes(32), bytes(64), 0.0, statement=statement, devices=devices)


def board() -> list[GpuClaims]:
    """Two linked GPUs and two switches."""
    gpus, switches = [claims(index) for index in range(2)], [claims(index, kind="switch") for index in range(2, 4)]
    names = [frozenset(item.pdi for item in group) for group in (gpus, switches)]
    linked = [replace(item, multi_gpu=MultiGpu.PROTECTED_PCIE, peers=names[1]) for item in gpus]
    return [*linked, *(replace(item, peers=names[0], locked=True, architecture="ls10") for item in switches)]


PAIR = (claims(0), claims(1))


@pytest.mark.parametrize(
    ("rule", "good", "bad", "name"),
    [
        (GpuCount(2, 2), PAIR, PAIR[:1], "gpu count"),
        (GpuCount(2, 2), PAIR, (*PAIR, claims(2)), "gpu count"),
        (GpuCount(), PAIR, (), "gpu count"),
        (SwitchCount(2), tuple(board()), tuple(board()[:3]), "switch count"),
        (SwitchCount(0), PAIR, tuple(board()), "switch count"),
        (SwitchCount(1, 2), tuple(board()), PAIR, "switch count"),
        (GpuDistinct(), PAIR, (PAIR[0], replace(PAIR[0], index=1)), "devices distinct"),
        (CcMode(), PAIR, (PAIR[0], claims(1, cc_mode=False)), "gpu cc mode"),
        (CcMode(), PAIR, (PAIR[0], claims(1, devtools_mode=True)), "gpu cc mode"),
        (DevicesListed(frozenset({bytes([1]) * 32, bytes([2]) * 32})), PAIR, (*PAIR, claims(2)), "devices listed"),
        (DriverRange("550.54"), PAIR, (claims(driver="550.53.99"),), "gpu driver"),
        (DriverRange(most="550.90.7"), PAIR, (claims(driver="550.90.08"),), "gpu driver"),
        (DriverRange(allowed=frozenset({"550.90.07"})), PAIR, (claims(driver="550.90.12"),), "gpu driver"),
        (DriverRange(refused=frozenset({"550.90.12"})), PAIR, (claims(driver="550.90.12"),), "gpu driver"),
        (DriverRange("550"), PAIR, (claims(driver="unknown"),), "gpu driver"),
        (VbiosRange("96.00.9F.00.01"), PAIR, (claims(vbios="96.00.9E.00.FF"),), "gpu vbios"),
        (VbiosRange(refused=frozenset({"96.00.74.00.1C"})), PAIR, (claims(vbios="96.00.74.00.1c"),), "gpu vbios"),
        (VbiosRange(allowed=frozenset({"96.00.9f.00.01"})), PAIR, (claims(vbios="96.00.9F.00.02"),), "gpu vbios"),
        (Fabric(), PAIR, (PAIR[0], claims(1, multi_gpu=MultiGpu.UNKNOWN)), "gpu link mode"),
        (Fabric(), PAIR, tuple(claims(index, multi_gpu=MultiGpu.PASSTHROUGH) for index in range(2)), "gpu link mode"),
        (Fabric(frozenset({MultiGpu.PROTECTED_PCIE})), tuple(board()), PAIR, "gpu link mode"),
        (Fabric(), PAIR, (PAIR[0], claims(1, peers=frozenset({bytes(8)}))), "gpu links"),
        (Fabric(), tuple(board()), tuple(board()[:3]), "gpu links"),
        (Fabric(), tuple(board()), tuple(board()[1:]), "gpu links"),
        (Fabric(), tuple(board()), tuple(board()[:2]), "gpu links"),
        (Fabric(), tuple(board()), (*board()[:3], replace(board()[3], locked=False)), "gpu links"),
        (Fabric(), tuple(board()), (replace(board()[0], pdi=b""), *board()[1:]), "gpu links"),
        (Fabric(), tuple(board()), (replace(board()[0], pdi=bytes([9]) * 8), *board()[1:]), "gpu links"),
        (Fabric(), tuple(board()), (replace(board()[0], peers=frozenset()), *board()[1:]), "gpu links"),
    ],
)  # fmt: skip
def test_a_rule_refuses_what_differs_in_one_thing(
    rule: Rule, good: tuple[GpuClaims, ...], bad: tuple[GpuClaims, ...], name: str
) -> None:
    assert rule.appraise(subject(*good)).passed
    finding = rule.appraise(subject(*bad))
    assert name in failed(finding.checks)
    check = by_name(finding.checks)[name]
    assert check.hint
    assert check.why
    assert check.group == "gpus"


def test_mixed_modes_are_no_fabric() -> None:
    devices = board()
    mixed = [replace(devices[0], multi_gpu=MultiGpu.NONE), *devices[1:]]
    assert failed(Fabric().appraise(subject(*mixed)).checks) == ["gpu link mode"]


def test_a_machine_without_a_gpu_has_no_link_mode() -> None:
    """How many there have to be is another rule's: a machine that computes on its processor shows none."""
    assert failed(Fabric().appraise(subject()).checks) == []
    assert failed(Fabric().appraise(subject(claims(0, multi_gpu=MultiGpu.UNKNOWN))).checks) == ["gpu link mode"]


@pytest.mark.parametrize(
    "rule", gpu_rules(devices=frozenset(), switches=SwitchCount(0)), ids=lambda item: type(item).__name__
)
def test_without_verified_devices_fresh_evidence_fails_and_a_certificate_is_said_to_be_silent(rule: Rule) -> None:
    nobody = Subject(None, None, bytes(32), bytes(64), 0.0, statement=STATEMENT, devices=None)
    assert not rule.appraise(nobody).passed
    certificate = rule.appraise(replace(nobody, statement=None))
    assert certificate.passed
    assert not any(check.checked for check in certificate.checks)


def test_what_a_policy_does_not_ask_is_listed_as_unchecked() -> None:
    finding = AllOf(gpu_rules()).appraise(subject(*PAIR))
    assert finding.passed
    assert [check.name for check in finding.checks if not check.checked] == ["devices listed"]
    strict = AllOf(gpu_rules(devices=frozenset({item.device_id for item in PAIR}))).appraise(subject(*PAIR))
    assert strict.passed
    assert all(check.checked for check in strict.checks)


def test_the_relayed_gpu_is_kept_out_by_a_list_of_devices_alone() -> None:
    """Attack class 1: a genuine GPU elsewhere answers the right nonce; a list of devices keeps it out."""
    listed = frozenset({item.device_id for item in PAIR})
    relayed = (PAIR[0], claims(7))
    assert failed(AllOf(gpu_rules(devices=listed)).appraise(subject(*relayed)).checks) == ["devices listed"]
    assert AllOf(gpu_rules(devices=listed)).appraise(subject(*PAIR)).passed


def test_ranges_that_allow_nothing_are_no_policy() -> None:
    for make in (lambda: DriverRange("560", "550"), lambda: VbiosRange("96.00.9F", "96.00.9E")):
        with pytest.raises(PolicyError, match="allow nothing"):
            make()
    with pytest.raises(EvidenceError, match="not made of"):
        DriverRange("latest", "550")


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.lists(st.integers(0, 999), min_size=1, max_size=5))
def test_versions_compare_as_their_fields_do(first: list[int], second: list[int]) -> None:
    def padded(fields: list[int]) -> list[int]:
        return fields + [0] * (5 - len(fields))

    texts = [".".join(map(str, fields)) for fields in (first, second)]
    one, other = (Version.parse(text, 10) for text in texts)
    assert (one < other) == (padded(first) < padded(second))
    assert (one == other) == (padded(first) == padded(second))
    digits = [Version.parse(".".join(f"{field:02x}" for field in fields), 16) for fields in (first, second)]
    assert (digits[0] < digits[1]) == (padded(first) < padded(second))


@pytest.mark.parametrize("text", ["", ".", "550.", "550..1", "550.x", "-1", "5 5", "1" * 10, "1.2.3.4.5.6.7.8.9", "٥"])
def test_text_that_is_no_version_is_refused(text: str) -> None:
    for base in (10, 16):
        with pytest.raises(EvidenceError):
            Version.parse(text, base)  # type: ignore[arg-type]  # one of both


def test_a_driver_that_is_no_version_passes_no_range_whatever_its_bounds() -> None:
    rules: tuple[Any, ...] = (DriverRange(), DriverRange("1"), DriverRange(most="999"))
    assert [rule.appraise(subject(claims(driver="590.x"))).passed for rule in rules] == [False] * 3
