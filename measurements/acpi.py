"""ACPI tables as a machine monitor hands them to firmware, and what firmware measures of them.

In: the three files of QEMU's configuration device (``etc/acpi/tables``, ``etc/acpi/rsdp``,
``etc/table-loader``), or the first alone. Out: :class:`AcpiTables`. No table is ever built here.

Sources: ACPI Specification 6.5, sections 5.2.5 (root pointer), 5.2.6 (header), 5.2.9 (FADT), 5.2.10 (FACS, whose header
is only signature and length); QEMU ``hw/i386/acpi-build.c`` (order of tables) and ``hw/acpi/bios-linker-loader.c`` (the
loader's commands of 128 bytes). All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from measurements.errors import ArtefactError

MAX_TABLES_SIZE = 16 * 1024**2
"""Longest file of tables that is read, in bytes; QEMU's has 128 KiB unless a machine has hundreds of processors."""
MAX_TABLES = 1024
LOADER_SIZE = 4096
"""QEMU fills its loader file up to a multiple of this, in bytes."""

TABLES_FILE = "etc/acpi/tables"
RSDP_FILE = "etc/acpi/rsdp"

_HEADER = struct.Struct("<4sI")
_HEADER_SIZE = 36
_CHECKSUM = 9  # in a table's header
_RSDP = struct.Struct("<8sB6sBI")
_COMMAND_SIZE = 128
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_HIGH, _LOW = 1, 2  # zones: anywhere, below 1 MiB
_POINTERS = ((36, 4), (40, 4), (140, 8))
"""Places and sizes of pointers in the FADT: FIRMWARE_CTRL, DSDT, X_DSDT (section 5.2.9); old tables lack the last."""
_LEAST_FADT = 44
_TEXT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """What firmware reads; each is measured as it stands, filling included.

    Attributes:
        tables: ``etc/acpi/tables``.
        rsdp: ``etc/acpi/rsdp``.
        loader: ``etc/table-loader``.
    """

    tables: bytes
    rsdp: bytes
    loader: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        signature: Four characters, for example ``DSDT``.
        offset: Where it begins in the file, in bytes.
        length: Its own length, in bytes.
    """

    signature: str
    offset: int
    length: int


def tables_of(tables: bytes) -> tuple[Table, ...]:
    """The tables in a file, in order.

    Raises:
        ArtefactError: Too long, no tables, a table beyond the end, or something other than zeros behind the last one.
    """
    if len(tables) > MAX_TABLES_SIZE:
        raise ArtefactError(f"ACPI tables of {len(tables)} bytes, at most {MAX_TABLES_SIZE} are read")
    found: list[Table] = []
    place = 0
    while place + _HEADER.size <= len(tables):
        signature, length = _HEADER.unpack_from(tables, place)
        if signature == bytes(4):
            break
        least = _HEADER.size if signature == b"FACS" else _HEADER_SIZE
        if not _TEXT.issuperset(signature) or not least <= length <= len(tables) - place:
            raise ArtefactError(f"ACPI tables of {len(tables)} bytes with {signature!r} of {length} bytes at {place}")
        if len(found) == MAX_TABLES:
            raise ArtefactError(f"more than {MAX_TABLES} ACPI tables")
        found.append(Table(signature.decode(), place, length))
        place += length
    if not found or any(tables[place:]):
        raise ArtefactError(
            f"ACPI tables of {len(tables)} bytes: {len(found)} tables, then something else at {place}",
            hint="expected QEMU's etc/acpi/tables as it was handed to firmware",
        )
    return tuple(found)


def derive(tables: bytes) -> AcpiTables:
    """Root pointer and loader as QEMU makes them for a file of tables.

    Args:
        tables: ``etc/acpi/tables`` before firmware linked it: pointers are offsets in the file, checksums zero.

    Raises:
        ArtefactError: Not a file of tables, or one without RSDT, DSDT and FADT, each once.
    """
    found = tables_of(tables)
    rsdt, dsdt, fadt = (_only(found, signature) for signature in ("RSDT", "DSDT", "FACP"))
    if fadt.length < _LEAST_FADT:
        raise ArtefactError(f"FADT of {fadt.length} bytes, expected {_LEAST_FADT} or more")
    if (rsdt.length - _HEADER_SIZE) % 4:
        raise ArtefactError(f"RSDT of {rsdt.length} bytes, expected {_HEADER_SIZE} and four for each table")
    commands = [_allocate(RSDP_FILE, 16, _LOW), _allocate(TABLES_FILE, 64, _HIGH), _table_checksum(dsdt)]
    commands += [
        _pointer(TABLES_FILE, fadt.offset + place, size) for place, size in _POINTERS if place + size <= fadt.length
    ]
    commands.append(_table_checksum(fadt))
    others = [table for table in found if table.signature not in {"FACS", "DSDT", "FACP", "RSDT"}]
    commands += [_table_checksum(table) for table in others]
    entries = range(rsdt.offset + _HEADER_SIZE, rsdt.offset + rsdt.length, 4)
    commands += [_pointer(TABLES_FILE, place, 4) for place in entries]
    commands += [_table_checksum(rsdt), _pointer(RSDP_FILE, 16, 4), _checksum(RSDP_FILE, 8, 0, 20)]
    loader = b"".join(commands)
    return AcpiTables(
        tables,
        _RSDP.pack(b"RSD PTR ", 0, b"BOCHS ", 0, rsdt.offset),
        loader + bytes(-len(loader) % LOADER_SIZE),
    )


def _only(found: tuple[Table, ...], signature: str) -> Table:
    named = [table for table in found if table.signature == signature]
    if len(named) != 1:
        listed = " ".join(table.signature for table in found)
        raise ArtefactError(f"ACPI tables with {len(named)} tables {signature}, expected one; there are {listed[:200]}")
    return named[0]


def _allocate(file: str, alignment: int, zone: int) -> bytes:
    return _command(_ALLOCATE, struct.pack("<56sIB", file.encode(), alignment, zone))


def _pointer(file: str, place: int, size: int) -> bytes:
    """A pointer into the file of tables, to be linked."""
    return _command(_ADD_POINTER, struct.pack("<56s56sIB", file.encode(), TABLES_FILE.encode(), place, size))


def _table_checksum(table: Table) -> bytes:
    return _checksum(TABLES_FILE, table.offset + _CHECKSUM, table.offset, table.length)


def _checksum(file: str, place: int, start: int, length: int) -> bytes:
    return _command(_ADD_CHECKSUM, struct.pack("<56sIII", file.encode(), place, start, length))


def _command(number: int, arguments: bytes) -> bytes:
    return (struct.pack("<I", number) + arguments).ljust(_COMMAND_SIZE, b"\0")
