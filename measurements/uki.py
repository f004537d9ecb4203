"""Unified kernel images: bytes in, the stub's version and the sections it measures out.

Source: UAPI group specification 5, "Unified Kernel Image"; systemd 257, ``src/fundamental/uki.h`` (order of sections),
``src/boot/pe.c`` (which section is taken) and ``src/boot/util.c`` (how the command line is read).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from measurements import pe as layout
from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Mapping

MEASURED_SECTIONS = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
    ".profile",
)
"""What the stub measures into PCR 11, in its order; ``.pcrsig``, which signs the result, is not among them."""

BY_HARDWARE = (".dtbauto", ".hwids")
"""Sections of which the stub takes what fits the machine that it runs on."""

MAX_COMMAND_LINE = 16 * 1024
"""Longest command line that is read, in bytes; Linux on x86 takes 2,048."""

_READ = frozenset({*MEASURED_SECTIONS, *BY_HARDWARE, ".pcrsig", ".sdmagic"})
_MAX_ZERO_FILL = 64 * 1024
"""How many zeros a section may gain in memory, in bytes: a header may not ask for gigabytes of them."""

_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ([0-9]{1,4})([A-Za-z0-9.~+:-]{0,64}) ####")


@dataclass(frozen=True, slots=True)
class Uki:
    """What a unified kernel image carries.

    Attributes:
        sections: Contents by name as they stand in memory (the stub's own code is not among them).
        command_line: As the kernel gets it: control characters as spaces, none at either end; empty without one.
        stub: The stub's whole version, for example ``257.13-1~deb13u1``.
        stub_version: Its first number.
    """

    sections: Mapping[str, bytes]
    command_line: str
    stub: str
    stub_version: int

    @property
    def measured(self) -> tuple[tuple[str, bytes], ...]:
        """The sections that go into PCR 11 with their contents, in the stub's order."""
        return tuple((name, self.sections[name]) for name in MEASURED_SECTIONS if name in self.sections)


def parse(data: bytes) -> Uki:
    """Read a unified kernel image.

    Raises:
        ArtefactError: Not a PE image, no systemd stub, no kernel, a section that is there twice or that cannot be
            loaded, or a command line that is not text.
    """
    image = layout.parse(data)
    sections: dict[str, bytes] = {}
    for section in image.sections:
        if section.name not in _READ or not section.virtual_size:
            continue
        if section.name in sections:
            raise ArtefactError(
                f"image with two sections {section.name}",
                hint="images with several profiles or device trees are not predicted: build one for each",
            )
        sections[section.name] = _loaded(data, section)
    magic = _MAGIC.search(sections.pop(".sdmagic", b""))
    if magic is None:
        raise ArtefactError(
            "image without a systemd stub (no section .sdmagic that names one)",
            hint="expected a unified kernel image as ukify and mkosi make it",
        )
    if ".linux" not in sections:
        raise ArtefactError(f"image without a kernel: its sections are {', '.join(sorted(sections)) or 'none'}")
    return Uki(sections, _command_line(sections.get(".cmdline", b"")), (magic[1] + magic[2]).decode(), int(magic[1]))


def _loaded(data: bytes, section: layout.Section) -> bytes:
    """The section as the firmware's loader puts it into memory: cut or filled with zeros to its virtual size."""
    missing = section.virtual_size - section.raw_size
    if missing > _MAX_ZERO_FILL:
        raise ArtefactError(f"section {section.name} of {section.raw_size} bytes that grows by {missing} in memory")
    content = data[section.raw_offset : section.raw_offset + min(section.raw_size, section.virtual_size)]
    return content + bytes(max(0, missing))


def _command_line(section: bytes) -> str:
    raw = section.partition(b"\0")[0]
    if len(raw) > MAX_COMMAND_LINE:
        raise ArtefactError(f"command line of {len(raw)} bytes, at most {MAX_COMMAND_LINE} are read")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ArtefactError(f"command line that is not UTF-8 at byte {error.start}") from None
    if any(ord(character) > 0xFFFF for character in text):
        raise ArtefactError("command line with a character beyond the 16 bits that firmware has for one")
    return re.sub(r"[\x01-\x1f\x7f]", " ", text).strip(" ")
