"""A plain Debian cloud image to compare a boot with, made here from the machine's own archive.

What Debian's ``genericcloud`` images have: the cloud kernel with Debian's own initrd, GRUB, systemd, networkd by
netplan, cloud-init (which finds no data source and steps aside), ssh, unattended upgrades, a login prompt on the serial
port. Two things are in its favour: the kernel is ``quiet``, and cloud-init has nothing to do. Needs root,
``mmdebstrap``, ``mtools``, ``dosfstools`` and ``e2fsprogs``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance.image.archive import from_machine
from appliance.image.gpt import SECTOR, encode_head, encode_tail, new_table, with_partition

SUITE = "trixie"
PACKAGES = (
    "linux-image-cloud-amd64",
    "grub-efi-amd64-bin",
    "grub-common",
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "systemd-timesyncd",
    "dbus",
    "netplan.io",
    "cloud-init",
    "cloud-guest-utils",
    "openssh-server",
    "sudo",
    "unattended-upgrades",
    "apparmor",
    "zstd",
)
LABEL = "cloud-root"
COMMAND_LINE = f"root=LABEL={LABEL} ro console=tty0 console=ttyS0,115200 consoleblank=0 quiet"
GRUB_MODULES = ("part_gpt", "fat", "ext2", "normal", "linux", "search", "search_label", "configfile", "gzio", "test")
ESP_MIB, ROOT_MIB = 64, 2048
MIB = 1 << 20
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


def make(directory: Path) -> Path:
    """Make it, or take the one that is there already; a raw disk.

    Raises:
        SystemExit: Not root.
        ImageError: This machine's apt names no Debian archive.
        subprocess.CalledProcessError: A program failed.
    """
    disk = directory / f"cloud-{SUITE}.raw"
    if disk.exists():
        return disk
    if os.geteuid() != 0:
        message = "a cloud image to compare with is made by mmdebstrap: needs root"
        raise SystemExit(message)
    directory.mkdir(parents=True, exist_ok=True)
    tree = directory / "cloud-tree"
    if not tree.exists():
        _bootstrap(tree)
    esp, root = directory / "cloud-esp", directory / "cloud-root"
    _esp(tree, esp)
    with root.open("wb") as file:
        file.truncate(ROOT_MIB * MIB)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-d", tree, root)
    partial = disk.with_suffix(".partial")
    _join(partial, esp, root)
    partial.rename(disk)
    for path in (esp, root):
        path.unlink()
    _run("rm", "-rf", tree)
    return disk


def _bootstrap(tree: Path) -> None:
    partial = tree.with_suffix(".partial")
    _run("rm", "-rf", partial)
    archive = from_machine().base("debian")
    hooks = (
        f'printf "LABEL={LABEL} / ext4 rw,discard,errors=remount-ro 0 1\\n" > "$1/etc/fstab"',
        'echo cloud > "$1/etc/hostname"',
        'chroot "$1" passwd -l root',
        'rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*',
    )
    _run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=important",
        f"--include={','.join(PACKAGES)}",
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE,
        partial,
        f"deb {archive} {SUITE} main",
    )
    partial.rename(tree)


def _esp(tree: Path, esp: Path) -> None:
    """The boot loader where firmware looks for it, with the configuration that Debian's images come to in the end."""
    early = (
        f"search --no-floppy --label {LABEL} --set=root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n"
    )
    (tree / "boot" / "early.cfg").write_text(early)
    _run("chroot", tree, "grub-mkimage", "-O", "x86_64-efi", "-c", "/boot/early.cfg", "-p", "/boot/grub",
         "-o", "/boot/BOOTX64.EFI", *GRUB_MODULES)  # fmt: skip
    menu = f"set timeout=0\nmenuentry Debian {{\n  linux /vmlinuz {COMMAND_LINE}\n  initrd /initrd.img\n}}\n"
    (tree / "boot" / "grub").mkdir(exist_ok=True)
    (tree / "boot" / "grub" / "grub.cfg").write_text(menu)
    with esp.open("wb") as file:
        file.truncate(ESP_MIB * MIB)
    _run("mkfs.vfat", "-F", "32", "-s", "1", esp)
    _run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
    _run("mcopy", "-i", esp, tree / "boot" / "BOOTX64.EFI", "::/EFI/BOOT/BOOTX64.EFI")


def _join(disk: Path, esp: Path, root: Path) -> None:
    """Both into one disk with a partition table."""
    table = new_table((ESP_MIB + ROOT_MIB + 2) * MIB // SECTOR, uuid.uuid4())
    table = with_partition(table, ESP_MIB * MIB, "esp", uuid.uuid4(), EFI_SYSTEM)
    table = with_partition(table, ROOT_MIB * MIB, "root", uuid.uuid4())
    with disk.open("wb") as file:
        file.truncate(table.sectors * SECTOR)
        file.write(encode_head(table))
        tail = encode_tail(table)
        file.seek(table.sectors * SECTOR - len(tail))
        file.write(tail)
    for source, partition in zip((esp, root), table.partitions, strict=True):
        seek = f"seek={partition.first * SECTOR // MIB}"
        _run("dd", f"if={source}", f"of={disk}", "bs=1M", seek, "conv=notrunc,sparse", "status=none")


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
