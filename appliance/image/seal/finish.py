"""What makes a sealed tree the same bytes anywhere: modules, byte code, dates; and the list of what is in it.

Source: PEP 552 (unchecked hash-based byte code).
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Byte code is compiled in this many processes, each with its own fixed share in a fixed order: marshal writes a
# reference where an object has more than one, so whatever else the process knows shows in the bytes. For that reason,
# too, a process has nothing of this program in it: a word changed here moves no measurement.
SHARES = 8


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
    shares = [sources[number::SHARES] for number in range(SHARES)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(partial(_compile_share, root), filter(None, shares)))  # without a source it would compile itself


def _compile_share(root: Path, sources: Sequence[Path]) -> None:
    """Compile some, in order, in a process of their own; what cannot be compiled stays as it is.

    Sources for other Python versions lie in some packages: that such a one fails is no fault, so the status is not
    looked at.
    """
    command = [sys.executable, "-I", "-B", "-m", "compileall", "-qq", "-s", str(root), "-p", "/"]
    command += ["--invalidation-mode", "unchecked-hash", "-i", "-"]
    listed = "".join(f"{source}\n" for source in sources)
    subprocess.run(command, input=listed, text=True, check=False)  # noqa: S603 - this very Python


def date_passwords(file: Path, epoch: int) -> None:
    """Set the day of the last change (shadow(5), third field) of every account that has one."""
    lines = [line.split(":") for line in file.read_text(encoding="utf-8").splitlines()]
    for fields in lines:
        if fields[2:3] not in ([], [""]):
            fields[2] = str(epoch // 86400)
    file.write_text("".join(":".join(fields) + "\n" for fields in lines), encoding="utf-8")


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
