"""The tree of programs that builds the image, and running something inside it.

In: the locked packages of the tools. Out: ``<home>/image/tools/<digest>``, unpacked without running a single maintainer
script, so that it holds what the packages hold and nothing of this machine; and commands that run in it, in mount, IPC
and network namespaces of their own: a build has no network.

The namespaces are made by mkosi's own sandbox program (one standard-library file), taken from the tree and run by this
machine's Python: nothing but ``dpkg-deb`` has to be installed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.archive import require_tool
from appliance.image.commands import UMASK
from appliance.image.errors import BuildError
from appliance.image.fetch import deb_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from appliance.image.commands import Commands
    from appliance.image.lock import LockedPackage, PackageLock

SANDBOX = Path("usr/lib/python3/dist-packages/mkosi/sandbox.py")
_MARK = ".complete"
# What maintainer scripts would have made and the build's programs ask for.
_LINKS = {"usr/bin/awk": "mawk", "usr/bin/pager": "more"}


def make_tools_tree(lock: PackageLock, cache: Path, directory: Path, commands: Commands) -> Path:
    """The tools tree of a lock, unpacked unless it is there.

    Args:
        lock: The tools' packages; each is in the cache.
        cache: Where the packages are.
        directory: Below which trees are kept.
        commands: Runs the programs.

    Returns:
        The tree.

    Raises:
        BuildError: A package cannot be unpacked, or this is not root.
        MissingToolError: There is no dpkg-deb.
    """
    if os.geteuid() != 0:
        raise BuildError("an image is built as root, because it holds files of several owners", hint="use sudo")
    target = directory / lock.digest[:16]
    if (target / _MARK).is_file():
        return target
    program = require_tool("dpkg-deb", "dpkg")
    directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".make-", dir=directory))
    try:
        work.chmod(0o755)
        _unpack(program, lock, cache, work, commands)
        _complete(work)
        commands.run(
            [*inside(work), "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
             "/usr/lib/python3", "/usr/lib/python3.13"]
        )  # fmt: skip
        (work / _MARK).touch()
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def inside(
    tree: Path,
    *,
    mounts: Iterable[tuple[Path, str]] = (),
    read_only: Iterable[tuple[Path, str]] = (),
    environment: Mapping[str, str] | None = None,
    chdir: str = "/",
) -> list[str]:
    """The words before a command that make it run in the tree.

    Args:
        tree: The root it sees.
        mounts: Directories it may write, and where it sees them.
        read_only: The same for what it may only read.
        environment: Variables to add.
        chdir: Where it starts.
    """
    # -B: the tree must not get byte code of this machine's Python.
    words = [sys.executable, "-B", "-I", "-S", str(tree / SANDBOX), "--bind", str(tree), "/",
             "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/run",  # noqa: S108 - inside
             "--ro-bind", "/sys", "/sys", "--unshare-net", "--unshare-ipc"]  # fmt: skip
    for source, place in read_only:
        words += ["--ro-bind", str(source), place]
    for source, place in mounts:
        words += ["--bind", str(source), place]
    for name, value in (environment or {}).items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", chdir, "--"]


def _unpack(program: str, lock: PackageLock, cache: Path, tree: Path, commands: Commands) -> None:
    # base-files first: it brings the links of the merged /usr, which the others then unpack through.
    first = [item for item in lock.packages if item.package == "base-files"]
    rest = [item for item in lock.packages if item.package != "base-files"]
    commands.announce(f"for deb in $(the {len(lock.packages)} packages of {lock.name}.json, base-files first); do "
                      f"{program} --extract $deb {tree}; done")  # fmt: skip
    for batch in (first, rest):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ends = pool.map(lambda item: _extract(program, item, cache, tree), batch)
            for item, done in zip(batch, ends, strict=True):
                if done.returncode:
                    raise BuildError(f"{item.deb} cannot be unpacked: {done.stderr.strip()}")


def _extract(program: str, item: LockedPackage, cache: Path, tree: Path) -> subprocess.CompletedProcess[str]:
    words = [program, "--extract", str(deb_path(item, cache)), str(tree)]
    return subprocess.run(words, capture_output=True, text=True, check=False, umask=UMASK)  # noqa: S603 - dpkg-deb


def _complete(tree: Path) -> None:
    for name in ("passwd", "group"):
        shutil.copyfile(tree / "usr/share/base-passwd" / f"{name}.master", tree / "etc" / name)
    for place, target in _LINKS.items():
        link = tree / place
        if not link.is_symlink() and (link.parent / target).exists():
            link.symlink_to(target)
    for name in ("build", "proc", "sys", "dev", "tmp", "run", "var/tmp"):
        (tree / name).mkdir(parents=True, exist_ok=True)
