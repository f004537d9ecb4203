"""Where two files of a release differ: the file inside a root or an initrd, the section of an image, the byte.

In: directories with a release's files as published and as rebuilt. Out: :class:`Place`. Roots and initrds are not
unpacked: the file lists that the build writes beside them name every path with its digest, and a published list counts
only where the manifest states its digest. Of several paths that differ, the one named is the one that a person changed:
byte code and records of wheels follow from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.image.artefacts import INITRD, INITRD_FILES, ROOT, ROOT_FILES, UKI
from appliance.image.compare import differing_paths, differing_section, entries, first_differing_byte

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LISTS: Mapping[str, str] = {ROOT: ROOT_FILES, INITRD: INITRD_FILES}
"""For each artefact that holds files, the list of them."""
MAX_LIST_BYTES = 64 << 20
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Place:
    """A difference.

    Attributes:
        subject: What a verdict names: the artefact, or artefact and path inside.
        text: In one sentence.
        path: The path inside a root or initrd; empty for others.
    """

    subject: str
    text: str
    path: str = ""


def listed_difference(name: str, published: str, rebuilt: str) -> Place | None:
    """The most telling path at which two file lists of one artefact differ; None where they are equal."""
    one, two = entries(published), entries(rebuilt)
    paths = differing_paths(one, two)
    if not paths:
        return None
    path = most_telling(paths)
    if path not in two:
        text = f"{path} is in the published {name} and not in the rebuilt one"
    elif path not in one:
        text = f"{path} is in the rebuilt {name} and not in the published one"
    else:
        text = f"{path} is {' '.join(one[path])} as published, {' '.join(two[path])} as rebuilt"
    others = [other for other in sorted(paths, key=_consequence) if other != path]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        text += f"; {len(others)} more paths differ: {', '.join(others[:_NAMED])}{more}"
    return Place(f"{name}:{path}", text, path)


def most_telling(paths: Iterable[str]) -> str:
    """Of paths that differ, the first that does not merely follow from another."""
    return min(paths, key=_consequence)


def file_difference(name: str, published: Path, rebuilt: Path) -> Place | None:
    """Where one file of a release differs between two directories.

    Args:
        name: The artefact.
        published: Directory of the published release.
        rebuilt: Directory of the rebuilt one.

    Returns:
        None where one of the two is not there, or they are equal.
    """
    one, two = published / name, rebuilt / name
    if not one.is_file() or not two.is_file():
        return None
    offset = first_differing_byte(one, two)
    if offset is None:
        return None
    if name in LISTS.values():
        whole = next(artefact for artefact, listed in LISTS.items() if listed == name)
        found = listed_difference(whole, read_list(one), read_list(two))
        return found or Place(name, "the order of its lines differs")
    if name == UKI:
        return Place(name, f"{differing_section(one, two)} differs")
    return Place(name, f"the first differing byte is at {offset}")


def reached(changed: Iterable[str], source: Path, digests: Mapping[str, str]) -> dict[str, str]:
    """Where changed source files lie in an image.

    Args:
        changed: Their names in the source.
        source: The tree.
        digests: Path by SHA-256 of every file in the root and the initrd (:func:`paths_by_digest`).

    Returns:
        Path in the image by source file, for those that are in it with these contents.
    """
    found = {}
    for name in changed:
        path = source / name
        if path.is_file() and not path.is_symlink():
            place = digests.get(hashlib.sha256(path.read_bytes()).hexdigest(), "")
            if place.rpartition("/")[2] == path.name:
                found[name] = place
    return found


def paths_by_digest(directory: Path) -> dict[str, str]:
    """``artefact:path`` by SHA-256 of the file there, from a build's own lists."""
    found: dict[str, str] = {}
    for artefact, name in LISTS.items():
        listed = directory / name
        if listed.is_file():
            for path, facts in entries(read_list(listed)).items():
                if facts[0] == "file":
                    found.setdefault(facts[-1], f"{artefact}:{path}")
    return found


def read_list(path: Path) -> str:
    """A file list; what is beyond :data:`MAX_LIST_BYTES` is not read."""
    with path.open("rb") as file:
        return file.read(MAX_LIST_BYTES).decode("utf-8", "replace")


def _consequence(path: str) -> tuple[bool, bool, str]:
    """Order of paths by how much they tell: what is derived comes last."""
    return path.endswith(".pyc"), path.endswith(".dist-info/RECORD"), path
