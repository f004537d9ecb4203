"""What a TDX firmware measures and in which order, as far as builds of EDK II differ.

In: the firmware's version as its shape states it, and the file. Out: :class:`Layout` (from the version: nothing in the
file says in which order it measures) and :class:`Features` (from the file itself).

Sources: EDK II ``OvmfPkg/Tcg/TdTcg2Dxe`` with commit efaf8931bbfa, first in stable202411 (the second separator moved
from RTMR0 to RTMR1); commits 2eac71a1e, cd76265f1 and 9d9e3a2ba, first in stable202505 (QEMU's settings, SMBIOS and a
second boot option in RTMR0); pull request 10628 (``etc/boot/kernel``). Packing of firmware volumes: UEFI Platform
Initialization Specification 1.8, volume 3, section 3.2.5 (a GUID-defined section).
"""

from __future__ import annotations

import lzma
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from measurements.errors import ArtefactError, MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_UNPACKED = 64 * 1024**2
"""Most bytes that all packed volumes of one firmware may have; usual ones have 12 to 16 MiB."""

KNOWN_SINCE = (2024, 2)
SEPARATED_SINCE = (2024, 11)
SETTINGS_SINCE = (2025, 5)

_VERSION = re.compile(r"(20[0-9]{2})\.([0-9]{2})(?![0-9])")
_LZMA = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le
_SECURE_BOOT = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
"""SecureBootConfigDxe, part of exactly the builds that know secure boot."""
_NAMED_FILES = b"etc/boot/"
_DATA_OFFSET = 16  # in a GUID-defined section, counted from its GUID
_COMMON_HEADER = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """How a build orders its measurements.

    Attributes:
        separator_in_rtmr1: Whether the separator before the first boot option is in RTMR1, where it belongs.
        settings_measured: Whether QEMU's settings and SMBIOS go into RTMR0.
    """

    separator_in_rtmr1: bool
    settings_measured: bool


@dataclass(frozen=True, slots=True)
class Features:
    """What is in a build.

    Attributes:
        secure_boot: Whether it knows secure boot; then its variable exists, set or not.
        named_kernel: Whether it looks for ``etc/boot/kernel``.
    """

    secure_boot: bool
    named_kernel: bool


def layout(version: str | None) -> Layout:
    """The order of a build.

    Args:
        version: EDK II's stable tag with whatever a distribution puts behind it, for example ``2025.02-8+deb13u1``.

    Raises:
        MeasurementError: No version, none of that form, or one before :data:`KNOWN_SINCE`.
    """
    found = _VERSION.match(version or "")
    if found is None:
        raise MeasurementError(
            f"firmware version {version or 'not stated'}, expected EDK II's, such as 2025.02",
            hint="state it in the shape's table [firmware]: what firmware measures changed three times",
        )
    number = int(found[1]), int(found[2])
    if number < KNOWN_SINCE:
        raise MeasurementError(
            f"firmware {version}, what is measured is known from {KNOWN_SINCE[0]}.{KNOWN_SINCE[1]:02} on",
            hint="older builds for several platforms leave out the driver that measures",
        )
    return Layout(number >= SEPARATED_SINCE, number >= SETTINGS_SINCE)


def features(firmware: bytes) -> Features:
    """Look into a firmware's volumes, packed ones too.

    Raises:
        ArtefactError: A packed volume that does not unpack, or packed volumes of more than :data:`MAX_UNPACKED`.
    """
    secure_boot = named_kernel = False
    for volume in (firmware, *_unpacked(firmware)):
        secure_boot = secure_boot or _SECURE_BOOT in volume
        named_kernel = named_kernel or _NAMED_FILES in volume
    return Features(secure_boot, named_kernel)


def _unpacked(firmware: bytes) -> Iterator[bytes]:
    left = MAX_UNPACKED
    place = firmware.find(_LZMA)
    while place >= 0:
        start = place - _COMMON_HEADER
        head = firmware[place + _DATA_OFFSET : place + _DATA_OFFSET + 2]
        # The GUID also stands in the code that unpacks: there it is followed by anything.
        if start >= 0 and len(head) == 2 and _is_section(firmware, start):
            (offset,) = struct.unpack("<H", head)
            volume = _lzma(firmware[start + offset : start + _size(firmware, start)], left)
            left -= len(volume)
            yield volume
        place = firmware.find(_LZMA, place + 1)


def _is_section(firmware: bytes, start: int) -> bool:
    offset = int.from_bytes(firmware[start + 20 : start + 22], "little")
    return firmware[start + 3] == 0x02 and 24 <= offset < _size(firmware, start) <= len(firmware) - start


def _size(firmware: bytes, start: int) -> int:
    return int.from_bytes(firmware[start : start + 3], "little")


def _lzma(packed: bytes, most: int) -> bytes:
    machine = lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=2 * MAX_UNPACKED)
    try:
        volume = machine.decompress(packed, max_length=most + 1)
    except lzma.LZMAError as error:
        raise ArtefactError(
            f"firmware with a packed volume of {len(packed)} bytes that does not unpack: {error}"
        ) from None
    if len(volume) > most:
        raise ArtefactError(f"firmware whose packed volumes have more than {MAX_UNPACKED} bytes")
    return volume
