"""The guest's side: what is refused before the kernel sees it, what the kernel is told, and the kernel where it can."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from model_checkpoint import write_checkpoint

from appliance.model import (
    PackedModel,
    VolumeFormatError,
    VolumeMismatchError,
    VolumeOpenError,
    close_volume,
    open_volume,
    pack,
    volume,
)
from appliance.model.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EROFS = FORMATS["erofs"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    root = tmp_path_factory.mktemp("volume")
    return pack(write_checkpoint(root / "checkpoint"), root / "out", name="m")


class Kernel:
    """Stands for dmsetup and mount: keeps what it was told, answers as they do."""

    def __init__(self, table: str = "") -> None:
        self.table = table
        self.told: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.told.append(list(command))
        match command:
            case ["dmsetup", "ls", *_]:
                return "other\t(254:9)\nchrysalis-model\t(254:7)\n" if self.table else "No devices found\n"
            case ["dmsetup", "table", *_]:
                return self.table + "\n"
            case ["dmsetup", "create", *_, table]:
                self.table = table
            case ["dmsetup", "info", *_]:
                return "7\n"
        return ""


@pytest.fixture
def block_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain files pass for block devices: everything but the kernel's part can be tried without privileges."""
    monkeypatch.setattr(volume.stat, "S_ISBLK", lambda _mode: True)


def test_what_the_kernel_is_told(packed: PackedModel, tmp_path: Path, block_device: None) -> None:
    kernel, root = Kernel(), packed.name[-64:]
    point = tmp_path / "run" / "model"
    assert open_volume(packed.path, root, packed.data_blocks, mount_point=point, execute=kernel) == point
    blocks = packed.data_blocks
    table = f"0 {blocks * 8} verity 1 0:0 0:0 4096 4096 {blocks} {blocks + 1} sha256 {root} {EROFS.salt.hex()}"
    created = next(words for words in kernel.told if words[1] == "create")
    flags = ["--readonly", "--noudevsync", "--table", table]
    assert created == ["dmsetup", "create", "chrysalis-model", *flags]
    assert kernel.told[-1] == ["mount", "-t", "erofs", "-o", "ro,nodev,nosuid,noexec", "/dev/dm-7", str(point)]
    assert not any("ignore_corruption" in word or "check_at_most_once" in word for word in created)
    again = Kernel(kernel.table)
    open_volume(packed.path, root, blocks, mount_point=point, execute=again)
    assert not any(words[1] == "create" for words in again.told)
    with pytest.raises(VolumeOpenError, match="mapping chrysalis-model is another volume"):
        open_volume(packed.path, root, blocks, mount_point=point, execute=Kernel(kernel.table.replace("0:0", "0:1")))
    close_volume(mount_point=point, execute=again)
    assert again.told[-1] == ["dmsetup", "remove", "chrysalis-model"]


def refused(
    packed: PackedModel,
    error: type[Exception],
    match: str,
    *,
    path: Path | None = None,
    root: str | None = None,
    blocks: int | None = None,
    form: str = "erofs",
) -> None:
    """It is refused, the kernel having heard nothing; as it is it is not."""
    kernel = Kernel()
    with pytest.raises(error, match=match):
        open_volume(path or packed.path, root or packed.name[-64:], blocks or packed.data_blocks, form, execute=kernel)
    assert kernel.told == []
    volume.check_device(packed.path, packed.name[-64:], packed.data_blocks, EROFS)


def test_refused_before_the_kernel_sees_it(packed: PackedModel, tmp_path: Path, block_device: None) -> None:
    seen = packed.name[-64:]
    refused(packed, VolumeMismatchError, f"has root hash {seen}, expected {'0' * 64}", root="0" * 64)
    refused(packed, VolumeFormatError, "no verity superblock where", blocks=packed.data_blocks - 1)
    refused(packed, VolumeFormatError, f"has {packed.size} bytes, a volume of", blocks=packed.data_blocks + 1)
    refused(packed, VolumeFormatError, "cannot be opened here, expected erofs", form="cocoon-tar")
    refused(packed, VolumeFormatError, "no model volume format 'ext4'", form="ext4")
    refused(packed, VolumeOpenError, "absent: No such file", path=tmp_path / "absent")


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        (16, VolumeFormatError, "superblock: uuid is"),
        (64, VolumeFormatError, "superblock: data block size is 4097, expected 4096"),
        (88, VolumeFormatError, "superblock: salt is"),
        (4096 + 3, VolumeMismatchError, "has root hash"),
        (2 * 4096 - 1, VolumeMismatchError, "has root hash"),
    ],
)
def test_an_altered_hash_area(
    packed: PackedModel, tmp_path: Path, *, block_device: None, where: int, error: type[Exception], match: str
) -> None:
    content = bytearray(packed.path.read_bytes())
    content[packed.hash_offset + where] ^= 1
    (tmp_path / "altered").write_bytes(content)
    refused(packed, error, match, path=tmp_path / "altered")


def test_more_behind_the_volume_does_not_matter(packed: PackedModel, tmp_path: Path, block_device: None) -> None:
    """A cloud's disks come in whole gigabytes."""
    (tmp_path / "disk").write_bytes(packed.path.read_bytes() + bytes(100_000))
    volume.check_device(tmp_path / "disk", packed.name[-64:], packed.data_blocks, EROFS)


@pytest.mark.parametrize(("status", "error"), [("C", VolumeMismatchError), ("V", VolumeOpenError)])
def test_a_volume_that_cannot_be_mounted(
    packed: PackedModel, tmp_path: Path, block_device: None, status: str, error: type[Exception]
) -> None:
    """dm-verity says whether a block that does not match its hash was the reason; nothing stays mapped."""

    class Refusing(Kernel):
        def __call__(self, command: Sequence[str]) -> str:
            if command[0] == "mount":
                raise VolumeOpenError("mount ended with status 32: can't read superblock")
            answer = super().__call__(command)
            return f"0 152 verity {status}\n" if command[1] == "status" else answer

    kernel = Refusing()
    with pytest.raises(error, match="was altered" if status == "C" else "status 32"):
        open_volume(packed.path, packed.name[-64:], packed.data_blocks, mount_point=tmp_path / "m", execute=kernel)
    assert kernel.told[-1] == ["dmsetup", "remove", "chrysalis-model"]


def test_damage_is_found_by_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/model.safetensors"):
        (tmp_path / name).write_bytes(b"a" * (3 << 20))
    assert volume.find_damage(tmp_path) is None

    class Broken(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            if "model" in str(self.name) and self.tell() >= 2 << 20:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Broken(path))
    assert volume.find_damage(tmp_path) == (
        "the model volume was altered: sub/model.safetensors from byte 2097152"
        " does not match the hash in the model's name"
    )


def test_a_file_is_no_device(packed: PackedModel) -> None:
    with pytest.raises(VolumeOpenError, match="is no block device"):
        open_volume(packed.path, packed.name[-64:], packed.data_blocks, execute=Kernel())


def test_commands_that_fail_say_why() -> None:
    assert volume.execute(["echo", "a"]) == "a\n"
    with pytest.raises(VolumeOpenError, match=r"ls /nowhere/at/all ended with status 2: .*nowhere"):
        volume.execute(["ls", "/nowhere/at/all"])
    with pytest.raises(VolumeOpenError, match="no-such-program could not run"):
        volume.execute(["no-such-program"])


# ---- the kernel --------------------------------------------------------------------------------------------------


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Attaches files as loop devices; undone at the end."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for loop devices")
    attached: list[str] = []

    def attach(path: Path) -> Path:
        done = subprocess.run(["losetup", "--find", "--show", "-r", path], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs loop devices: {done.stderr.strip()}")
        attached.append(done.stdout.strip())
        return Path(attached[-1])

    yield attach
    for device in attached:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_real_device_is_looked_at(packed: PackedModel, loop: Callable[[Path], Path], tmp_path: Path) -> None:
    device = loop(packed.path)
    number = volume.check_device(device, packed.name[-64:], packed.data_blocks, EROFS)
    assert number == f"7:{device.name.removeprefix('loop')}"
    with pytest.raises(VolumeMismatchError):
        volume.check_device(device, "0" * 64, packed.data_blocks, EROFS)


def test_dm_verity_opens_it_and_answers_an_altered_block_with_an_error(
    packed: PackedModel, loop: Callable[[Path], Path], tmp_path: Path
) -> None:
    if subprocess.run(["dmsetup", "version"], capture_output=True, check=False).returncode:
        pytest.skip("needs a kernel with device-mapper and dm-verity (the image's own test has one)")
    altered = tmp_path / "altered"
    content = bytearray(packed.path.read_bytes())
    content[packed.hash_offset - 4096] ^= 1  # in the last file's last block
    altered.write_bytes(content)
    for path, sound in ((packed.path, True), (altered, False)):
        point, mapping = tmp_path / f"mnt-{path.name}", f"chrysalis-test-{os.getpid()}"
        device = loop(path)
        try:
            open_volume(device, packed.name[-64:], packed.data_blocks, mount_point=point, mapping=mapping)
            last = point / "tokenizer.model"
            if sound:
                assert last.read_bytes().startswith(b"\x0a\x0e")
                assert os.statvfs(point).f_flag & os.ST_RDONLY
            else:
                with pytest.raises(OSError, match="Input/output error"):
                    last.read_bytes()
        finally:
            close_volume(mount_point=point, mapping=mapping)
