"""Firmware files of TDX machines: made for tests byte by byte, or found on this machine by their digest.

And a second way to MRTD, which shares no code with the first: it finds the metadata by their signature alone, writes
down every call to the TDX module in order, contents included, and hashes that stream once.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLES_SIZE = 0x84000
BFV, CFV, TD_HOB, TEMPORARY = 0, 1, 2, 3
MR_EXTEND = 1
TRIXIE = "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db"
"""OVMF.fd of Debian's ovmf 2025.02-8+deb13u1."""
BOOKWORM = "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773"
"""OVMF.fd of Debian's ovmf 2022.11-6+deb12u2."""
FORKY = "a265075b4147a096109e501e76196df1ec8a18659c26f7401492c597ec88f312"
"""OVMF.inteltdx.ms.fd of Debian's ovmf-inteltdx 2026.08+ds-2."""
UBUNTU = "9e807cb2cd4313406a3aa4becc0836671a5c64ca7bdc08a45e15260184b446bf"
"""OVMF.fd of Ubuntu's ovmf 2025.02-3ubuntu2."""

MEMORY_SECTIONS = (
    (TEMPORARY, 0x811000, 0xF000),
    (TEMPORARY, 0x80B000, 0x2000),
    (TD_HOB, 0x809000, 0x2000),
    (TEMPORARY, 0x800000, 0x6000),
)
"""Kind, address and size in the metadata of OVMF.fd of 2025.02, Debian's and Ubuntu's."""


@cache
def empty_variables(size: int = VARIABLES_SIZE) -> bytes:
    """A volume of variables without any, as OVMF's 4M build has it (OvmfPkg/VarStore.fdf.inc)."""
    store = 0x40000
    header = bytearray(
        bytes(16)
        + UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
        + struct.pack("<Q4sIHHHBB", size, b"_FVH", 0x4FEFF, 0x48, 0, 0, 0, 2)
        + struct.pack("<IIII", size // 0x1000, 0x1000, 0, 0)
    )
    struct.pack_into("<H", header, 50, -sum(struct.unpack("<36H", header)) & 0xFFFF)
    variables = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    variables += struct.pack("<IBBHI", store - len(header), 0x5A, 0xFE, 0, 0)
    working = UUID("9e58292b-7c68-497d-a0ce-6500fd9f1b95").bytes_le + struct.pack("<IIQ", 0x642CAF2C, 0xFFFFFFFE, 0xFE0)
    volume = bytearray(b"\xff" * size)
    volume[: len(header) + len(variables)] = bytes(header) + variables
    volume[store + 0x1000 : store + 0x1000 + len(working)] = working
    return bytes(volume)


def firmware(
    *,
    code: bytes = b"\x90" * 0x3000,
    variables: bytes | None = None,
    memory: tuple[tuple[int, int, int], ...] = MEMORY_SECTIONS,
    descriptor: bytes | None = None,
    packed: bytes = b"",
) -> bytes:
    """A firmware file: variables, code, and at its end metadata, the table of GUIDs and 32 bytes of reset vector.

    Args:
        code: What the boot firmware volume holds.
        variables: The volume of variables, whole pages; empty ones without.
        memory: Kind, address and size of sections without contents.
        descriptor: The whole metadata instead of those that fit.
        packed: Stands in the code as it is, for example a section that is packed.
    """
    variables = empty_variables() if variables is None else variables
    body = code + packed
    room = 0x1000 if descriptor is None else 0x1000 + len(descriptor)
    size = -(-(len(body) + room) // 0x1000) * 0x1000
    total = len(variables) + size
    base = 2**32 - total
    sections = [
        (len(variables), size, base + len(variables), size, BFV, MR_EXTEND),
        (0, len(variables), base, len(variables), CFV, 0),
        *((0, 0, address, length, kind, 0) for kind, address, length in memory),
    ]
    if descriptor is None:
        descriptor = metadata(sections)
    footer = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    tail = b"\0" * 32
    entries = _entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", b"\x04\xb0\x80\x00")
    pointer = len(descriptor) + len(entries) + 4 + 18 + 18 + len(tail)
    entries += _entry("e47a6535-984a-4798-865e-4685a7bf8ec2", struct.pack("<I", pointer))
    table = entries + struct.pack("<H", len(entries) + 18) + footer
    end = descriptor + table + tail
    return variables + body.ljust(size - len(end), b"\xff") + end


def metadata(sections: Sequence[tuple[int, ...]], *, version: int = 1) -> bytes:
    """TDX metadata: offset, length in the file, address, size, kind and attributes of each section."""
    head = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(sections), version, len(sections))
    return head + b"".join(struct.pack("<IIQQII", *section) for section in sections)


def _entry(guid: str, data: bytes) -> bytes:
    return data + struct.pack("<H", len(data) + 18) + UUID(guid).bytes_le


def independent_mrtd(content: bytes, *, passes: int) -> bytes:
    """MRTD by the calls that a monitor makes.

    Args:
        content: The firmware file.
        passes: 1 measures each page as it is added, 2 a section after it was added.
    """
    places = [found.start() for found in re.finditer(rb"TDVF(?=....\x01\x00\x00\x00)", content, re.DOTALL)]
    assert len(places) == 1
    words = struct.unpack_from("<2I", content, places[0] + 4)
    count = (words[0] - 16) // 32
    numbers = struct.unpack_from("<" + "IIQQII" * count, content, places[0] + 16)
    adding = b"MEM.PAGE.ADD".ljust(16, b"\0")
    extending = b"MR.EXTEND".ljust(16, b"\0")
    stream = bytearray()
    for index in range(count):
        offset, raw, address, size, _, attributes = numbers[6 * index : 6 * index + 6]
        steps = [(first, kind) for first in range(0, size, 4096) for kind in (adding, extending)]
        if passes == 2:
            steps.sort(key=lambda step: step[1] == extending)
        for first, kind in steps:
            if kind == adding and not attributes & 2:
                stream += adding + (address + first).to_bytes(112, "little")
            if kind == extending and attributes & 1:
                for inside in range(first, first + 4096, 256):
                    stream += extending + (address + inside).to_bytes(112, "little")
                    stream += content[offset + inside : min(offset + inside + 256, offset + raw)].ljust(256, b"\0")
    return hashlib.sha384(stream).digest()


def found(sha256: str) -> bytes:
    """A firmware file by its digest, or a skip that says where it is looked for."""
    content = _files().get(sha256)
    if content is None:
        pytest.skip(
            f"no firmware file {sha256[:16]}… under $CHRYSALIS_FIRMWARE, the cache of images or /usr/share/ovmf"
        )
    return content.read_bytes()


@cache
def _files() -> dict[str, Path]:
    cached = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chrysalis"
    places = [Path(os.environ.get(name, "/nonexistent")) for name in ("CHRYSALIS_FIRMWARE", "CHRYSALIS_IMAGE")]
    places += [cached / "image", cached / "firmware", Path("/usr/share/ovmf")]
    depths = ("*.fd", "*/*.fd")
    paths = [path for place, depth in product(places, depths) for path in place.glob(depth) if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}
