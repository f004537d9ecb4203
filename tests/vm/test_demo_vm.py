"""The demonstration with the worker in the booted image: exact money, and registers known before the machine ran."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from measurements import tpm
from measurements.manifest import parse_manifest

if TYPE_CHECKING:
    from vm_support import Network

pytestmark = [pytest.mark.vm, pytest.mark.demo, pytest.mark.engine]

STAGES = ("configuration", "clock", "platform", "posture", "keys", "collateral", "gpu", "model",
          "engine", "self-check", "evidence", "chain", "links")  # fmt: skip


def test_everything_agrees_and_every_check_is_there(network: Network) -> None:
    result = network.result
    assert result["error"] == ""
    assert result["ok"]
    assert [name for name, holds in result["checks"].items() if not holds] == []
    assert len([name for name in result["checks"] if name.startswith("PCR ")]) == 5
    assert len(result["prompts"]) == 3
    assert all(asked["answer"] for asked in result["prompts"])


def test_the_owner_was_paid_to_the_nanoton(network: Network) -> None:
    result = network.result
    assert result["owner_after"] - result["owner_before"] == result["expected_delta"] > 0
    tokens = result["tokens"]
    assert tokens["engine"] == tokens["usage"]
    assert tokens["ledger"]["total"] == result["signed_tokens"] > 0


def test_registers_are_what_the_files_say(network: Network) -> None:
    """Computed here anew, from the UKI alone; and what differs in another UKI."""
    uki = (network.image / "chrysalis.efi").read_bytes()
    registers = tpm.predict(uki, boot="disk").registers
    expected = {f"pcr{number}": registers[number].hex() for number in (4, 9, 11, 12)}
    seen = {name: value for name, value in network.vm["seen"].items() if name in expected}
    assert seen == expected
    assert len(set(seen.values())) == 4
    assert seen["pcr12"] == "0" * 64
    direct = tpm.predict(uki, boot="direct").registers
    assert direct[4].hex() != seen["pcr4"]  # a machine that is handed the image measures in another order


def test_the_manifest_predicts_the_same_and_knows_every_file(network: Network) -> None:
    manifest = parse_manifest((network.image / "manifest.json").read_bytes())
    predicted = next(entry for entry in manifest.registers if (entry.platform, entry.boot) == ("tpm", "disk"))
    assert predicted.values == {name: network.vm["seen"][name] for name in predicted.values}
    assert {"pcr4", "pcr9", "pcr11", "pcr12"} <= predicted.values.keys()
    for artefact in manifest.artefacts:
        with (network.image / artefact.name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == artefact.sha256, artefact.name
    assert not manifest.debug


def test_the_verdict_says_no_assurance_first(network: Network) -> None:
    verdict: dict[str, Any] = network.vm["verdict"]
    assert verdict["accepted"]
    assert "no assurance" in verdict["explained"][0].lower()
    assert verdict["image_hash"] == network.result["verdicts"]["worker"]["image_hash"]


def test_every_stage_is_told(network: Network) -> None:
    stages = {stage["name"]: stage for stage in network.vm["stages"]["stages"]}
    assert tuple(stages) == STAGES
    assert {name: stage["state"] for name, stage in stages.items() if stage["state"] != "done"} == {"gpu": "skipped"}
    console = network.console()
    for name in STAGES[:8]:
        assert f"chrysalis: stage {name} " in console


def test_nothing_of_prompts_and_answers_is_on_the_console(network: Network) -> None:
    console = network.console()
    for asked in network.result["prompts"]:
        assert asked["text"] not in console
        assert asked["answer"][:40] not in console
    assert "chrysalis: stage" in console  # it is the right file
