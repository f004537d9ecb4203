"""A flat repository of locked packages: what mkosi and mmdebstrap install from, without a network.

In: locks whose packages are in the cache. Out: a directory with every ``.deb`` under its own name and a ``Packages``
index over them, the same bytes for the same locks wherever it is made. Nothing else is in it, so nothing else can be
installed. It is not signed: each file was checked against the lock, and the lock is what was reviewed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.archive import require_tool
from appliance.image.errors import InputDiffersError, InputGoneError
from appliance.image.fetch import cache, deb_path, is_cached
from appliance.image.lock import PackageLock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from appliance.image.lock import LockedPackage

INDEX = "Packages"
_OURS = frozenset({"filename", "size", "sha256", "sha1", "md5sum"})


def combined(locks: Iterable[PackageLock]) -> PackageLock:
    """One lock that holds the packages of several.

    Raises:
        LockFormatError: Two of them disagree about a package.
    """
    found = sorted(locks, key=lambda lock: lock.name)
    return PackageLock.make(
        "+".join(lock.name for lock in found),
        (index for lock in found for index in lock.indexes),
        (item for lock in found for item in lock.packages),
    )


def make_repository(locks: Iterable[PackageLock], *, directory: Path | None = None) -> Path:
    """The repository of these locks, made unless it is there.

    Args:
        locks: Whose packages; all must be in the cache (:func:`appliance.image.fetch.fetch`).
        directory: The cache; ``<home>/image/cache`` when not given.

    Returns:
        ``<cache>/repositories/<digest>``. Its source line is ``deb [trusted=yes] file://<that> ./`` (``copy://`` for
        mmdebstrap); its files are hard links to the cache's, not to be written.

    Raises:
        InputGoneError: A package is not in the cache.
        InputDiffersError: A file of the cache changed.
        MissingToolError: There is no dpkg.
    """
    place = directory or cache()
    lock = combined(locks)
    target = place / "repositories" / lock.digest[:16]
    _check(lock, place)
    if (target / INDEX).is_file():
        return target
    program = require_tool("dpkg-deb", "dpkg")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".make-", dir=target.parent))
    try:
        work.chmod(0o755)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            stanzas = list(pool.map(lambda item: _stanza(program, item, deb_path(item, place)), lock.packages))
        for item in lock.packages:
            _link(deb_path(item, place), work / item.deb)
        index = work / INDEX
        index.write_text("\n".join(stanzas), encoding="utf-8")
        index.chmod(0o644)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check(lock: PackageLock, place: Path) -> None:
    for item in lock.packages:
        if not is_cached(item, place):
            path = deb_path(item, place)
            if not path.exists():
                raise InputGoneError(
                    f"{item.deb} is not in the cache {place}", hint="fetch it: chrysalis image fetch (needs a network)"
                )
            raise InputDiffersError(
                f"{path} is not {item.deb} as it is locked",
                hint="remove that file and fetch again: chrysalis image fetch",
            )


def _stanza(program: str, item: LockedPackage, path: Path) -> str:
    """The package's own control fields, and where and what the file is."""
    done = subprocess.run([program, "--field", path], capture_output=True, text=True, check=True)  # noqa: S603 - as above
    fields: list[str] = []
    ours = False
    for line in done.stdout.splitlines():
        if not line.startswith((" ", "\t")):
            ours = line.partition(":")[0].lower() in _OURS
        if not ours:
            fields.append(line)
    return "\n".join([*fields, f"Filename: ./{item.deb}", f"Size: {item.size}", f"SHA256: {item.sha256}"]) + "\n"


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
