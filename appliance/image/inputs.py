"""Everything that a build takes from outside, brought into the cache: the only step that uses a network.

In: a recipe. Out: the locked packages, firmware, tools and wheels below ``<home>/image/cache``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.engine.progress import ignore_progress
from appliance.image.artefacts import FIRMWARE_LOCKS
from appliance.image.fetch import cache, fetch, is_cached
from appliance.image.fetch_wheels import fetch_wheels
from appliance.image.lock import read_lock
from appliance.image.lock_wheels import read_wheel_lock

if TYPE_CHECKING:
    from appliance.engine.progress import ProgressCallback
    from appliance.image.archive import Archives
    from appliance.image.lock import LockedPackage
    from appliance.image.lock_wheels import WheelLock
    from appliance.image.profiles import Recipe


def packages(recipe: Recipe) -> list[LockedPackage]:
    """Every locked package that a build of this recipe reads.

    Raises:
        LockFormatError: A lock is malformed or missing.
    """
    lock = recipe.source / "image" / "lock"
    others = [read_lock(lock / f"{name}.json") for name in ("tools", *FIRMWARE_LOCKS)]
    others += [read_lock(lock / name) for name in recipe.content.locks if not name.startswith("wheels-")]
    return [item for part in (*recipe.locks, *others) for item in part.packages]


def wheel_locks(recipe: Recipe) -> list[WheelLock]:
    """Every wheel lock that a build of this recipe reads.

    Raises:
        LockFormatError: A lock is malformed or missing.
    """
    names = ["guest"]
    if recipe.content.engine is not None:
        names.append(recipe.content.engine.wheels)
    names += [
        name.removeprefix("wheels-").removesuffix(".json")
        for name in recipe.content.locks
        if name.startswith("wheels-")
    ]
    return [read_wheel_lock(recipe.source, name) for name in names]


async def fetch_inputs(
    recipe: Recipe,
    archives: Archives | None,
    *,
    fallback: Archives | None = None,
    progress: ProgressCallback = ignore_progress,
) -> None:
    """Bring what is missing into the cache.

    Args:
        recipe: What will be built.
        archives: Where packages are; None where no package may be missing.
        fallback: A snapshot archive, for what the first no longer has.
        progress: Told the bytes.

    Raises:
        InputError: Something cannot be had; its subclass says why.
    """
    wanted = packages(recipe)
    if archives is not None:
        await fetch(wanted, archives, fallback=fallback, progress=progress)
    for lock in wheel_locks(recipe):
        await fetch_wheels(lock, progress=progress)


def missing_packages(recipe: Recipe) -> list[LockedPackage]:
    """The locked packages that are not in the cache."""
    place = cache()
    return [item for item in packages(recipe) if not is_cached(item, place)]
