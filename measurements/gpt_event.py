"""What firmware measures of a disk's partition table: the disk's first sectors in, ``UEFI_GPT_DATA`` out.

The event is the header's 92 bytes, the number of entries that are in use, and those entries. The table's own checksums
cover the entries, so a table that does not hold together is refused: firmware would not boot from it.

Layout: UEFI 2.10, section 5.3.2 (header) and 5.3.3 (entries); TCG PC Client Platform Firmware Profile 1.06, section
10.2.7; EDK II ``SecurityPkg/Library/DxeTpm2MeasureBootLib`` (Tcg2MeasureGptTable). All integers are little-endian.
"""

from __future__ import annotations

import struct
import zlib

from measurements.errors import ArtefactError

SECTOR = 512
"""Bytes of a sector; the image's disk has no others."""

MAX_ENTRIES_BYTES = 1024 * 1024
"""Most bytes of entries that are read; a usual table has 16 KiB."""

HEADER = struct.Struct("<8sIIII4Q16sQIII")
_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_CHECKSUM = 16  # where the header's checksum stands
_COUNT = struct.Struct("<Q")


def gpt_data(disk: bytes, *, sector: int = SECTOR) -> bytes:
    """Content of the event ``EV_EFI_GPT_EVENT``.

    Args:
        disk: The disk's first sectors, with the whole primary table (34 sectors of 512 bytes, usually).
        sector: Bytes of a sector of the disk.

    Raises:
        ArtefactError: No partition table there, one that breaks firmware's rules, or one that reaches beyond ``disk``.
    """
    header = disk[sector : sector + HEADER.size]
    if len(header) < HEADER.size or not header.startswith(_SIGNATURE):
        raise ArtefactError(
            f"{len(disk)} bytes without a GPT at {sector}",
            hint="give the disk's first sectors",
        )
    _, revision, size, checksum, _, here, _, usable, _, _, table, count, entry, entries_checksum = HEADER.unpack(header)
    if revision != _REVISION or not HEADER.size <= size <= sector or here != 1:
        raise ArtefactError(f"GPT of revision {revision:#x} with a header of {size} bytes in sector {here}")
    if entry < 128 or entry & (entry - 1) or not count or count * entry > MAX_ENTRIES_BYTES or usable <= table:
        raise ArtefactError(f"GPT with {count} entries of {entry} bytes from sector {table}")
    whole = disk[sector : sector + size]
    seen = zlib.crc32(whole[:_CHECKSUM] + bytes(4) + whole[_CHECKSUM + 4 :])
    if seen != checksum:
        raise ArtefactError(f"GPT header with checksum {checksum:#010x}, its bytes have {seen:#010x}")
    start = table * sector
    entries = disk[start : start + count * entry]
    if len(entries) < count * entry:
        raise ArtefactError(
            f"{len(disk)} bytes of a disk whose partition table ends at {start + count * entry}",
            hint="hand over more of its first sectors",
        )
    if zlib.crc32(entries) != entries_checksum:
        raise ArtefactError(f"GPT entries with checksum {entries_checksum:#010x}, not that of their bytes")
    split = (entries[at : at + entry] for at in range(0, len(entries), entry))
    used = [item for item in split if any(item[:16])]
    return header + _COUNT.pack(len(used)) + b"".join(used)
