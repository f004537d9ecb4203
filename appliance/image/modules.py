"""The NVIDIA kernel modules, compiled for the image's kernel: the same bytes wherever and whenever it is done.

In: the locked source package, our patches, and a tree with the kernel's headers and compiler. Out:
``usr/lib/modules/<release>/updates/*.ko``, stripped and unsigned: a signature needs a key, and a key that is made for
the build would make every build another one. The guest therefore loads them before it raises kernel lockdown.

What is compiled is the part that meets the kernel, and nvidia-uvm. The rest of the driver comes as one precompiled
object in the source package (``nv-kernel.o_binary``) and is linked in as it is: assembled, not compiled.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.commands import ENVIRONMENT
from appliance.image.driver import open_package
from appliance.image.errors import BuildError
from appliance.image.tools_tree import inside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from appliance.image.commands import Commands
    from appliance.image.driver import DriverRecipe

SIGNATURE = b"~Module signature appended~\n"  # Linux, include/linux/module_signature.h
_PLACE = "/build/source"
_HEADERS = re.compile(r"linux-headers-(?P<release>\d.*-amd64)")
_VERSION = re.compile(r'-DNV_VERSION_STRING=\\"(?P<version>[0-9.]+)\\"')
_EPOCH = "1767225600"  # image/mkosi.conf, SourceDateEpoch: some driver files print the day they were compiled
_CHUNK = 1 << 20
_MAX_SOURCE = 1 << 30
_MAX_MODULE = 1 << 29
_ELF64 = b"\x7fELF\x02\x01"
_RELOCATABLE = 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel that modules are compiled for.

    Attributes:
        release: As ``uname -r`` says it.
        headers: Its own headers and configuration, as seen in the tree.
        common: The headers it shares with other flavours, as seen in the tree.
    """

    release: str
    headers: str
    common: str


def find_kernel(tree: Path) -> Kernel:
    """The one kernel whose headers are in a tree.

    Raises:
        BuildError: There is none, or there are several.
    """
    places = {path.name for path in (tree / "usr/src").glob("linux-headers-*")}
    found = [match["release"] for name in sorted(places) if (match := _HEADERS.fullmatch(name))]
    if len(found) != 1:
        raise BuildError(f"the compiler's tree has headers of the kernels {found}, expected one")
    release = found[0]
    # 6.12.117+deb13-cloud-amd64 → 6.12.117+deb13-common
    common = f"linux-headers-{release.split('-', 1)[0]}-common"
    if common not in places:
        raise BuildError(f"the compiler's tree has no {common}, which belongs to the headers of {release}")
    return Kernel(release, f"/usr/src/linux-headers-{release}", f"/usr/src/{common}")


def compile_modules(
    recipe: DriverRecipe,
    source: Path,
    patches: Sequence[Path],
    *,
    tree: Path,
    work: Path,
    target: Path,
    commands: Commands,
    kernel: str | None = None,
    place: str = _PLACE,
) -> tuple[Path, ...]:
    """Compile the driver's modules.

    Args:
        recipe: Which modules, and the version that the source must have.
        source: The source package (``.deb``).
        patches: Our patches, in order.
        tree: A tree with headers, compiler, make and patch.
        work: Scratch space.
        target: The directory that is copied into the image.
        commands: Runs the programs.
        kernel: The release of the image's kernel, which the headers must be of.
        place: Where the compiler sees the source; nothing of it is in the result.

    Returns:
        The modules below ``target``.

    Raises:
        BuildError: The source is of another version, a patch does not apply, or something does not compile.
    """
    found = find_kernel(tree)
    if kernel is not None and found.release != kernel:
        raise BuildError(
            f"the headers are of the kernel {found.release}, the image has {kernel}",
            hint="make the locks again: just lock",
        )
    directory = work / "source"
    unpack_source(recipe, source, directory)
    within = inside(tree, mounts=[(directory, place)], chdir=place)
    for patch in patches:
        shutil.copyfile(patch, directory / patch.name)
        commands.run([*within, "patch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--input", patch.name])
    environment = ENVIRONMENT | {
        "SOURCE_DATE_EPOCH": _EPOCH,
        "KBUILD_BUILD_TIMESTAMP": f"@{_EPOCH}",
        "KBUILD_BUILD_USER": "chrysalis",
        "KBUILD_BUILD_HOST": "chrysalis",
    }
    make = ["make", f"-j{os.cpu_count() or 1}", "modules", f"SYSSRC={found.common}", f"SYSOUT={found.headers}",
            f"NV_EXCLUDE_KERNEL_MODULES={' '.join(recipe.modules.leave)}",
            f"KCFLAGS=-ffile-prefix-map={place}=."]  # fmt: skip
    commands.run([*within, *make], environment=environment)
    updates = target / "usr/lib/modules" / found.release / "updates"
    updates.mkdir(parents=True, exist_ok=True)
    names = [f"{name}.ko" for name in recipe.modules.build]
    commands.run([*within, "strip", "--strip-debug", *names], environment=environment)
    made = []
    for name in names:
        check_module(directory / name, found.release)
        shutil.copyfile(directory / name, updates / name)
        made.append(updates / name)
    shutil.rmtree(directory)
    return tuple(made)


def unpack_source(recipe: DriverRecipe, package: Path, directory: Path) -> None:
    """Unpack the modules' source and check that it is the recipe's version.

    Raises:
        BuildError: The package has no such archive, or the source is of another version.
    """
    modules = recipe.modules
    with open_package(package) as process:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        with tarfile.open(fileobj=process.stdout, mode="r|") as outer:
            for member in outer:
                if member.name.removeprefix("./") == modules.archive:
                    content = outer.extractfile(member)
                    assert content is not None  # noqa: S101 - a regular file
                    with tarfile.open(fileobj=content, mode="r|xz") as archive:
                        _unpack_below(archive, modules.directory, directory)
                    break
            else:
                raise BuildError(f"{package.name} ({modules.package}) has no {modules.archive}")
        while process.stdout.read(_CHUNK):  # padding; dpkg-deb must not be cut off
            pass
    stated = _VERSION.search((directory / "Kbuild").read_text(encoding="utf-8"))
    if stated is None or stated["version"] != recipe.version:
        raise BuildError(
            f"the modules' source says version {stated['version'] if stated else 'nothing'}, expected {recipe.version}",
            hint="the driver's version stands in image/gpu/driver.toml, the package's in image/lock",
        )


def _unpack_below(archive: tarfile.TarFile, top: str, directory: Path) -> None:
    total = 0
    for member in archive:
        name = member.name.removeprefix("./")
        if not name.startswith(f"{top}/"):
            continue
        total += member.size
        if total > _MAX_SOURCE:
            raise BuildError(f"the modules' source is larger than {_MAX_SOURCE} bytes")
        member.name = name.removeprefix(f"{top}/")
        archive.extract(member, directory, filter="data")
    if not (directory / "Kbuild").is_file():
        raise BuildError(f"the modules' source has no {top}/Kbuild")


def check_module(path: Path, release: str) -> None:
    """Refuse a module that is no module, is signed, or is for another kernel.

    Raises:
        BuildError: It is one of those.
    """
    size = path.stat().st_size
    if size > _MAX_MODULE:
        raise BuildError(f"{path.name} has {size} bytes, more than {_MAX_MODULE}: it was not stripped")
    data = path.read_bytes()
    # System V ABI, chapter 4: identification, then the type at offset 16.
    if data[:6] != _ELF64 or struct.unpack_from("<H", data, 16)[0] != _RELOCATABLE:
        raise BuildError(f"{path.name} is not a 64-bit relocatable ELF file")
    if data.endswith(SIGNATURE):
        raise BuildError(f"{path.name} is signed: a key of the build would make every build another one")
    stated = re.search(rb"\0vermagic=([^ \0]+) ", data)
    if stated is None or stated[1].decode() != release:
        seen = stated[1].decode() if stated else "no kernel"
        raise BuildError(f"{path.name} is for {seen}, expected {release}")
