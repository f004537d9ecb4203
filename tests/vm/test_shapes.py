"""The booted image measures exactly what was predicted from files: every register, on machines of four shapes.

The production verifier judges the evidence of those that were given a configuration as well: the registers that are
compared are those that the TPM signed, for the nonce that this test made, and the log leads to them. One machine was
given a configuration that it has to refuse; its registers are those of its quote.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from shape_boots import Told, booted, predicted, shape

from appliance.lab.tpm_world import TpmWorld
from attestation import policy
from attestation.evidence import parse_bundle
from attestation.remote import appraise
from attestation.tpm.evidence import parse_evidence
from attestation.tpm.references import IDENTITY_REGISTERS, TpmReference
from attestation.verifier import Verifier
from measurements.eventlog import parse_tcg2

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.remote import Fetched
    from measurements.prediction import Prediction

MACHINES = {
    "disk-1-2048": ("disk", 1, 2048, Told(accepted=True)),
    "disk-2-4096": ("disk", 2, 4096, Told(accepted=True)),
    "direct-1-4096": ("direct", 1, 4096, Told(accepted=True)),
    "direct-2-2048": ("direct", 2, 2048, Told(accepted=False)),
}
REGISTERS = tuple(range(16))


@pytest.fixture(scope="module")
def predictions(built_image: Path) -> dict[str, Prediction]:
    """Made before any machine is started."""
    return {
        name: predicted(built_image, shape(boot, vcpus, memory), told)
        for name, (boot, vcpus, memory, told) in MACHINES.items()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TpmWorld:
    return TpmWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def shown(
    built_image: Path,
    predictions: dict[str, Prediction],
    world: TpmWorld,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Fetched]:
    """The evidence of every machine."""
    machines = [(shape(boot, vcpus, memory), told) for boot, vcpus, memory, told in MACHINES.values()]
    found = asyncio.run(booted(built_image, tmp_path_factory.mktemp("shapes"), machines, world))
    assert len(found) == len(predictions)
    return dict(zip(MACHINES, found, strict=True))


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_measures_what_was_predicted(
    name: str, predictions: dict[str, Prediction], shown: dict[str, Fetched]
) -> None:
    prediction = predictions[name]
    assert prediction.unpredicted == {}
    evidence = parse_evidence(parse_bundle(shown[name].bundle).quote)
    seen = {f"pcr{number}": evidence.registers[number].hex() for number in REGISTERS}
    assert seen == {register: value.hex() for register, value in prediction.values.items()}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_logs_the_events_that_were_predicted(
    name: str, predictions: dict[str, Prediction], shown: dict[str, Fetched]
) -> None:
    """Event by event: the same digests in the same order, which a register's value alone would not tell."""
    logs = parse_evidence(parse_bundle(shown[name].bundle).quote).logs
    assert logs is not None
    logged: dict[str, list[str]] = {f"pcr{number}": [] for number in REGISTERS}
    for event in parse_tcg2(logs.firmware).events:
        if event.extended:
            logged[f"pcr{event.register}"].append(event.digests["sha256"].hex())
    for later in logs.system:
        logged[f"pcr{later.register}"].append(later.digest.hex())
    events = {key: [event.digest.hex() for event in item.events] for key, item in predictions[name].registers.items()}
    assert events == logged


@pytest.mark.parametrize("name", [name for name, (*_, told) in MACHINES.items() if told.accepted])
def test_the_verifier_accepts_the_machine_as_the_predicted_one(
    name: str, predictions: dict[str, Prediction], shown: dict[str, Fetched], world: TpmWorld
) -> None:
    values = {number: predictions[name].values[f"pcr{number}"] for number in IDENTITY_REGISTERS}
    reference = TpmReference(name, values)
    chosen = policy.for_name("simulated", tpm_roots=world.roots, tpm_references=(reference,))
    verdict = asyncio.run(appraise(Verifier(chosen), shown[name]))
    assert [check.name for check in verdict.failed] == []
    assert verdict.accepted


def test_what_a_shape_moves(predictions: dict[str, Prediction]) -> None:
    """Processors, memory and the way of booting; everything else is the same on every machine."""
    registers = {
        name: {
            register for register in item.values if item.values[register] != predictions["disk-1-2048"].values[register]
        }
        for name, item in predictions.items()
    }
    assert registers == {
        "disk-1-2048": set(),
        "disk-2-4096": {"pcr1", "pcr10"},
        "direct-1-4096": {"pcr1", "pcr4", "pcr5", "pcr10"},
        "direct-2-2048": {"pcr1", "pcr4", "pcr5", "pcr10", "pcr14"},
    }
