"""Volumes by a disk's serial or a partition's label; two of one name are nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from boot_machine import attach, machine, members, write

from appliance.boot import configuration
from appliance.boot.devices import CONFIG_VOLUME, volume_named
from appliance.boot.volume import pack
from appliance.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path


def partition(root: Path, label: str, data: bytes, name: str) -> None:
    """A partition as the kernel shows it, with its bytes under ``/dev``."""
    write(root, f"/sys/class/block/{name}/uevent", f"MAJOR=254\nDEVTYPE=partition\nPARTNAME={label}\n")
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / name).write_bytes(data)


def test_a_flashed_disks_partition_is_read_like_an_attached_disk(tmp_path: Path) -> None:
    by_disk, by_partition = machine(tmp_path / "disk"), machine(tmp_path / "partition", configured=False)
    partition(by_partition.root, CONFIG_VOLUME, pack(members()).ljust(1 << 20, b"\0"), "vda5")
    first, second = configuration.obtain(by_disk), configuration.obtain(by_partition)
    assert first.members == second.members
    assert configuration.check(second).measured.digest() == configuration.check(first).measured.digest()


def test_a_disk_and_a_partition_of_one_name_are_refused(tmp_path: Path) -> None:
    system = machine(tmp_path)
    assert volume_named(system, CONFIG_VOLUME) is not None
    partition(system.root, CONFIG_VOLUME, pack(members()), "vda5")
    with pytest.raises(StageError, match="a disk and a partition"):
        configuration.obtain(system)


def test_two_partitions_of_one_name_are_refused(tmp_path: Path) -> None:
    system = machine(tmp_path, configured=False)
    for name in ("vda5", "vdb1"):
        assert volume_named(system, "other") is None
        partition(system.root, CONFIG_VOLUME, pack(members()), name)
    with pytest.raises(StageError, match="2 partitions"):
        volume_named(system, CONFIG_VOLUME)
    attach(system.root, "other", b"", "vdd")
    assert volume_named(system, "other") is not None
