"""The boot options of OVMF as it makes them itself at the first start of a machine.

The variables are those that a real start measured (QEMU, Debian's OVMF 2025.02): the firmware's setup, the disk that
the host named first, and the shell. Names and order come from EDK II's ``UefiBootManagerLib`` (``BmBoot.c``) and
``OvmfPkg/Library/PlatformBootManagerLib``; device paths from UEFI 2.10, section 10.3.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING

from appliance.lab.firmware_variables import GLOBAL, Variable

if TYPE_CHECKING:
    from measurements.shape import Boot

IMAGE_SLOT = 2
"""Where the image's disk is on the root bus: behind the host bridge and the random number generator."""

VOLUME = uuid.UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
SETUP = uuid.UUID("462caa21-7614-4503-836e-8ab6f4662331")
SHELL = uuid.UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
_AUTOMATIC = uuid.UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")
"""Marks an option that firmware made for a device (``mBmAutoCreateBootOptionGuid``)."""

_ACTIVE, _HIDDEN, _APPLICATION = 1, 8, 0x100
_END = b"\x7f\xff\x04\x00"


def boot_options(boot: Boot) -> tuple[Variable, ...]:
    """``BootOrder`` and the options it names, in its order, as they stand when firmware is ready to start one.

    A kernel that the monitor hands over is started before any device is looked at: there is the setup alone.
    """
    setup = _option(0, _ACTIVE | _HIDDEN | _APPLICATION, "UiApp", _file(SETUP))
    if boot == "direct":
        return _order(0), setup
    disk = _option(1, _ACTIVE, "UEFI Misc Device", _pci(IMAGE_SLOT), _AUTOMATIC.bytes_le)
    return _order(1, 0, 2), disk, setup, _option(2, _ACTIVE, "EFI Internal Shell", _file(SHELL))


def _order(*numbers: int) -> Variable:
    return Variable("BootOrder", GLOBAL, struct.pack(f"<{len(numbers)}H", *numbers))


def _option(number: int, attributes: int, title: str, path: bytes, data: bytes = b"") -> Variable:
    """EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3)."""
    path += _END
    content = struct.pack("<IH", attributes, len(path)) + title.encode("utf-16-le") + bytes(2) + path + data
    return Variable(f"Boot{number:04x}", GLOBAL, content)


def _file(name: uuid.UUID) -> bytes:
    return b"\x04\x07\x14\x00" + VOLUME.bytes_le + b"\x04\x06\x14\x00" + name.bytes_le


def _pci(slot: int) -> bytes:
    """PciRoot(0x0)/Pci(slot, 0)."""
    return bytes.fromhex("02010c00d041030a00000000") + bytes((1, 1, 6, 0, 0, slot))
