"""What firmware, the systemd stub and the kernel hash of the files that a synthetic TDX machine starts.

Bytes in, the very bytes that are hashed out; nothing of ``measurements`` is used. An image's Authenticode content is
taken as the file without the fields that signing changes, which is the document's result for files whose sections lie
without gaps; a file with gaps is refused here rather than hashed in another way.

Sources: Microsoft, "Windows Authenticode Portable Executable Signature Format"; QEMU 9.2 ``hw/i386/x86-common.c``
(``x86_load_linux``), Linux ``Documentation/arch/x86/boot.rst``; systemd 257 ``src/boot/stub.c``,
``src/boot/cpio.c``; Linux 6.12 ``drivers/firmware/efi/libstub/efi-stub-helper.c``; UEFI 2.10 section 5.3 (GPT) and TCG
PC Client Platform Firmware Profile 1.06, section 10.2.5 (UEFI_GPT_DATA).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from appliance.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping

STUB_ORDER = (".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
              ".profile")  # fmt: skip
"""In which order the stub measures what it carries (``src/fundamental/uki.h``)."""

SECTOR = 512
KERNEL_AT, COMMAND_LINE_AT = 0x10000, 0x20000
TABLES_SIZE = 0x28000
"""What QEMU keeps free for tables at the end of the memory below 4 GiB, in bytes."""

GPT_HEADER = 92
"""EFI_PARTITION_TABLE_HEADER as firmware copies it into the event, in bytes."""

_EXTRA = {
    ".pcrsig": "tpm2-pcr-signature.json",
    ".pcrpkey": "tpm2-pcr-public-key.pem",
    ".osrel": "os-release",
    ".profile": "profile",
}
_DIRECTORY, _FILE = 0o40555, 0o100444


def signed_content(image: bytes) -> bytes:
    """What the Authenticode digest of an image is the hash of.

    Raises:
        LabError: No image for 64 bits, or one whose sections have gaps between them.
    """
    optional = _optional(image)
    checksum, directory = optional + 64, optional + 112 + 4 * 8
    where, size = struct.unpack_from("<II", image, directory)
    end = where if size else len(image)
    reached = struct.unpack_from("<I", image, optional + 60)[0]
    for _, _, length, begin in sorted(_table(image), key=lambda entry: entry[3]):
        if length and begin != reached:
            raise LabError(f"an image with a gap from {reached} to {begin}")
        reached += length
    if reached > end:
        raise LabError(f"an image whose sections end at {reached}, behind its certificates at {end}")
    return image[:checksum] + image[checksum + 4 : directory] + image[directory + 8 : end]


def certificates(image: bytes) -> bytes:
    """The image's certificate table as it stands in the file; empty where nobody signed it."""
    where, size = struct.unpack_from("<II", image, _optional(image) + 112 + 4 * 8)
    return image[where : where + size]


def contents(image: bytes) -> dict[str, bytes]:
    """The image's sections as they stand in memory, by name."""
    return {
        name: image[begin : begin + min(length, virtual)].ljust(virtual, b"\0")
        for name, virtual, length, begin in _table(image)
    }


def load_options(command_line: str) -> bytes:
    """A command line as the kernel measures it: UTF-16 with the zero that ends it."""
    return command_line.encode("utf-16-le") + bytes(2)


def command_line(parts: Mapping[str, bytes]) -> str:
    """The image's command line as its stub hands it over."""
    text = parts[".cmdline"].split(b"\0")[0].decode()
    return "".join(" " if ord(character) <= 0x20 else character for character in text).strip()


def initrd(parts: Mapping[str, bytes]) -> bytes:
    """What the kernel is handed as its initrd: the image's own, then an archive for each file that the stub adds."""
    pieces = [parts[name] for name in (".ucode", ".initrd") if name in parts]
    pieces += [_archive(f".extra/{file}", parts[name]) for name, file in _EXTRA.items() if name in parts]
    if len(pieces) == 1:
        return pieces[0]
    return b"".join(_aligned(piece) for piece in pieces)


def handed_over(kernel: bytes, initrd_size: int, low_memory: int) -> bytes:
    """A plain kernel as a monitor leaves it that fills in what boot loaders fill in.

    Args:
        kernel: The bzImage.
        initrd_size: Length of the initrd in bytes.
        low_memory: Memory of the machine below 4 GiB, in bytes.
    """
    highest = 0xFFFFFFFF if kernel[0x236] & 2 else struct.unpack_from("<I", kernel, 0x22C)[0]
    place = min(highest, low_memory - TABLES_SIZE - 1) - initrd_size
    filled = bytearray(kernel)
    filled[0x210:0x212] = bytes((0xB0, kernel[0x211] | 0x80))  # who loads, and that there is a heap
    struct.pack_into("<II", filled, 0x218, place - place % 4096, initrd_size)
    struct.pack_into("<H", filled, 0x224, COMMAND_LINE_AT - KERNEL_AT - 512)
    struct.pack_into("<I", filled, 0x228, COMMAND_LINE_AT)
    return bytes(filled)


def partition_table(disk: bytes) -> bytes:
    """UEFI_GPT_DATA of a disk: its header, how many partitions there are, and their entries.

    Raises:
        LabError: There is no partition table.
    """
    header = disk[SECTOR : SECTOR + GPT_HEADER]
    if header[:8] != b"EFI PART":
        raise LabError("a disk without a partition table")
    first, count, size = struct.unpack_from("<QII", header, 72)
    entries = [disk[first * SECTOR + index * size :][:size] for index in range(count)]
    used = [entry for entry in entries if any(entry[:16])]
    return header + len(used).to_bytes(8, "little") + b"".join(used)


def _archive(path: str, content: bytes) -> bytes:
    folder, _, _ = path.rpartition("/")
    number = "{:08x}".format
    whole = b""
    for inode, (mode, name, data) in enumerate(((_DIRECTORY, folder, b""), (_FILE, path, content)), 1):
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = "070701" + "".join(map(number, fields)) + name + "\0"
        whole += _aligned(head.encode()) + _aligned(data)
    # The last entry is a constant of the source, which has its only letter as a capital.
    last = ["00000000"] * 13
    last[4], last[11] = "00000001", "0000000B"
    return whole + _aligned(("070701" + "".join(last) + "TRAILER!!!\0").encode())


def _aligned(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _optional(image: bytes) -> int:
    """Where the optional header begins."""
    (start,) = struct.unpack_from("<I", image, 0x3C)
    if image[:2] != b"MZ" or image[start : start + 4] != b"PE\0\0" or image[start + 24 : start + 26] != b"\x0b\x02":
        raise LabError("not a PE image for 64 bits")
    return int(start) + 24


def _table(image: bytes) -> list[tuple[str, int, int, int]]:
    """Name, length in memory, length in the file and offset in the file of each section."""
    optional = _optional(image)
    (count,) = struct.unpack_from("<H", image, optional - 18)
    (size,) = struct.unpack_from("<H", image, optional - 4)
    found = []
    for index in range(count):
        name, virtual, _, length, begin = struct.unpack_from("<8sIIII", image, optional + size + 40 * index)
        found.append((name.rstrip(b"\0").decode(), virtual, length, begin))
    return found
