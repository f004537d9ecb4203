"""Small disks that look like a release's: a partition table, three partitions, contents that are not zero."""

from __future__ import annotations

import hashlib
import random
import uuid
from typing import TYPE_CHECKING

from host_support import make

from appliance.image.gpt import HEAD_SECTORS, SECTOR, Table, encode_head, encode_tail, new_table, with_partition
from appliance.image.release import open_release
from measurements.manifest import Artefact

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.image.release import Release

MIB = 1 << 20
IDENTITY = uuid.UUID("12345678-1234-5678-1234-567812345678")


def table(sectors: int = 5 * MIB // SECTOR) -> Table:
    empty = new_table(sectors, IDENTITY)
    esp = with_partition(empty, MIB, "esp", uuid.UUID(int=1))
    root = with_partition(esp, MIB, "root-x86-64", uuid.UUID(int=2))
    return with_partition(root, MIB, "root-x86-64-verity", uuid.UUID(int=3))


def disk() -> bytes:
    """Five MiB: 1 MiB before the partitions, three of 1 MiB (the second with a hole), 1 MiB with the backup table."""
    layout = table()
    random_bytes = random.Random(5).randbytes  # noqa: S311 - contents of a test, the same every time
    body = bytearray(5 * MIB)
    body[MIB : 2 * MIB] = random_bytes(MIB)
    body[2 * MIB : 2 * MIB + 65536] = random_bytes(65536)
    body[3 * MIB - 100 : 4 * MIB] = random_bytes(MIB + 100)
    head, tail = encode_head(layout), encode_tail(layout)
    body[: len(head)] = head
    body[-len(tail) :] = tail
    return bytes(body)


def write_release(directory: Path, contents: bytes | None = None, **changes: object) -> Release:
    """A release's directory with that disk, unsigned."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = disk() if contents is None else contents
    (directory / "chrysalis.raw").write_bytes(contents)
    entry = Artefact(name="chrysalis.raw", size=len(contents), sha256=hashlib.sha256(contents).hexdigest())
    manifest = make({}, artefacts=(entry,), **changes)
    (directory / "manifest.json").write_bytes(manifest.encode())
    return open_release(directory, None, development=True)


def head_of(contents: bytes) -> bytes:
    return contents[: HEAD_SECTORS * SECTOR]
