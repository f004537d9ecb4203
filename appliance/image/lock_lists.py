"""What is asked for: the package lists, and which of them make which lock.

In: ``image/packages/*.list``, one package a line with the reason as a comment. Out: names for apt. A list names what we
want; what that needs besides is found by resolving it (:mod:`appliance.image.resolve`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.errors import LockFormatError

if TYPE_CHECKING:
    from pathlib import Path

DISTRIBUTION = "trixie"
NEXT_DISTRIBUTION = "forky"
ARCHITECTURE = "amd64"
# A name, or a regular expression as apt takes it: mkosi's own lists have some for libraries with versions in names.
_WORD = re.compile(r"[a-z0-9][a-z0-9+.-]+|\^[a-z0-9+.\[\]*?-]+\$")


@dataclass(frozen=True, slots=True)
class LockPlan:
    """How one lock is made.

    Attributes:
        name: The lock's name.
        roots: Each a set of lists that are installed into one root together; a lock may serve several roots (the image
            and its initrd, the image and the tree that compiles for it).
        beside: Locks that are always used together with this one, whose packages are therefore left out here.
        components: What the archive's components may be.
        suites: Suites it is resolved against.
        alone: Only the named packages, without what they depend on: files are taken out of them.
    """

    name: str
    roots: tuple[tuple[str, ...], ...]
    beside: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    suites: tuple[str, ...] = (DISTRIBUTION, f"{DISTRIBUTION}-updates", f"{DISTRIBUTION}-security")
    alone: bool = False


ALL_COMPONENTS = ("main", "contrib", "non-free", "non-free-firmware")
PLANS = (
    LockPlan("tools", (("tools",),)),
    LockPlan("base", (("base",), ("initrd",))),
    LockPlan("debug", (("base", "debug"),), beside=("base",)),
    LockPlan("engine-cpu", (("base", "engine-cpu"),), beside=("base",)),
    LockPlan("engine-gpu", (("base", "engine-gpu"),), beside=("base",)),
    LockPlan("engine-gpu-build", (("tools", "engine-gpu-build"),), beside=("tools",)),
    LockPlan("engine-gpu-files", (("engine-gpu-files",),), components=ALL_COMPONENTS, alone=True),
    LockPlan("firmware", (("firmware",),), alone=True),
    LockPlan("firmware-next", (("firmware-next",),), alone=True, suites=(NEXT_DISTRIBUTION,)),
)
PROFILES = {"engine-cpu": ("base", "engine-cpu"), "engine-gpu": ("base", "engine-gpu")}
"""The locks that a profile's image is installed from; a debug image adds ``debug``."""


def parse_list(text: str, source: str) -> tuple[str, ...]:
    """The names of a package list, sorted.

    Raises:
        LockFormatError: A line is neither a name nor a comment, or a name is there twice.
    """
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        if not _WORD.fullmatch(word):
            raise LockFormatError(f"{source}:{number}: {word!r} is not one package name")
        if word in names:
            raise LockFormatError(f"{source}:{number}: {word} is listed twice")
        names.add(word)
    return tuple(sorted(names))


def read_list(directory: Path, name: str) -> tuple[str, ...]:
    """The names in ``<name>.list`` of a directory.

    Raises:
        LockFormatError: It is missing or malformed.
    """
    path = directory / f"{name}.list"
    try:
        return parse_list(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise LockFormatError(f"{path}: {error.strerror}") from None
