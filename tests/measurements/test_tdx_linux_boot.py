"""A plain kernel's header: what QEMU itself hands to firmware, byte for byte, and what it would refuse.

The tests that start QEMU stop it before its first instruction and read its configuration device from outside; its
machine is not a confidential one, so every version fills the header in. Where QEMU is not installed they are skipped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import measure_support as images
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu_support import Qemu, with_qemu

from measurements import authenticode, linux_boot, td_hob
from measurements.errors import ArtefactError, MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 2**20
HEADER = 0x268
SETUP_DATA = 0x18
MEMORIES = (1024, 2048, 2815, 2816, 4096)


def bzimage(*, protocol: int = 0x20F, high: bool = True, flags: int = 1, above: bool = True, sectors: int = 4) -> bytes:
    """A kernel that boots nothing: a PE image with the header that boot loaders read."""
    kernel = bytearray(images.pe([(".text", b"\xf4" * 0x4000), (".data", b"data")]))
    kernel[0x1F1] = sectors
    kernel[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", kernel, 0x206, protocol)
    kernel[0x210] = 0
    kernel[0x211] = flags if high else 0
    struct.pack_into("<IIHH", kernel, 0x218, 0, 0, 0x50A0, 0)
    struct.pack_into("<II", kernel, 0x228, 0, 0x7FFFFFFF)
    struct.pack_into("<H", kernel, 0x236, 0x3F if above else 0x3D)
    return bytes(kernel)


@with_qemu
@pytest.mark.parametrize(
    ("memory", "initrd", "above", "command_line"),
    [
        *((memory, 3_000_001, True, "console=ttyS0") for memory in MEMORIES),
        (4096, 3_000_001, False, ""),
        (2048, None, True, "quiet vga=ask x"),
        (2048, 4096, True, "vga=0x317"),
        (2048, 1, False, "vga=010 quiet"),
    ],
)
def test_the_header_is_what_qemu_hands_over(
    memory: int, initrd: int | None, above: bool, command_line: str, tmp_path: Path
) -> None:
    kernel = bzimage(above=above)
    (tmp_path / "kernel").write_bytes(kernel)
    arguments = ["-m", f"{memory}M", "-kernel", str(tmp_path / "kernel"), "-append", command_line]
    if initrd is not None:
        (tmp_path / "initrd").write_bytes(b"i" * initrd)
        arguments += ["-initrd", str(tmp_path / "initrd")]
    with Qemu(*arguments) as machine:
        handed = machine.item(SETUP_DATA, HEADER)
    ours = linux_boot.filled_in(kernel, initrd_size=initrd, command_line=command_line, memory=memory * MIB)
    assert ours[:HEADER] == handed
    assert ours[HEADER:] == kernel[HEADER:]
    assert handed != kernel[:HEADER]


@with_qemu
@pytest.mark.parametrize("memory", MEMORIES)
def test_memory_is_split_where_qemu_splits_it(memory: int) -> None:
    with Qemu("-m", f"{memory}M") as machine:
        entries = list(struct.iter_unpack("<QQI", machine.file("etc/e820")))
    low = td_hob.below_4_gib(memory * MIB)
    ranges = [(0, low), *([(2**32, memory * MIB - low)] if memory * MIB > low else [])]
    assert [(start, length) for start, length, kind in entries if kind == 1] == ranges


@pytest.mark.parametrize(
    ("qemu", "named", "changed"),
    [
        ((8, 2, 2), False, True),
        ((9, 2), True, True),
        ((10, 0), False, True),
        ((10, 0), True, False),
        ((10, 1, 5), True, False),
        ((10, 1, 5), False, True),
        ((10, 2), False, False),
        ((11, 1), True, False),
    ],
)
def test_which_versions_fill_the_header_in(qemu: tuple[int, ...], named: bool, changed: bool) -> None:
    assert linux_boot.header_is_filled_in(qemu, firmware_takes_named=named) is changed


def changes() -> Iterator[tuple[str, bytes]]:
    """Kernels that firmware does not start, each but for one field the usual one."""
    yield "no kernel", b"MZ".ljust(0x4000, b"\0")
    yield "old protocol", bzimage(protocol=0x20B)
    yield "loaded low", bzimage(high=False)
    yield "setup beyond the end", bzimage(sectors=255)[:0x4000]
    yield "setup shorter than the header", bzimage(sectors=1)[:HEADER]


@pytest.mark.parametrize("kernel", [pytest.param(kernel, id=name) for name, kernel in changes()])
def test_what_is_no_kernel_is_refused(kernel: bytes) -> None:
    assert linux_boot.filled_in(bzimage(), initrd_size=None, command_line="", memory=2**31)
    with pytest.raises(ArtefactError):
        linux_boot.filled_in(kernel, initrd_size=None, command_line="", memory=2**31)


@pytest.mark.parametrize(
    ("initrd", "command_line"),
    [
        (2**31, ""),
        (None, "vga=wide"),
        (None, "vga=1x"),
        (None, "vga=09"),
        (None, "vga=4294967296"),
        (None, "a" * (linux_boot.MAX_COMMAND_LINE + 1)),
    ],
)
def test_what_qemu_refuses_is_refused(initrd: int | None, command_line: str) -> None:
    with pytest.raises(MeasurementError):
        linux_boot.filled_in(bzimage(), initrd_size=initrd, command_line=command_line, memory=2**31)


@with_qemu
@pytest.mark.parametrize("command_line", ["vga=wide", "vga=1x", "quiet vga=09", "vga=4294967296"])
def test_qemu_does_refuse_them(command_line: str, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage())
    with Qemu("-kernel", str(tmp_path / "kernel"), "-append", command_line) as machine:
        assert machine.refused()


@given(memory=st.integers(min_value=512, max_value=2**20), initrd=st.integers(min_value=1, max_value=2**28))
def test_the_digest_moves_with_memory_only_below_the_split(memory: int, initrd: int) -> None:
    kernel = bzimage()

    def digest(mib: int) -> bytes:
        content = linux_boot.filled_in(kernel, initrd_size=initrd, command_line="", memory=mib * MIB)
        address, size = struct.unpack_from("<II", content, 0x218)
        assert size == initrd
        assert address % 4096 == 0
        assert address + size < td_hob.below_4_gib(mib * MIB)
        return authenticode.digest(content, "sha384")

    if memory >= td_hob.UNSPLIT_MEMORY // MIB:
        assert digest(memory) == digest(2**20) == digest(2048)
    elif memory != 2048:
        assert digest(memory) != digest(2**20)


@given(data=st.binary(max_size=2048), flip=st.integers(min_value=0, max_value=HEADER * 8 - 1))
def test_any_bytes_are_a_kernel_or_refused(data: bytes, flip: int) -> None:
    kernel = bytearray(bzimage())
    kernel[flip // 8] ^= 1 << flip % 8
    for content in (data, bytes(kernel)):
        try:
            changed = linux_boot.filled_in(content, initrd_size=1, command_line="", memory=2**31)
        except MeasurementError:
            continue
        assert len(changed) == len(content)
