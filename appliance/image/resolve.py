"""Package lists to locks, against the signed indexes of an archive.

In: :mod:`appliance.image.lock_lists` and addresses. Out: :class:`~appliance.image.lock.PackageLock` for every plan.
Only this module and the apt root below it need an archive's indexes; a build reads locks alone.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from appliance.image.errors import LockFormatError, ResolveError
from appliance.image.lock import PackageLock
from appliance.image.lock_lists import PLANS, LockPlan, read_list
from appliance.image.resolve_apt import AptRoot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from appliance.image.archive import Archives

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def resolve(
    lists: Path,
    archives: Archives,
    *,
    plans: Iterable[LockPlan] = PLANS,
    keyring: Path = KEYRING,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, PackageLock]:
    """Make every lock.

    Args:
        lists: The directory of package lists.
        archives: Where the indexes are.
        plans: Which locks to make; a plan comes after the ones that it is beside.
        keyring: The archive's keys.
        say: Told what is being done.

    Returns:
        The locks by name.

    Raises:
        LockError: A list is malformed, an index is refused, or a list cannot be resolved.
        ArchiveUnreachableError: No answer from the archive.
    """
    if not keyring.is_file():
        raise ResolveError(f"{keyring} is not here", hint="apt-get install debian-archive-keyring")
    if archives.unchecked_age:
        say("this machine's apt is told not to look at the age of indexes: an old one would not be noticed")
    locks: dict[str, PackageLock] = {}
    roots: dict[tuple[tuple[str, ...], tuple[str, ...]], AptRoot] = {}
    with TemporaryDirectory(prefix="chrysalis-lock-") as scratch:
        for plan in plans:
            key = plan.suites, plan.components
            if key not in roots:
                root = roots[key] = AptRoot(Path(scratch) / str(len(roots)), archives, *key, keyring)
                say(f"indexes of {', '.join(plan.suites)} ({', '.join(plan.components)})")
                root.prepare()
            locks[plan.name] = lock = _lock(plan, roots[key], lists, locks)
            say(f"{plan.name}: {len(lock.packages)} packages, {lock.size / 1e6:.1f} MB")
    return locks


def _lock(plan: LockPlan, root: AptRoot, lists: Path, locks: dict[str, PackageLock]) -> PackageLock:
    addresses: set[str] = set()
    for names in plan.roots:
        wanted = sorted({name for one in names for name in read_list(lists, one)})
        if wanted:
            addresses |= root.named(wanted) if plan.alone else root.installed(wanted)
    packages = root.packages(addresses) if addresses else []
    beside = {item.sha256 for name in plan.beside for item in locks[name].packages}
    kept = [item for item in packages if item.sha256 not in beside]
    if dear := [item for item in kept if item.component not in plan.components]:
        raise LockFormatError(f"{plan.name}: {dear[0].package} is in {dear[0].component}")
    return PackageLock.make(plan.name, root.dates(), kept)
