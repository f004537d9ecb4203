"""The project's two wheels, the same bytes from the same sources.

In: a checkout. Out: ``chrysalis_appliance_guest-….whl`` (what the image carries) or ``…_tools-….whl`` (the rest). What
belongs to which is stated once, in ``packaging/guest/pyproject.toml``. The sources are copied to an empty directory
before the back end sees them, so the checkout's place, git state, modes, times and leftovers do not reach it. The
finished wheel is written again without compression, because compressed bytes depend on the machine's zlib.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from appliance.image.errors import ImageError, MissingToolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
EPOCH = 1767225600
"""2026-01-01: the time that everything in the image bears."""
_PACKAGES = ("appliance", "attestation", "measurements")
_MEMBER_TIME = (2026, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644 << 16
_BACKEND = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


def build_guest_wheel(out: Path, checkout: Path = CHECKOUT) -> Path:
    """Build the guest's wheel into a directory; see :func:`build_wheel`."""
    return build_wheel("guest", out, checkout)


def build_tools_wheel(out: Path, checkout: Path = CHECKOUT) -> Path:
    """Build the tools' wheel into a directory; see :func:`build_wheel`."""
    return build_wheel("tools", out, checkout)


def build_wheel(which: Literal["guest", "tools"], out: Path, checkout: Path = CHECKOUT) -> Path:
    """Build one wheel, without a network.

    Args:
        which: ``guest`` or ``tools``.
        out: The directory it is written into; made where needed.
        checkout: The repository.

    Returns:
        The wheel.

    Raises:
        ImageError: The checkout is not whole, or the back end failed.
        MissingToolError: The pinned back end is not installed.
    """
    project = checkout / "packaging" / which / "pyproject.toml"
    _require_backend(_read(project))
    with TemporaryDirectory(prefix="chrysalis-wheel-") as scratch:
        stage, built = Path(scratch) / "stage", Path(scratch) / "built"
        for name in contents(checkout)[which]:
            _copy(checkout / name, stage / name)
        _copy(project, stage / "pyproject.toml")
        _copy(checkout / "LICENSE", stage / "LICENSE")
        built.mkdir()
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [sys.executable, "-P", "-c", _BACKEND, str(built)],
            cwd=stage,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ImageError(f"building the {which} wheel failed: {done.stderr.strip()[-500:]}")
        made = next(built.glob("*.whl"))
        out.mkdir(parents=True, exist_ok=True)
        return _settle(made, out / made.name)


def contents(checkout: Path = CHECKOUT) -> dict[str, tuple[str, ...]]:
    """The files of each wheel, relative to the checkout and sorted: ``guest``, ``tools`` and ``neither``.

    Raises:
        ImageError: A pattern of ``packaging/guest/pyproject.toml`` matches no file.
    """
    rules: dict[str, list[str]] = _read(checkout / "packaging/guest/pyproject.toml")["tool"]["chrysalis"]
    data = _read(checkout / "pyproject.toml")["tool"]["setuptools"]["package-data"]["*"]
    names = sorted(_sources(checkout, data))
    for pattern in (*rules["include"], *rules["exclude"]):
        if not _matching(names, [pattern]):
            raise ImageError(f"packaging/guest/pyproject.toml: {pattern} matches no file")
    neither = _matching(names, rules["neither"])
    guest = _matching(names, rules["include"]) - _matching(names, rules["exclude"]) - neither
    tools = set(names) - guest - neither
    return {"guest": tuple(sorted(guest)), "tools": tuple(sorted(tools)), "neither": tuple(sorted(neither))}


def _matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Names that a pattern covers: ``room/**`` a room and what is below, else files of exactly that folder."""
    found = set()
    for pattern in patterns:
        if pattern.endswith("/**"):
            found |= {name for name in names if name.startswith(pattern[:-2])}
        else:
            found |= {name for name in names if name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)}
    return found


def _sources(checkout: Path, data: list[str]) -> Iterator[str]:
    """Python files and package data; nothing that running or editing leaves behind."""
    for package in _PACKAGES:
        for path in (checkout / package).rglob("*"):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(checkout).parts)
            if not hidden and path.is_file() and any(fnmatchcase(path.name, one) for one in ("*.py", *data)):
                yield path.relative_to(checkout).as_posix()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise ImageError(f"{source}: {error.strerror}", hint="wheels are built from a whole checkout") from None
    target.chmod(0o644)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ImageError(f"{path}: {error}", hint="wheels are built from a whole checkout") from None


def _require_backend(project: dict[str, Any]) -> None:
    """The installed back end must be the pinned one: its version is written into the wheel."""
    (wanted,) = project["build-system"]["requires"]
    name, version = re.split("==", wanted)
    try:
        seen = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        seen = "none"
    if seen != version:
        raise MissingToolError(
            f"building a wheel needs {name} {version}, installed is {seen}",
            hint="run it in the project's environment (./chrysalis, ./just), which has the locked version",
        )


def _settle(source: Path, target: Path) -> Path:
    """Write a wheel again: members sorted by name with the record last, fixed times and modes, no compression."""
    with zipfile.ZipFile(source) as wheel:
        names = sorted(wheel.namelist(), key=lambda name: (name.endswith(".dist-info/RECORD"), name))
        members = [(name, wheel.read(name)) for name in names]
    with zipfile.ZipFile(target, "w", compression=zipfile.ZIP_STORED) as wheel:
        for name, data in members:
            info = zipfile.ZipInfo(name, _MEMBER_TIME)
            info.external_attr = _FILE_MODE
            info.create_system = 3  # Unix, whatever the machine
            wheel.writestr(info, data)
    target.chmod(0o644)
    return target
