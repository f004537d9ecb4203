"""The list of all locks: every file that decides what the image and its builder are made of, with its digest.

In: the checkout. Out: ``image/lock/index.json``. One digest, the index's own, names all inputs: packages, wheels,
firmware, the tools tree and the laboratory's npm files.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from appliance.image.errors import LockFormatError
from appliance.image.lock import read_lock
from appliance.image.lock_lists import PLANS
from appliance.image.lock_wheels import WHEEL_PLANS

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.image.lock import PackageLock

LOCKS = "image/lock"
INDEX = f"{LOCKS}/index.json"
# Wheels of the builder's and developer's machine: requirement files with hashes.
REQUIREMENTS = ("tools", "dev", "client", "verify")
NPM_LOCKS = ("appliance/lab/npm/package-lock.json", "appliance/lab/npm/files.json")


def profile_locks(checkout: Path, names: tuple[str, ...]) -> list[PackageLock]:
    """The package locks of these names, read and checked against the index.

    Raises:
        LockFormatError: One is missing, malformed or not the one that the index names.
    """
    known = {entry["path"]: entry["sha256"] for entry in read_index(checkout)}
    found = []
    for name in names:
        path = f"{LOCKS}/{name}.json"
        lock = read_lock(checkout / path)
        if known.get(path) != _sha256(checkout / path):
            raise LockFormatError(f"{path} is not the lock that {INDEX} names", hint="make the locks: just lock")
        found.append(lock)
    return found


def read_index(checkout: Path) -> list[dict[str, str]]:
    """The index's entries: ``kind``, ``path``, ``sha256``.

    Raises:
        LockFormatError: It is missing or malformed.
    """
    try:
        content = json.loads((checkout / INDEX).read_bytes())
        return [{key: str(entry[key]) for key in ("kind", "path", "sha256")} for entry in content["locks"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LockFormatError(f"{INDEX}: {error}", hint="make the locks: just lock") from None


def make_index(checkout: Path) -> bytes:
    """The index of the locks that are in the checkout, one a line."""
    paths = [("packages", f"{LOCKS}/{plan.name}.json") for plan in PLANS]
    paths += [("wheels", f"{LOCKS}/wheels-{name}.json") for name in WHEEL_PLANS]
    paths += [("requirements", f"requirements/{name}.txt") for name in REQUIREMENTS]
    paths += [("npm", path) for path in NPM_LOCKS]
    rows = [
        "  " + json.dumps({"kind": kind, "path": path, "sha256": _sha256(checkout / path)})
        for kind, path in paths
        if (checkout / path).is_file()
    ]
    return ('{\n "format": 1,\n "locks": [\n' + ",\n".join(rows) + "\n ]\n}\n").encode()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
