"""Where the worker's ledger is kept: a partition that the owner added, or memory that dies with the machine.

The partition is the host's: what is on it can be lost, taken back to an older state or made up, and the worker
reconciles with peer and chain at every start. A blank one is formatted here; nothing in it is ever executed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import structlog

from appliance.boot.devices import STATE_LABEL, partition_by_label
from appliance.boot.errors import ToolError
from appliance.boot.system import run_tool
from appliance.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from appliance.boot.system import System

log = structlog.get_logger(__name__)

MOUNT_POINT: Final = "/var/lib/chrysalis"
OPTIONS: Final = "nodev,nosuid,noexec"
MEMORY: Final = "size=64m,mode=0755"
BLANK_BYTES: Final = 64 * 1024
"""A partition that begins with so many zeros holds no file system that Linux knows."""


async def mount(system: System, owner: tuple[int, int], *, run: Callable[..., Awaitable[bytes]] = run_tool) -> None:
    """Make the worker's directory, on the partition if there is one.

    Args:
        system: The machine.
        owner: The worker's user and group.
        run: Runs a program of the image.

    Raises:
        StageError: The partition cannot be formatted or mounted.
    """
    point = system.path(MOUNT_POINT)
    point.mkdir(mode=0o755, parents=True, exist_ok=True)
    partition = partition_by_label(system, STATE_LABEL)
    if partition is None:
        await run("mount", "-t", "tmpfs", "-o", f"{OPTIONS},{MEMORY}", "tmpfs", str(point))
    else:
        await _mount_partition(partition, point, run)
    directory = point / "worker"
    directory.mkdir(mode=0o700, exist_ok=True)
    os.chown(directory, *owner, follow_symlinks=False)


async def _mount_partition(partition: Path, point: Path, run: Callable[..., Awaitable[bytes]]) -> None:
    try:
        if _blank(partition):
            log.info("state partition is formatted", path=str(partition))
            await run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", STATE_LABEL[:16], str(partition))
        await run("mount", "-t", "ext4", "-o", f"{OPTIONS},errors=remount-ro", str(partition), str(point))
    except (OSError, ToolError) as error:
        said = error.message if isinstance(error, ToolError) else error.strerror
        raise StageError(
            f"the state partition {partition} cannot be used: {said}",
            hint="write zeros over its first megabyte to have it formatted anew; what it held is lost",
        ) from None


def _blank(partition: Path) -> bool:
    with partition.open("rb") as device:
        return not device.read(BLANK_BYTES).strip(b"\0")
