"""What a loader reads of an ELF file. Sources: System V ABI, chapter 5 (dynamic section); gABI ``DT_RUNPATH``."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.seal.errors import SealError

if TYPE_CHECKING:
    import mmap

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29


@dataclass(frozen=True, slots=True)
class Elf:
    """What a loader reads of an ELF file: names of libraries, where to look first, its interpreter."""

    needed: tuple[str, ...]
    search: tuple[str, ...]
    interpreter: str | None


def read_elf(data: bytes | mmap.mmap) -> Elf | None:
    """The dynamic part of a 64-bit little-endian ELF file; None for anything else.

    Raises:
        SealError: It begins as one and its tables lead outside it.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    try:
        (offset,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQ", data, offset + i * size) for i in range(count)]
        interpreter, dynamic, loads = None, b"", []
        for kind, _, start, address, _, length in headers:
            if kind == _PT_INTERP:
                interpreter = data[start : start + length].rstrip(b"\0").decode()
            elif kind == _PT_DYNAMIC:
                dynamic = data[start : start + length]
            elif kind == _PT_LOAD:
                loads.append((address, start, length))
        entries = list(struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16]))
        tables = [value for tag, value in entries if tag == _DT_STRTAB]
        if not tables:
            return Elf((), (), interpreter)
        strings = next(tables[0] - address + start for address, start, length in loads
                       if address <= tables[0] < address + length)  # fmt: skip

        def text(at: int) -> str:
            begin = strings + at
            end = data.find(b"\0", begin)
            if end < 0:
                raise SealError("malformed ELF file: a name without an end")
            return data[begin:end].decode()

        needed = tuple(text(value) for tag, value in entries if tag == _DT_NEEDED)
        paths = [text(value) for tag, value in entries if tag in (_DT_RPATH, _DT_RUNPATH)]
    except (struct.error, ValueError, OverflowError, StopIteration) as error:
        raise SealError(f"malformed ELF file: {error}") from None
    return Elf(needed, tuple(part for path in paths for part in path.split(":") if part), interpreter)
