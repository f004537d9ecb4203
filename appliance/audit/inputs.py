"""The inputs step: the locks of the source against the manifest's digests, and every locked input into the cache.

Which inputs belong to a release is the manifest's word (the digests of its locks), held against the source's lock
files; so the step needs nothing of that commit's programs. Nothing is fetched where the cache has it. An input that no
archive has any more makes a release uncheckable here and now; it is not a difference.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.audit.errors import InputsUnavailableError, UncheckedError
from appliance.audit.outcome import Finding, Row, Step
from appliance.engine.progress import ignore_progress
from appliance.image.errors import ImageError, InputGoneError
from appliance.image.fetch import cache, fetch, is_cached
from appliance.image.fetch_wheels import fetch_wheels, wheel_path
from appliance.image.lock import read_lock
from appliance.image.lock_wheels import read_wheel_lock

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.audit.request import AuditRequest
    from appliance.engine.progress import ProgressCallback
    from appliance.image.lock import LockedPackage
    from appliance.image.lock_wheels import LockedWheel, WheelLock
    from measurements.manifest import Manifest

NAME = "inputs"
TITLE = "The inputs"
LOCKS = "image/lock"
_WHEELS = "wheels-"
_NAMED = 3


@dataclass(frozen=True, slots=True)
class LockedInputs:
    """What the locks name.

    Attributes:
        packages: Of the distribution.
        wheels: Python packages, by lock.
    """

    packages: tuple[LockedPackage, ...]
    wheels: tuple[WheelLock, ...]

    @property
    def missing(self) -> tuple[LockedPackage | LockedWheel, ...]:
        """What is not in the cache."""
        place = cache()
        packages = [item for item in self.packages if not is_cached(item, place)]
        wheels = [
            item for lock in self.wheels for item in lock.wheels if not _is_whole(wheel_path(item, place), item.size)
        ]
        return (*packages, *wheels)


def gather(
    request: AuditRequest, manifest: Manifest, source: Path, *, progress: ProgressCallback = ignore_progress
) -> Step:
    """Check the locks and bring their inputs into the cache.

    Args:
        request: Where packages are.
        manifest: Which locks.
        source: The checkout.
        progress: Told the bytes.

    Raises:
        InputsUnavailableError: An input is gone.
        UncheckedError: A lock cannot be read, an archive does not answer or gives something else.
    """
    rows = lock_rows(manifest, source)
    findings = tuple(
        Finding(f"{LOCKS}/{row.name}", f"has SHA-256 {row.seen} in the source, the manifest says {row.stated}")
        for row in rows
        if not row.same
    )
    try:
        locked = read_locked(manifest, source)
        missing = locked.missing
        if missing:
            _fetch(request, locked, missing, progress)
    except InputGoneError as error:
        raise InputsUnavailableError(f"inputs unavailable: {error.message}", hint=error.hint) from None
    except ImageError as error:
        raise UncheckedError(f"the inputs cannot be had: {error.message}", hint=error.hint) from None
    count = len(locked.packages) + sum(len(lock.wheels) for lock in locked.wheels)
    had = "all in the cache" if not missing else f"fetched: {len(missing)}"
    return Step(
        name=NAME,
        title=TITLE,
        status="differs" if findings else "same",
        summary=f"{len(rows)} locks, {count} inputs; {had}",
        inputs={"locks": str(source / LOCKS), "cache": str(cache())},
        rows=rows,
        findings=findings,
    )


def lock_rows(manifest: Manifest, source: Path) -> tuple[Row, ...]:
    """Each lock file of the source against the digest that the manifest states."""
    rows = []
    for name, stated in sorted(manifest.locks.items()):
        try:
            seen = hashlib.sha256((source / LOCKS / name).read_bytes()).hexdigest()
        except OSError:
            seen = "missing"
        rows.append(Row(name, stated, "" if seen == stated else seen, seen == stated))
    return tuple(rows)


def read_locked(manifest: Manifest, source: Path) -> LockedInputs:
    """What the source's locks of a manifest name.

    Raises:
        LockFormatError: A lock is missing or malformed.
    """
    names = sorted(manifest.locks)
    packages = [read_lock(source / LOCKS / name).packages for name in names if not name.startswith(_WHEELS)]
    wheels = [
        read_wheel_lock(source, name.removeprefix(_WHEELS).removesuffix(".json"))
        for name in names
        if name.startswith(_WHEELS)
    ]
    return LockedInputs(tuple(item for part in packages for item in part), tuple(wheels))


def _is_whole(path: Path, size: int) -> bool:
    """Whether a wheel is there in its length; its digest is looked at by the build."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _fetch(
    request: AuditRequest,
    locked: LockedInputs,
    missing: tuple[LockedPackage | LockedWheel, ...],
    progress: ProgressCallback,
) -> None:
    if request.archives is None:
        named = ", ".join(str(getattr(item, "deb", None) or getattr(item, "filename", "")) for item in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InputsUnavailableError(
            f"inputs unavailable: not in the cache, and nothing may be fetched: {named}{more}",
            hint="leave --offline out, or bring a populated cache (CHRYSALIS_HOME)",
        )
    asyncio.run(_bring(request, locked, progress))


async def _bring(request: AuditRequest, locked: LockedInputs, progress: ProgressCallback) -> None:
    if request.archives is not None:
        await fetch(locked.packages, request.archives(), fallback=request.fallback, progress=progress)
    for lock in locked.wheels:
        await fetch_wheels(lock, progress=progress)
