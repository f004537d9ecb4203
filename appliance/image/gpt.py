"""GUID partition tables: read one, move it to a disk of another size, add a partition. Pure: bytes in, bytes out.

Layout: UEFI specification 2.10, sections 5.2.3 (protective MBR) and 5.3 (header and entries), sectors of 512 bytes.
The firmware measures the table into PCR 5 and nothing else of what is changed here is measured anywhere.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass, replace

from appliance.image.errors import ImageError

SECTOR = 512
ENTRY_BYTES = 128
ALIGNMENT = 2048
"""Partitions start on 1 MiB, as every current tool aligns them."""
HEAD_SECTORS = 34
"""Protective MBR, header, and 128 entries: what stands before the first partition at least."""
MAX_ENTRIES = 128
BOOT_CODE_BYTES = 440
LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
STATE_LABEL = "chrysalis-state"
_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIII QQQQ 16s QIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


class TableError(ImageError):
    """A partition table is damaged, or does not fit."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry. ``first`` and ``last`` are sectors, both included; ``slot`` is its place in the table, from 0."""

    slot: int
    kind: uuid.UUID
    identity: uuid.UUID
    first: int
    last: int
    attributes: int
    label: str

    @property
    def size(self) -> int:
        """Length in bytes."""
        return (self.last - self.first + 1) * SECTOR


@dataclass(frozen=True, slots=True)
class Table:
    """A table for a disk of ``sectors`` sectors."""

    sectors: int
    identity: uuid.UUID
    first_usable: int
    partitions: tuple[Partition, ...]
    boot_code: bytes = bytes(BOOT_CODE_BYTES)

    @property
    def last_usable(self) -> int:
        """The last sector before the backup table."""
        return self.sectors - HEAD_SECTORS

    @property
    def end(self) -> int:
        """The last sector that a partition has; 0 without any."""
        return max((item.last for item in self.partitions), default=0)


def new_table(sectors: int, identity: uuid.UUID) -> Table:
    """An empty table."""
    return Table(sectors, identity, ALIGNMENT, ())


def parse_table(head: bytes, sectors: int) -> Table:
    """Read the primary table.

    Args:
        head: The first :data:`HEAD_SECTORS` sectors of the disk.
        sectors: The disk's length in sectors, as the table should say.

    Raises:
        TableError: No table, a wrong checksum, another entry size, or partitions outside the disk or over each other.
    """
    if len(head) != HEAD_SECTORS * SECTOR:
        raise TableError(f"{len(head)} bytes of a disk, expected {HEAD_SECTORS * SECTOR}")
    fields = _HEADER.unpack_from(head, SECTOR)
    signature, revision, size, crc, _, here, backup, first, last, identity, entries_at = fields[:11]
    count, entry_size, entries_crc = fields[11:]
    if signature != _SIGNATURE or revision != _REVISION or size != _HEADER.size:
        raise TableError("no GUID partition table of revision 1.0 on this disk", hint="is it an image of this project?")
    raw = bytearray(head[SECTOR : SECTOR + size])
    raw[16:20] = bytes(4)
    if zlib.crc32(raw) != crc:
        raise TableError("the partition table's header has a wrong checksum")
    if (
        here != 1
        or backup != sectors - 1
        or entries_at != 2
        or entry_size != ENTRY_BYTES
        or not 0 < count <= MAX_ENTRIES
    ):
        raise TableError(
            f"a partition table with backup at sector {backup} of {sectors} and {count} entries of {entry_size} bytes "
            f"at {entries_at}, expected the last sector and up to {MAX_ENTRIES} of {ENTRY_BYTES} at 2"
        )
    entries = head[2 * SECTOR : 2 * SECTOR + count * ENTRY_BYTES]
    if zlib.crc32(entries) != entries_crc:
        raise TableError("the partition table's entries have a wrong checksum")
    found = [_read(slot, entries[slot * ENTRY_BYTES :][:ENTRY_BYTES]) for slot in range(count)]
    table = Table(
        sectors,
        uuid.UUID(bytes_le=identity),
        first,
        tuple(item for item in found if item is not None),
        head[:BOOT_CODE_BYTES],
    )
    if last > table.last_usable or first < HEAD_SECTORS:
        raise TableError(f"usable sectors {first} to {last} overlap the table of a disk of {sectors}")
    _check(table)
    return table


def resized(table: Table, sectors: int) -> Table:
    """The same partitions on a disk of another size.

    Raises:
        TableError: They do not fit.
    """
    moved = replace(table, sectors=sectors)
    if moved.last_usable < table.end:
        raise TableError(
            f"a disk of {sectors * SECTOR} bytes; the partitions and their tables need "
            f"{(table.end + HEAD_SECTORS) * SECTOR}"
        )
    return moved


def with_partition(table: Table, size: int, label: str, identity: uuid.UUID, kind: uuid.UUID = LINUX_DATA) -> Table:
    """Add a partition after all others, aligned.

    Args:
        table: The table.
        size: Bytes of the new partition, rounded up to whole MiB; 0 takes what is left.
        label: Its name.
        identity: Its unique identity.
        kind: Its type.

    Raises:
        TableError: There is no room, no free entry, or a partition of this name.
    """
    if any(item.label == label for item in table.partitions):
        raise TableError(f"the disk already has a partition {label}")
    start = -(-max(table.end + 1, table.first_usable) // ALIGNMENT) * ALIGNMENT
    room = (table.last_usable + 1 - start) // ALIGNMENT * ALIGNMENT
    wanted = -(-size // (ALIGNMENT * SECTOR)) * ALIGNMENT if size else room
    if wanted > room or wanted <= 0:
        free, asked = (max(count, 0) * SECTOR >> 20 for count in (room, wanted))
        raise TableError(
            f"{free} MiB are free behind the image, {max(asked, 1)} MiB are asked for",
            hint="a smaller --state, or a larger disk",
        )
    used = {item.slot for item in table.partitions}
    slot = max(used, default=-1) + 1
    if slot >= MAX_ENTRIES:
        raise TableError("the partition table has no free entry")
    added = Partition(slot, kind, identity, start, start + wanted - 1, 0, label)
    return replace(table, partitions=(*table.partitions, added))


def encode_head(table: Table) -> bytes:
    """Protective MBR, primary header and entries: the disk's first :data:`HEAD_SECTORS` sectors."""
    entries = _entries(table)
    header = _header(table, entries, here=1, other=table.sectors - 1, entries_at=2)
    return _protective(table) + header.ljust(SECTOR, b"\0") + entries


def encode_tail(table: Table) -> bytes:
    """Backup entries and header: the disk's last ``HEAD_SECTORS - 1`` sectors."""
    entries = _entries(table)
    at = table.sectors - HEAD_SECTORS + 1
    return entries + _header(table, entries, here=table.sectors - 1, other=1, entries_at=at).ljust(SECTOR, b"\0")


def _protective(table: Table) -> bytes:
    """One entry of type 0xEE over the disk, as far as 32 bits reach (section 5.2.3)."""
    length = min(table.sectors - 1, 0xFFFFFFFF)
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, length)
    return table.boot_code + bytes(6) + entry + bytes(48) + b"\x55\xaa"


def _entries(table: Table) -> bytes:
    raw = bytearray(MAX_ENTRIES * ENTRY_BYTES)
    for item in table.partitions:
        label = item.label.encode("utf-16-le").ljust(72, b"\0")
        packed = _ENTRY.pack(item.kind.bytes_le, item.identity.bytes_le, item.first, item.last, item.attributes, label)
        raw[item.slot * ENTRY_BYTES : (item.slot + 1) * ENTRY_BYTES] = packed
    return bytes(raw)


def _header(table: Table, entries: bytes, *, here: int, other: int, entries_at: int) -> bytes:
    def pack(crc: int) -> bytes:
        return _HEADER.pack(
            _SIGNATURE, _REVISION, _HEADER.size, crc, 0, here, other, table.first_usable, table.last_usable,
            table.identity.bytes_le, entries_at, MAX_ENTRIES, ENTRY_BYTES, zlib.crc32(entries),
        )  # fmt: skip

    return pack(zlib.crc32(pack(0)))


def _read(slot: int, raw: bytes) -> Partition | None:
    kind, identity, first, last, attributes, label = _ENTRY.unpack(raw)
    if not any(kind):
        return None
    name = label.decode("utf-16-le", errors="replace").partition("\0")[0]
    return Partition(slot, uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=identity), first, last, attributes, name)


def _check(table: Table) -> None:
    before = table.first_usable - 1
    for item in sorted(table.partitions, key=lambda entry: entry.first):
        if not before < item.first <= item.last <= table.last_usable:
            raise TableError(
                f"partition {item.label!r} covers sectors {item.first} to {item.last}: "
                "outside the disk, or over another partition"
            )
        before = item.last
