"""The GPU driver of an image: which package or wheel every file of it comes from, and putting them into a directory.

In: ``image/gpu/driver.toml``, the locked packages and wheels as files. Out: a :class:`DriverRecipe`, and a directory
that is copied into the image. Nothing is installed: the distribution's own dependencies would bring what a worker has
no use for, so files are taken out by name, and a name that is not there is an error.
"""

from __future__ import annotations

import stat
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from appliance.image.archive import require_tool
from appliance.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPE = "image/gpu/driver.toml"
_CHUNK = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{path!r} does not stay below the root")
    return path


class ModuleRecipe(_Part):
    """The kernel modules: their source, what of it is built, and our patches.

    Attributes:
        package: The package that carries the source.
        archive: The source archive in it.
        directory: The source's directory in the archive.
        build: Modules that are built.
        leave: Modules of the source that are not.
        patches: Files beside the recipe, applied in order.
    """

    package: str
    archive: str
    directory: str
    build: tuple[str, ...] = Field(min_length=1)
    leave: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()


class TakenFiles(_Part):
    """Files of one package or wheel: path in it → path in the image; a path that ends in ``/`` is a whole directory.

    ``version`` is stated where it is not the driver's (packages) or where two locks hold the wheel (wheels).
    """

    name: str
    files: dict[str, str] = Field(min_length=1)
    version: str | None = None

    @field_validator("files")
    @classmethod
    def _files_stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for source, target in files.items():
            _inside(source)
            _inside(target)
            if source.endswith("/") != target.endswith("/"):
                raise ValueError(f"{source!r} and {target!r} are not both a directory or both a file")
        return files


class DriverRecipe(_Part):
    """``image/gpu/driver.toml``.

    Attributes:
        version: The driver's version, which the source must state.
        modules: The kernel modules.
        packages: What is taken out of packages.
        wheels: What is taken out of wheels.
        links: Symbolic links in the image, and where they point.
    """

    version: str
    modules: ModuleRecipe
    packages: tuple[TakenFiles, ...]
    wheels: tuple[TakenFiles, ...] = ()
    links: dict[str, str] = {}

    @field_validator("links")
    @classmethod
    def _links_stay_inside(cls, links: dict[str, str]) -> dict[str, str]:
        for path in links:
            _inside(path)
        return links


def read_driver(path: Path) -> DriverRecipe:
    """Read a recipe.

    Raises:
        BuildError: It is missing or malformed; the message names the place.
    """
    try:
        return DriverRecipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{path}: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BuildError(f"{path}: {faults}") from None


def place_files(recipe: DriverRecipe, packages: Mapping[str, Path], wheels: Mapping[str, Path], target: Path) -> None:
    """Take every file of a recipe out of its package or wheel.

    Args:
        recipe: Which files.
        packages: The ``.deb`` of each package, by name.
        wheels: Each wheel, by its distribution's normalised name.
        target: The directory, which may have content.

    Raises:
        BuildError: A package, wheel or file is not there, or two bring the same path.
        MissingToolError: There is no dpkg-deb.
    """
    for entry in recipe.packages:
        _take_from_package(entry, _named(packages, entry.name, "package"), target)
    for entry in recipe.wheels:
        _take_from_wheel(entry, _named(wheels, entry.name, "wheel"), target)
    for path, points_to in sorted(recipe.links.items()):
        link = target / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(points_to)


def open_package(path: Path) -> subprocess.Popen[bytes]:
    """A program whose standard output is a package's files as a tar archive.

    Raises:
        MissingToolError: There is no dpkg-deb.
    """
    words = [require_tool("dpkg-deb", "dpkg"), "--fsys-tarfile", str(path)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)  # noqa: S603 - dpkg-deb on a file that a lock names


def _named(files: Mapping[str, Path], name: str, kind: str) -> Path:
    try:
        return files[name]
    except KeyError:
        raise BuildError(f"the driver's recipe takes files of the {kind} {name}, which no lock names") from None


def _destination(entry: TakenFiles, member: str) -> tuple[str, str] | None:
    """Which rule a member of an archive falls under, and where it goes."""
    for source, target in entry.files.items():
        if source == member:
            return source, target
        if source.endswith("/") and member.startswith(source):
            return source, target + member.removeprefix(source)
    return None


def _take_from_package(entry: TakenFiles, path: Path, target: Path) -> None:
    found: set[str] = set()
    with open_package(path) as process:
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                goes = _destination(entry, member.name.removeprefix("./"))
                if goes is None or not member.isfile():
                    continue
                content = archive.extractfile(member)
                assert content is not None  # noqa: S101 - a regular file
                _write(target, goes[1], content, executable=bool(member.mode & stat.S_IXUSR))
                found.add(goes[0])
        # The rest is padding; dpkg-deb must not be cut off.
        while process.stdout.read(_CHUNK):
            pass
    if process.returncode:
        raise BuildError(f"{path.name} ({entry.name}) cannot be read: dpkg-deb ended with status {process.returncode}")
    _require_all(entry, found, path)


def _take_from_wheel(entry: TakenFiles, path: Path, target: Path) -> None:
    found: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            goes = _destination(entry, member.filename)
            # A package's own __init__ is for Python; between headers it means nothing.
            if goes is None or member.is_dir() or member.filename.endswith("/__init__.py"):
                continue
            with archive.open(member) as content:
                _write(target, goes[1], content, executable=bool(member.external_attr >> 16 & stat.S_IXUSR))
            found.add(goes[0])
    _require_all(entry, found, path)


def _write(target: Path, path: str, content: IO[bytes], *, executable: bool) -> None:
    place = target / _inside(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        raise BuildError(f"two packages bring {path} into the image")
    with place.open("xb") as file:
        while block := content.read(_CHUNK):
            file.write(block)
    place.chmod(0o755 if executable else 0o644)


def _require_all(entry: TakenFiles, found: set[str], path: Path) -> None:
    if missing := sorted(set(entry.files) - found):
        raise BuildError(
            f"{entry.name} ({path.name}) has no {', '.join(missing)}",
            hint="another version of it is locked than the recipe was written for",
        )
