"""The committed builds are what the locked compiler makes of the sources, and the loader checks them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from appliance.chain.contracts import CONTRACTS, codes, load
from appliance.chain.errors import LayoutError
from appliance.lab.tolk import CompileError, build, source_folder

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.lab.tvm_tools import Tools


@pytest.mark.parametrize("name", CONTRACTS)
def test_build_is_reproduced(tools: Tools, name: str) -> None:
    committed = json.loads((source_folder() / "compiled" / f"{name}.json").read_text())
    assert build(name, tools) == committed, "run: python -m appliance.lab.tolk"


def test_loaded_codes_have_their_hashes() -> None:
    assert load().hashes() == {
        name: json.loads((source_folder() / "compiled" / f"{name}.json").read_text())["code_hash"] for name in CONTRACTS
    }


def test_codes_differ() -> None:
    assert len(set(load().hashes().values())) == len(CONTRACTS)


@pytest.mark.parametrize("damage", ["hash", "code", "json", "missing"])
def test_damaged_build_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    compiled = tmp_path / "compiled"
    compiled.mkdir()
    for name in CONTRACTS:
        built = json.loads((source_folder() / "compiled" / f"{name}.json").read_text())
        if name == "worker" and damage == "hash":
            built["code_hash"] = "00" * 32
        if name == "worker" and damage == "code":
            built["code"] = "!!"
        text = "{" if (name, damage) == ("worker", "json") else json.dumps(built)
        if (name, damage) != ("worker", "missing"):
            (compiled / f"{name}.json").write_text(text)
    monkeypatch.setattr(codes, "files", lambda _: tmp_path)
    with pytest.raises(LayoutError, match="worker"):
        load()
    (compiled / "worker.json").write_bytes((source_folder() / "compiled" / "worker.json").read_bytes())
    assert load().worker.hash


def test_compiler_errors_are_told(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "common.tolk").write_text("tolk 1.3\n")
    (tmp_path / "broken.tolk").write_text(
        'tolk 1.3\nimport "common"\nfun onInternalMessage(in: InMessage) { nonsense }\n'
    )
    monkeypatch.setattr("appliance.lab.tolk.source_folder", lambda: tmp_path)
    with pytest.raises(CompileError, match=r"broken\.tolk does not compile"):
        build("broken", tools)
    (tmp_path / "broken.tolk").write_text('tolk 1.3\nimport "common"\nfun onInternalMessage(_: InMessage) {}\n')
    assert build("broken", tools)["code"]
