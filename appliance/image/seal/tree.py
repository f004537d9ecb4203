"""A tree of which stays what the rules keep: named files, what they link to, and the libraries those need.

In: a populated tree and :class:`~appliance.image.seal.rules.Rules`. Out: the tree without the rest, or a copy of what
stays in another tree.
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from appliance.image.seal.elf import read_elf
from appliance.image.seal.errors import SealError
from appliance.image.seal.rules import matcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.image.seal.rules import Rules

LIBRARY_PATH = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
MERGED = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})


class Tree:
    """A root file system and which of its files stay."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, bool] = {}
        """Absolute path inside the tree of everything that is no directory; whether it is a symbolic link."""
        self.directories: set[str] = set()
        for here, names, others in os.walk(root):
            inside = "/" + os.path.relpath(here, root) if here != str(root) else ""
            for name in names:
                if (Path(here) / name).is_symlink():
                    self.files[f"{inside}/{name}"] = True
                else:
                    self.directories.add(f"{inside}/{name}")
            for name in others:
                self.files[f"{inside}/{name}"] = (Path(here) / name).is_symlink()
        self.kept: set[str] = set()

    def resolve(self, path: str) -> tuple[str, list[str]]:
        """A path with every link followed, inside the tree; and the links that were followed."""
        links: list[str] = []
        parts = list(PurePosixPath(path).parts[1:])
        done: list[str] = []
        while parts:
            part = parts.pop(0)
            if part in {"..", "."}:
                done = done[:-1] if part == ".." else done
                continue
            here = "/" + "/".join([*done, part])
            if self.files.get(here):
                if len(links) > 40:
                    raise SealError(f"{path}: too many symbolic links")
                links.append(here)
                target = PurePosixPath((self.root / here[1:]).readlink())
                if target.is_absolute():
                    done = []
                parts = [word for word in target.parts if word != "/"] + parts
            else:
                done.append(part)
        return "/" + "/".join(done), links

    def keep(self, path: str, *, bundle: bool = False) -> None:
        """Mark a file, what it links to, and the libraries it needs."""
        todo: list[tuple[str, tuple[str, ...]]] = [(path, ())]
        while todo:
            name, search = todo.pop()
            real, links = self.resolve(name)
            self.kept.update(links)
            if real not in self.files or real in self.kept:
                continue
            self.kept.add(real)
            todo += self.needs(real, search, bundle=bundle)

    def needs(
        self, path: str, search: tuple[str, ...], *, bundle: bool = False
    ) -> Iterator[tuple[str, tuple[str, ...]]]:
        """An ELF file's interpreter and libraries, each with where its own libraries may be; none for other files.

        Args:
            path: The file.
            search: Where whoever needs this file looks: what that loads first, this file finds loaded.
            bundle: Whether a library that is nowhere is no error.

        Raises:
            SealError: A library is nowhere in its search path, and the file is of no bundle.
        """
        file = self.root / path[1:]
        with file.open("rb") as handle:
            if handle.read(4) != b"\x7fELF":
                return
        # Mapped, not read: an engine's libraries have a gigabyte each.
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            elf = read_elf(data)
        if elf is None:
            return
        if elf.interpreter:
            yield elf.interpreter, ()
        origin = str(PurePosixPath(path).parent)
        own = tuple(part.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for part in elf.search)
        places = (*own, *search)
        for name in elf.needed:
            for place in [*places, *LIBRARY_PATH]:
                candidate = f"{place}/{name}"
                if self.resolve(candidate)[0] in self.files:
                    yield candidate, places
                    break
            else:
                if bundle:
                    continue
                raise SealError(f"{path} needs {name}, which is in none of {[*places, *LIBRARY_PATH]}")


def choose(root: Path, rules: Rules) -> Tree:
    """A tree with the files marked that the rules keep.

    Raises:
        SealError: A keep rule names nothing, or a library is missing.
    """
    tree = Tree(root)
    dropped = matcher(rules.drop)
    for glob, bundle in [*((glob, False) for glob in rules.keep), *((glob, True) for glob in rules.bundle)]:
        pattern = matcher([glob])
        found = [path for path in tree.files if pattern.fullmatch(path)]
        if not found:
            raise SealError(f"keep {glob}: nothing of that name is in the tree")
        for path in found:
            if not dropped.fullmatch(path):
                tree.keep(path, bundle=bundle)
    return tree


def seal(root: Path, rules: Rules) -> dict[str, int]:
    """Apply the rules to a tree in place.

    Returns:
        How many files were kept and removed.

    Raises:
        SealError: A keep rule names nothing, or a library is missing.
    """
    tree = choose(root, rules)
    removed = sorted(set(tree.files) - tree.kept - {f"/{name}" for name in MERGED})
    for path in removed:
        (root / path[1:]).unlink()
    wanted = set(rules.directory) | {parent for path in rules.directory for parent in _parents(path)}
    for path in sorted(tree.directories, key=lambda name: name.count("/"), reverse=True):
        place = root / path[1:]
        if path not in wanted and not any(place.iterdir()):
            place.rmdir()
    for path in tree.kept:
        _drop_privilege(root / path[1:])
    _add(root, rules)
    return {"kept": len(tree.kept), "removed": len(removed)}


def extract(root: Path, rules: Rules, target: Path) -> int:
    """Copy what the rules keep of a tree into another, which holds files of its own already.

    Returns:
        How many files were copied.

    Raises:
        SealError: As for :func:`choose`.
    """
    tree = choose(root, rules)
    for path in sorted(tree.kept | {f"/{name}" for name in MERGED & {path[1:] for path in tree.files}}):
        place = target / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink() and not place.exists():
            shutil.copy2(root / path[1:], place, follow_symlinks=False)
            _drop_privilege(place)
    _add(target, rules)
    return len(tree.kept)


def _drop_privilege(path: Path) -> None:
    """No program in the image gives its caller another user's rights: set-user-ID and set-group-ID go."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
        path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def _add(root: Path, rules: Rules) -> None:
    for path in rules.directory:
        (root / path[1:]).mkdir(parents=True, exist_ok=True)
    for path, target in rules.link:
        place = root / path[1:]
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)


def _parents(path: str) -> Iterator[str]:
    for parent in PurePosixPath(path).parents:
        if str(parent) != "/":
            yield str(parent)
