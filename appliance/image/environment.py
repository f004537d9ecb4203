"""A Python environment as the image carries it: wheels unpacked, nothing run, the same bytes anywhere.

In: wheels that were checked against a lock. Out: ``<prefix>/pyvenv.cfg``, ``bin/python`` and ``site-packages``. No
installer takes part: it would write its own name, the time and this machine's paths beside what the wheels hold. Byte
code is made later, by :mod:`appliance.image.seal.finish`, for the whole image at once.

Layout: binary distribution format 1.0 (PEP 427): what lies at the top goes to ``site-packages``, of ``<name>.data``
only ``purelib``, ``platlib`` and ``data`` are taken. Console scripts are not: the guest starts modules.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from appliance.image.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_PYTHON = "3.13"
_SITE_PARTS = frozenset({"purelib", "platlib"})
_MAX_BYTES = 16 << 30
"""Of one environment, unpacked: more than any engine has, less than a disk."""


def make_environment(
    root: Path,
    prefix: str,
    wheels: Iterable[Path],
    *,
    system_site_packages: bool = False,
    leave: Iterable[str] = (),
) -> Path:
    """Make an environment.

    Args:
        root: The directory that will be copied to the image's ``/``.
        prefix: Where the environment is in the image, absolute.
        wheels: Their files; two that bring the same path are refused.
        system_site_packages: Whether it also sees the distribution's packages.
        leave: Files of wheels that are not taken, such as a build program that two of them bring by mistake.

    Returns:
        Its ``site-packages``.

    Raises:
        InputError: A wheel leads outside, is not a wheel, or brings a path that another brought.
    """
    place = root / prefix.lstrip("/")
    site = place / "lib" / f"python{IMAGE_PYTHON}" / "site-packages"
    site.mkdir(parents=True)
    (place / "bin").mkdir()
    for name in ("python", "python3", f"python{IMAGE_PYTHON}"):
        (place / "bin" / name).symlink_to("/usr/bin/python3")
    (place / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = {str(system_site_packages).lower()}\n"
        f"version = {IMAGE_PYTHON}\n",
        encoding="utf-8",
    )
    budget, left = _MAX_BYTES, frozenset(leave)
    for wheel in sorted(wheels, key=lambda path: path.name):
        budget -= _unpack(wheel, site, place, budget, left)
    return site


def _unpack(wheel: Path, site: Path, prefix: Path, budget: int, leave: frozenset[str]) -> int:
    total = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or entry.filename in leave:
                    continue
                target = _place(entry.filename, wheel, site, prefix)
                if target is None:
                    continue
                total += entry.file_size
                if total > budget:
                    raise InputError(f"{wheel.name}: the environment is larger than {_MAX_BYTES} bytes")
                if target.exists():
                    # Namespace packages may each bring the same empty file; anything else is two packages at odds.
                    if target.read_bytes() == archive.read(entry):
                        continue
                    raise InputError(f"{wheel.name} brings {entry.filename}, which another wheel brings differently")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                target.chmod(0o755 if (entry.external_attr >> 16) & 0o111 else 0o644)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{wheel.name} cannot be unpacked: {error}") from None
    return total


def _place(name: str, wheel: Path, site: Path, prefix: Path) -> Path | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise InputError(f"{wheel.name} holds {name!r}, which leads outside of it")
    first, *rest = path.parts
    if not first.endswith(".data") or not rest:
        return site / path
    part, *inner = rest
    if part in _SITE_PARTS and inner:
        return site.joinpath(*inner)
    if part == "data" and inner:
        return prefix.joinpath(*inner)
    return None
