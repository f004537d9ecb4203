"""What a synthetic TDX machine is made of, small: a firmware file, a disk with a partition table, ACPI tables.

The firmware has the layout of OVMF and holds no code; its volumes are noise. The tables have QEMU's kinds and order,
with an entry for each processor and device, so that every change of a machine moves the table that it moves in QEMU.
"""

from __future__ import annotations

import hashlib
import struct
import sys
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.lab.firmware_variables import GLOBAL, Variable, added
from measurements.acpi import AcpiTables

sys.path.append(str(Path(__file__).resolve().parents[1] / "measurements"))

from measure_support import pe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from measurements.shape import Shape

PAGE = 4096
VARIABLES = 16 * PAGE
CODE = 16 * PAGE
SECURE_BOOT_DRIVER = uuid.UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
"""Name of the driver that only firmware built with secure boot has (``SecurityPkg/VariableAuthenticated``)."""
TABLES = 128 * 1024


def noise(seed: str, size: int) -> bytes:
    """Bytes that look like nothing, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def variables(stored: Iterable[Variable] = ()) -> bytes:
    """A volume with variables, as OVMF's file begins."""
    store_size = VARIABLES // 2 - 72
    store = struct.pack("<16sIBBHI", uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le, store_size, 0x5A, 0xFE,
                        0, 0)  # fmt: skip
    head = bytes(16) + uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le + struct.pack("<Q", VARIABLES)
    head += b"_FVH" + struct.pack("<IHHHBB", 0x0004FEFF, 72, 0, 0, 0, 2)
    head += struct.pack("<IIII", VARIABLES // PAGE, PAGE, 0, 0)
    total = sum(struct.unpack("<36H", head)) & 0xFFFF
    head = head[:50] + struct.pack("<H", -total & 0xFFFF) + head[52:]
    volume = (head + store).ljust(72 + store_size, b"\xff").ljust(VARIABLES, b"\xff")
    return added(volume, stored)


def firmware(build: str = "first build", stored: Iterable[Variable] = (), *, secure_boot: bool = False) -> bytes:
    """A firmware file for TDX: variables, code, where it is to be loaded, and the table that leads there."""
    base = (1 << 32) - VARIABLES - CODE
    rows = (
        (VARIABLES, CODE, base + VARIABLES, CODE, 0, 1),
        (0, VARIABLES, base, VARIABLES, 1, 0),
        (0, 0, 0x811000, 0xF000, 3, 0),
        (0, 0, 0x80B000, 0x2000, 3, 0),
        (0, 0, 0x809000, 0x2000, 2, 0),
        (0, 0, 0x800000, 0x6000, 3, 0),
    )
    described = struct.pack("<4sIII", b"TDVF", 16 + 32 * len(rows), 1, len(rows))
    described += b"".join(struct.pack("<IIQQII", *row) for row in rows)
    described = uuid.UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae").bytes_le + described
    # The table's one entry says how far before the file's end the descriptor stands; 32 bytes of reset code follow.
    entry = struct.pack("<IH", 32 + 18 + 22 + len(described) - 16, 22)
    table = entry + uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
    table += struct.pack("<H", 18 + len(table)) + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    end = described + table + noise("reset", 32)
    driver = SECURE_BOOT_DRIVER if secure_boot else b""
    return variables(stored) + driver + noise(build, CODE - len(driver) - len(end)) + end


def disk(layout: str = "release") -> bytes:
    """The first sectors of a disk with two partitions (UEFI 2.10, section 5.3)."""
    entries = b"".join(
        uuid.uuid5(GLOBAL, kind).bytes_le
        + uuid.uuid5(GLOBAL, layout + kind).bytes_le
        + struct.pack("<QQQ", first, first + 2047, 0)
        + kind.encode("utf-16-le").ljust(72, b"\0")
        for first, kind in ((2048, "esp"), (4096, "root"))
    ).ljust(128 * 128, b"\0")
    name = uuid.uuid5(GLOBAL, layout).bytes_le
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 8191, 34, 8158, name, 2, 128, 128,
                       zlib.crc32(entries))  # fmt: skip
    head = head[:16] + struct.pack("<I", zlib.crc32(head)) + head[20:]
    return bytes(512) + head.ljust(512, b"\0") + entries


def tables(shape: Shape) -> AcpiTables:
    """What a machine monitor supplies for a machine: every part of it is somewhere in these tables."""
    assert shape.qemu is not None
    devices = [f"disk {name}" for name in shape.disks] + ["network"] * shape.network + [*shape.devices]
    devices += [f"gpu {number}" for number in range(shape.gpus)]
    # As in QEMU, tables name the machine type's version and the window that memory leaves, not the memory itself.
    low = min(shape.memory_mib, 2048 if shape.memory_mib >= 2816 else 2816)
    described = [
        f"{shape.qemu.machine} of {shape.qemu.version}",
        f"window from {low} MiB",
        *shape.qemu.options,
        *devices,
    ]
    body = {
        "FACS": bytes(56),
        "DSDT": "\n".join(described).encode(),
        "FACP": bytes(244 - 36),
        "APIC": b"".join(struct.pack("<BBHI", 0, 8, number, 1) for number in range(shape.vcpus)),
        "HPET": bytes(20),
        "MCFG": bytes(24),
        "WAET": bytes(4),
    }
    file, places = b"", {}
    for signature, content in body.items():
        places[signature] = len(file)
        file += _table(signature, content)
    places["RSDT"] = len(file)
    listed = [name for name in body if name not in {"FACS", "DSDT"}]
    file += _table("RSDT", b"".join(struct.pack("<I", places[name]) for name in listed))
    steps = [_step(1, "etc/acpi/rsdp", 16, 2), _step(1, "etc/acpi/tables", 64, 1)]
    steps += [_step(2, name, places[name], 0) for name in (*listed, "DSDT", "RSDT")]
    rsdp = b"RSD PTR \0BOCHS \0" + struct.pack("<I", places["RSDT"])
    return AcpiTables(file.ljust(TABLES, b"\0"), rsdp, b"".join(steps).ljust(4096, b"\0"))


def _table(signature: str, content: bytes) -> bytes:
    if signature == "FACS":
        return (b"FACS" + struct.pack("<I", 8 + len(content)) + content).ljust(64, b"\0")
    head = signature.encode() + struct.pack(
        "<IBB6s8sI4sI", 36 + len(content), 1, 0, b"BOCHS ", b"BXPC    ", 1, b"BXPC", 1
    )
    return head + content


def _step(command: int, file: str, alignment: int, zone: int) -> bytes:
    """One command of the loader's 128 bytes; those that link tables are only told apart here, not obeyed."""
    return (struct.pack("<I56sIB", command, file.encode(), alignment, zone)).ljust(128, b"\0")


def kernel(release: str = "6.12") -> bytes:
    """A bzImage that firmware would load: a PE image that also has the header of the boot protocol, 2.15."""
    image = bytearray(pe([(".text", noise(release, 8192)), (".data", b"data")]))
    image[0x1F1] = 4
    image[0x202:0x208] = b"HdrS\x0f\x02"
    image[0x210:0x212] = b"\0\1"
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", image, 0x236, 0x3F)
    return bytes(image)
