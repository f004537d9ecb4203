"""Partition tables: what is written is read, what moved is whole, what is damaged is refused."""

from __future__ import annotations

import shutil
import struct
import subprocess
import uuid
import zlib
from typing import TYPE_CHECKING

import disks
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.image.gpt import (
    ALIGNMENT,
    HEAD_SECTORS,
    SECTOR,
    TableError,
    encode_head,
    encode_tail,
    new_table,
    parse_table,
    resized,
    with_partition,
)

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
labels = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=36)


@given(st.lists(st.tuples(labels, st.integers(1, 40)), max_size=20, unique_by=lambda item: item[0]), st.uuids())
def test_what_is_written_is_read(parts: list[tuple[str, int]], identity: uuid.UUID) -> None:
    table = new_table((sum(size for _, size in parts) + 2) * ALIGNMENT, identity)
    for label, size in parts:
        table = with_partition(table, size * MIB, label, uuid.uuid5(identity, label))
    assert parse_table(encode_head(table), table.sectors) == table
    assert [(item.label, item.size) for item in table.partitions] == [(label, size * MIB) for label, size in parts]
    assert all(item.first % ALIGNMENT == 0 for item in table.partitions)


def test_both_tables_say_the_same() -> None:
    """UEFI specification 2.10, section 5.3.2: each header names the other; the entries are equal."""
    table = disks.table()
    head, tail = encode_head(table), encode_tail(table)
    assert len(head) + len(tail) == (2 * HEAD_SECTORS - 1) * SECTOR
    assert head[2 * SECTOR :] == tail[:-SECTOR]
    one, two = head[SECTOR : 2 * SECTOR], tail[-SECTOR:]
    assert struct.unpack_from("<QQ", one, 24) == (1, table.sectors - 1)
    assert struct.unpack_from("<QQ", two, 24) == (table.sectors - 1, 1)
    assert struct.unpack_from("<Q", two, 72) == (table.sectors - 33,)
    for header in (one, two):
        (said,) = struct.unpack_from("<I", header, 16)
        assert said == zlib.crc32(header[:16] + bytes(4) + header[20:92])
    assert head[446 + 4] == 0xEE
    assert head[510:512] == b"\x55\xaa"


def test_moving_to_a_larger_disk_keeps_every_partition() -> None:
    table = disks.table()
    moved = resized(table, table.sectors * 3)
    assert moved.partitions == table.partitions
    assert parse_table(encode_head(moved), moved.sectors) == moved
    assert resized(moved, table.sectors) == table
    with pytest.raises(TableError, match="the partitions and their tables need"):
        resized(table, 4 * MIB // SECTOR)


def test_a_partition_goes_behind_all_others() -> None:
    table = resized(disks.table(), 64 * MIB // SECTOR)
    grown = with_partition(table, 10 * MIB + 1, "chrysalis-state", uuid.UUID(int=9))
    added = grown.partitions[-1]
    assert added.first > table.end
    assert added.size == 11 * MIB
    rest = with_partition(grown, 0, "rest", uuid.UUID(int=10)).partitions[-1]
    assert rest.last <= grown.last_usable
    assert rest.size == (64 - 4 - 11 - 1) * MIB
    with pytest.raises(TableError, match="48 MiB are free behind the image, 49 MiB are asked for"):
        with_partition(grown, 49 * MIB, "too-large", uuid.UUID(int=11))
    with pytest.raises(TableError, match="already has a partition chrysalis-state"):
        with_partition(grown, MIB, "chrysalis-state", uuid.UUID(int=12))


def test_the_largest_disk_is_described() -> None:
    table = new_table(2**40, uuid.UUID(int=1))  # 512 TiB: the protective entry's 32 bits are full
    head = encode_head(table)
    assert struct.unpack_from("<I", head, 446 + 12) == (0xFFFFFFFF,)
    assert parse_table(head, 2**40) == table


def spoiled(offset: int, data: bytes, *, fix: bool = True) -> bytes:
    """The table with other bytes, its checksums made good again."""
    head = bytearray(encode_head(disks.table()))
    head[offset : offset + len(data)] = data
    if fix:
        head[SECTOR + 88 : SECTOR + 92] = struct.pack("<I", zlib.crc32(head[2 * SECTOR :]))
        head[SECTOR + 16 : SECTOR + 20] = bytes(4)
        head[SECTOR + 16 : SECTOR + 20] = struct.pack("<I", zlib.crc32(head[SECTOR : SECTOR + 92]))
    return bytes(head)


SECTORS = disks.table().sectors
FIRST = 2 * SECTOR + 32


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (bytes(HEAD_SECTORS * SECTOR), "no GUID partition table"),
        (b"", "0 bytes of a disk"),
        (spoiled(SECTOR, b"EFI PARK"), "no GUID partition table"),
        (spoiled(SECTOR + 56, b"\xff", fix=False), "header has a wrong checksum"),
        (spoiled(2 * SECTOR, b"x", fix=False), "entries have a wrong checksum"),
        (spoiled(SECTOR + 24, struct.pack("<Q", 2)), "expected the last sector"),
        (spoiled(SECTOR + 32, struct.pack("<Q", SECTORS)), f"backup at sector {SECTORS} of {SECTORS}"),
        (spoiled(SECTOR + 80, struct.pack("<I", 129)), "129 entries"),
        (spoiled(SECTOR + 80, struct.pack("<I", 2**32 - 1)), "entries"),
        (spoiled(SECTOR + 84, struct.pack("<I", 256)), "of 256 bytes"),
        (spoiled(SECTOR + 48, struct.pack("<Q", SECTORS)), "overlap the table"),
        (spoiled(SECTOR + 40, struct.pack("<Q", 1)), "overlap the table"),
        (spoiled(FIRST, struct.pack("<QQ", 10, 20)), "outside the disk, or over another"),
        (spoiled(FIRST, struct.pack("<QQ", 2048, 5000)), "outside the disk, or over another"),
        (spoiled(FIRST, struct.pack("<QQ", 4095, 2048)), "outside the disk, or over another"),
        (spoiled(FIRST + 8, struct.pack("<Q", 2**63)), "outside the disk, or over another"),
    ],
)
def test_a_damaged_table_is_refused(head: bytes, said: str) -> None:
    assert parse_table(spoiled(0, b""), SECTORS)  # control
    with pytest.raises(TableError, match=said):
        parse_table(head, SECTORS)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_table_or_a_named_error(data: bytes) -> None:
    with pytest.raises(TableError):
        parse_table((bytes(SECTOR) + data).ljust(HEAD_SECTORS * SECTOR, b"\0"), SECTORS)


@given(st.integers(0, HEAD_SECTORS * SECTOR - 1), st.binary(min_size=1, max_size=16))
def test_other_bytes_with_good_checksums_never_break_the_reader(offset: int, data: bytes) -> None:
    head = spoiled(offset, data)[: HEAD_SECTORS * SECTOR]
    try:
        table = parse_table(head, SECTORS)
    except TableError:
        return
    assert parse_table(encode_head(table), SECTORS).partitions == table.partitions


def test_another_program_reads_the_table(tmp_path: Path) -> None:
    sfdisk = shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin")
    if sfdisk is None:
        pytest.skip("sfdisk (package fdisk) is not installed")
    (tmp_path / "disk").write_bytes(disks.disk())
    done = subprocess.run([sfdisk, "--verify", "disk"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "No errors detected" in done.stdout, done.stdout + done.stderr
