"""A package lock: every Debian package of one part of the image, by name, version and digest.

In: the committed ``image/lock/*.json``. Out: :class:`PackageLock`. A lock names no host: a package is a path in an
archive's pool, a size and a SHA-256 digest, so where it comes from is the reader's choice. The text is deterministic,
sorted and has one package a line, so that a change is reviewed as an ordinary difference.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from appliance.image.errors import LockFormatError
from appliance.image.lock_text import FORMAT, parse_exactly, read_file, require_fields

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAIN_ARCHIVE = "debian"
SECURITY_ARCHIVE = "debian-security"
# Debian policy 5.6.1 (names), 5.6.12 (versions); a pool path is relative and stays below the archive.
_PATTERNS = {
    "package": re.compile(r"[a-z0-9][a-z0-9+.-]+"),
    "version": re.compile(r"([0-9]+:)?[0-9][A-Za-z0-9.+~-]*"),
    "architecture": re.compile(r"[a-z0-9-]+"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "filename": re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9][A-Za-z0-9+._~/-]*\.deb"),
    "suite": re.compile(r"[a-z][a-z0-9-]*"),
    "component": re.compile(r"[a-z][a-z0-9-]*"),
}


@dataclass(frozen=True, slots=True, order=True)
class LockedPackage:
    """One Debian package.

    Attributes:
        package: Its name.
        version: Its version, with the epoch.
        architecture: ``amd64`` or ``all``.
        sha256: Digest of the ``.deb``, from the signed index, in hexadecimal.
        size: Bytes of the ``.deb``.
        filename: Its path below the archive.
        suite: The suite whose index named it.
        component: ``main``, ``contrib``, ``non-free`` or ``non-free-firmware``.
    """

    package: str
    version: str
    architecture: str
    sha256: str
    size: int
    filename: str
    suite: str
    component: str

    def __post_init__(self) -> None:
        """Refuse what no archive would name.

        Raises:
            LockFormatError: A field is not of its form.
        """
        require_fields("package", self.package, self, _PATTERNS)

    @property
    def archive(self) -> str:
        """Which of the distribution's archives has the suite: security updates have their own."""
        return SECURITY_ARCHIVE if self.suite.endswith("-security") else MAIN_ARCHIVE

    @property
    def deb(self) -> str:
        """The file's name as dpkg and apt write it; an epoch's colon is escaped."""
        return f"{self.package}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


_FIELDS = tuple(field.name for field in fields(LockedPackage))


@dataclass(frozen=True, slots=True)
class PackageLock:
    """The packages of one part of the image.

    Attributes:
        name: ``base``, ``tools``, ``engine-cpu`` …; also the file's stem.
        indexes: For each suite the date of the signed release file it was resolved against.
        packages: Sorted by name, version, architecture.
    """

    name: str
    indexes: tuple[tuple[str, str], ...]
    packages: tuple[LockedPackage, ...]

    @classmethod
    def make(cls, name: str, indexes: Iterable[tuple[str, str]], packages: Iterable[LockedPackage]) -> PackageLock:
        """Sort, and refuse two packages that would be one file.

        Raises:
            LockFormatError: Two entries have the same name, version and architecture.
        """
        ordered = tuple(sorted(set(packages)))
        seen: dict[str, LockedPackage] = {}
        for item in ordered:
            if (other := seen.setdefault(item.deb, item)) is not item:
                raise LockFormatError(
                    f"{name}: {item.deb} is locked twice, with SHA-256 {other.sha256} and {item.sha256}"
                )
        return cls(name, tuple(sorted(set(indexes))), ordered)

    @property
    def size(self) -> int:
        """Bytes of all packages."""
        return sum(item.size for item in self.packages)

    @property
    def digest(self) -> str:
        """SHA-256 of the packages' digests: what decides the contents, without dates and origins."""
        return hashlib.sha256("".join(f"{item.sha256}\n" for item in self.packages).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file: one package a line."""

        def rows(items: Iterable[object]) -> str:
            return ",\n".join("  " + json.dumps(item) for item in items)

        return (
            f'{{\n "format": {FORMAT},\n "name": {json.dumps(self.name)},\n'
            f' "indexes": [\n{rows({"suite": suite, "date": date} for suite, date in self.indexes)}\n ],\n'
            f' "packages": [\n{rows(asdict(item) for item in self.packages)}\n ]\n}}\n'
        ).encode()

    @classmethod
    def parse(cls, data: bytes, source: str = "lock") -> PackageLock:
        """Read a lock; it must be written exactly as :meth:`to_bytes` writes it.

        Args:
            data: The file's bytes.
            source: The file's name, for messages.

        Raises:
            LockFormatError: It is not a lock of this format.
        """

        def make(content: Any) -> PackageLock:
            packages = [LockedPackage(**{name: entry[name] for name in _FIELDS}) for entry in content["packages"]]
            indexes = [(str(entry["suite"]), str(entry["date"])) for entry in content["indexes"]]
            return cls.make(str(content["name"]), indexes, packages)

        return parse_exactly(data, source, "package", make)


def read_lock(path: Path) -> PackageLock:
    """The lock in a file.

    Raises:
        LockFormatError: It is missing or not a lock.
    """
    return read_file(path, path.stem, PackageLock.parse)
