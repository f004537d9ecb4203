"""Locked requirement files: read, added up, named by a digest.

Comes in: the text of a file that ``scripts/lock_engine.py`` made. Goes out: its requirements with hashes and sizes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from appliance.engine.errors import EnvironmentBuildError

_NAME = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)$")
_HASH = re.compile(r"^--hash=sha256:(?P<digest>[0-9a-f]{64})$")
_BYTES = re.compile(r"^# bytes: (?P<size>\d+)$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One locked package; ``size`` is the bytes of its largest wheel, 0 when the file does not say."""

    name: str
    version: str
    hashes: frozenset[str]
    size: int


@dataclass(frozen=True, slots=True)
class LockFile:
    """One locked requirement file."""

    path: Path
    requirements: tuple[Requirement, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch for the whole file, at most."""
        return sum(requirement.size for requirement in self.requirements)

    def __getitem__(self, name: str) -> Requirement:
        """The requirement of that name.

        Raises:
            EnvironmentBuildError: The file has none.
        """
        for requirement in self.requirements:
            if requirement.name == name:
                return requirement
        raise EnvironmentBuildError(f"{self.path.name} locks no {name}", hint="make it again")


def parse(path: Path) -> LockFile:
    """Read one file; every requirement must be pinned and have at least one hash.

    Raises:
        EnvironmentBuildError: A line is neither, with its number.
    """
    found: list[Requirement] = []
    name, version, hashes, size = "", "", set[str](), 0

    def finish() -> None:
        if name and not hashes:
            raise EnvironmentBuildError(f"{path.name}: {name} has no hash", hint="make the file again")
        if name:
            found.append(Requirement(name, version, frozenset(hashes), size))

    next_size = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.removesuffix("\\").strip()
        if sized := _BYTES.match(words):
            next_size = int(sized["size"])
        elif not words or words.startswith("#"):
            continue
        elif named := _NAME.match(words):
            finish()
            name, version, hashes, size = named["name"], named["version"], set(), next_size
            next_size = 0
        elif name and (hashed := _HASH.match(words)):
            hashes.add(hashed["digest"])
        else:
            raise EnvironmentBuildError(f"{path.name}, line {number}: neither a pinned package nor a SHA-256")
    finish()
    return LockFile(path, tuple(found))


def packaged(name: str) -> LockFile:
    """The locked file of that name that this package carries (a link to ``requirements/`` in a checkout)."""
    return parse(Path(str(resources.files("appliance.engine") / name)))


def digest(*locks: LockFile, python: str) -> str:
    """What names an environment: SHA-256 over the files' bytes and the Python tag, 16 hex digits of it."""
    state = hashlib.sha256(python.encode())
    for lock in locks:
        content = lock.path.read_bytes()
        state.update(len(content).to_bytes(8, "big") + content)
    return state.hexdigest()[:16]
