"""Put a release's disk onto a device or into a file, and prove that it is there.

The order is the point: signature, then every question about the target, then the image's data while its digest is
taken, and only when that is the manifest's the partition table, without which nothing boots; then to the medium, and
read back from it. Besides the table (PCR 5) nothing that a machine measures is changed.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.boot.volume import pack
from appliance.image.artefacts import DISK
from appliance.image.errors import ImageError
from appliance.image.gpt import (
    ALIGNMENT,
    HEAD_SECTORS,
    SECTOR,
    STATE_LABEL,
    Table,
    encode_head,
    encode_tail,
    parse_table,
    resized,
    with_partition,
)
from appliance.image.readback import Written, read_back
from appliance.image.release import open_artefact, require_digest
from appliance.image.target import open_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from appliance.image.release import Release
    from appliance.image.target import Target
    from measurements.manifest import Artefact

CONFIG_LABEL = "chrysalis-config"
MODEL_LABEL = "chrysalis-model"
CHUNK_BYTES = 4 << 20
SYNC_BYTES = 64 << 20
"""How much is written before the medium is waited for: progress that is told has happened."""
MIB = 1 << 20
HEAD_BYTES = HEAD_SECTORS * SECTOR
TAIL_BYTES = HEAD_BYTES - SECTOR


class FlashError(ImageError):
    """An image could not be put onto its target."""


@dataclass(frozen=True, slots=True)
class Extra:
    """What is put behind the image.

    Attributes:
        configuration: The configuration's files by name (``appliance.boot.volume``); None: no partition for it.
        model: A model volume's file; None: no partition for it.
        state: Bytes for the state partition; 0 takes the rest of the disk; None: no such partition.
    """

    configuration: Mapping[str, bytes] | None = None
    model: Path | None = None
    state: int | None = None


@dataclass(frozen=True, slots=True)
class Flashed:
    """What was done.

    Attributes:
        target: Where.
        about: What that is.
        size: Its length in bytes.
        image_bytes: Length of the image.
        sha256: The image's digest as the manifest has it, hex.
        partitions: Label and bytes of each partition there now.
        direct: Whether it was read back past the page cache.
    """

    target: Path
    about: str
    size: int
    image_bytes: int
    sha256: str
    partitions: tuple[tuple[str, int], ...]
    direct: bool


def flash(
    release: Release,
    to: Path,
    extra: Extra,
    report: Callable[[str, int, int], None],
    *,
    overwrite: bool = False,
    size: int | None = None,
) -> Flashed:
    """Write a release's disk to a target and verify it there.

    Args:
        release: The release, its signature checked.
        to: A whole block device, or a file.
        extra: What is put behind the image.
        report: Told the step in words, bytes done, and bytes in all.
        overwrite: What the target holds may be lost.
        size: Length of a file to be made; None: as much as is needed.

    Raises:
        ReleaseError: The disk's file is not the manifest's.
        TargetError: The target is in use, too small, or must not be overwritten.
        ReadBackError: The medium does not hold what was written.
        TableError: The image has no partition table, or what is asked for does not fit.
        FlashError: Writing failed.
    """
    entry = release.manifest.artefact(DISK)
    parts = _parts(extra)
    with open_artefact(release, entry) as source:
        head = source.read(HEAD_BYTES)
        table = parse_table(head, entry.size // SECTOR)
        used = (table.end + 1) * SECTOR
        needed = _needed(table, parts)
        with open_target(to, needed, size, overwrite=overwrite) as target:
            table = _table(table, target.size // SECTOR, parts)
            try:
                written = [_copy(source, head, entry, target, report, used=used)]
                written += _fill(target, table, parts, report)
                written += _finish(target, table)
            except OSError as error:
                raise FlashError(f"{to}: {error.strerror}", hint="is the medium still there, and sound?") from None
            direct = read_back(target.path.resolve(), written, report)
            target.announce_table()
            partitions = tuple((item.label, item.size) for item in table.partitions)
            return Flashed(to, target.about, target.size, entry.size, entry.sha256, partitions, direct)


@dataclass(frozen=True, slots=True)
class _Part:
    """A partition behind the image: label, bytes (0: what is left), what it holds from its beginning."""

    label: str
    size: int
    data: bytes = b""
    file: Path | None = None


def _parts(extra: Extra) -> list[_Part]:
    """What is put behind the image, the state last: it may take what is left."""
    parts = []
    if extra.configuration is not None:
        volume = pack(extra.configuration)
        size = -(-len(volume) // MIB) * MIB
        parts.append(_Part(CONFIG_LABEL, size, volume.ljust(size, b"\0")))
    if extra.model is not None:
        try:
            size = extra.model.stat().st_size
        except OSError as error:
            raise FlashError(f"{extra.model}: {error.strerror}", hint="chrysalis model pack makes one") from None
        if size == 0 or size % SECTOR:
            raise FlashError(f"{extra.model} has {size} bytes, expected a model volume", hint="chrysalis model pack")
        parts.append(_Part(MODEL_LABEL, size, file=extra.model))
    if extra.state is not None:
        # What was there before is no state of this machine: its beginning is made zero.
        parts.append(_Part(STATE_LABEL, extra.state, bytes(MIB)))
    return parts


def _table(table: Table, sectors: int, parts: Sequence[_Part]) -> Table:
    """The image's table on a disk of this size, with what is put behind it. Identities are new on every disk."""
    table = resized(table, sectors)
    for part in parts:
        table = with_partition(table, part.size, part.label, uuid.uuid4())
    return table


def _needed(table: Table, parts: Sequence[_Part]) -> int:
    """Bytes that the target has to have: the image, what is put behind it, and the second table; whole MiB then."""
    if not parts:
        return table.sectors * SECTOR
    least = [replace(part, size=part.size or MIB) for part in parts]
    room = sum(part.size // SECTOR + 2 * ALIGNMENT for part in least)
    whole = _table(table, table.sectors + room + ALIGNMENT, least)
    return max(table.sectors * SECTOR, -(-(whole.end + HEAD_SECTORS) // ALIGNMENT) * MIB)


def _copy(
    source: BinaryIO,
    head: bytes,
    entry: Artefact,
    target: Target,
    report: Callable[[str, int, int], None],
    *,
    used: int,
) -> Written:
    """Write the image between its two tables; the tables themselves are of this disk and come last.

    Args:
        source: The image's file, behind its head.
        head: What was read of it.
        entry: What the manifest says of it.
        target: Where to.
        report: Told the step in words, bytes done, and bytes in all.
        used: Where the image's last partition ends; what is put behind it may begin there.

    Raises:
        ReleaseError: What was read is not the manifest's disk. Nothing on the target boots then.
    """
    _write(target, 0, bytes(HEAD_BYTES))  # whatever was there before does not boot either
    _write(target, target.size - TAIL_BYTES, bytes(TAIL_BYTES))
    whole, body = hashlib.sha256(head), hashlib.sha256()
    position, before_tail, unsynced = HEAD_BYTES, entry.size - TAIL_BYTES, 0
    while data := source.read(CHUNK_BYTES):
        whole.update(data)
        body.update(data[: max(used - position, 0)])
        _write(target, position, data[: max(before_tail - position, 0)])
        position += len(data)
        unsynced += len(data)
        if unsynced >= SYNC_BYTES:
            os.fdatasync(target.descriptor)
            unsynced = 0
        report("writing", position, entry.size)
    require_digest(entry, whole.hexdigest())
    return Written("the image", HEAD_BYTES, used - HEAD_BYTES, body.digest())


def _fill(
    target: Target, table: Table, parts: Sequence[_Part], report: Callable[[str, int, int], None]
) -> list[Written]:
    """Write what is put behind the image."""
    places = {item.label: item.first * SECTOR for item in table.partitions}
    written = []
    for part in parts:
        offset = places[part.label]
        if part.file is not None:
            written.append(_copy_file(target, offset, part.file, part.size, report))
        else:
            written.append(_put(target, part.label, offset, part.data))
    return written


def _copy_file(target: Target, offset: int, file: Path, size: int, report: Callable[[str, int, int], None]) -> Written:
    """Write the model volume; the guest judges it by its root hash, here only the writing is proven."""
    digest, done = hashlib.sha256(), 0
    with file.open("rb") as source:
        while data := source.read(min(CHUNK_BYTES, size - done)):
            digest.update(data)
            _write(target, offset + done, data)
            done += len(data)
            if done % SYNC_BYTES == 0:
                os.fdatasync(target.descriptor)
            report("writing the model", done, size)
    if done != size:
        raise FlashError(f"{file} ended at byte {done} of {size} while it was read")
    return Written(MODEL_LABEL, offset, done, digest.digest())


def _finish(target: Target, table: Table) -> list[Written]:
    """Write the two tables, the second first, each after everything before it has reached the medium."""
    os.fsync(target.descriptor)
    tail = _put(target, "the backup partition table", target.size - TAIL_BYTES, encode_tail(table))
    os.fsync(target.descriptor)
    head = _put(target, "the partition table", 0, encode_head(table))
    target.flush()
    return [tail, head]


def _put(target: Target, what: str, offset: int, data: bytes) -> Written:
    _write(target, offset, data)
    return Written.of(what, offset, data)


def _write(target: Target, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(target.descriptor, view, offset)
        view, offset = view[count:], offset + count
