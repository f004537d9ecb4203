"""The vendor's tool beside our judgement: asked on the same evidence, bounded, and never deciding alone."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import GpuAttack
from attestation.gpu.judge import DeviceJudgement, judge_device
from attestation.gpu.second_opinion import MAX_OUTPUT, PROGRAM, Opinion, ask, compare, read_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NONCE = bytes([7]) * 32
PREFIX = "x-nvidia-gpu-attestation-report"
CLAIMS = {
    "measres": "success",
    "eat_nonce": NONCE.hex(),
    f"{PREFIX}-nonce-match": True,
    f"{PREFIX}-signature-verified": True,
    f"{PREFIX}-parsed": True,
}
ACCEPTED = {"result_code": 0, "result_message": "Ok", "claims": [CLAIMS], "detached_eat": []}
REFUSED = {"result_code": 12, "result_message": "Overall Attestation Result is False", "claims": [], "detached_eat": {}}
WORLD = SyntheticGpus(1, switches=1)


def judgement(world: SyntheticGpus) -> DeviceJudgement:
    return judge_device(
        world.gpu_evidence(0, NONCE),
        nonce=NONCE,
        roots=world.roots(),
        rims=world.rims(),
        ocsp=world.ocsp(),
        now=time.time(),
    )


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a script in the tool's place; it writes down its arguments and what it was given."""

    def install(script: str) -> Path:
        place = tmp_path / PROGRAM
        place.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\nfor last; do :; done\n{script}\n')
        place.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
        return tmp_path

    return install


def printing(answer: object) -> str:
    return f"cat <<'END'\n{json.dumps(answer)}\nEND"


async def test_where_it_is_not_installed_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    opinion = await ask(WORLD.gpu_evidence(0, NONCE), NONCE)
    assert opinion == Opinion("unavailable", "nvattest is not installed")
    check = compare(judgement(WORLD), opinion)
    assert (check.passed, check.checked) == (True, False)
    assert not compare(judgement(WORLD), opinion, required=True).passed


async def test_it_is_given_the_same_evidence_and_the_same_nonce(tool: Callable[[str], Path]) -> None:
    place = tool(f'cp "$last" {{place}}/evidence; {printing(ACCEPTED)}'.replace("{place}", "$(dirname $0)"))
    evidence = WORLD.gpu_evidence(0, NONCE)
    opinion = await ask(evidence, NONCE)
    assert opinion == Opinion("accepts", "result 0, Ok")
    arguments = (place / "arguments").read_text().split()
    assert arguments[:9] == [
        "--format",
        "json",
        "--log-level",
        "off",
        "attest",
        "--device",
        "gpu",
        "--verifier",
        "local",
    ]
    assert arguments[9:13] == ["--nonce", NONCE.hex(), "--gpu-evidence-source", "file"]
    (record,) = json.loads((place / "evidence").read_bytes())
    assert set(record) == {"version", "arch", "nonce", "evidence", "certificate", "vbios_version", "driver_version"}
    assert (record["arch"], record["nonce"], record["driver_version"]) == ("HOPPER", NONCE.hex(), "550.90.07")
    assert not os.path.exists(arguments[-1])  # noqa: PTH110 - the path as the tool was given it


async def test_a_switch_is_asked_about_as_one(tool: Callable[[str], Path]) -> None:
    place = tool(printing(ACCEPTED))
    *_, switch = await WORLD.collect(lambda _: NONCE)
    await ask(switch, NONCE)
    arguments = (place / "arguments").read_text().split()
    assert "nvswitch" in arguments
    assert "--nvswitch-evidence-file" in arguments


@pytest.mark.parametrize(
    ("script", "stance", "said"),
    [
        (printing(REFUSED), "refuses", "result 12, Overall Attestation Result is False"),
        (printing(REFUSED) + "\nexit 1", "refuses", "result 12"),
        ("exit 3", "unavailable", "0 bytes that are not JSON"),
        ("echo hello", "unavailable", "not JSON"),
        ("head -c 3000000 /dev/zero", "unavailable", f"more than {MAX_OUTPUT} bytes"),
        ("exec sleep 60", "unavailable", "did not end within 0.3 s"),
        ("sleep 60", "unavailable", "did not end within 0.3 s"),
    ],
)
async def test_what_it_says_or_does_is_an_opinion(
    script: str, stance: str, said: str, tool: Callable[[str], Path]
) -> None:
    tool(script)
    limit = 0.3 if "sleep" in script else 60.0
    opinion = await ask(WORLD.gpu_evidence(0, NONCE), NONCE, limit_s=limit)
    assert opinion.stance == stance
    assert said in opinion.words


async def test_a_program_that_cannot_be_run_is_an_opinion(tool: Callable[[str], Path]) -> None:
    place = tool("") / PROGRAM
    place.write_bytes(b"\x7fELF no program")
    opinion = await ask(WORLD.gpu_evidence(0, NONCE), NONCE)
    assert opinion.stance == "unavailable"
    assert "cannot be run" in opinion.words


async def test_evidence_that_cannot_be_read_is_not_given_away(tool: Callable[[str], Path]) -> None:
    place = tool(printing(ACCEPTED))
    assert "not asked" in (await ask(b"no evidence", NONCE)).words
    assert not (place / "arguments").exists()


def changed_claims(**changed: Any) -> dict[str, Any]:
    return ACCEPTED | {"claims": [CLAIMS | changed]}


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"result_code": "0"},
        ACCEPTED | {"claims": []},
        ACCEPTED | {"claims": {}},
        ACCEPTED | {"claims": [CLAIMS, CLAIMS]},
        ACCEPTED | {"claims": ["text"]},
        ACCEPTED | {"result_code": 7},
        changed_claims(measres="fail"),
        changed_claims(eat_nonce="00" * 32),
        changed_claims(**{f"{PREFIX}-nonce-match": False}),
        changed_claims(**{f"{PREFIX}-signature-verified": "true"}),
        changed_claims(**{f"{PREFIX}-parsed": None}),
    ],
)
def test_a_success_that_does_not_say_so_whole_is_none(answer: object) -> None:
    assert read_output(json.dumps(ACCEPTED).encode(), NONCE).stance == "accepts"
    assert read_output(json.dumps(answer).encode(), NONCE).stance == "unavailable"


def test_words_are_cut_and_harmless() -> None:
    words = read_output(json.dumps(REFUSED | {"result_message": "\x1b[31m" + "x" * 5000}).encode(), NONCE).words
    assert len(words) < 300
    assert "\x1b" not in words


@pytest.mark.parametrize("required", [False, True])
def test_it_never_decides_alone(required: bool) -> None:
    """Its acceptance turns no refusal of ours; its refusal fails only where a policy asks for agreement."""
    ours, theirs = judgement(WORLD), Opinion("refuses", "result 12")
    assert ours.claims is not None
    disagreement = compare(ours, theirs, required=required)
    assert disagreement.passed is not required
    assert "disagree" in disagreement.hint
    attacked = judgement(SyntheticGpus(1, attack=GpuAttack(mismatched=(3,))))
    check = compare(attacked, Opinion("accepts", "result 0"), required=required)
    assert attacked.claims is None
    assert check.passed is not required
    assert compare(ours, Opinion("accepts", "result 0"), required=required).passed
    assert compare(attacked, theirs, required=required).passed
