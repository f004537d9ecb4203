"""The list of all locks: every file that decides what the image and its builder are made of, with its digest.

In: the checkout. Out: ``image/lock/index.json``. One digest, the index's own, names all inputs: packages, wheels,
firmware, the tools tree and the laboratory's npm files.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from appliance.image.lock_lists import PLANS
from appliance.image.lock_wheels import WHEEL_PLANS

if TYPE_CHECKING:
    from pathlib import Path

LOCKS = "image/lock"
INDEX = f"{LOCKS}/index.json"
# Wheels of the builder's and developer's machine: requirement files with hashes.
REQUIREMENTS = ("tools", "dev", "client", "verify")
NPM_LOCKS = ("appliance/lab/npm/package-lock.json", "appliance/lab/npm/files.json")


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
