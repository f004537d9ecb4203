"""Make the image's locks anew in a checkout, and say what that changes.

In: the package lists, the committed locks, an archive. Out: the lock files and the index, written only after everything
was resolved. A lock whose packages are the same stays as it is, dates included, so that a review shows real changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.image.lock import read_lock
from appliance.image.lock_difference import difference, require_no_step_back, wheel_difference
from appliance.image.lock_index import INDEX, LOCKS, make_index
from appliance.image.lock_lists import PLANS
from appliance.image.lock_wheels import WHEEL_PLANS, read_wheel_lock
from appliance.image.resolve import KEYRING, resolve
from appliance.image.resolve_wheels import resolve_wheels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from appliance.image.archive import Archives
    from appliance.image.lock_lists import LockPlan

LISTS = "image/packages"


def make_locks(
    checkout: Path,
    archives: Archives,
    *,
    plans: Iterable[LockPlan] = PLANS,
    keyring: Path = KEYRING,
    older: bool = False,
    write: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Resolve every list and write the locks.

    Args:
        checkout: The repository.
        archives: Where the signed indexes are.
        plans: Which locks.
        keyring: The archive's keys.
        older: Take indexes from before those that the locks were made from, too.
        write: Whether to write; without it only the difference is told.
        say: Told what is being done.

    Returns:
        The differences in words; empty when no package changed.

    Raises:
        LockError: A list or index is refused, or an archive changed a version's contents or went back in time. Nothing
            was written.
        ArchiveUnreachableError: No answer from the archive.
    """
    plans = tuple(plans)
    made = resolve(checkout / LISTS, archives, plans=plans, keyring=keyring, say=say)
    words: list[str] = []
    changed: dict[Path, bytes] = {}
    for name, lock in made.items():
        path = checkout / LOCKS / f"{name}.json"
        old = read_lock(path) if path.exists() else None
        if not older:
            require_no_step_back(old, lock)
        if lines := difference(old, lock):
            words += lines
            changed[path] = lock.to_bytes()
    if write:
        (checkout / LOCKS).mkdir(parents=True, exist_ok=True)
        for path, data in changed.items():
            path.write_bytes(data)
        write_index(checkout)
    return words


def make_wheel_locks(checkout: Path, *, write: bool = True, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """The same for the wheels: choose one for each package of the image's requirement files.

    Raises:
        LockError: A package has no wheel that fits.
        MissingToolError: ``uv`` is not installed.
    """
    words: list[str] = []
    changed: dict[Path, bytes] = {}
    for name in WHEEL_PLANS:
        lock = resolve_wheels(checkout / "requirements" / f"{name}.txt")
        say(f"wheels-{name}: {len(lock.wheels)} wheels, {lock.size / 1e6:.1f} MB")
        path = checkout / LOCKS / f"wheels-{name}.json"
        old = read_wheel_lock(checkout, name) if path.exists() else None
        if lines := wheel_difference(old, lock):
            words += lines
            changed[path] = lock.to_bytes()
    if write:
        for path, data in changed.items():
            path.write_bytes(data)
        write_index(checkout)
    return words


def write_index(checkout: Path) -> bool:
    """Write the index of all locks; returns whether it changed."""
    path, data = checkout / INDEX, make_index(checkout)
    if path.exists() and path.read_bytes() == data:
        return False
    path.write_bytes(data)
    return True
