"""The guest's side: a model volume on a block device becomes a read-only directory whose every read is checked.

In: a device, and from the measured configuration the root hash, the number of data blocks and the format. Out: the
mount point. The dm-verity table is made from these and the format's constants (kernel,
``Documentation/admin-guide/device-mapper/verity.rst``), never from the device; the device's own superblock must say
the same, so that a wrong volume is named as what it is before the kernel sees it.

A block that does not match its hash reads as an input/output error (dm-verity's default): the engine that maps it ends,
the stage fails, and the machine stays up to say so; nothing of the block is ever returned. ``panic_on_corruption``
would only take that explanation away, ``check_at_most_once`` would let a host change what was read before: neither is
used.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from appliance.model.errors import VolumeFormatError, VolumeMismatchError, VolumeOpenError
from appliance.model.formats import ALGORITHM, BLOCK, VolumeFormat, find
from appliance.model.verity import Geometry, check_superblock, digests

MOUNT_POINT: Final = Path("/run/chrysalis/model")
MAPPING: Final = "chrysalis-model"
"""Name of the dm-verity mapping."""
OPTIONS: Final = "ro,nodev,nosuid,noexec"
_SECTOR: Final = 512
_PIECE: Final = 1 << 20
_TIMEOUT_S: Final = 60.0

Execute = Callable[[Sequence[str]], str]
"""Runs a command; its standard output."""


def execute(command: Sequence[str]) -> str:
    """Run a command of the system.

    Raises:
        VolumeOpenError: It cannot be started or failed; with what it said.
    """
    try:
        done = subprocess.run(  # noqa: S603 - fixed programs, arguments from measured values
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VolumeOpenError(f"{command[0]} could not run: {type(error).__name__}: {error}") from None
    if done.returncode:
        raise VolumeOpenError(
            f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[:500]}",
            hint="the kernel's log has the reason: dm-verity or the file system refused the device",
        )
    return done.stdout


def open_volume(
    device: Path,
    root_hash: str,
    data_blocks: int,
    format: str = "erofs",  # noqa: A002 - what the configuration and the command line call it
    *,
    mount_point: Path = MOUNT_POINT,
    mapping: str = MAPPING,
    execute: Execute = execute,
) -> Path:
    """Open a volume by its root hash and mount it; one that is open already is kept if its table is the same.

    Needs root, ``dmsetup`` and ``mount``, and the kernel's ``dm-verity`` and ``erofs``.

    Args:
        device: The block device; what lies behind the volume on it does not matter.
        root_hash: From the model's measured name: 64 hex digits.
        data_blocks: From the measured configuration.
        format: From the measured configuration.
        mount_point: Made if it is not there.
        mapping: Name of the mapping.
        execute: Runs a command.

    Returns:
        The mount point.

    Raises:
        VolumeFormatError: The device holds no volume of that format and size.
        VolumeMismatchError: It holds another model's, or what the file system begins with was altered.
        VolumeOpenError: The device is not there, or the kernel would not map or mount it.
    """
    form = find(format)
    if not form.one_file:
        raise VolumeFormatError(
            f"format {format} cannot be opened here, expected erofs",
            hint="the tar form is for the reference's machines: pack the model with --format erofs for this image",
        )
    number = check_device(device, root_hash, data_blocks, form)
    table = verity_table(number, root_hash, data_blocks, form)
    if _exists(mapping, execute):
        present = execute(["dmsetup", "table", mapping]).strip()
        if present != table:
            raise VolumeOpenError(
                f"mapping {mapping} is another volume: {present}", hint=f"close it first: dmsetup remove {mapping}"
            )
    else:
        execute(["dmsetup", "create", mapping, "--readonly", "--noudevsync", "--table", table])
    if not mount_point.is_mount():
        minor = execute(["dmsetup", "info", "--columns", "--noheadings", "--options", "minor", mapping]).strip()
        mount_point.mkdir(mode=0o755, parents=True, exist_ok=True)
        _mount(f"/dev/dm-{minor}", device, mount_point, mapping, execute)
    return mount_point


def close_volume(*, mount_point: Path = MOUNT_POINT, mapping: str = MAPPING, execute: Execute = execute) -> None:
    """Undo :func:`open_volume`; what is not open is left alone.

    Raises:
        VolumeOpenError: Somebody still uses it.
    """
    if mount_point.is_mount():
        execute(["umount", str(mount_point)])
    if _exists(mapping, execute):
        execute(["dmsetup", "remove", mapping])


def find_damage(mount_point: Path = MOUNT_POINT) -> str | None:
    """Read every file of an open volume; for whoever could not load the model and wants to say why.

    Needs no privileges beyond reading the files.

    Returns:
        What is wrong: the file, and from which byte it cannot be read. None where everything reads as it was packed.
    """
    for path in sorted(path for path in mount_point.rglob("*") if path.is_file()):
        at = 0
        try:
            with path.open("rb", buffering=0) as file:
                while got := len(file.read(_PIECE)):
                    at += got
        except OSError as error:
            name = path.relative_to(mount_point)
            if error.errno == errno.EIO:
                return (
                    f"the model volume was altered: {name} from byte {at} does not match the hash in the model's name"
                )
            return f"{name} cannot be read from byte {at}: {error.strerror}"
    return None


def check_device(device: Path, root_hash: str, data_blocks: int, form: VolumeFormat) -> str:
    """Look at a device before the kernel does: its size, superblock and highest hash block.

    This names what is wrong; the kernel's own checks on every read are what protects.

    Returns:
        ``major:minor``.

    Raises:
        VolumeFormatError: It holds no volume of that format and size.
        VolumeMismatchError: It holds another model's.
        VolumeOpenError: It is not there, no block device, or cannot be read.
    """
    geometry = Geometry.of(data_blocks)
    needed = (data_blocks + geometry.hash_blocks) * BLOCK
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            size = os.lseek(descriptor, 0, os.SEEK_END)
            block = os.pread(descriptor, BLOCK, data_blocks * BLOCK)
            top = os.pread(descriptor, BLOCK, (data_blocks + 1 if geometry.levels else 0) * BLOCK)
        finally:
            os.close(descriptor)
    except OSError as error:
        hint = "is the model's disk attached?" if error.errno == errno.ENOENT else ""
        raise VolumeOpenError(f"{device}: {error.strerror}", hint=hint) from None
    if not stat.S_ISBLK(found.st_mode):
        raise VolumeOpenError(f"{device} is no block device")
    if size < needed:
        raise VolumeFormatError(
            f"{device} has {size} bytes, a volume of {data_blocks} data blocks needs {needed}",
            hint="the measured configuration is for another model volume, or the file was cut",
        )
    check_superblock(block, form, data_blocks)
    seen = digests(memoryview(top), form.salt).hex()
    if seen != root_hash:
        raise VolumeMismatchError(
            f"{device} has root hash {seen}, expected {root_hash}",
            hint="attach the volume that the measured configuration names; an altered hash area looks the same",
        )
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def verity_table(device: str, root_hash: str, data_blocks: int, form: VolumeFormat) -> str:
    """The mapping's table, as ``dmsetup`` takes and shows it; data and hash area are on one device."""
    return (
        f"0 {data_blocks * (BLOCK // _SECTOR)} verity 1 {device} {device} {BLOCK} {BLOCK}"
        f" {data_blocks} {data_blocks + 1} {ALGORITHM} {root_hash} {form.salt.hex()}"
    )


def _mount(mapped: str, device: Path, mount_point: Path, mapping: str, execute: Execute) -> None:
    """Mount what is mapped; where that fails, say whether an altered block is why, and undo the mapping."""
    try:
        execute(["mount", "-t", "erofs", "-o", OPTIONS, mapped, str(mount_point)])
    except VolumeOpenError:
        # "V" while every block that was read matched its hash, "C" from the first that did not.
        altered = execute(["dmsetup", "status", mapping]).split()[-1:] == ["C"]
        execute(["dmsetup", "remove", mapping])
        if altered:
            raise VolumeMismatchError(
                f"{device} was altered: a block that its file system begins with does not match the hash in the name",
                hint="get the volume's file again; chrysalis model verify names the block",
            ) from None
        raise


def _exists(mapping: str, execute: Execute) -> bool:
    names = execute(["dmsetup", "ls", "--target", "verity"]).splitlines()
    return mapping in {line.split("\t", 1)[0] for line in names}
