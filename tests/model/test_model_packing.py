"""Packing: the same bytes whatever the machine brings, every byte accounted for, nothing half-written left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checkpoint import Erofs, write_checkpoint

from appliance.config import models as configuration
from appliance.model import (
    CheckpointError,
    ModelVolumeError,
    PackedModel,
    PackError,
    VolumeFormatError,
    VolumeMismatchError,
    VolumeName,
    naming,
    pack,
    show,
    stream,
    verify,
)

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.engine.progress import Progress
    from appliance.model.formats import FormatName

KNOWN = {
    "erofs": "98e7d6929d80677576840afe2c2b81744c622daa329d665e97e2b72cd5fc8c98",
    "cocoon-tar": "e510a5cac3c858ca0fe4d242e034ebb543f2e83c15c39481ce7f3ef5a41c88fa",
}
"""Root hashes of the checkpoint of these tests: any change of a format changes them, and must not happen."""
FORMAT_NAMES: list[FormatName] = ["erofs", "cocoon-tar"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_the_name_is_known(checkpoint: Path, tmp_path: Path, form: FormatName) -> None:
    packed = pack(checkpoint, tmp_path / "out", name="Org/Model", commit="abc", format=form)
    assert packed.name == f"Org/Model@abc:{KNOWN[form]}"


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_whatever_the_machine_brings(tmp_path: Path, form: FormatName) -> None:
    """Time, umask, modes, order in the directory, its name, and what a tool left there: none is in the volume."""
    first = write_checkpoint(tmp_path / "a")
    one = pack(first, tmp_path / "one", name="m", format=form)
    before = os.umask(0o077)
    try:
        second = tmp_path / "another name"
        (second / "extra").mkdir(parents=True)
        files = [path for path in sorted(first.rglob("*"), reverse=True) if path.is_file()]
        for number, path in enumerate(files):
            copy = second / path.relative_to(first)
            shutil.copyfile(path, copy)
            copy.chmod((0o600, 0o444, 0o755)[number % 3])
            os.utime(copy, (1, number * 1e8 + 0.5))
        (second / "chrysalis.json").write_text('{"name": "x"}')
        (second / ".git").mkdir()
        two = pack(second, tmp_path / "two", name="m", format=form, workers=1)
    finally:
        os.umask(before)
    assert two.name == one.name
    assert digest(two.path) == digest(one.path)
    assert digest(two.hash_path) == digest(one.hash_path)
    assert (one.left_out, two.left_out) == ((), (".git", "chrysalis.json"))
    (second / "LICENSE").chmod(0o600)
    (second / "LICENSE").write_text("MIT\n")  # control: content does change it
    assert pack(second, tmp_path / "two", name="m", format=form).name != one.name


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_several_processes_make_the_same(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: FormatName
) -> None:
    one = pack(checkpoint, tmp_path / "one", name="m", format=form, workers=1)
    monkeypatch.setattr(stream, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(stream, "CHUNK", 8192)
    two = pack(checkpoint, tmp_path / "two", name="m", format=form, workers=3)
    assert (two.name, digest(two.path), digest(two.hash_path)) == (one.name, digest(one.path), digest(one.hash_path))
    assert verify(two.path, one.name, workers=2).root_hash == one.name[-64:]


def test_the_files_are_in_it(checkpoint: Path, tmp_path: Path) -> None:
    packed = pack(checkpoint, tmp_path / "out", name="m")
    image = Erofs(packed.path.read_bytes()[: packed.hash_offset])
    expected = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
    assert image.files() == {name: path.read_bytes() for name, path in expected.items()}
    assert packed.files == len(expected)
    assert packed.size == packed.path.stat().st_size
    assert packed.hash_offset == packed.data_blocks * 4096


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="needs veritysetup (cryptsetup-bin)")
@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_veritysetup_agrees(checkpoint: Path, tmp_path: Path, form: FormatName) -> None:
    """``veritysetup verify`` reads the volume as the guest of either kind does; control: another root hash."""
    packed = pack(checkpoint, tmp_path / "out", name="m", format=form)
    root = packed.name[-64:]
    command = ["veritysetup", "verify", packed.path, packed.hash_path, root, f"--hash-offset={packed.hash_offset}"]
    subprocess.run(command, check=True, capture_output=True)
    command[4] = root[:-1] + ("0" if root[-1] != "0" else "1")
    assert subprocess.run(command, check=False, capture_output=True).returncode


def test_progress_counts_the_bytes(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK", 8192)
    seen: list[Progress] = []
    packed = pack(checkpoint, tmp_path / "out", name="m", progress=seen.append)
    written = [item for item in seen if item.unit == "bytes"]
    total = packed.data_blocks * 4096
    assert [item.done for item in written] == [*range(0, total, 8192), total]
    assert {item.total for item in written} == {total}
    seen.clear()
    verify(packed.path, packed.name, progress=seen.append)
    assert seen[-1].done == seen[-1].total == total


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    root = tmp_path_factory.mktemp("volume")
    return pack(write_checkpoint(root / "checkpoint"), root / "out", name="Org/Model", commit="1")


@given(data=st.data())
@settings(max_examples=150)
def test_a_byte_flipped_anywhere(volume: PackedModel, data: st.DataObject) -> None:
    places = st.integers(0, volume.size - 1) | st.integers(volume.hash_offset, volume.size - 1)
    at, mask = data.draw(places), data.draw(st.integers(1, 255))
    flip(volume.path, at, mask)
    try:
        with pytest.raises((VolumeFormatError, VolumeMismatchError)) as caught:
            verify(volume.path, volume.name)
        assert caught.value.hint
    finally:
        flip(volume.path, at, mask)
    assert verify(volume.path, volume.name).size == volume.size  # control


def flip(path: Path, at: int, mask: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        value = file.read(1)[0]
        file.seek(at)
        file.write(bytes([value ^ mask]))


@pytest.mark.parametrize("block", [0, 1, 5])
def test_a_refusal_names_the_block(volume: PackedModel, block: int) -> None:
    flip(volume.path, block * 4096 + 77)
    try:
        with pytest.raises(
            VolumeMismatchError, match=rf"data block {block} \(byte {block * 4096}\).*expected {KNOWN['erofs']}"
        ):
            verify(volume.path, volume.name)
    finally:
        flip(volume.path, block * 4096 + 77)


def test_a_refusal_names_the_hash_area(volume: PackedModel) -> None:
    with pytest.raises(VolumeMismatchError, match=f"root hash {KNOWN['erofs']}, expected {'0' * 64}"):
        verify(volume.path, f"Org/Model@1:{'0' * 64}")
    flip(volume.path, volume.hash_offset + 16)
    with pytest.raises(VolumeFormatError, match="superblock: uuid"):
        verify(volume.path, volume.name)
    flip(volume.path, volume.hash_offset + 16)


def test_a_lower_level_of_the_tree(checkpoint: Path, tmp_path: Path) -> None:
    """With two levels an altered lower one leaves the root as it is: the data is right, the hash area is not."""
    (checkpoint / "large.txt").write_bytes(b"a" * 200 * 4096)
    packed = pack(checkpoint, tmp_path / "out", name="m")
    flip(packed.path, packed.hash_offset + 2 * 4096 + 5)
    assert show(packed.path).root_hash == packed.name[-64:]
    with pytest.raises(VolumeMismatchError, match=f"byte {packed.hash_offset + 2 * 4096 + 5} is in the hash area"):
        verify(packed.path, packed.name)


@pytest.mark.parametrize("change", [-4096, -1, 1, 4096, 4096 * 200])
def test_cut_or_added_to(volume: PackedModel, tmp_path: Path, change: int) -> None:
    copy = tmp_path / "copy"
    shutil.copyfile(volume.path, copy)
    verify(copy, volume.name)  # control
    os.truncate(copy, volume.size + change)
    for look in (lambda: verify(copy, volume.name), lambda: show(copy)):
        with pytest.raises(VolumeFormatError):
            look()


def test_another_size_than_the_measured_one(volume: PackedModel) -> None:
    verify(volume.path, volume.name, data_blocks=volume.data_blocks, format="erofs")  # control
    with pytest.raises(VolumeFormatError, match=f"{volume.data_blocks} data blocks, expected erofs and 7"):
        verify(volume.path, volume.name, data_blocks=7)
    with pytest.raises(VolumeFormatError, match="expected cocoon-tar"):
        verify(volume.path, volume.name, format="cocoon-tar")


def test_the_two_files_of_a_tar_belong_together(checkpoint: Path, tmp_path: Path) -> None:
    packed = pack(checkpoint, tmp_path / "out", name="m", format="cocoon-tar")
    assert packed.hash_path == tmp_path / "out.verity"
    assert show(packed.path).format == "cocoon-tar"
    flip(packed.path, 700)
    with pytest.raises(VolumeMismatchError, match="data block 0"):
        verify(packed.path, packed.name)
    flip(packed.path, 700)
    verify(packed.path, packed.name)  # control
    os.truncate(packed.hash_path, packed.hash_path.stat().st_size + 4096)
    with pytest.raises(VolumeFormatError, match="sizes of a model volume's two files"):
        verify(packed.path, packed.name)


def test_a_refused_directory_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    (checkpoint / "model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError):
        pack(checkpoint, tmp_path / "out", name="m")
    assert (tmp_path / "out").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out"]


def test_a_file_that_changes_meanwhile(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = checkpoint / "model-00001-of-00002.safetensors"
    whole = weights.read_bytes()

    def cut(item: Progress) -> None:
        if item.unit == "bytes":
            os.truncate(weights, 100)

    with pytest.raises(CheckpointError, match="ends at byte 100, expected at least"):
        pack(checkpoint, tmp_path / "out", name="m", progress=cut)
    monkeypatch.setattr(stream, "_WORTH_PROCESSES", 0)
    weights.write_bytes(whole)
    with pytest.raises(CheckpointError, match="ends at byte 100, expected at least"):
        pack(checkpoint, tmp_path / "out", name="m", progress=cut, workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_place_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"absent.*No such file or directory"):
        pack(checkpoint, tmp_path / "absent" / "out", name="m")


def test_a_full_disk_says_so(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PackError, match="No space left on device") as caught:
        pack(checkpoint, tmp_path / "out", name="m")
    assert "free space" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_names() -> None:
    name = VolumeName.parse(f"Qwen/Qwen3-8B@abc:{'0a' * 32}")
    assert (name.base, name.commit, name.root_hash) == ("Qwen/Qwen3-8B", "abc", "0a" * 32)
    assert str(name) == f"Qwen/Qwen3-8B@abc:{'0a' * 32}"
    declared = re.findall(r"pattern='([^']*)'", repr(configuration.ModelName))
    assert [re.sub(r"\?P<\w+>", "", naming.PATTERN).replace("(", "").replace(")", "")] == declared
    for wrong in ("", "a", "a@b", "a b@c:" + "0" * 64, "a@b:" + "A" * 64, "a@b:" + "0" * 63, "a@b:" + "0" * 64 + "\n"):
        with pytest.raises(ModelVolumeError, match="is not base@commit:hash"):
            VolumeName.parse(wrong)


@pytest.mark.parametrize(("name", "commit"), [("a b", "c"), ("", "c"), ("a", "c/d"), ("a", ""), ("a@b", "c")])
def test_a_name_that_is_none_is_refused_before_any_work(tmp_path: Path, name: str, commit: str) -> None:
    with pytest.raises(VolumeFormatError, match="is not base@commit:hash"):
        pack(tmp_path / "absent", tmp_path / "out", name=name, commit=commit)
