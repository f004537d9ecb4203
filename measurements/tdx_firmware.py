"""What a TDX firmware measures and in which order, as far as builds of EDK II differ.

In: the firmware's version as its shape states it, and the file. Out: :class:`Layout` (from the version: nothing in the
file says in which order it measures) and :class:`Build` (from the file itself).

Sources: EDK II ``OvmfPkg/Tcg/TdTcg2Dxe`` with commit efaf8931bbfa, first in stable202411 (the second separator moved
from RTMR0 to RTMR1); commits 2eac71a1e, cd76265f1 and 9d9e3a2ba, first in stable202505 (QEMU's settings, SMBIOS and a
second boot option in RTMR0); pull request 10628 (``etc/boot/kernel``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from measurements.boot_options import MENU, SHELL
from measurements.errors import ArtefactError, MeasurementError
from measurements.firmware_volume import LZMA_SECTION, SECTION_NAME, File, Section, Volume, unpack

KNOWN_SINCE = (2024, 2)
SEPARATED_SINCE = (2024, 11)
SETTINGS_SINCE = (2025, 5)

_VERSION = re.compile(r"(20[0-9]{2})\.([0-9]{2})(?![0-9])")
_SECURE_BOOT = UUID("f0e6a44f-7195-41c3-ac64-54f202cd0a21").bytes_le
"""SecureBootConfigDxe, part of exactly the builds that know secure boot."""
_NAMED_FILES = b"etc/boot/"
_APPLICATION = 0x09  # EFI_FV_FILETYPE_APPLICATION


def _program(name: UUID, title: str) -> File:
    return File(name, _APPLICATION, (Section(SECTION_NAME, 0, title.encode("utf-16-le") + b"\0\0"),))


USUAL_PROGRAMS = Volume(
    b"", UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1"), (_program(MENU, "UiApp"), _program(SHELL, "Shell"))
)
"""What boot options of OVMF's builds for several platforms point to (``OvmfPkgX64.fdf``, FV.DXEFV)."""


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
class Build:
    """What is in a build.

    Attributes:
        secure_boot: Whether it knows secure boot; then its variable exists, set or not.
        named_kernel: Whether it looks for ``etc/boot/kernel``.
        programs: The volume that its menu is in, which boot options point to; :data:`USUAL_PROGRAMS` where the file
            holds none that can be read.
    """

    secure_boot: bool
    named_kernel: bool
    programs: Volume


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


def build(firmware: bytes) -> Build:
    """Look into a firmware's volumes, packed ones too.

    Raises:
        ArtefactError: Something is packed in it that cannot be read: what that is is not guessed.
    """
    try:
        unpacked = unpack(firmware)
    except ArtefactError:
        if LZMA_SECTION.bytes_le in firmware:
            raise
        # Nothing is packed: all there is stands in the file itself.
        contents, programs = [firmware], USUAL_PROGRAMS
    else:
        volumes = (unpacked.pei, unpacked.dxe)  # builds for TDX alone have both halves of the later phase here
        contents = [firmware, *(volume.content for volume in volumes)]
        programs = next((volume for volume in volumes if volume.file(MENU)), volumes[-1])
    return Build(
        any(_SECURE_BOOT in content for content in contents),
        any(_NAMED_FILES in content for content in contents),
        programs,
    )
