"""Flashing: what is written is proven, what is in use is never touched, what is wrong never boots."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import disks
import pytest

from appliance.boot.volume import parse
from appliance.image.flash import Extra, flash
from appliance.image.gpt import SECTOR, TableError, encode_tail, parse_table
from appliance.image.readback import ReadBackError, Written, read_back
from appliance.image.release import ReleaseError
from appliance.image.target import TargetError, check_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.image.release import Release

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
MEMBERS = {"measured.toml": b"m = 1\n", "owner.toml": b"o = 1\n", "host.toml": b"h = 1\n", "gas.key": b"seed"}


def silent(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return disks.write_release(tmp_path / "release")


def regions(contents: bytes) -> dict[str, bytes]:
    """The partitions' contents by label, by the table that is on the disk; both tables agree."""
    table = parse_table(disks.head_of(contents), len(contents) // SECTOR)
    tail = encode_tail(table)
    assert contents[-len(tail) :] == tail
    return {item.label: contents[item.first * SECTOR : (item.last + 1) * SECTOR] for item in table.partitions}


def test_a_new_file_is_the_image_itself(release: Release, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    done = flash(release, tmp_path / "disk", Extra(), lambda *step: steps.append(step))
    assert (tmp_path / "disk").read_bytes() == disks.disk()
    assert (done.size, done.image_bytes, done.about) == (5 * MIB, 5 * MIB, "file")
    assert [name for name, _ in done.partitions] == ["esp", "root-x86-64", "root-x86-64-verity"]
    for step in ("writing", "reading back"):
        told = [(done, total) for name, done, total in steps if name == step]
        assert told[-1][0] == told[-1][1]
        assert told == sorted(told)


def test_configuration_and_state_come_behind_the_image(release: Release, tmp_path: Path) -> None:
    model = tmp_path / "model.erofs"
    model.write_bytes(os.urandom(2 * MIB + 4096))
    done = flash(release, tmp_path / "disk", Extra(MEMBERS, model, 8 * MIB), silent)
    contents = (tmp_path / "disk").read_bytes()
    assert done.size == len(contents)
    found = regions(contents)
    assert list(found) == ["esp", "root-x86-64", "root-x86-64-verity", "chrysalis-config", "chrysalis-model",
                           "chrysalis-state"]  # fmt: skip
    before = regions(disks.disk())
    assert {label: found[label] for label in before} == before  # not a byte of the image moved
    assert parse(found["chrysalis-config"]) == MEMBERS
    assert found["chrysalis-model"].startswith(model.read_bytes())
    assert len(found["chrysalis-state"]) == 8 * MIB
    assert not any(found["chrysalis-state"])


def test_a_larger_file_gets_its_second_table_at_the_end_and_the_old_one_goes(release: Release, tmp_path: Path) -> None:
    flash(release, tmp_path / "disk", Extra(), silent, size=9 * MIB)
    contents = (tmp_path / "disk").read_bytes()
    assert len(contents) == 9 * MIB
    assert regions(contents) == regions(disks.disk())
    assert contents.count(b"EFI PART") == 2


def test_what_is_left_goes_to_the_state(release: Release, tmp_path: Path) -> None:
    done = flash(release, tmp_path / "disk", Extra(state=0), silent, size=20 * MIB)
    assert dict(done.partitions)["chrysalis-state"] == (20 - 4 - 1) * MIB


def test_an_older_state_is_not_taken_over(release: Release, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\xee" * 16 * MIB)
    flash(release, tmp_path / "disk", Extra(state=2 * MIB), silent, overwrite=True)
    state = regions((tmp_path / "disk").read_bytes())["chrysalis-state"]
    assert not any(state[:MIB])


def test_an_existing_file_needs_a_word(release: Release, tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(bytes(6 * MIB))
    with pytest.raises(TargetError, match="would be overwritten") as caught:
        flash(release, target, Extra(), silent)
    assert "--yes" in caught.value.hint
    assert not any(target.read_bytes())
    flash(release, target, Extra(), silent, overwrite=True)  # control
    assert regions(target.read_bytes()) == regions(disks.disk())


def test_a_smaller_target_is_left_as_it_is(release: Release, tmp_path: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"\x11" * (5 * MIB - SECTOR))
    with pytest.raises(TargetError, match=f"has {5 * MIB - SECTOR} bytes, {5 * MIB} are needed"):
        flash(release, target, Extra(), silent, overwrite=True)
    assert target.read_bytes() == b"\x11" * (5 * MIB - SECTOR)
    target.write_bytes(b"\x11" * 6 * MIB)
    with pytest.raises(TargetError, match="are needed"):
        flash(release, target, Extra(state=8 * MIB), silent, overwrite=True)
    assert target.read_bytes() == b"\x11" * 6 * MIB


def test_an_altered_image_never_boots(tmp_path: Path) -> None:
    release = disks.write_release(tmp_path / "release")
    contents = bytearray(disks.disk())
    contents[2 * MIB + 17] ^= 1
    release.path("chrysalis.raw").write_bytes(contents)
    device = tmp_path / "disk"
    device.write_bytes(disks.disk())  # something that boots was there before
    with pytest.raises(ReleaseError, match=r"chrysalis\.raw has SHA-256 .*, the manifest says"):
        flash(release, device, Extra(), silent, overwrite=True)
    assert b"EFI PART" not in device.read_bytes()
    with pytest.raises(ReleaseError):
        flash(release, tmp_path / "new", Extra(), silent)
    assert not (tmp_path / "new").exists()
    release.path("chrysalis.raw").write_bytes(disks.disk())  # control
    flash(release, device, Extra(), silent, overwrite=True)
    assert device.read_bytes() == disks.disk()


def test_an_image_of_another_length_is_refused_before_anything_is_written(release: Release, tmp_path: Path) -> None:
    with release.path("chrysalis.raw").open("ab") as handle:
        handle.write(bytes(SECTOR))
    device = tmp_path / "disk"
    device.write_bytes(b"\x11" * 8 * MIB)
    with pytest.raises(ReleaseError, match="the manifest says"):
        flash(release, device, Extra(), silent, overwrite=True)
    assert device.read_bytes() == b"\x11" * 8 * MIB


def test_an_image_without_a_table_is_refused(tmp_path: Path) -> None:
    release = disks.write_release(tmp_path / "release", bytes(5 * MIB))
    with pytest.raises(TableError, match="no GUID partition table"):
        flash(release, tmp_path / "disk", Extra(), silent)


def test_what_is_neither_disk_nor_file_is_refused(release: Release, tmp_path: Path) -> None:
    for wrong in (tmp_path, Path("/dev/null")):
        with pytest.raises(TargetError, match="neither a block device nor a file"):
            flash(release, wrong, Extra(), silent, overwrite=True)


def test_reading_back_finds_what_the_medium_lost(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 5 * SECTOR)
    path = tmp_path / "medium"
    path.write_bytes(bytes(SECTOR) + data)
    written = [Written.of("the image", SECTOR, data)]
    read_back(path, written, silent)  # control
    with path.open("r+b") as handle:
        handle.seek(2 * MIB)
        handle.write(b"lost")
    with pytest.raises(ReadBackError, match=f"the image, {len(data)} bytes at {SECTOR}"):
        read_back(path, written, silent)
    os.truncate(path, MIB)
    with pytest.raises(ReadBackError, match="ends at byte"):
        read_back(path, written, silent)


def sysfs(folder: Path, **files: str) -> Path:
    """A disk's directory as the kernel shows it: two partitions, nothing in use."""
    for name, text in {"dev": "8:0", "ro": "0", "sda1/partition": "1", "sda1/dev": "8:1", "sda2/partition": "2",
                       "sda2/dev": "8:2", **files}.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("mounts", "swaps", "files", "said"),
    [
        ([("8:0", "/mnt")], [], {}, "sda is mounted on /mnt"),
        ([("8:2", "/boot/efi")], [], {}, "sda2 is mounted on /boot/efi"),
        ([], ["8:1"], {}, "sda1 is swap space"),
        ([], [], {"sda2/holders/dm-0/dm/name": "vg0-root"}, "sda2 is used by vg0-root"),
        ([], [], {"holders/md0/dev": "9:0"}, "sda is used by md0"),
        ([], [], {"ro": "1"}, "sda is read-only"),
        ([], [], {"partition": "3"}, "sda is a partition"),
    ],
)
def test_a_disk_in_use_is_refused(
    tmp_path: Path, mounts: list[tuple[str, str]], swaps: list[str], files: dict[str, str], said: str
) -> None:
    free = sysfs(tmp_path / "control" / "sda")
    check_disk(free, [("8:16", "/"), ("0:22", "/proc")], ["8:17"])  # control: other disks are in use
    with pytest.raises(TargetError, match=said):
        check_disk(sysfs(tmp_path / "sda", **files), mounts, swaps)


@contextlib.contextmanager
def loop_device(path: Path, size: int) -> Iterator[Path]:
    """A block device over a file, where this machine and user can make one."""
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin:/usr/bin")
    if losetup is None or os.geteuid() != 0:
        pytest.skip("a loop device needs losetup and root")
    path.write_bytes(b"\x22" * size)
    done = subprocess.run([losetup, "--show", "-f", str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine gives no loop device: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run([losetup, "-d", str(device)], check=True)


def test_a_block_device_is_written_and_verified(release: Release, tmp_path: Path) -> None:
    with loop_device(tmp_path / "backing", 16 * MIB) as device:
        with pytest.raises(TargetError, match="would be overwritten"):
            flash(release, device, Extra(), silent)
        done = flash(release, device, Extra(MEMBERS, state=0), silent, overwrite=True)
        assert done.size == 16 * MIB
        assert done.about.endswith("0.0 GB")
        with device.open("rb") as handle:
            found = regions(handle.read())
        assert parse(found["chrysalis-config"]) == MEMBERS
        before = regions(disks.disk())
        assert {label: found[label] for label in before} == before
        with pytest.raises(TargetError, match=f"is attached to {device}"):
            flash(release, tmp_path / "backing", Extra(), silent, overwrite=True)


def test_a_small_block_device_is_left_as_it_is(release: Release, tmp_path: Path) -> None:
    with loop_device(tmp_path / "backing", 4 * MIB) as device, pytest.raises(TargetError, match="are needed"):
        flash(release, device, Extra(), silent, overwrite=True)
    assert (tmp_path / "backing").read_bytes() == b"\x22" * 4 * MIB


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_a_mounted_device_is_not_touched(release: Release, tmp_path: Path) -> None:
    where = tmp_path / "a mount\u00e9d disk"
    where.mkdir()
    with loop_device(tmp_path / "backing", 16 * MIB) as device:
        subprocess.run([tool("mkfs.ext4"), "-q", str(device)], check=True)
        if subprocess.run(["mount", str(device), str(where)], capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine does not mount")
        try:
            (where / "precious").write_text("here")
            with pytest.raises(TargetError, match=f"is mounted on {where}"):
                flash(release, device, Extra(), silent, overwrite=True)
            assert (where / "precious").read_text() == "here"
        finally:
            subprocess.run(["umount", str(where)], check=True)
        flash(release, device, Extra(), silent, overwrite=True)  # control: not mounted any more


def test_a_mount_that_this_process_does_not_see_is_noticed(release: Release, tmp_path: Path) -> None:
    """Mounted in another mount namespace only: the kernel's exclusive claim tells."""
    where = tmp_path / "elsewhere"
    where.mkdir()
    with loop_device(tmp_path / "backing", 16 * MIB) as device:
        subprocess.run([tool("mkfs.ext4"), "-q", str(device)], check=True)
        script = f"mount {device} {where} && echo mounted && read line; umount {where}"
        command = [tool("unshare"), "--mount", "--propagation", "private", "sh", "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            if other.stdout.readline() != b"mounted\n":
                other.stdin.close()
                pytest.skip("this machine has no mount namespaces to try it with")
            try:
                with pytest.raises(TargetError, match="busy") as caught:
                    flash(release, device, Extra(), silent, overwrite=True)
                assert "in use" in caught.value.hint
            finally:
                other.stdin.close()
                other.wait()
        flash(release, device, Extra(), silent, overwrite=True)  # control


def test_swap_is_not_touched(release: Release, tmp_path: Path) -> None:
    with loop_device(tmp_path / "backing", 16 * MIB) as device:
        subprocess.run([tool("mkswap"), str(device)], check=True, capture_output=True)
        if subprocess.run([tool("swapon"), str(device)], capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine takes no swap")
        try:
            with pytest.raises(TargetError, match="is swap space"):
                flash(release, device, Extra(), silent, overwrite=True)
        finally:
            subprocess.run([tool("swapoff"), str(device)], check=True)


def chrysalis(*words: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance.cli", "image", *map(str, words), "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_the_whole_way_by_command(tmp_path: Path) -> None:
    """Key, signature, verification, flashing: and each refused where one thing is not as it was signed."""
    release = disks.write_release(tmp_path / "release")
    key, image = tmp_path / "release.key", release.directory
    made = json.loads(chrysalis("keygen", key).stdout)
    assert key.stat().st_mode & 0o77 == 0
    unsigned = chrysalis("flash", "--image", image, "--key", f"{key}.pub", "--to", tmp_path / "a")
    assert "manifest.json.sig" in json.loads(unsigned.stdout)["error"]
    signed = chrysalis("sign", "--image", image, "--key", key)
    assert json.loads(signed.stdout)["signed_by"] == [made["public_key"]], signed.stdout
    assert json.loads(chrysalis("verify", image, "--key", made["public_key"]).stdout)["ok"] is True
    neither = chrysalis("flash", "--image", image, "--to", tmp_path / "a")
    assert "which key" in json.loads(neither.stdout)["error"]
    done = json.loads(chrysalis("flash", "--image", image, "--key", f"{key}.pub", "--to", tmp_path / "a").stdout)
    assert done["ok"] is True
    assert done["next"].startswith("next: ")
    assert (tmp_path / "a").read_bytes() == disks.disk()
    mistaken = json.loads(chrysalis("verify", image, "--key", key).stdout)
    assert "ed25519" in mistaken["error"]
    assert key.read_text().strip() not in json.dumps(mistaken)
    other = json.loads(chrysalis("keygen", tmp_path / "other.key").stdout)["public_key"]
    refused = chrysalis("flash", "--image", image, "--key", other, "--to", tmp_path / "b")
    assert refused.returncode == 1
    assert "trusted keys" in json.loads(refused.stdout)["error"]
    manifest = image / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"release":7', b'"release":8'))
    altered = chrysalis("flash", "--image", image, "--key", made["public_key"], "--to", tmp_path / "b")
    assert "does not cover these bytes" in json.loads(altered.stdout)["error"]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("change", [{"debug": True}, {"source_modified": True}, {"source_commit": None}])
def test_what_is_no_release_is_flashed_only_when_asked_for(tmp_path: Path, change: dict[str, Any]) -> None:
    image = disks.write_release(tmp_path / "release", **change).directory
    refused = chrysalis("flash", "--image", image, "--unsigned", "--to", tmp_path / "a")
    assert "--development" in json.loads(refused.stdout)["hint"]
    assert not (tmp_path / "a").exists()
    asked = chrysalis("flash", "--image", image, "--unsigned", "--development", "--to", tmp_path / "a")
    assert json.loads(asked.stdout)["ok"] is True
