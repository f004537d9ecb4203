"""What a model directory may be, and the hash that names it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.building import MARKER
from appliance.engine.errors import ModelError
from appliance.engine.models import RECIPES, check_files, prepare, verify_directory
from appliance.engine.tree import tree_hash

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text("abcdefgh.-_", min_size=1, max_size=8).filter(lambda name: name not in {".", ".."})


def checkpoint(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def test_the_hash_follows_its_documented_layout(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"xyz")
    (tmp_path / "a").write_bytes(b"")
    expected = hashlib.sha256(
        b"chrysalis tree 1\n\x00\x00\x00\x01a" + bytes(8) + hashlib.sha256(b"").digest()
        + b"\x00\x00\x00\x05sub/b" + b"\x00\x00\x00\x00\x00\x00\x00\x03" + hashlib.sha256(b"xyz").digest()
    )  # fmt: skip
    assert tree_hash(tmp_path) == expected.hexdigest()


def test_the_hash_is_pinned(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert tree_hash(tmp_path) == "032c955b212795291684811593285fc19b3eedb4e32ceca414fa1909a66a6c59"


@given(files=st.dictionaries(NAMES, st.binary(max_size=20), min_size=1, max_size=4), data=st.data())
def test_every_change_changes_the_hash(
    files: dict[str, bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("tree")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    before = tree_hash(directory)
    (directory / MARKER).write_text("{}")
    assert tree_hash(directory) == before
    victim = directory / data.draw(st.sampled_from(sorted(files)))
    match data.draw(st.sampled_from(["append", "rename", "remove"])):
        case "append":
            victim.write_bytes(victim.read_bytes() + b"!")
        case "rename":
            victim.rename(directory / (victim.name + "z"))
        case _:
            victim.unlink()
    assert tree_hash(directory) != before


def test_links_are_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model")
    tree_hash(tmp_path / "model")
    (tmp_path / "model" / "more.json").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"more\.json"):
        tree_hash(tmp_path / "model")


def test_a_missing_directory_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a directory"):
        tree_hash(tmp_path / "nothing")


async def test_a_directory_is_what_its_name_says_or_is_refused(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "model")
    name = f"own/model@v1:{tree_hash(directory)}"
    await verify_directory(directory, name)
    (directory / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelError, match="has hash") as caught:
        await verify_directory(directory, name)
    assert tree_hash(directory) in caught.value.message


@pytest.mark.parametrize("name", ["model", "model@v1", "model@v1:12", "model@:" + "0" * 64, "mo del@v1:" + "0" * 64])
async def test_a_name_has_three_parts(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="base@commit:hash"):
        await verify_directory(checkpoint(tmp_path / "model"), name)


@pytest.mark.parametrize("extra", ["pytorch_model.bin", "model.pt", "modeling_own.py", "x.pkl", "model.gguf", "lib.so"])
def test_pickles_code_and_other_formats_are_refused(tmp_path: Path, extra: str) -> None:
    directory = checkpoint(tmp_path / "model")
    check_files(directory)
    (directory / extra).write_bytes(b"")
    with pytest.raises(ModelError, match=extra.replace(".", r"\.")):
        check_files(directory)


def test_code_named_by_the_configuration_is_refused(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "model")
    (directory / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_own.Own"}}))
    with pytest.raises(ModelError, match="auto_map"):
        check_files(directory)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{"])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    directory = checkpoint(tmp_path / "model")
    (directory / "config.json").write_bytes(content)
    with pytest.raises(ModelError):
        check_files(directory)


async def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="smollm2, tiny"):
        await prepare("gpt-5")


def test_a_recipe_is_named_by_what_it_is_made_from() -> None:
    digests = {recipe.digest(environment) for recipe in RECIPES.values() for environment in ("one", "two")}
    assert len(digests) == 4
