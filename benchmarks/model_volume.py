"""How fast a model volume is read through dm-verity, against the same file system on the same disk without it.

``python benchmarks/model_volume.py [--json] [--image DIR] [--mib N] [--rounds N] [--disk MB/s …]``. A volume is packed
from random weights and opened as the guest opens it (``appliance.model.open_volume``), and mounted plainly beside that
from a second disk with the same bytes. One reader, then four readers of a quarter each, read the weights from beginning
to end in pieces of 1 MiB with an empty page cache; rounds alternate and the best of each side counts. Packing the
volume is timed too, against copying the weights.

Where this machine's kernel has device-mapper and this is root, it happens on loop devices. Elsewhere it happens in a
guest on the kernel of a built image (``chrysalis image build``), under KVM or, where that does not work, emulated. An
emulated processor hashes many times slower than a real one while the disk stays as fast as it is, so there the figure
for an unlimited disk says little: ``--disk`` limits it, and the row says how much the guest hashes in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kernel_guest import MARK, Disk, accelerator, initramfs, run

from appliance.config import home
from appliance.model import PackedModel, pack, verify

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "appliance/errors.py",
    "appliance/model/errors.py",
    "appliance/model/formats.py",
    "appliance/model/verity.py",
    "appliance/model/volume.py",
    "measurements/errors.py",
)
"""What ``open_volume`` needs; the packages' own ``__init__`` files are left out."""

EMULATED_DISK = 30.0
"""MB/s: about half of what an emulated processor hashes, as a fast disk gives about half of what a real one hashes."""

PROGRAM = '''
import hashlib, json, os, subprocess, sys, threading, time
from pathlib import Path
sys.path.insert(0, "/")
from appliance.model.volume import open_volume

settings = json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.loads(open("/settings.json").read())
if settings["modules"]:
    subprocess.run(["modprobe", "-a", *settings["modules"]], check=True)
    deadline = time.time() + 30
    while not all(os.path.exists(disk) for pair in settings["disks"] for disk in pair) and time.time() < deadline:
        time.sleep(0.1)

def part(path, start, length):
    buffer, descriptor = bytearray(1 << 20), os.open(path, os.O_RDONLY)
    while length > 0:
        got = os.preadv(descriptor, [memoryview(buffer)[:min(length, len(buffer))]], start)
        assert got, "the file is shorter than it was"
        start, length = start + got, length - got
    os.close(descriptor)

def rate(path, readers):
    """Bytes a second with an empty page cache."""
    size = os.stat(path).st_size
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    each = -(-size // readers)
    threads = [threading.Thread(target=part, args=(path, n * each, min(each, size - n * each))) for n in range(readers)]
    begun = time.perf_counter()
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return size / (time.perf_counter() - begun)

found = {"limits": []}
for number, (plain, verity) in enumerate(settings["disks"]):
    there, checked = Path(settings["scratch"]) / f"plain{number}", Path(settings["scratch"]) / f"verity{number}"
    there.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "ro", plain, str(there)], check=True)
    mapping = f"chrysalis-bench-{number}"
    open_volume(Path(verity), settings["root"], settings["blocks"], mount_point=checked, mapping=mapping)
    best = {}
    for _ in range(settings["rounds"]):
        for readers in (1, 4):
            for name, place in (("plain", there), ("verity", checked)):
                key = f"{name} {readers}"
                best[key] = max(best.get(key, 0), rate(place / "model.safetensors", readers))
    found["limits"].append(best)
    subprocess.run(["umount", str(there)], check=True)
    subprocess.run(["umount", str(checked)], check=True)
    subprocess.run(["dmsetup", "remove", mapping], check=True)
block, count = bytes(1 << 20), 16
begun = time.perf_counter()
for _ in range(count): hashlib.sha256(block).digest()
found["sha256"] = count * len(block) / (time.perf_counter() - begun)
drivers = [section for section in open("/proc/crypto").read().split("\\n\\n") if "name         : sha256" in section]
found["driver"] = max((dict(line.split(":", 1) for line in d.splitlines() if ":" in line) for d in drivers),
                      key=lambda d: int(d["priority     "]))["driver       "].strip() if drivers else "built in"
print(settings["mark"] + json.dumps(found), flush=True)
'''


def make_volume(directory: Path, mib: int) -> tuple[PackedModel, dict[str, Any]]:
    """A volume of random weights, and how long packing took beside copying them; both end when all is on disk."""
    size = mib << 20
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    checkpoint = directory / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    with (checkpoint / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        chance = random.Random(1)  # noqa: S311 - weights, not keys
        for _ in range(mib):
            file.write(chance.randbytes(1 << 20))
    begun = time.perf_counter()
    with (checkpoint / "model.safetensors").open("rb") as source, (directory / "copy").open("wb") as copy:
        shutil.copyfileobj(source, copy, 8 << 20)
        os.fsync(copy.fileno())
    copied = size / (time.perf_counter() - begun)
    (directory / "copy").unlink()
    packed = pack(checkpoint, directory / "volume", name="bench")
    rate = packed.size / packed.seconds
    begun = time.perf_counter()
    verify(packed.path, packed.name)
    checked = packed.size / (time.perf_counter() - begun)
    rates = {"pack_mb_s": rate, "copy_mb_s": copied, "verify_mb_s": checked}
    row = {key: round(value / 1e6, 1) for key, value in rates.items()}
    return packed, {"name": "pack", **row, "ratio": round(rate / copied, 3)}


def settings(volume: PackedModel, rounds: int, disks: list[tuple[str, str]], scratch: str, modules: list[str]) -> str:
    values = {
        "root": volume.name[-64:],
        "blocks": volume.data_blocks,
        "rounds": rounds,
        "disks": disks,
        "scratch": scratch,
        "modules": modules,
        "mark": MARK,
    }
    return json.dumps(values)


def has_device_mapper() -> bool:
    """Whether this machine can do it itself."""
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run(["dmsetup", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def on_loop(volume: PackedModel, rounds: int, scratch: Path) -> dict[str, Any]:
    """On this machine's kernel."""
    devices: list[str] = []
    try:
        for _ in range(2):
            told = subprocess.run(
                ["losetup", "--find", "--show", "-r", "--direct-io=on", volume.path],
                check=True,
                capture_output=True,
                text=True,
            )
            devices.append(told.stdout.strip())
        given = settings(volume, rounds, [(devices[0], devices[1])], str(scratch), [])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, given],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        for device in devices:
            subprocess.run(["losetup", "--detach", device], check=True)
    found: dict[str, Any] = json.loads(done.stdout.partition(MARK)[2])
    return found


def in_guest(
    volume: PackedModel, image: Path, options: argparse.Namespace, scratch: Path
) -> tuple[dict[str, Any], str, list[float]]:
    """In a guest; each limit of the disk has two disks of its own."""
    kernel = image / "chrysalis.vmlinuz"
    accel = accelerator(kernel)
    limits = options.disk or ([0.0] if accel == "kvm" else [0.0, EMULATED_DISK])
    disks, names = [], []
    for number, limit in enumerate(limits):
        disks += [Disk(volume.path, int(limit * 1e6))] * 2
        names.append((f"/dev/vd{chr(97 + 2 * number)}", f"/dev/vd{chr(98 + 2 * number)}"))
    modules = ["virtio_pci", "virtio_blk", "dm-verity", "erofs", "sha256-ssse3"]
    files = {name: (ROOT / name).read_bytes() for name in MODULES}
    files["settings.json"] = settings(volume, options.rounds, names, "/mnt", modules).encode()
    archive = initramfs(image, PROGRAM, files, scratch)
    return run(kernel, archive, disks, accel=accel, memory_mib=1024 + options.mib), accel, limits


def rows(found: dict[str, Any], limits: list[float], where: str) -> list[dict[str, Any]]:
    hashed = found["sha256"] / 1e6
    made = []
    for limit, best in zip(limits, found["limits"], strict=True):
        disk = f", disk of {limit:g} MB/s" if limit else ""
        for readers in (1, 4):
            plain, verity = best[f"plain {readers}"], best[f"verity {readers}"]
            made.append(
                {
                    "name": f"{readers} reader{'s' * (readers > 1)}{disk}",
                    "verity_mb_s": round(verity / 1e6, 1),
                    "plain_mb_s": round(plain / 1e6, 1),
                    "ratio": round(verity / plain, 3),
                    "sha256_mb_s": round(hashed, 1),
                    "where": f"{where}, {found['driver']}",
                }
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--image", type=Path, default=None, help="directory of a built image")
    parser.add_argument("--mib", type=int, default=256, help="size of the weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--disk", type=float, nargs="*", help="limits of a guest's disk, MB/s; 0 is none")
    options = parser.parse_args()
    image = options.image or home() / "image" / "engine-cpu"
    with tempfile.TemporaryDirectory(dir=home(), prefix="bench-") as name:
        scratch = Path(name)
        volume, packing = make_volume(scratch, options.mib)
        if has_device_mapper():
            (scratch / "mnt").mkdir()
            made = rows(on_loop(volume, options.rounds, scratch / "mnt"), [0.0], "loop")
        elif (image / "chrysalis.root.raw").exists():
            found, accel, limits = in_guest(volume, image, options, scratch)
            made = rows(found, limits, f"guest, {accel}")
        else:
            why = f"this kernel has no device-mapper, and no built image is in {image.name}"
            made = [{"name": f"readers: not measured: {why}"}]
    made = [packing, *made]
    if options.json:
        print(json.dumps({"rows": made}))
        return
    for row in made:
        print(", ".join(f"{key} {value}" if key != "name" else f"{value:<28}" for key, value in row.items()))


if __name__ == "__main__":
    main()
