"""A wheel lock: exactly one wheel for each Python package that the image carries.

In: the committed ``image/lock/wheels-*.json``. Out: :class:`WheelLock`. A requirement file with hashes allows every
wheel of a version that fits; which one an installer then takes depends on the installer. Here the choice is made once,
so that the image does not depend on who builds it. Like a package lock it names no host and has one wheel a line.
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

IMAGE_PYTHON = (3, 13)
"""The image's Python, Debian trixie's."""
WHEEL_PLANS = ("guest", "engine-light", "engine-gpu", "engine-gpu-cuda")
"""For each a requirement file with hashes, ``requirements/<name>.txt``."""
_PATTERNS = {
    "name": re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"),  # normalised (PEP 503)
    "version": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*"),
    "filename": re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
}


@dataclass(frozen=True, slots=True, order=True)
class LockedWheel:
    """One wheel.

    Attributes:
        name: The package's normalised name.
        version: Its version.
        filename: The wheel's name, with its tags.
        sha256: Its digest in hexadecimal.
        size: Its bytes.
    """

    name: str
    version: str
    filename: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        """Refuse what no index would name.

        Raises:
            LockFormatError: A field is not of its form.
        """
        require_fields("wheel", self.name, self, _PATTERNS)
        stated = self.filename.split("-")[:2]
        if [re.sub(r"[-_.]+", "-", stated[0]).lower(), *stated[1:]] != [self.name, self.version]:
            raise LockFormatError(f"wheel {self.filename!r} is not of {self.name} {self.version}")

    @property
    def requirement(self) -> str:
        """As pip takes it with ``--require-hashes``."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


_FIELDS = tuple(field.name for field in fields(LockedWheel))


@dataclass(frozen=True, slots=True)
class WheelLock:
    """The wheels of one environment of the image.

    Attributes:
        name: The stem of its requirement file.
        wheels: Sorted by name; one for each package.
    """

    name: str
    wheels: tuple[LockedWheel, ...]

    @classmethod
    def make(cls, name: str, wheels: Iterable[LockedWheel]) -> WheelLock:
        """Sort, and refuse two wheels of one package.

        Raises:
            LockFormatError: A package is there twice.
        """
        ordered = tuple(sorted(wheels))
        names = [item.name for item in ordered]
        if len(set(names)) != len(names):
            twice = next(one for one in names if names.count(one) > 1)
            raise LockFormatError(f"wheels-{name}: {twice} is locked twice")
        return cls(name, ordered)

    @property
    def size(self) -> int:
        """Bytes of all wheels."""
        return sum(item.size for item in self.wheels)

    @property
    def digest(self) -> str:
        """SHA-256 of the wheels' digests."""
        return hashlib.sha256("".join(f"{item.sha256}\n" for item in self.wheels).encode()).hexdigest()

    def version(self, name: str) -> str:
        """The locked version of a package.

        Raises:
            LockFormatError: It is not in this lock.
        """
        for item in self.wheels:
            if item.name == name:
                return item.version
        raise LockFormatError(f"wheels-{self.name} locks no {name}")

    def to_bytes(self) -> bytes:
        """The file: one wheel a line."""
        rows = ",\n".join("  " + json.dumps(asdict(item)) for item in self.wheels)
        python = ".".join(map(str, IMAGE_PYTHON))
        return (
            f'{{\n "format": {FORMAT},\n "name": {json.dumps(self.name)},\n "python": "{python}",\n'
            f' "wheels": [\n{rows}\n ]\n}}\n'
        ).encode()

    @classmethod
    def parse(cls, data: bytes, source: str = "lock") -> WheelLock:
        """Read a lock; it must be written exactly as :meth:`to_bytes` writes it.

        Raises:
            LockFormatError: It is not a lock of this format.
        """

        def make(content: Any) -> WheelLock:
            wheels = [LockedWheel(**{name: entry[name] for name in _FIELDS}) for entry in content["wheels"]]
            return cls.make(str(content["name"]), wheels)

        return parse_exactly(data, source, "wheel", make)


def read_wheel_lock(checkout: Path, name: str) -> WheelLock:
    """The lock ``image/lock/wheels-<name>.json`` of a checkout.

    Raises:
        LockFormatError: It is missing or not a lock.
    """
    return read_file(checkout / "image" / "lock" / f"wheels-{name}.json", name, WheelLock.parse)
