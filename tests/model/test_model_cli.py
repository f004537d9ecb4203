"""``chrysalis model`` as a program: what it prints can be pasted, and a refusal is an error with a hint."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def chrysalis(*words: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", "model", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) is ok, done.stderr
    return done


def answer(*words: str | Path, ok: bool = True) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(chrysalis(*words, "--json", ok=ok).stdout.splitlines()[-1])
    assert told["ok"] is ok
    return told


def test_packed_shown_verified(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.img"
    lines = chrysalis("pack", checkpoint, "-o", out, "--name", "Org/Model", "--commit", "7").stdout.splitlines()
    name = lines[0]
    measured = tomllib.loads("\n".join(lines[1:]))
    told = answer("pack", checkpoint, "-o", out, "--name", "Org/Model", "--commit", "7")
    assert told["name"] == name == measured["model"]
    assert measured["model_volume"] == {"format": "erofs", "data_blocks": told["data_blocks"]}
    assert told["listed_as"] == hashlib.sha256(name.encode()).hexdigest()
    shown = answer("show", out)
    verified = answer("verify", out, name, "--data-blocks", str(told["data_blocks"]))
    for found in (shown, verified):
        assert found["root_hash"] == told["root_hash"] == name[-64:]
        assert (found["hash_offset"], found["bytes"]) == (told["hash_offset"], out.stat().st_size)
    assert name in chrysalis("verify", out, name).stdout
    assert name[-64:] in chrysalis("show", out).stdout
    refused = answer("verify", out, name[:-64] + "0" * 64, ok=False)
    assert "expected 0000" in refused["error"]
    assert refused["hint"]


def test_the_reference_form_is_two_files(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.tar"
    told = answer("pack", checkpoint, "-o", out, "--name", "m", "--format", "cocoon-tar")
    assert told["hash_file"] == f"{out}.verity"
    assert (
        "model_volume" not in chrysalis("pack", checkpoint, "-o", out, "--name", "m", "--format", "cocoon-tar").stdout
    )
    assert answer("verify", out, told["name"])["format"] == "cocoon-tar"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_pickle_is_refused_with_a_reason(checkpoint: Path, tmp_path: Path, as_json: bool) -> None:
    (checkpoint / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    words = ("pack", checkpoint, "-o", tmp_path / "out", "--name", "m")
    if as_json:
        assert "pytorch_model.bin: pickles" in answer(*words, ok=False)["error"]
    else:
        assert "pytorch_model.bin: pickles" in chrysalis(*words, ok=False).stderr
    (checkpoint / "pytorch_model.bin").unlink()
    answer(*words)  # control
