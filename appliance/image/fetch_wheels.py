"""Locked wheels into the cache, by pip, for the image's Python whatever this machine's is.

In: a :class:`~appliance.image.lock_wheels.WheelLock`. Out: a directory with exactly its wheels, for
``pip install --no-index --find-links``. Where wheels come from is pip's own configuration; what may come is the lock. A
wheel is kept under its digest once it was checked, so a second run starts no pip and needs no network.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from appliance.engine.errors import DiskFullError, HashMismatchError, NetworkError
from appliance.engine.pip import explain
from appliance.engine.progress import Progress, ignore_progress
from appliance.engine.tool import run_tool
from appliance.image.errors import (
    ArchiveUnreachableError,
    ImageError,
    InputDiffersError,
    InputError,
    InputGoneError,
    MissingToolError,
)
from appliance.image.fetch import cache, file_digest
from appliance.image.lock_wheels import IMAGE_PYTHON
from appliance.image.resolve_tags import platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from appliance.engine.progress import ProgressCallback
    from appliance.engine.tool import ToolResult
    from appliance.image.lock_wheels import LockedWheel, WheelLock

_GONE = re.compile(r"No matching distribution found|Could not find a version that satisfies")
_BEGINS = re.compile(r"\s*Downloading (\S+\.whl)(?: \(|$)")
_OPTIONS = (
    # pip tells of a network that fails only when it tries again; without that "no answer" reads like "gone"
    *("--retries", "2"),
    *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input", "--no-cache-dir"),
    *("--disable-pip-version-check", "--progress-bar", "off"),
    *("--implementation", "cp", "--python-version", ".".join(map(str, IMAGE_PYTHON))),
)
_BATCH_BYTES = 1 << 30
"""Wheels are asked for in batches of about this size, so that what was fetched before a failure is kept."""


def wheel_path(wheel: LockedWheel, directory: Path) -> Path:
    """Where a wheel is kept in a cache."""
    return directory / "wheels" / wheel.sha256 / wheel.filename


async def fetch_wheels(
    lock: WheelLock, *, directory: Path | None = None, progress: ProgressCallback = ignore_progress
) -> Path:
    """The directory with a lock's wheels, fetched where they are missing.

    Args:
        lock: Which wheels.
        directory: The cache; ``<home>/image/cache`` when not given.
        progress: Told the bytes of the step ``wheels``.

    Returns:
        ``<cache>/wheelhouses/<digest>``: hard links to the cache's files, not to be written.

    Raises:
        InputDiffersError: A wheel is not the locked one.
        InputGoneError: The index no longer has it.
        ArchiveUnreachableError: No index answers.
        MissingToolError: There is no pip.
    """
    place = directory or cache()
    missing = [item for item in lock.wheels if not _is_cached(item, place)]
    done = lock.size - sum(item.size for item in missing)
    progress(Progress("wheels", done, lock.size, "bytes", lock.name))
    for batch in _batches(missing):
        await _download(batch, place, _counting(batch, done, lock.size, progress))
        done += sum(item.size for item in batch)
        progress(Progress("wheels", done, lock.size, "bytes", batch[-1].filename))
    return wheelhouse(lock, directory=place)


def wheelhouse(lock: WheelLock, *, directory: Path | None = None) -> Path:
    """The directory with a lock's wheels, from the cache alone.

    Raises:
        InputGoneError: A wheel is not in the cache.
        InputDiffersError: A file of the cache changed.
    """
    place = directory or cache()
    for item in lock.wheels:
        path = wheel_path(item, place)
        if not path.is_file():
            raise InputGoneError(
                f"{item.filename} is not in the cache {place}", hint="fetch it: chrysalis image fetch (needs a network)"
            )
        if not _is_cached(item, place):
            raise InputDiffersError(f"{path} is not the locked wheel", hint="remove that file and fetch again")
    target = place / "wheelhouses" / lock.digest[:16]
    if target.is_dir() and {path.name for path in target.iterdir()} == {item.filename for item in lock.wheels}:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".make-", dir=target.parent))
    try:
        work.chmod(0o755)
        for item in lock.wheels:
            (work / item.filename).hardlink_to(wheel_path(item, place))
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _is_cached(item: LockedWheel, place: Path) -> bool:
    path = wheel_path(item, place)
    try:
        return path.stat().st_size == item.size and file_digest(path) == item.sha256
    except OSError:
        return False


def _batches(wheels: Iterable[LockedWheel]) -> Iterable[list[LockedWheel]]:
    batch: list[LockedWheel] = []
    for item in wheels:
        batch.append(item)
        if sum(one.size for one in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _counting(batch: list[LockedWheel], done: int, total: int, progress: ProgressCallback) -> Callable[[str], None]:
    """Follow pip's lines: when it begins a file, the ones before it are there."""
    sizes = {item.filename: item.size for item in batch}
    begun: dict[str, int] = {}

    def on_line(line: str) -> None:
        found = _BEGINS.match(line)
        if found and (name := unquote(found[1].rpartition("/")[2])) in sizes and name not in begun:
            progress(Progress("wheels", done + sum(begun.values()), total, "bytes", name))
            begun[name] = sizes[name]

    return on_line


async def _download(batch: list[LockedWheel], place: Path, on_line: Callable[[str], None]) -> None:
    """One run of pip into a scratch directory, then each wheel to its place."""
    (place / "wheels").mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=place / "wheels"))
    try:
        listed = scratch / "requirements.txt"
        listed.write_text("".join(f"{item.requirement}\n" for item in batch))
        command = [*_pip(), "download", *_OPTIONS, "--dest", str(scratch), "--requirement", str(listed)]
        for name in platforms():
            command += ["--platform", name]
        result = await run_tool(command, on_line=on_line)
        if result.status:
            raise _failure(batch, result)
        for item in batch:
            _place(item, scratch / item.filename, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _place(item: LockedWheel, fetched: Path, place: Path) -> None:
    if not fetched.is_file() or fetched.stat().st_size != item.size or file_digest(fetched) != item.sha256:
        raise InputDiffersError(
            f"pip was asked for {item.filename} with SHA-256 {item.sha256} and brought something else",
            hint="do not use it: ask whoever runs the package index or mirror",
        )
    target = wheel_path(item, place)
    target.parent.mkdir(exist_ok=True)
    fetched.chmod(0o644)
    fetched.replace(target)


def _failure(batch: list[LockedWheel], result: ToolResult) -> ImageError:
    """The last words of pip as one of our errors: what differs and what is gone are never the same."""
    names = ", ".join(item.filename for item in batch[:3]) + (" …" if len(batch) > 3 else "")
    error = explain(f"fetching {names}", result)
    if isinstance(error, HashMismatchError):
        return InputDiffersError(error.message, hint=error.hint)
    if isinstance(error, NetworkError):
        return ArchiveUnreachableError(error.message, hint=error.hint)
    if isinstance(error, DiskFullError):
        return InputError(error.message, hint=error.hint)
    if _GONE.search(result.text):
        return InputGoneError(
            f"{error.message}: the package index no longer offers a locked wheel",
            hint="make the locks afresh and look at the difference (just lock), or point pip at an index or directory "
            "that keeps it (pip's own configuration: find-links)",
        )
    return InputError(error.message, hint=error.hint)


def _pip() -> list[str]:
    """This Python's pip, else the machine's."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    other = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if other and subprocess.run([other, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:  # noqa: S603 - ours
        return [other, "-m", "pip"]
    raise MissingToolError("pip is not installed", hint="apt-get install python3-pip")
