"""Block devices by what the host calls them: a disk's serial, a partition's label.

A serial or a label is the host's word. It chooses which device is looked at; what is on it is judged by its own rules.
Sources: Linux ``Documentation/ABI/testing/sysfs-block`` (``serial``), ``block/partitions/core.c`` (``PARTNAME``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from appliance.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.boot.system import System

CONFIG_VOLUME: Final = "chrysalis-config"
MODEL_VOLUME: Final = "chrysalis-model"
STATE_LABEL: Final = "chrysalis-state"
_POLL_S: Final = 0.25


def disk_by_serial(system: System, serial: str) -> Path | None:
    """The disk with that serial; None where there is none.

    Raises:
        StageError: There are several: which one is meant would be the host's secret.
    """
    names = [
        entry.name
        for entry in _entries(system, "/sys/block")
        if serial in {system.text(f"/sys/block/{entry.name}/{file}") for file in ("serial", "device/serial")}
    ]
    return _only(system, names, f"disks with serial {serial}")


def partition_by_label(system: System, label: str) -> Path | None:
    """The partition with that label; None where there is none. Raises as :func:`disk_by_serial`."""
    names = [
        entry.name
        for entry in _entries(system, "/sys/class/block")
        if f"PARTNAME={label}" in (system.text(f"/sys/class/block/{entry.name}/uevent") or "").splitlines()
    ]
    return _only(system, names, f"partitions with label {label}")


def volume_named(system: System, name: str) -> Path | None:
    """The disk with that serial, as a hypervisor attaches it, or the partition with that label, as flashing makes it.

    Raises:
        StageError: There are several.
    """
    disk, partition = disk_by_serial(system, name), partition_by_label(system, name)
    if disk is not None and partition is not None:
        raise StageError(
            f"a disk and a partition {name}: {disk.name} and {partition.name}, expected one", hint="detach one of them"
        )
    return disk or partition


async def await_volume(system: System, name: str, limit_s: float) -> Path | None:
    """As :func:`volume_named`, waiting for a disk that comes late."""
    ends = asyncio.get_running_loop().time() + limit_s
    while True:
        found = volume_named(system, name)
        if found is not None or asyncio.get_running_loop().time() >= ends:
            return found
        await asyncio.sleep(_POLL_S)


def _entries(system: System, directory: str) -> list[Path]:
    try:
        return sorted(system.path(directory).iterdir())
    except OSError:
        return []


def _only(system: System, names: list[str], what: str) -> Path | None:
    if len(names) > 1:
        raise StageError(f"{len(names)} {what}: {', '.join(names)}, expected one", hint="detach the others")
    return system.path(f"/dev/{names[0]}") if names else None
