"""A volume opened by a real kernel's dm-verity: in a guest that runs this code on a built image's kernel."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from model_checkpoint import write_checkpoint

from appliance.config import home
from appliance.model import PackedModel, pack

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
MODULES = ("appliance/errors.py", "measurements/errors.py", "appliance/model/errors.py", "appliance/model/formats.py",
           "appliance/model/verity.py", "appliance/model/volume.py")  # fmt: skip
PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "/")
from appliance.model.errors import ModelVolumeError
from appliance.model.volume import close_volume, find_damage, open_volume

settings = json.loads(open("/settings.json").read())
subprocess.run(["modprobe", "-a", "virtio_pci", "virtio_blk", "dm-verity", "erofs", "sha256-ssse3"], check=True)
deadline = time.time() + 60
while not os.path.exists(settings["disks"][-1]) and time.time() < deadline:
    time.sleep(0.1)

def look(disk, root, blocks):
    point = Path("/mnt/model")
    try:
        open_volume(Path(disk), root, blocks, mount_point=point)
        open_volume(Path(disk), root, blocks, mount_point=point)  # again: nothing changes
        found = {}
        for path in sorted(path for path in point.rglob("*") if path.is_file()):
            try:
                found[str(path.relative_to(point))] = len(path.read_bytes())
            except OSError as error:
                found[str(path.relative_to(point))] = error.strerror
        flags = [line.split()[3] for line in open("/proc/mounts") if " /mnt/model " in line]
        try:
            (point / "new").touch()
            flags.append("written")
        except OSError as error:
            flags.append(error.strerror)
        return {"files": found, "flags": flags, "damage": find_damage(point)}
    except ModelVolumeError as error:
        return {"refused": type(error).__name__, "why": error.message}
    finally:
        close_volume(mount_point=point)

found = [look(disk, settings["root"], settings["blocks"]) for disk in settings["disks"]]
found.append(look(settings["disks"][0], "0" * 64, settings["blocks"]))
found.append(look(settings["disks"][0], settings["root"], settings["blocks"] - 1))
print("RESULT " + json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def image() -> Path:
    """A built image, or a skip that says how to get one."""
    found = next((path for path in sorted((home() / "image").glob("engine-cpu*/chrysalis.root.raw"))), None)
    if found is None:
        pytest.skip("needs a built image (chrysalis image build --profile engine-cpu)")
    for program in ("qemu-system-x86_64", "fsck.erofs"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    return found.parent


def altered(packed: PackedModel, path: Path, at: int) -> Path:
    content = bytearray(packed.path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_a_real_kernel_opens_it_and_refuses_what_is_altered(image: Path, tmp_path: Path) -> None:
    from kernel_guest import Disk, accelerator, initramfs, run

    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "zz.txt").write_bytes(b"z" * 200 * 4096)
    packed = pack(checkpoint, tmp_path / "volume", name="m")
    last = packed.hash_offset - 4096  # the last block of the last file
    disks = [
        packed.path,
        altered(packed, tmp_path / "data", last + 5),
        altered(packed, tmp_path / "superblock of the file system", 1024),
        altered(packed, tmp_path / "tree", packed.hash_offset + 2 * 4096 + 3),
        altered(packed, tmp_path / "table", packed.hash_offset + 68),
    ]
    settings: dict[str, Any] = {"root": packed.name[-64:], "blocks": packed.data_blocks}
    settings["disks"] = [f"/dev/vd{chr(97 + number)}" for number in range(len(disks))]
    files = {name: (ROOT / name).read_bytes() for name in MODULES}
    files["settings.json"] = json.dumps(settings).encode()
    archive = initramfs(image, PROGRAM, files, tmp_path)
    kernel = image / "chrysalis.vmlinuz"
    accel = accelerator(kernel)
    told: Any = run(kernel, archive, [Disk(path) for path in disks], accel=accel, memory_mib=1024)
    sound, data, head, tree, table, other, size = told
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()
    }
    assert sound["files"] == sizes
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(sound["flags"][0].split(","))
    assert sound["flags"][1] == "Read-only file system"
    assert sound["damage"] is None
    assert data["files"] == sizes | {"zz.txt": "Input/output error"}
    assert data["damage"].startswith("the model volume was altered: zz.txt from byte ")
    # The first lower hash block covers the file system's own blocks: nothing of it can be mounted.
    for refused in (head, tree):
        assert refused["refused"] == "VolumeMismatchError"
        assert "was altered: a block that its file system begins with" in refused["why"]
    assert table == {"refused": "VolumeFormatError", "why": table["why"]}
    assert "hash block size is 4097" in table["why"]
    assert (other["refused"], size["refused"]) == ("VolumeMismatchError", "VolumeFormatError")
