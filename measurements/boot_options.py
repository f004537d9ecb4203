"""The boot options that OVMF makes for a fresh machine of ours, in the order in which it measures them.

Firmware makes them anew where its variables hold none: one for its own menu, one for each disk that the monitor's boot
order names (our machines: the image's), one for its shell where the build has one. It then puts the disk first. Where
the monitor hands the kernel over, firmware starts it before it has looked for disks: its own menu is all there is.

Sources: EDK II ``MdeModulePkg/Library/UefiBootManagerLib`` (BmBoot.c: descriptions, the menu and its attributes;
BmLoadOption.c: EFI_LOAD_OPTION), ``OvmfPkg/Library/PlatformBootManagerLib/BdsPlatform.c``
(PlatformBootManagerAfterConsole), ``OvmfPkg/Library/QemuBootOrderLib``; UEFI 2.10, sections 3.1.3 and 10.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from measurements.firmware_volume import Volume
    from measurements.prediction import Input
    from measurements.shape import Boot

MENU = UUID("462caa21-7614-4503-836e-8ab6f4662331")
"""``UiApp``: firmware's menu."""

SHELL = UUID("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1")
"""``Shell``, as OVMF builds it in."""

AUTO_CREATED = UUID("8108ac4e-9f11-4d59-850e-e21a522c59b2")
"""``mBmAutoCreateBootOptionGuid``: at the end of an option that firmware made by itself."""

IMAGE_SLOT = 2
"""PCI slot of the image's disk on bus 0: slot 0 is the host bridge, 1 the random number device before it."""

_ACTIVE = 0x00000001
_HIDDEN = 0x00000008
_APPLICATION = 0x00000100  # LOAD_OPTION_CATEGORY_APP
_PCI_ROOT = bytes.fromhex("02010c00d041030a00000000")  # ACPI device path node: PNP0A03, UID 0
_END = bytes.fromhex("7fff0400")
_DISK_TITLE = "UEFI Misc Device"
_SHELL_TITLE = "EFI Internal Shell"


@dataclass(frozen=True, slots=True)
class BootVariable:
    """A variable of the boot manager.

    Attributes:
        variable: ``BootOrder`` or ``BootNNNN``.
        name: What it is, for people.
        data: Its value, which is what register 1 is extended with the digest of.
        inputs: What would move it.
    """

    variable: str
    name: str
    data: bytes
    inputs: tuple[Input, ...]


def boot_variables(boot: Boot, dxe: Volume) -> tuple[BootVariable, ...]:
    """``BootOrder``, then the options in that order.

    Args:
        boot: How the machine is started.
        dxe: The volume that the menu and the shell are in.

    Raises:
        ArtefactError: The volume has no name or no menu.
    """
    menu = BootVariable("Boot0000", "boot option 0", _menu(dxe), ("boot", "firmware"))
    if boot == "direct":
        return BootVariable("BootOrder", "boot order", _order(0), ("boot", "firmware")), menu
    disk = load_option(_ACTIVE, _DISK_TITLE, disk_path(IMAGE_SLOT), AUTO_CREATED.bytes_le)
    shell = (
        (
            BootVariable(
                "Boot0002",
                "boot option 2",
                load_option(_ACTIVE, _SHELL_TITLE, _path(dxe, SHELL)),
                ("boot", "firmware"),
            ),
        )
        if dxe.file(SHELL)
        else ()
    )
    return (
        BootVariable("BootOrder", "boot order", _order(1, 0, *((2,) if shell else ())), ("boot", "firmware")),
        BootVariable("Boot0001", "boot option 1", disk, ("boot", "devices")),
        menu,
        *shell,
    )


def load_option(attributes: int, title: str, path: bytes, more: bytes = b"") -> bytes:
    """``EFI_LOAD_OPTION``: attributes, length of the path, title as UTF-16 with its end, path, optional data."""
    return struct.pack("<IH", attributes, len(path)) + title.encode("utf-16-le") + b"\0\0" + path + more


def disk_path(slot: int, function: int = 0) -> bytes:
    """Device path of a virtio disk in a slot of the first PCI bus."""
    return _PCI_ROOT + struct.pack("<BBHBB", 1, 1, 6, function, slot) + _END


def file_path(volume: UUID, file: UUID) -> bytes:
    """Device path of a file in a firmware volume."""
    nodes = ((7, volume), (6, file))  # media device path: firmware volume, firmware file
    return b"".join(struct.pack("<BBH", 4, kind, 20) + name.bytes_le for kind, name in nodes) + _END


def _order(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}H", *numbers)


def _menu(dxe: Volume) -> bytes:
    file = dxe.file(MENU)
    title = file.title if file else None
    if title is None:
        raise ArtefactError(
            f"firmware without its menu ({MENU})", hint="another build makes other boot options, which are not known"
        )
    return load_option(_ACTIVE | _HIDDEN | _APPLICATION, title, _path(dxe, MENU))


def _path(dxe: Volume, file: UUID) -> bytes:
    if dxe.name is None:
        raise ArtefactError("firmware volume without a name: its boot options cannot point to it")
    return file_path(dxe.name, file)
