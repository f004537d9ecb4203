"""What OVMF measures of itself into register 0: the volumes as they stand in memory, and the name of the build.

The PEI volume runs where it was unpacked, in memory that can be written, and its core writes one number into its own
data before the volume is measured: where the machine's timer is. That place is found in the code itself, by the two
instructions that write it (a constant on one monitor's machines, a computed address on QEMU's); both have to name the
same place, or the register is not predicted.

Sources: EDK II ``SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c`` (MeasureCRTMVersion, MeasureFvImage),
``OvmfPkg/Library/AcpiTimerLib/BaseAcpiTimerLib.c`` (AcpiTimerLibConstructor), ``OvmfPkg/PlatformPei/Platform.c``; QEMU
``hw/i386/acpi-build.c`` and ``include/hw/acpi/ich9.h`` (where the timer is).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

from measurements import pe
from measurements.errors import ArtefactError
from measurements.firmware_volume import PEI_CORE, SECTION_PE32

if TYPE_CHECKING:
    from collections.abc import Mapping

    from measurements.firmware_volume import UnpackedFirmware, Volume

TIMERS: Mapping[str, int] = {"q35": 0x608, "pc": 0xB008}
"""I/O port of the ACPI timer by QEMU's family of machine types: power management base 0x600 or 0xB000, and 8."""

SECURE_BOOT_DRIVER = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21")
"""``SecureBootConfigDxe``: a build without it knows no secure boot."""

SMM_ACCESS = UUID("6c0e75b4-b0b9-44d1-8210-3377d7b4e066")
"""``SmmAccessPei``: in builds that demand system management mode."""

SETTINGS_SINCE = (2025, 5)
TABLES_TEXT = b"ACPI DATA\0"
"""``EV_POSTCODE_INFO_ACPI_DATA``."""

_CONSTANT = re.compile(rb"\xc7\x05(?P<place>....)\x08\x06\x00\x00", re.DOTALL)
"""``mov dword [rip + place], 0x608``: the address on Cloud Hypervisor's machines, which needs no look at a chipset."""

_COMPUTED = re.compile(
    rb"\x83(?P<and>[\xe0-\xe7])\xfe.{0,24}?\x83(?P<add>[\xc0-\xc7])\x08\x89(?P<to>[\x05\x0d\x15\x1d\x25\x2d\x35\x3d])(?P<place>....)",
    re.DOTALL,
)
"""``and r, ~1``, ``add r, 8``, ``mov [rip + place], r``: base without its flag, and the timer's offset."""

_VERSION = re.compile(rb"(?:[0-9]\x00){4}\.\x00(?:[0-9]\x00){2}(?:[A-Za-z0-9.+~-]\x00){0,40}\x00\x00")
"""A version as distributions name a build: year, month, what they add."""
_TAG = re.compile(r"(20[0-9]{2})\.([0-9]{2})(?![0-9])")


def pei_in_memory(volume: Volume, machine: str) -> bytes:
    """The PEI volume as it is measured.

    Args:
        volume: As it is unpacked.
        machine: Machine type, for example ``q35`` or ``pc-q35-10.0``.

    Raises:
        ArtefactError: Where it writes to itself is not known for this build or machine.
    """
    if volume.file(SMM_ACCESS) is not None:
        raise ArtefactError(
            "firmware that demands system management mode: it keeps addresses that follow the machine's memory in its "
            "own volume",
            hint="this project's machines run OVMF_CODE_4M.fd, which does not",
        )
    place = _timer_place(volume)
    port = TIMERS[_family(machine)].to_bytes(4, "little")
    return volume.content[:place] + port + volume.content[place + len(port) :]


def crtm_version(firmware: UnpackedFirmware, stated: str | None) -> bytes:
    """Content of ``EV_S_CRTM_VERSION``: the build's name as UTF-16 with its end.

    Args:
        firmware: The build.
        stated: What it says of itself, where that is known; it has to be in there.

    Raises:
        ArtefactError: The stated name is not in the build, or none is stated and not exactly one is found.
    """
    settings = firmware.pei.content  # the phase that measures has the settings of the build in its own volume
    if stated is not None:
        wanted = stated.encode("utf-16-le") + b"\0\0"
        if wanted not in settings:
            raise ArtefactError(
                f"firmware that nowhere says it is {stated!r}", hint="compare [firmware] version of the shape"
            )
        return wanted
    found = sorted({match[0] for match in _VERSION.finditer(settings)})
    if len(found) != 1:
        names = ", ".join(item.decode("utf-16-le").rstrip("\0") for item in found) or "none"
        raise ArtefactError(
            f"firmware whose own version is not certain: {names}", hint="state it in [firmware] version of the shape"
        )
    return found[0]


def measures_tables(firmware: UnpackedFirmware) -> bool:
    """Whether this build measures ACPI tables: then it has the text that its log shows with them.

    ``OvmfPkg/AcpiPlatformDxe`` does since edk2-stable202302; Debian 12's build (2022.11) was seen not to.
    """
    return TABLES_TEXT in firmware.dxe.content


def measures_settings(version: bytes) -> bool:
    """Whether a build measures more of the machine into register 1 than can be predicted.

    Since edk2-stable202505 OVMF measures SMBIOS tables and the monitor's settings (EDK II, commits 2eac71a1e, cd76265f1
    and 9d9e3a2ba).

    Args:
        version: As :func:`crtm_version` gives it.

    Raises:
        ArtefactError: The version is not one of EDK II's stable tags with more behind it.
    """
    text = version.decode("utf-16-le").rstrip("\0")
    tag = _TAG.match(text)
    if tag is None:
        raise ArtefactError(
            f"firmware version {text!r}, which does not begin with a stable tag of EDK II, such as 2025.02",
            hint="what firmware measures of the machine changes with it",
        )
    return (int(tag[1]), int(tag[2])) >= SETTINGS_SINCE


def knows_secure_boot(firmware: UnpackedFirmware) -> bool:
    """Whether this build derives a variable ``SecureBoot`` at all."""
    return firmware.dxe.file(SECURE_BOOT_DRIVER) is not None


def _family(machine: str) -> str:
    if machine == "q35" or machine.startswith("pc-q35-"):
        return "q35"
    if machine == "pc" or machine.startswith("pc-i440fx-"):
        return "pc"
    raise ArtefactError(f"machine type {machine!r}, whose timer's place is not known", hint="known are q35 and pc")


def _timer_place(volume: Volume) -> int:
    """Offset in the volume of the four bytes that the PEI core writes, in bytes."""
    cores = [file for file in volume.files if file.kind == PEI_CORE]
    images = [section for file in cores for section in file.sections if section.kind == SECTION_PE32]
    if len(images) != 1:
        raise ArtefactError(f"PEI volume with {len(images)} images of a PEI core, expected one")
    code = images[0].content
    constant = {_target(match) for match in _CONSTANT.finditer(code)}
    computed = {
        _target(match)
        for match in _COMPUTED.finditer(code)
        if match["and"][0] & 7 == match["add"][0] & 7 == match["to"][0] >> 3
    }
    places = constant & computed
    if len(places) != 1 or constant != computed:
        raise ArtefactError(
            f"PEI core in which {len(constant)} and {len(computed)} instructions write the timer's address",
            hint="this build writes to its own volume in another way than those that were looked at",
        )
    (place,) = places
    data = [item for item in pe.parse(code).sections if item.name == ".data"]
    if not any(item.raw_offset <= place and place + 4 <= item.raw_offset + item.raw_size for item in data):
        raise ArtefactError(f"PEI core whose timer's address at {place:#x} is not among its data")
    if any(code[place : place + 4]):
        raise ArtefactError(f"PEI core whose timer's address at {place:#x} is set already")
    return images[0].offset + place


def _target(match: re.Match[bytes]) -> int:
    """Where an instruction with an address relative to its end writes; of the constant's, four more bytes follow."""
    end = match.end()
    return end + int.from_bytes(match["place"], "little", signed=True)
