"""A writer of small PE images and unified kernel images, for tests that need one whose every byte they know."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STUB = "257.13-1~deb13u1"
COMMAND_LINE = "console=ttyS0 quiet roothash=" + "5a" * 32
FILE_ALIGNMENT = 512
SECTION_ALIGNMENT = 4096


def pe(
    sections: Sequence[tuple[str, bytes]],
    *,
    certificate: bytes = b"",
    trailer: bytes = b"",
    plus: bool = True,
    virtual_sizes: Mapping[str, int] | None = None,
) -> bytes:
    """A PE image with the given sections, what follows them, and a certificate table at the end."""
    optional_size = (112 if plus else 96) + 16 * 8
    head = 0x80
    table = head + 4 + 20 + optional_size
    headers_size = _up(table + 40 * len(sections), FILE_ALIGNMENT)
    entries, bodies = b"", b""
    offset, address = headers_size, SECTION_ALIGNMENT
    for name, content in sections:
        raw = _up(len(content), FILE_ALIGNMENT)
        virtual = (virtual_sizes or {}).get(name, len(content))
        entries += struct.pack("<8sIIII16x", name.encode(), virtual, address, raw, offset)
        bodies += content.ljust(raw, b"\0")
        offset += raw
        address = _up(address + max(virtual, 1), SECTION_ALIGNMENT)
    optional = bytearray(optional_size)
    struct.pack_into("<H", optional, 0, 0x20B if plus else 0x10B)
    struct.pack_into("<II", optional, 32, SECTION_ALIGNMENT, FILE_ALIGNMENT)
    struct.pack_into("<III", optional, 56, address, headers_size, 0xC0FFEE)  # image and headers size, checksum
    directories = 112 if plus else 96
    struct.pack_into("<I", optional, directories - 4, 16)
    if certificate:
        struct.pack_into("<II", optional, directories + 32, offset + len(trailer), len(certificate))
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", head)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, optional_size, 0x22)
    headers = dos.ljust(head, b"\0") + b"PE\0\0" + coff + bytes(optional) + entries
    return headers.ljust(headers_size, b"\0") + bodies + trailer + certificate


def uki(
    sections: Mapping[str, bytes] | None = None,
    *,
    command_line: str = COMMAND_LINE,
    stub: str = STUB,
    certificate: bytes = b"",
) -> bytes:
    """A unified kernel image that boots nothing; ``sections`` replace or join those of a usual one."""
    contents = {
        ".text": b"\xcc" * 700,
        ".sdmagic": f"#### LoaderInfo: systemd-stub {stub} ####".encode(),
        ".sbat": b"sbat,1,SBAT Version,sbat,1\n",
        ".osrel": b"ID=chrysalis\nVERSION_ID=1\n",
        ".cmdline": command_line.encode(),
        ".uname": b"6.12.0",
        ".linux": pe([(".text", b"kernel" * 1000), (".data", b"data")]),
        ".initrd": b"070701" + b"initrd" * 500 + b"!",
        **(sections or {}),
    }
    return pe([(name, content) for name, content in contents.items() if content], certificate=certificate)


def _up(number: int, to: int) -> int:
    return -(-number // to) * to
