"""A writer of small firmware files, variable stores and partition tables, for tests that know their every byte.

The firmware has OVMF's layout: a volume with one file, in it a compressed section, in that the two volumes. Its PEI
core is an image with the two instructions that write where the timer is, and nothing else of it would run.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from typing import TYPE_CHECKING
from uuid import UUID

from measure_support import pe

from measurements.boot_options import MENU, SHELL
from measurements.firmware_volume import LZMA_SECTION
from measurements.tpm_firmware import SECURE_BOOT_DRIVER, SMM_ACCESS, TABLES_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FILE_SYSTEM = UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3")
PEI_CORE = UUID("52c05b14-0b98-496c-bc3b-04b50211d680")
VERSION = "2025.02-8+test1"
TEXT_OFFSET = 512
"""Where the first section's content stands in an image of :func:`core`."""


def volume(files: Iterable[bytes], *, name: UUID | None = None, size: int = 0) -> bytes:
    """A volume with files, erased behind them; with a name it has an extended header."""
    head_size = 72
    body = b""
    if name is not None:
        body += name.bytes_le + struct.pack("<I", 20) + bytes(4)
    for content in files:
        body += content + b"\xff" * (-(head_size + len(body) + len(content)) % 8)
    length = max(size, head_size + len(body) + 64)
    head = struct.pack(
        "<16s16sQ4sIHHHBB",
        *(bytes(16), FILE_SYSTEM.bytes_le, length, b"_FVH", 0x4FEFF, head_size, 0, head_size if name else 0, 0, 2),
    )
    return (head + struct.pack("<IIII", length, 1, 0, 0) + body).ljust(length, b"\xff")


def file(name: UUID, kind: int, sections: Sequence[tuple[int, bytes]]) -> bytes:
    """A file of sections; it has to stand at a multiple of eight in its volume."""
    body = b""
    for number, content in sections:
        size = 4 + len(content)
        head = struct.pack("<I", size | number << 24)
        if size >= 0xFFFFFF:
            head = b"\xff\xff\xff" + bytes([number]) + struct.pack("<I", size + 4)
        body += bytes(-len(body) % 4) + head + content
    length = 24 + len(body)
    return name.bytes_le + struct.pack("<HBB", 0, kind, 0) + length.to_bytes(3, "little") + b"\xf8" + body


def title(text: str) -> tuple[int, bytes]:
    """A file's section with its name."""
    return 0x15, text.encode("utf-16-le") + b"\0\0"


def core(*, place: int | None = None, other: int | None = None) -> bytes:
    """A PEI core whose code writes the timer's address to ``place`` twice, once to ``other`` where that is given."""
    data_at = 2 * TEXT_OFFSET
    place = data_at + 16 if place is None else place
    code = b"\xcc" * 32

    def relative(target: int, end: int) -> bytes:
        return struct.pack("<i", target - end)

    start = TEXT_OFFSET
    code += b"\xc7\x05" + relative(place, start + len(code) + 10) + b"\x08\x06\0\0"
    code += b"\x83\xe3\xfe\x90\x90\x83\xc3\x08\x89\x1d"
    code += relative(place if other is None else other, start + len(code) + 4)
    return pe([(".text", code), (".data", bytes(64))])


def pei(image: bytes | None = None, version: str = VERSION, *, smm: bool = False) -> bytes:
    """The volume of the phase that measures."""
    settings = version.encode("utf-16-le") + b"\0\0"
    return volume(
        [
            file(PEI_CORE, 4, [(0x10, core() if image is None else image), title("PeiCore")]),
            file(UUID(int=7), 6, [(0x19, settings)]),
            *([file(SMM_ACCESS, 6, [title("SmmAccessPei")])] if smm else []),
        ],
        name=UUID(int=1),
    )


def dxe(*, shell: bool = True, secure_boot: bool = False, measures_tables: bool = True, menu: str = "UiApp") -> bytes:
    """The volume of everything after it."""
    files = [file(MENU, 9, [(0x10, b"menu"), title(menu)])]
    files += [file(SHELL, 9, [(0x10, b"shell"), title("Shell")])] if shell else []
    files += [file(SECURE_BOOT_DRIVER, 7, [(0x10, b"driver"), title("SecureBootConfigDxe")])] if secure_boot else []
    files += [file(UUID(int=9), 7, [(0x10, TABLES_TEXT)])] if measures_tables else []
    return volume(files, name=UUID(int=2))


def packed(content: bytes, *, stated: int | None = None) -> bytes:
    """An LZMA stream with its old header, which states a length."""
    stream = lzma.compress(content, format=lzma.FORMAT_ALONE)
    return stream[:5] + struct.pack("<Q", len(content) if stated is None else stated) + stream[13:]


def firmware(
    volumes: Sequence[bytes] | None = None, *, stream: bytes | None = None, kind: UUID = LZMA_SECTION
) -> bytes:
    """A code file: one volume with the compressed ones in it, and one behind it that starts the processor."""
    if stream is None:
        parts = b""
        for item in (pei(), dxe()) if volumes is None else volumes:
            parts += bytes(-len(parts) % 4) + struct.pack("<I", (4 + len(item)) | 0x17 << 24) + item
        stream = packed(parts)
    guided = kind.bytes_le + struct.pack("<HH", 24, 1) + stream
    image = file(UUID(int=3), 0x0B, [(0x02, guided)])
    return volume([image]) + volume([file(UUID(int=4), 3, [(0x10, b"sec")])])


def loader(*names: str) -> bytes:
    """A table loader that fetches files, with a command between them that fetches nothing."""
    commands = [struct.pack("<I56s68x", 1, name.encode()) + struct.pack("<I124x", 3) for name in names]
    return b"".join(commands)


def disk(entries: Sequence[bytes] = (b"\x11" * 128,), *, table: int = 2, count: int = 128, sector: int = 512) -> bytes:
    """The first sectors of a disk with a partition table."""
    listed = b"".join(entries).ljust(count * 128, b"\0")
    fields = [b"EFI PART", 0x10000, 92, 0, 0, 1, 999, table + 32, 900, b"d" * 16, table, count, 128, zlib.crc32(listed)]
    pattern = struct.Struct("<8sIIII4Q16sQIII")
    fields[3] = zlib.crc32(pattern.pack(*fields))
    return (bytes(sector) + pattern.pack(*fields)).ljust(table * sector, b"\0") + listed


def store(*variables: tuple[UUID, str, bytes], states: Sequence[int] = (), authenticated: bool = True) -> bytes:
    """A variable store in its volume."""
    body = b""
    for index, (vendor, name, data) in enumerate(variables):
        text = name.encode("utf-16-le") + b"\0\0"
        state = states[index] if states else 0x3F
        if authenticated:
            head = struct.pack(
                "<HBBIQ16sIII16s", 0x55AA, state, 0, 7, 0, bytes(16), 0, len(text), len(data), vendor.bytes_le
            )
        else:
            head = struct.pack("<HBBIII16s", 0x55AA, state, 0, 7, len(text), len(data), vendor.bytes_le)
        body += head + text + data
        body += b"\xff" * (-len(body) % 4)
    kind = UUID("aaf32c78-947b-439a-a180-2e144ec37792" if authenticated else "ddcf3616-3275-4164-98b6-fe85707ffe7d")
    size = 28 + len(body) + 256
    held = kind.bytes_le + struct.pack("<IBBHI", size, 0x5A, 0xFE, 0, 0) + body.ljust(size - 28, b"\xff")
    head = struct.pack(
        "<16s16sQ4sIHHHBB",
        *(bytes(16), UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le, 72 + size, b"_FVH", 0, 72, 0, 0, 0, 2),
    )
    return head + bytes(16) + held


def signature_list(kind: UUID, *entries: bytes) -> bytes:
    """Entries of one kind and length, each with a made-up owner."""
    owned = [b"o" * 16 + entry for entry in entries]
    body = b"".join(owned)
    return kind.bytes_le + struct.pack("<III", 28 + len(body), 0, len(owned[0])) + body
