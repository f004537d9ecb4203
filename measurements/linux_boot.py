"""A plain kernel as QEMU hands it to firmware: the header that boot loaders fill in is filled in, and so measured.

In: kernel, initrd's size, command line, memory. Out: the kernel's bytes as firmware loads them. QEMU stopped doing so
for confidential machines in 10.2, and firmware that knows the file ``etc/boot/kernel`` takes the kernel as it is from
QEMU 10.0 on.

Sources: QEMU ``hw/i386/x86-common.c`` (``x86_load_linux``), commit a7542a38f399 (10.2: header left alone); Linux
``Documentation/arch/x86/boot.rst`` (the header). All integers are little-endian.
"""

from __future__ import annotations

import re
import struct

from measurements.errors import ArtefactError, MeasurementError
from measurements.td_hob import below_4_gib

LEFT_ALONE_SINCE = (10, 2)
"""First QEMU that leaves a confidential machine's kernel alone."""
NAMED_SINCE = (10, 0)
"""First QEMU that also offers the kernel as it is, by name."""

MAX_KERNEL = 2 * 1024**3
MAX_COMMAND_LINE = 64 * 1024
_LEAST_PROTOCOL = 0x20C
_HEADER_END = 0x268
_ACPI_DATA = 0x28000  # what QEMU keeps free below the end of low memory, PCMachineClass.acpi_data_size
_COMMAND_LINE_ADDRESS = 0x20000
_REAL_MODE_ADDRESS = 0x10000
_LOADED_HIGH, _CAN_USE_HEAP = 0x01, 0x80
_ABOVE_4_GIB = 0x02  # XLF_CAN_BE_LOADED_ABOVE_4G
_RELEASE = re.compile(rb"([0-9]{1,3})\.([0-9]{1,4})")
_MAX_RELEASE = 64
_VIDEO = re.compile(r"vga=(normal|ext|ask|0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})( |$)")
_TOO_LARGE = 2**32
_VIDEO_MODES = {"normal": 0xFFFF, "ext": 0xFFFE, "ask": 0xFFFD}


def header_is_filled_in(qemu: tuple[int, ...], *, firmware_takes_named: bool) -> bool:
    """Whether firmware of a confidential machine sees a kernel that QEMU has changed.

    Args:
        qemu: Version as numbers.
        firmware_takes_named: Whether the firmware looks for ``etc/boot/kernel``.
    """
    since = NAMED_SINCE if firmware_takes_named else LEFT_ALONE_SINCE
    return qemu[:2] < since


def filled_in(kernel: bytes, *, initrd_size: int | None, command_line: str, memory: int) -> bytes:
    """The kernel with its header as QEMU fills it in.

    Args:
        kernel: The bzImage.
        initrd_size: Length of the initrd in bytes; None without one.
        command_line: As given to QEMU (a video mode in it goes into the header).
        memory: Size of the machine's memory, in bytes.

    Returns:
        As many bytes as the kernel.

    Raises:
        ArtefactError: Not a bzImage that firmware can start.
        MeasurementError: QEMU would refuse the command line or the initrd.
    """
    _check(kernel)
    if len(command_line) > MAX_COMMAND_LINE:
        raise MeasurementError(f"command line of {len(command_line)} characters, at most {MAX_COMMAND_LINE} are read")
    header = bytearray(kernel[:_HEADER_END])
    struct.pack_into("<I", header, 0x228, _COMMAND_LINE_ADDRESS)
    if "vga=" in command_line:
        struct.pack_into("<H", header, 0x1FA, _video_mode(command_line))
    header[0x210] = 0xB0
    header[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", header, 0x224, _COMMAND_LINE_ADDRESS - _REAL_MODE_ADDRESS - 0x200)
    if initrd_size is not None:
        struct.pack_into("<II", header, 0x218, _initrd_address(kernel, initrd_size, memory), initrd_size)
    return bytes(header) + kernel[_HEADER_END:]


def release(kernel: bytes) -> tuple[int, int] | None:
    """Version and patch level that a kernel says of itself (6, 12); None where it says none."""
    if len(kernel) < _HEADER_END or kernel[0x202:0x206] != b"HdrS":
        return None
    start = int.from_bytes(kernel[0x20E:0x210], "little") + 0x200
    found = _RELEASE.match(kernel[start : start + _MAX_RELEASE]) if start > 0x200 else None
    return (int(found[1]), int(found[2])) if found else None


def _check(kernel: bytes) -> None:
    if not _HEADER_END < len(kernel) <= MAX_KERNEL or kernel[0x202:0x206] != b"HdrS":
        raise ArtefactError(f"{len(kernel)} bytes that are no kernel", hint="expected a bzImage, such as vmlinuz")
    (protocol,) = struct.unpack_from("<H", kernel, 0x206)
    if protocol < _LEAST_PROTOCOL or not kernel[0x211] & _LOADED_HIGH:
        raise ArtefactError(
            f"kernel of boot protocol {protocol >> 8}.{protocol & 0xFF:02}, expected 2.12 or later and loaded high"
        )
    size = ((kernel[0x1F1] or 4) + 1) * 512
    if not _HEADER_END <= size <= len(kernel):
        raise ArtefactError(f"kernel of {len(kernel)} bytes with a setup part of {size} bytes")


def _video_mode(command_line: str) -> int:
    found = _VIDEO.match(command_line, command_line.index("vga="))
    if found is None:
        raise MeasurementError("command line with a video mode (vga=) that QEMU refuses")
    text = found[1]
    if text in _VIDEO_MODES:
        return _VIDEO_MODES[text]
    octal = text.startswith("0") and text.isdecimal()  # strtoul with base 0
    try:
        number = int(text, 8) if octal else int(text, 0)
    except ValueError:
        number = _TOO_LARGE
    if number >= _TOO_LARGE:
        raise MeasurementError(f"command line with video mode {text} that QEMU refuses")
    return number & 0xFFFF


def _initrd_address(kernel: bytes, size: int, memory: int) -> int:
    """As high as kernel and memory allow, on a page boundary."""
    flags = int.from_bytes(kernel[0x236:0x238], "little")
    highest = int.from_bytes(kernel[0x22C:0x230], "little")
    if flags & _ABOVE_4_GIB:
        highest = 2**32 - 1
    free = below_4_gib(memory) - _ACPI_DATA
    if highest >= free:
        highest = free - 1
    if size >= highest:
        raise MeasurementError(f"initrd of {size} bytes, QEMU has room for {highest}", hint="give the machine memory")
    return (highest - size) & ~0xFFF
