"""Where an image is flashed to: a block device that nobody uses, or a file. Everything is looked at before a write.

What uses a device is asked three ways, because each misses something: the mounts and swaps of this view of the system
(proc(5)), the holders that the kernel lists (LVM, RAID, encryption), and the kernel's own exclusive claim, ``O_EXCL``
on a block device (open(2)), which also knows mounts of other namespaces and is kept until the work is done.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.errors import ImageError
from appliance.image.gpt import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OCTAL = re.compile(r"\\([0-7]{3})")
"""How ``mountinfo`` writes blanks and backslashes in names."""
# linux/fs.h
_BLKSSZGET = 0x1268
_BLKFLSBUF = 0x1261
_BLKRRPART = 0x125F
_BLKGETSIZE64 = 0x80081272


class TargetError(ImageError):
    """A target cannot be written to, or must not be."""


@dataclass(frozen=True, slots=True)
class Target:
    """An open target.

    Attributes:
        path: Its name.
        descriptor: Open for reading and writing; a device is claimed exclusively.
        size: Its length in bytes.
        device: Whether it is a block device.
        about: What it is, for a person.
    """

    path: Path
    descriptor: int
    size: int
    device: bool
    about: str

    def flush(self) -> None:
        """Everything written is on the medium, and nothing of it is read from a cache afterwards."""
        os.fsync(self.descriptor)
        if self.device:
            fcntl.ioctl(self.descriptor, _BLKFLSBUF, 0)
        else:
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def announce_table(self) -> None:
        """Let the kernel read the new partition table; where it cannot, the next boot does."""
        if self.device:
            with suppress(OSError):
                fcntl.ioctl(self.descriptor, _BLKRRPART, 0)


@contextmanager
def open_target(path: Path, needed: int, size: int | None = None, *, overwrite: bool) -> Iterator[Target]:
    """Open a device or a file that is free to be written.

    Args:
        path: A whole block device, an existing file, or a file to be made.
        needed: Bytes that will be used.
        size: Length of a file to be made; None: what is needed.
        overwrite: What the device or file holds may be lost.

    Raises:
        TargetError: It is in use, too small, a partition, read-only, or holds something that may not be lost.
    """
    resolved = path.resolve()
    try:
        mode = resolved.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    if mode and not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        raise TargetError(f"{path} is neither a block device nor a file")
    if mode and not overwrite:
        what = describe_device(resolved) if stat.S_ISBLK(mode) else "an existing file"
        raise TargetError(f"{path} ({what}) would be overwritten", hint="--yes says that it may be")
    if stat.S_ISBLK(mode):
        require_free(resolved)
        flags = os.O_RDWR | os.O_EXCL
    else:
        _require_not_looped(resolved)
        flags = os.O_RDWR | (0 if mode else os.O_CREAT | os.O_EXCL)
    try:
        descriptor = os.open(resolved, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise TargetError(
            f"{path}: {error.strerror}",
            hint="the kernel says that the device is in use" if flags & os.O_EXCL and mode else "",
        ) from None
    try:
        if not mode:
            os.truncate(descriptor, max(size or needed, 0))
        yield _described(path, resolved, descriptor, needed, device=stat.S_ISBLK(mode))
    except BaseException:
        if not mode:
            resolved.unlink(missing_ok=True)  # a file made here and not finished is of no use to anybody
        raise
    finally:
        os.close(descriptor)


def is_device(path: Path) -> bool:
    """Whether a name leads to a block device."""
    return path.is_block_device()


def describe_device(path: Path) -> str:
    """A block device in words: its model where it has one, and its size."""
    folder = _sysfs(path)
    model = _text(folder / "device/model") or _text(folder / "loop/backing_file") or "block device"
    return f"{model}, {int(_text(folder / 'size') or 0) * 512 / 1e9:.1f} GB"


def require_free(path: Path) -> None:
    """Refuse a device that is not a whole disk, cannot be written, or is in use.

    Raises:
        TargetError: What uses it is named.
    """
    folder = _sysfs(path)
    if not folder.is_dir():
        raise TargetError(f"{path}: the kernel does not know this block device")
    check_disk(folder, list(_mounts()), list(_swaps()))


def check_disk(folder: Path, mounts: Sequence[tuple[str, str]], swaps: Sequence[str]) -> None:
    """As :func:`require_free`, for a disk's directory below ``/sys/devices``.

    Args:
        folder: The directory, its name the disk's.
        mounts: ``major:minor`` and mount point of what is mounted.
        swaps: ``major:minor`` of swap spaces.

    Raises:
        TargetError: What uses it is named.
    """
    if (folder / "partition").exists():
        raise TargetError(
            f"{folder.name} is a partition, expected a whole disk", hint=f"its disk is /dev/{folder.parent.name}"
        )
    if _text(folder / "ro") == "1":
        raise TargetError(f"{folder.name} is read-only")
    parts = [folder, *sorted(entry.parent for entry in folder.glob("*/partition"))]
    numbers = {_text(part / "dev"): part.name for part in parts}
    for number, where in mounts:
        if number in numbers:
            raise TargetError(
                f"{numbers[number]} is mounted on {where}", hint=f"umount {where}, if it is the right disk"
            )
    for number in swaps:
        if number in numbers:
            name = numbers[number]
            raise TargetError(f"{name} is swap space", hint=f"swapoff /dev/{name}, if it is the right disk")
    for part in parts:
        holders = sorted(entry for entry in (part / "holders").glob("*"))
        if holders:
            mapped = [_text(holder / "dm/name") or holder.name for holder in holders]
            raise TargetError(
                f"{part.name} is used by {', '.join(mapped)}",
                hint="LVM, RAID or encryption: take it down, if it is the right disk",
            )


def _described(path: Path, resolved: Path, descriptor: int, needed: int, *, device: bool) -> Target:
    if device:
        size: int = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
        sector: int = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))[0]
        if sector != SECTOR:
            raise TargetError(
                f"{path} has sectors of {sector} bytes, the image is made for {SECTOR}",
                hint="many disks can be switched to 512 bytes (nvme format, hdparm)",
            )
        about = describe_device(resolved)
    else:
        size, about = os.fstat(descriptor).st_size, "file"
    if size < needed or size % SECTOR:
        raise TargetError(f"{path} has {size} bytes, {needed} are needed", hint="a larger disk, or a smaller --state")
    return Target(path, descriptor, size, device, about)


def _require_not_looped(path: Path) -> None:
    """A file under a loop device is a disk that somebody uses."""
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        if _text(entry) == str(path):
            raise TargetError(
                f"{path} is attached to /dev/{entry.parents[1].name}", hint="losetup -d, if it is the right one"
            )


def _mounts() -> Iterator[tuple[str, str]]:
    """Device number and mount point of everything mounted here (proc(5), ``/proc/PID/mountinfo``)."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        where = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        yield fields[2], where
        # Some file systems show a number of their own; the source's name leads to the device's.
        number = _number(after.split(" ")[1])
        if number:
            yield number, where


def _swaps() -> Iterator[str]:
    for line in Path("/proc/swaps").read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        number = _number(line.split()[0])
        if number:
            yield number


def _number(name: str) -> str:
    """``major:minor`` of a block device's name; empty for anything else."""
    try:
        found = Path(name).stat() if name.startswith("/") else None
    except OSError:
        return ""
    if found is None or not stat.S_ISBLK(found.st_mode):
        return ""
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _sysfs(path: Path) -> Path:
    return (Path("/sys/dev/block") / _number(str(path))).resolve()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
