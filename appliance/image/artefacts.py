"""The files of a release: taken over from what mkosi wrote, the firmware beside them, each with its digest.

In: mkosi's output directory and the firmware's packages. Out: the release's directory.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.errors import BuildError
from appliance.image.seal.program import INITRD_LIST, ROOT_LIST

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from appliance.image.commands import Commands

DISK = "chrysalis.raw"
UKI = "chrysalis.efi"
KERNEL = "chrysalis.vmlinuz"
INITRD = "chrysalis.initrd"
ROOT = "chrysalis.root.raw"
VERITY = "chrysalis.root-verity.raw"
ROOT_FILES = ROOT_LIST
INITRD_FILES = INITRD_LIST
FIRMWARE_CODE = "OVMF_CODE.fd"
FIRMWARE_VARIABLES = "OVMF_VARS.fd"
FIRMWARE = "OVMF.fd"
FIRMWARE_SNP = "OVMF.amdsev.fd"
SBOM = "sbom.cdx.json"
BUILT = (DISK, UKI, KERNEL, INITRD, ROOT, VERITY, ROOT_FILES, INITRD_FILES)
"""What mkosi makes, under the names of a release."""

FIRMWARE_LOCKS = ("firmware", "firmware-next")
"""The locks that hold the packages with the guest's firmware."""
# Where Debian's packages have them. 4M: the variant without Secure Boot, with a store for 4 MiB flash.
_FIRMWARE_FILES = {
    "ovmf": {
        FIRMWARE_CODE: "usr/share/OVMF/OVMF_CODE_4M.fd",
        FIRMWARE_VARIABLES: "usr/share/OVMF/OVMF_VARS_4M.fd",
        FIRMWARE: "usr/share/ovmf/OVMF.fd",
    },
    "ovmf-amdsev": {FIRMWARE_SNP: "usr/share/ovmf/OVMF.amdsev.fd"},
}


@dataclass(frozen=True, slots=True)
class File:
    """One file of a release: its name, bytes and SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


def describe(path: Path) -> File:
    """Size and digest of a file."""
    with path.open("rb") as handle:
        return File(path.name, path.stat().st_size, hashlib.file_digest(handle, "sha256").hexdigest())


def describe_all(directory: Path, names: Iterable[str]) -> tuple[File, ...]:
    """Those of the named files that are there, sorted by name."""
    return tuple(describe(directory / name) for name in sorted(names) if (directory / name).is_file())


def take_over(built: Path, output: Path) -> None:
    """Move what mkosi wrote into the release's directory.

    Raises:
        BuildError: A file is missing.
    """
    for name in BUILT:
        source = built / name
        if not source.is_file():
            raise BuildError(f"mkosi ended well and wrote no {name}")
        shutil.move(source, output / name)
        (output / name).chmod(0o644)


def take_firmware(packages: Iterable[tuple[str, Path]], output: Path, scratch: Path, commands: Commands) -> None:
    """Unpack the firmware's packages and copy their files into the release's directory.

    Args:
        packages: The packages' names and files.
        output: The release's directory.
        scratch: A directory to unpack into.
        commands: Runs programs.

    Raises:
        BuildError: The packages are not those that a release needs, or do not hold the files.
    """
    given = dict(packages)
    if given.keys() != _FIRMWARE_FILES.keys():
        raise BuildError(
            f"the firmware locks name {', '.join(sorted(given)) or 'nothing'}, "
            f"expected {', '.join(sorted(_FIRMWARE_FILES))}"
        )
    for package, file in sorted(given.items()):
        place = scratch / package
        place.mkdir(parents=True, exist_ok=True)
        commands.run(["dpkg-deb", "--extract", file, place])
        for name, inside in _FIRMWARE_FILES[package].items():
            if not (place / inside).is_file():
                raise BuildError(
                    f"{package} ({file.name}) has no {inside}", hint="the firmware lock names another version"
                )
            shutil.copyfile(place / inside, output / name)
            (output / name).chmod(0o644)
