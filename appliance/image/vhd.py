"""The footer that makes a raw disk a fixed virtual hard disk. Pure.

Layout: Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0 (2006), "Hard Disk Footer Format" and the
appendix on geometry; big-endian, 512 bytes, after the data. Azure takes fixed disks whose size is whole MiB.
"""

from __future__ import annotations

import struct

FOOTER_BYTES = 512
EPOCH = 946_684_800
"""2000-01-01, from which the footer counts its seconds."""
MAX_BYTES = 2040 << 30
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_FIXED = 2
_NO_OFFSET = 0xFFFFFFFFFFFFFFFF
_RESERVED_FEATURE = 0x00000002
_VERSION = 0x00010000
_CREATOR = b"qem2"
"""Readers take the size from the footer, not from the geometry, for the creators they know; this one is QEMU's own
``force_size``, which Azure's documentation asks for."""
_CREATOR_VERSION = 0x00050003
_CREATOR_SYSTEM = b"Wi2k"


def footer(size: int, created: int, identity: bytes) -> bytes:
    """The footer.

    Args:
        size: Bytes of the disk.
        created: Unix time.
        identity: 16 bytes that name this disk.
    """
    cylinders, heads, sectors = geometry(size // 512)
    packed = _FOOTER.pack(
        b"conectix", _RESERVED_FEATURE, _VERSION, _NO_OFFSET, max(created - EPOCH, 0), _CREATOR, _CREATOR_VERSION,
        _CREATOR_SYSTEM, size, size, cylinders, heads, sectors, _FIXED, 0, identity, 0,
    )  # fmt: skip
    checksum = ~sum(packed) & 0xFFFFFFFF
    return (packed[:64] + struct.pack(">I", checksum) + packed[68:]).ljust(FOOTER_BYTES, b"\0")


def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors a track for a disk of that many sectors (the specification's appendix)."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        track, heads = 255, 16
        return sectors // track // heads, heads, track
    track = 17
    cylinders_heads = sectors // track
    heads = max((cylinders_heads + 1023) // 1024, 4)
    if cylinders_heads >= heads * 1024 or heads > 16:
        track, heads = 31, 16
        cylinders_heads = sectors // track
    if cylinders_heads >= heads * 1024:
        track, heads = 63, 16
        cylinders_heads = sectors // track
    return cylinders_heads // heads, heads, track
