"""What stays in a root file system: named files and the libraries those need; everything else is removed.

In: a populated tree and a rules file. Out: the tree with nothing in it that no rule names, its Python compiled, its
kernel modules unpacked; and the initrd, which is another choice out of the same tree. It runs inside the build, under
the tools tree's Python, as mkosi's last step before the file system is made: so it is one file and imports the standard
library only.

A rules file has one rule a line, ``#`` begins a comment::

    keep GLOB       these files stay; a symbolic link's target and an ELF file's libraries stay with it
    bundle GLOB     the same for a bundle whose libraries find each other: one that is in no search path is no error,
                    the program loads it before it is needed (wheels of one environment do so)
    drop GLOB       these go, whatever names them (libraries that something needs are never dropped silently: an error)
    directory PATH  this directory is there, empty if need be
    link PATH TO    this symbolic link is there
    compile PATH    every Python source below gets a byte-code file that is used without a look at its source
    shadow PATH     passwords below are dated like everything else in the image: the tools write the day of the build
    modules PATH    kernel modules below are unpacked (a file system or archive around them compresses better)

In a glob ``*`` stays within a directory, ``**`` crosses them, ``{a,b}`` is either. Sources: System V ABI, chapter 5
(dynamic section); gABI ``DT_RUNPATH``; PEP 552 (unchecked hash-based byte code).
"""

from __future__ import annotations

import compileall
import hashlib
import lzma
import mmap
import os
import py_compile
import re
import shutil
import stat
import struct
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT_LIST = "chrysalis.root.files"
INITRD_LIST = "chrysalis.initrd.files"
LIBRARY_PATH = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
# Byte code is compiled in this many processes, each with its own fixed share in a fixed order: marshal writes a
# reference where an object has more than one, so what was compiled before in the same process shows in the bytes.
SHARES = 8
MERGED = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29


class SealError(Exception):
    """A rule is malformed, names nothing, or a library that is needed is not there."""


@dataclass(slots=True)
class Rules:
    """A rules file, or several read one after the other."""

    keep: list[str] = field(default_factory=list)
    bundle: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    directory: list[str] = field(default_factory=list)
    link: list[tuple[str, str]] = field(default_factory=list)
    compile: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    shadow: list[str] = field(default_factory=list)

    def read(self, text: str, source: str) -> None:
        """Add the rules of a text.

        Raises:
            SealError: A line is no rule.
        """
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            verb, *operands = words
            if verb == "link" and len(operands) == 2:
                self.link.append((operands[0], operands[1]))
            elif verb in {"keep", "bundle", "drop", "directory", "compile", "modules", "shadow"} and len(operands) == 1:
                getattr(self, verb).append(operands[0])
            else:
                raise SealError(f"{source}:{number}: {line.strip()!r} is no rule")
            if not operands[0].startswith("/"):
                raise SealError(f"{source}:{number}: {operands[0]!r} does not start with /")


@dataclass(frozen=True, slots=True)
class Elf:
    """What a loader reads of an ELF file: names of libraries, where to look first, its interpreter."""

    needed: tuple[str, ...]
    search: tuple[str, ...]
    interpreter: str | None


def glob_pattern(glob: str) -> str:
    """A regular expression for a glob of a rule."""
    found = []
    for part in re.findall(r"\*\*|\*|\?|\{[^{}]*\}|\[[^\]]*\]|[^*?{\[]+|.", glob):
        if part == "**":
            found.append(".*")
        elif part == "*":
            found.append("[^/]*")
        elif part == "?":
            found.append("[^/]")
        elif part[0] == "{" and part[-1] == "}":
            found.append("(?:" + "|".join(glob_pattern(choice) for choice in part[1:-1].split(",")) + ")")
        elif part[0] == "[" and part[-1] == "]":
            found.append(part)
        else:
            found.append(re.escape(part))
    return "".join(found)


def matcher(globs: Iterable[str]) -> re.Pattern[str]:
    """One expression that matches what any of the globs matches; nothing where there are none."""
    return re.compile("|".join(f"(?:{glob_pattern(glob)})" for glob in globs) or r"(?!)")


def read_elf(data: bytes | mmap.mmap) -> Elf | None:
    """The dynamic part of a 64-bit little-endian ELF file; None for anything else.

    Raises:
        SealError: It begins as one and its tables lead outside it.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    try:
        (offset,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQ", data, offset + i * size) for i in range(count)]
        interpreter, dynamic, loads = None, b"", []
        for kind, _, start, address, _, length in headers:
            if kind == _PT_INTERP:
                interpreter = data[start : start + length].rstrip(b"\0").decode()
            elif kind == _PT_DYNAMIC:
                dynamic = data[start : start + length]
            elif kind == _PT_LOAD:
                loads.append((address, start, length))
        entries = list(struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16]))
        tables = [value for tag, value in entries if tag == _DT_STRTAB]
        if not tables:
            return Elf((), (), interpreter)
        strings = next(tables[0] - address + start for address, start, length in loads
                       if address <= tables[0] < address + length)  # fmt: skip

        def text(at: int) -> str:
            begin = strings + at
            end = data.find(b"\0", begin)
            if end < 0:
                raise SealError("malformed ELF file: a name without an end")
            return data[begin:end].decode()

        needed = tuple(text(value) for tag, value in entries if tag == _DT_NEEDED)
        paths = [text(value) for tag, value in entries if tag in (_DT_RPATH, _DT_RUNPATH)]
    except (struct.error, ValueError, OverflowError, StopIteration) as error:
        raise SealError(f"malformed ELF file: {error}") from None
    return Elf(needed, tuple(part for path in paths for part in path.split(":") if part), interpreter)


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


def make_archive(root: Path, output: Path, epoch: int) -> None:
    """A compressed cpio archive of a tree: owned by root, every file of one time, names in order."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    for name in names:
        os.utime(root / name, (epoch, epoch), follow_symlinks=False)
    listed = "\0".join(names).encode()
    plain = output.with_suffix(".cpio")
    command = ["cpio", "--create", "--reproducible", "--renumber-inodes", "--null", "--format=newc", "--quiet",
               "--owner=0:0", "--directory", str(root), "--file", str(plain)]  # fmt: skip
    subprocess.run(command, input=listed, check=True)  # noqa: S603 - the tools tree's
    subprocess.run(["zstd", "--quiet", "-19", "-T0", "--rm", "-o", output, plain], check=True)  # noqa: S603, S607 - as above


def date_passwords(file: Path, epoch: int) -> None:
    """Set the day of the last change (shadow(5), third field) of every account that has one."""
    lines = [line.split(":") for line in file.read_text(encoding="utf-8").splitlines()]
    for fields in lines:
        if fields[2:3] not in ([], [""]):
            fields[2] = str(epoch // 86400)
    file.write_text("".join(":".join(fields) + "\n" for fields in lines), encoding="utf-8")


def unpack_modules(directory: Path) -> None:
    """Unpack ``.ko.xz`` files in place and write the dependency tables anew.

    Args:
        directory: ``/usr/lib/modules/<version>`` inside a tree.
    """
    packed = sorted(directory.rglob("*.ko.xz"))
    for file in packed:
        file.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
        file.unlink()
    if packed:
        root = directory.parents[3]
        subprocess.run(["depmod", "--basedir", root, directory.name], check=True)  # noqa: S603, S607 - the tools tree's


def compile_python(root: Path, path: str) -> None:
    """Byte-compile every source below a directory, the same bytes wherever and however often it is done."""
    base = root / path[1:]
    for cache in sorted(base.rglob("__pycache__")):
        shutil.rmtree(cache)
    sources = sorted(base.rglob("*.py"))
    shares = [(root, sources[number::SHARES]) for number in range(SHARES)]
    with ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1) as pool:
        list(pool.map(_compile_share, shares))


def _compile_share(share: tuple[Path, list[Path]]) -> None:
    root, sources = share
    for source in sources:
        compileall.compile_file(
            source,
            stripdir=str(root),
            prependdir="/",
            quiet=2,  # sources for other Python versions lie in some packages: they stay uncompiled
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def list_files(root: Path) -> str:
    """Everything in a tree, sorted: path, tab, kind, mode, owner, size, SHA-256 or where a link points; one a line."""
    paths = sorted(Path(here) / name for here, directories, files in os.walk(root) for name in [*directories, *files])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return "".join(pool.map(lambda path: _listed(root, path), paths))


def _listed(root: Path, path: Path) -> str:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        what = f"link {path.readlink()}"
    elif stat.S_ISREG(found.st_mode):
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        what = f"file {found.st_mode & 0o7777:04o} {found.st_uid}:{found.st_gid} {found.st_size} {digest}"
    else:
        kind = "directory" if stat.S_ISDIR(found.st_mode) else "special"
        what = f"{kind} {found.st_mode & 0o7777:04o} {found.st_uid}:{found.st_gid}"
    return f"/{path.relative_to(root)}\t{what}\n"


def _parents(path: str) -> Iterator[str]:
    for parent in PurePosixPath(path).parents:
        if str(parent) != "/":
            yield str(parent)


def make_initrd(root: Path, overlay: Path, names: Sequence[str]) -> None:
    """The initrd out of a root that is not sealed yet: into ``$ARTIFACTDIR``, where mkosi looks for it.

    Args:
        root: The root.
        overlay: Files that only the initrd has.
        names: Rules files.

    Raises:
        SealError: As for :func:`choose`.
    """
    rules = read_rules(names)
    with TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(overlay, tree, symlinks=True)
        count = extract(root, rules, tree)
        (Path(os.environ["OUTPUTDIR"]) / INITRD_LIST).write_text(list_files(tree), encoding="utf-8")
        place = Path(os.environ["ARTIFACTDIR"]) / "io.mkosi.initrd"
        place.mkdir(exist_ok=True)
        make_archive(tree, place / "chrysalis.initrd", int(os.environ["SOURCE_DATE_EPOCH"]))
    sys.stderr.write(f"seal: {count} files copied into the initrd\n")


def read_rules(names: Sequence[str]) -> Rules:
    """Rules files, one after the other.

    Raises:
        SealError: A line is no rule.
    """
    rules = Rules()
    for name in names:
        rules.read(Path(name).read_text(encoding="utf-8"), name)
    return rules


def seal_root(root: Path, names: Sequence[str]) -> None:
    """Seal the image's root, unpack its modules, compile its Python, list it.

    Raises:
        SealError: As for :func:`choose`.
    """
    rules = read_rules(names)
    counts = seal(root, rules)
    for path in rules.modules:
        for directory in sorted((root / path[1:]).iterdir()):
            unpack_modules(directory)
    for path in rules.shadow:
        date_passwords(root / path[1:], int(os.environ["SOURCE_DATE_EPOCH"]))
    for path in dict.fromkeys(rules.compile):
        compile_python(root, path)
    (Path(os.environ["OUTPUTDIR"]) / ROOT_LIST).write_text(list_files(root), encoding="utf-8")
    sys.stderr.write(f"seal: {counts['kept']} files kept, {counts['removed']} removed\n")


def main(arguments: list[str]) -> int:
    """``seal initrd OVERLAY RULES…`` or ``seal root RULES…``, on the tree that ``$BUILDROOT`` names."""
    root = Path(os.environ["BUILDROOT"])
    try:
        match arguments:
            case ["initrd", overlay, *names]:
                make_initrd(root, Path(overlay), names)
            case ["root", *names]:
                seal_root(root, names)
            case _:
                sys.stderr.write(f"seal: {arguments} is no way to call this\n")
                return 2
    except SealError as error:
        sys.stderr.write(f"seal: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
