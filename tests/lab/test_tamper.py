"""Attacks on an image change exactly one byte, where they say, and refuse what they cannot find."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from appliance.lab import tamper
from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path


def _noise(name: bytes, size: int) -> bytes:
    return hashlib.shake_256(name).digest(size)


def _differences(one: Path, other: Path) -> list[int]:
    before, after = one.read_bytes(), other.read_bytes()
    assert len(before) == len(after)
    return [at for at, (left, right) in enumerate(zip(before, after, strict=True)) if left != right]


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Path]:
    """A root file system that lies across two chunks of a disk, and both as files."""
    root = _noise(b"root", 3 * tamper.CHUNK)
    (tmp_path / "root").write_bytes(root)
    (tmp_path / "disk").write_bytes(_noise(b"before", tamper.CHUNK - 700) + root + _noise(b"after", 5000))
    return tmp_path / "disk", tmp_path / "root"


def test_one_byte_of_the_root_changes(disk: tuple[Path, Path], tmp_path: Path) -> None:
    whole, root = disk
    change = tamper.alter_root(whole, root, tmp_path / "altered")
    offset = tamper.CHUNK - 700 + tamper.EROFS_SUPERBLOCK + tamper.VOLUME_NAME
    assert _differences(whole, tmp_path / "altered") == [offset] == [change.offset]
    assert f"byte {offset}" in str(change)


def test_one_byte_of_the_weights_changes(tmp_path: Path) -> None:
    weights = _noise(b"weights", 9000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(4096) + weights + bytes(4096))
    change = tamper.alter_model(volume, tmp_path, tmp_path / "altered")
    assert _differences(volume, tmp_path / "altered") == [4096 + 4500] == [change.offset]


def test_what_is_not_there_or_there_twice_is_refused(disk: tuple[Path, Path], tmp_path: Path) -> None:
    whole, root = disk
    (tmp_path / "other").write_bytes(bytes(tamper.CHUNK))
    twice = tmp_path / "twice"
    twice.write_bytes(whole.read_bytes() * 2)
    for source, times in ((tmp_path / "other", 0), (twice, 2)):
        with pytest.raises(LabError, match=f"{times} times"):
            tamper.alter_root(source, root, tmp_path / "altered")
    with pytest.raises(LabError, match="no safetensors"):
        tamper.alter_model(whole, tmp_path, tmp_path / "altered")


def test_the_limit_of_an_answer_changes_and_nothing_else() -> None:
    text = 'model = "m"\n[engine]\nmax_tokens = 256\nmax_total_tokens = 256\n'
    assert tamper.alter_configuration(text) == text.replace("max_tokens = 256", "max_tokens = 257")
    with pytest.raises(LabError, match="max_tokens"):
        tamper.alter_configuration("[engine]\n")
