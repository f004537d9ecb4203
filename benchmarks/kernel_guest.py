"""A guest that runs one Python program on an image's kernel and nothing else; its initramfs is of the image's files.

No systemd, no root file system: what is measured is the kernel's part alone. The program prints one line that begins
with :data:`MARK` and JSON behind it; that is the result.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.host.kvm import probe_kvm
from appliance.host.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MARK = "RESULT "
ATTEMPTS = 3
_LARGEST = 8 << 20
_WANTED = (
    "usr/bin/python3*",
    "usr/bin/kmod",
    "usr/bin/mount",
    "usr/bin/umount",
    "usr/sbin/modprobe",
    "usr/sbin/dmsetup",
    "usr/lib/python3.13/**/*",
    "usr/lib/modules/**/*",
    "usr/lib/x86_64-linux-gnu/*.so*",
    "usr/lib64/*",
    "bin",
    "sbin",
    "lib",
    "lib64",
)
_INIT = b"""#!/usr/bin/python3 -B
import os, subprocess, sys
os.environ["PATH"] = "/usr/bin:/usr/sbin"
for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run"), ("tmpfs", "/tmp")):
    subprocess.run(["mount", "-t", kind, kind, place], check=True)
console = open("/dev/ttyS0", "w", buffering=1)
os.dup2(console.fileno(), 1)
os.dup2(console.fileno(), 2)
subprocess.run([sys.executable, "-B", "/program.py"], cwd="/")
console.flush()
open("/proc/sysrq-trigger", "w").write("b")
"""


@dataclass(frozen=True)
class Disk:
    """A file that the guest sees read-only; ``bytes_per_s`` limits how fast, 0 does not."""

    path: Path
    bytes_per_s: int = 0


def initramfs(image: Path, program: str, modules: Mapping[str, bytes], scratch: Path) -> Path:
    """Make one.

    Args:
        image: Directory of a built image; its root's files are used.
        program: What the guest runs.
        modules: Further files by path.
        scratch: Where to work.
    """
    root = scratch / "root"
    if not root.exists():
        command = [find_program("fsck.erofs"), f"--extract={root}", image / "chrysalis.root.raw"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = {path for pattern in _WANTED for path in root.glob(pattern)}
    entries: dict[str, tuple[int, bytes]] = {}
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt"):
        entries[name] = (stat.S_IFDIR | 0o755, b"")
    for path in found:
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind) and path.stat().st_size > _LARGEST:
            continue  # a model server's library: nothing here loads it, and the guest's memory is small
        content = os.fsencode(path.readlink()) if stat.S_ISLNK(kind) else path.read_bytes() if path.is_file() else b""
        entries[path.relative_to(root).as_posix()] = (kind, content)
    for name, content in modules.items():
        entries[name] = (stat.S_IFREG | 0o644, content)
    entries["init"] = (stat.S_IFREG | 0o755, _INIT)
    entries["program.py"] = (stat.S_IFREG | 0o644, program.encode())
    for name in list(entries):
        for parent in Path(name).parents:
            entries.setdefault(parent.as_posix(), (stat.S_IFDIR | 0o755, b""))
    entries.pop(".")
    archive = scratch / "initramfs"
    archive.write_bytes(b"".join(_cpio(entries)))
    return archive


def _cpio(entries: Mapping[str, tuple[int, bytes]]) -> Iterator[bytes]:
    """The "newc" form that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    for number, (name, (mode, content)) in enumerate([*sorted(entries.items()), ("TRAILER!!!", (0, b""))]):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def accelerator(kernel: Path) -> str:
    """``kvm`` where it runs a kernel, else ``tcg``."""
    return "kvm" if probe_kvm(kernel).works else "tcg"


def run(
    kernel: Path, initrd: Path, disks: Sequence[Disk], *, accel: str, memory_mib: int, seconds: float = 600
) -> dict[str, Any]:
    """Run a guest to its end; its result. An emulated kernel that broke on its way is started again.

    Raises:
        SystemExit: It printed none.
    """
    command: list[str | Path] = [find_program("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio", "-machine", f"q35,accel={accel}"]
    command += ["-cpu", "host" if accel == "kvm" else "max", "-smp", str(len(os.sched_getaffinity(0)))]
    command += ["-m", f"{memory_mib}M", "-kernel", kernel, "-initrd", initrd]
    command += ["-append", "console=ttyS0,115200 quiet panic=-1 rdinit=/init"]
    for number, disk in enumerate(disks):
        command += [
            "-blockdev",
            f"driver=raw,node-name=d{number},read-only=on,file.driver=file,file.filename={disk.path}",
        ]
        node = f"d{number}"
        if disk.bytes_per_s:
            command += ["-object", f"throttle-group,id=t{number},x-bps-read={disk.bytes_per_s}"]
            command += [
                "-blockdev",
                f"driver=throttle,node-name=l{number},throttle-group=t{number},file=d{number},read-only=on",
            ]
            node = f"l{number}"
        command += ["-device", f"virtio-blk-pci,drive={node}"]
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        line = next((line for line in done.stdout.splitlines() if MARK in line), None)
        if line is not None:
            found: dict[str, Any] = json.loads(line.partition(MARK)[2])
            return found
        if "Kernel panic" not in done.stdout:
            break
    message = f"the guest gave no result:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    raise SystemExit(message)
