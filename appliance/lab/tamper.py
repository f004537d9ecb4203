"""One byte changed in a part of what a guest boots: the attacks on an image that the demonstration shows.

In: the parts as they were built. Out: the same bytes but one, at a place that booting reads. Nothing here knows what a
verifier looks at; what is changed is told, so that the refusal can be compared with it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.lab.errors import LabError
from measurements import pe

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 1 << 20
SECTOR = 512
CONTEXT = 4096
"""Bytes before a section by which it is told from the same text elsewhere on the disk."""
EROFS_SUPERBLOCK = 1024
"""Offset of the superblock (Linux, ``fs/erofs/erofs_fs.h``); its volume name decides nothing, and mounting reads it."""
VOLUME_NAME = 64


@dataclass(frozen=True, slots=True)
class Change:
    """One byte: where it is in the file, what it was, what it is now."""

    offset: int
    before: int
    after: int

    def __str__(self) -> str:
        return f"byte {self.offset}: {self.before:#04x} became {self.after:#04x}"


def alter_root(disk: Path, root: Path, copy: Path) -> Change:
    """Copy the disk with one byte of the root file system's superblock changed.

    Args:
        disk: The image's disk.
        root: Its root partition as a file of its own, by which it is found.
        copy: Where the altered disk goes.
    """
    with root.open("rb") as file:
        beginning = file.read(CHUNK)
    return _copy_but_one(disk, copy, _find(disk, beginning[: 8 * SECTOR]) + EROFS_SUPERBLOCK + VOLUME_NAME)


def alter_uki(disk: Path, uki: Path, copy: Path) -> Change:
    """Copy the disk with one letter of the section changed that names the operating system."""
    return _alter_section(disk, uki.read_bytes(), ".osrel", rb"NAME=\"?([A-Za-z])", copy)


def alter_command_line(disk: Path, uki: Path, copy: Path) -> Change:
    """Copy the disk with one letter of the image's command line changed: ``quiet`` is not quiet any more."""
    return _alter_section(disk, uki.read_bytes(), ".cmdline", rb"quie(t)", copy)


def alter_model(volume: Path, checkpoint: Path, copy: Path) -> Change:
    """Copy a model volume with one byte in the middle of its weights changed.

    Raises:
        LabError: The volume does not hold the weights of the checkpoint.
    """
    weights = max(checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size, default=None)
    if weights is None:
        raise LabError(f"{checkpoint} holds no safetensors")
    with weights.open("rb") as file:
        beginning = file.read(SECTOR)
    return _copy_but_one(volume, copy, _find(volume, beginning) + weights.stat().st_size // 2)


def alter_configuration(measured: str) -> str:
    """The measured configuration with the last digit of the tokens that an answer may have changed.

    Raises:
        LabError: It names no such limit.
    """
    found = re.search(r"^max_tokens = \d*(\d)$", measured, re.MULTILINE)
    if found is None:
        raise LabError("the measured configuration has no max_tokens")
    return measured[: found.start(1)] + str((int(found[1]) + 1) % 10) + measured[found.end(1) :]


def _alter_section(disk: Path, uki: bytes, name: str, pattern: bytes, copy: Path) -> Change:
    """Alter what a pattern's group finds in a section; what stands before it in the image tells where it is."""
    section = next((section for section in pe.parse(uki).sections if section.name == name), None)
    if section is None:
        raise LabError(f"the image has no section {name}")
    end = section.raw_offset + min(section.raw_size, section.virtual_size)
    found = re.compile(pattern).search(uki, section.raw_offset, end)
    if found is None:
        raise LabError(f"nothing in section {name} looks like {pattern.decode()}")
    begin = max(0, section.raw_offset - CONTEXT)
    return _copy_but_one(disk, copy, _find(disk, uki[begin:end]) + found.start(1) - begin)


def _find(file: Path, wanted: bytes) -> int:
    """The one place where ``wanted`` is in a file.

    Raises:
        LabError: It is nowhere, or in several places.
    """
    found: list[int] = []
    base, held = 0, b""
    with file.open("rb") as source:
        while chunk := source.read(CHUNK):
            held += chunk
            at = held.find(wanted)
            while at >= 0:
                found.append(base + at)
                at = held.find(wanted, at + 1)
            keep = min(len(held), len(wanted) - 1)
            base, held = base + len(held) - keep, held[len(held) - keep :]
    if len(found) != 1:
        raise LabError(f"{file.name} holds the part to be altered {len(found)} times, expected once")
    return found[0]


def _copy_but_one(source: Path, copy: Path, offset: int) -> Change:
    shutil.copyfile(source, copy)
    with copy.open("r+b") as file:
        file.seek(offset)
        before = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([before ^ 1]))
    return Change(offset, before, before ^ 1)
