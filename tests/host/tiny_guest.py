"""Guests of a few bytes for real firmware: an EFI application that says a line and powers off, or goes on for ever.

Layout: PE/COFF (Microsoft, "PE Format"), one section; calling convention and tables: UEFI specification 2.10, sections
2.3.4 (x64), 4.3 (system table), 8.1 (runtime services), 12.4 (simple text output).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LINE = "hello from the tiny guest"
_SECTION_AT = 0x1000
_FILE_AT = 0x400


def application(*, ends: bool) -> bytes:
    """The application."""
    message = (LINE + "\r\n").encode("utf-16-le") + b"\0\0"
    head = bytes.fromhex(
        "4883ec28"  # sub rsp, 0x28: shadow space, and the stack aligned to 16
        "4889d3"  # mov rbx, rdx: the system table
        "488b4a40"  # mov rcx, [rdx+0x40]: ConOut
        "488d15"  # lea rdx, [rip+…]: the line
    )
    call = bytes.fromhex("ff5108")  # call [rcx+8]: OutputString
    power_off = bytes.fromhex(
        "488b4358"  # mov rax, [rbx+0x58]: runtime services
        "b902000000"  # mov ecx, 2: EfiResetShutdown
        "31d2"  # xor edx, edx
        "4531c0"  # xor r8d, r8d
        "4531c9"  # xor r9d, r9d
        "ff5068"  # call [rax+0x68]: ResetSystem
    )
    rest = power_off if ends else b""
    loop = bytes.fromhex("f390ebfc")  # pause; jump back to it
    after_lea = len(head) + 4
    distance = len(head) + 4 + len(call) + len(rest) + len(loop) - after_lea
    code = head + struct.pack("<i", distance) + call + rest + loop + message
    # QEMU takes the first five sectors of what it hands over for a Linux kernel's setup part: there has to be more.
    return _headers(len(code)).ljust(_FILE_AT, b"\0") + code.ljust(0x400, b"\0") + bytes(8192)


def _headers(size: int) -> bytes:
    dos = b"MZ" + bytes(58) + struct.pack("<I", 0x40)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22E)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        0x20B, 0, 0, 0x400, 0, 0, _SECTION_AT, _SECTION_AT,  # magic, linker, sizes, entry, base of code
        0, 0x1000, 0x200, 0, 0, 0, 0, 0, 0, 0,  # image base, alignments, versions
        0x2000, _FILE_AT, 0, 10, 0,  # size of image and headers, checksum, subsystem: EFI application
        0, 0, 0, 0, 0, 16,  # stack, heap, directories
    )  # fmt: skip
    section = struct.pack("<8sIIIIIIHHI", b".text", size, _SECTION_AT, 0x400, _FILE_AT, 0, 0, 0, 0, 0xE0000020)
    return dos + coff + optional + bytes(16 * 8) + section


def image(directory: Path, firmware: Path, *, ends: bool) -> Path:
    """A release's directory as far as a launch looks at it: firmware, an empty disk, the application as the UKI."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("CODE", "VARS"):
        (directory / f"OVMF_{name}.fd").write_bytes((firmware / f"OVMF_{name}_4M.fd").read_bytes())
    (directory / "chrysalis.raw").write_bytes(bytes(1 << 20))
    (directory / "chrysalis.efi").write_bytes(application(ends=ends))
    return directory
