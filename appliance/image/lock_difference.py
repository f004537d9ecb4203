"""What a new lock changes, in words: the first thing that a reviewer reads.

In: the lock as it is committed, and the one just made. Out: lines. The same version with other contents is no change
but an error: an archive never does that.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from appliance.image.errors import LockError
from appliance.image.lock_version import is_older, newest

if TYPE_CHECKING:
    from appliance.image.lock import LockedPackage, PackageLock
    from appliance.image.lock_wheels import LockedWheel, WheelLock


def difference(old: PackageLock | None, new: PackageLock) -> list[str]:
    """Lines that say what came, went and changed; none where the packages are the same.

    Raises:
        LockError: A package has the same version and other contents.
    """
    if old is None:
        return [f"{new.name}: new lock, {len(new.packages)} packages, {_megabytes(new.size)}"]
    before, after = _by_name(old), _by_name(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, ()), after.get(key, ())
        if [item.sha256 for item in was] != [item.sha256 for item in now]:
            lines.append(_line(was, now))
    if lines:
        came, went = len(after.keys() - before.keys()), len(before.keys() - after.keys())
        lines.append(
            f"{new.name}: {len(lines) - came - went} changed, {came} came, {went} went; {len(new.packages)} packages, "
            f"{_megabytes(old.size)} → {_megabytes(new.size)}"
        )
    return lines


def require_no_step_back(old: PackageLock | None, new: PackageLock) -> None:
    """Refuse indexes from before the ones that a lock was made from: an old archive is signed as well as ever.

    Raises:
        LockError: A suite's release file is older than the one that the lock names.
    """
    before = dict(old.indexes) if old else {}
    for suite, date in new.indexes:
        if suite in before and parsedate_to_datetime(date) < parsedate_to_datetime(before[suite]):
            raise LockError(
                f"{new.name}: the archive's {suite} is of {date}, the lock was made from one of {before[suite]}",
                hint="an archive that went back in time hides security updates; where that is meant: --older",
            )


def wheel_difference(old: WheelLock | None, new: WheelLock) -> list[str]:
    """The same for wheels."""
    title = f"wheels-{new.name}"
    if old is None:
        return [f"{title}: new lock, {len(new.wheels)} wheels, {_megabytes(new.size)}"]
    before, after = ({item.name: item for item in lock.wheels} for lock in (old, new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None and now is not None:
            lines.append(f"  + {name} {now.version} ({_megabytes(now.size)})")
        elif now is None and was is not None:
            lines.append(f"  - {name} {was.version}")
        elif was and now and was != now:
            _same_name_same_contents(was, now)
            lines.append(f"  ~ {was.filename} → {now.filename}")
    if lines:
        lines.append(
            f"{title}: {len(lines)} lines; {len(new.wheels)} wheels, {_megabytes(old.size)} → {_megabytes(new.size)}"
        )
    return lines


def _same_name_same_contents(was: LockedWheel, now: LockedWheel) -> None:
    if was.filename == now.filename:
        raise LockError(
            f"{now.filename} has other contents than are locked: SHA-256 {now.sha256}, locked {was.sha256}",
            hint="an index never changes a file's contents: find out why before anything is taken from it",
        )


def _by_name(lock: PackageLock) -> dict[tuple[str, str], tuple[LockedPackage, ...]]:
    found: dict[tuple[str, str], tuple[LockedPackage, ...]] = {}
    for item in lock.packages:
        key = item.package, item.architecture
        found[key] = (*found.get(key, ()), item)
    return found


def _line(was: tuple[LockedPackage, ...], now: tuple[LockedPackage, ...]) -> str:
    for item in now:
        for other in was:
            if other.version == item.version and other.sha256 != item.sha256:
                raise LockError(
                    f"{item.package} {item.version} has other contents than are locked: SHA-256 {item.sha256}, "
                    f"locked {other.sha256}",
                    hint="an archive never changes a version's contents: find out why before anything is taken from it",
                )
    if not was:
        return f"  + {_versions(now)} ({_megabytes(sum(item.size for item in now))}, {_origin(now)})"
    if not now:
        return f"  - {_versions(was)}"
    older = is_older(newest(tuple(item.version for item in now)), newest(tuple(item.version for item in was)))
    warning = ", OLDER than what is locked" if older else ""
    return f"  ~ {_versions(was)} → {_versions(now, name=False)} ({_origin(now)}{warning})"


def _versions(items: tuple[LockedPackage, ...], *, name: bool = True) -> str:
    versions = ", ".join(item.version for item in items)
    return f"{items[0].package} {versions}" if name else versions


def _origin(items: tuple[LockedPackage, ...]) -> str:
    return ", ".join(sorted({f"{item.suite}/{item.component}" for item in items}))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
