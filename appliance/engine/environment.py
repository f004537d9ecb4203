"""The engine's own Python environment, built once from the locked files and then used offline.

Comes in: the three locked files of :mod:`appliance.engine.lockfile` and what ``pip`` offers on this machine. Goes out:
``<home>/engine-<digest>/`` with a Python in which SGLang runs. Nothing here imports SGLang or torch.

torch is taken as its CPU build where pip offers one (192 MB), else as the full build with its CUDA libraries (2.5 GB).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from appliance.config.home import home
from appliance.engine import lockfile
from appliance.engine.building import exclusive, read_marker, staged
from appliance.engine.errors import DiskFullError, EnvironmentBuildError, HashMismatchError, NetworkError
from appliance.engine.pip import Pip, own_pip
from appliance.engine.progress import Progress, ProgressCallback, ignore_progress
from appliance.engine.tool import run_tool

if TYPE_CHECKING:
    from collections.abc import Callable

_PYTHONS: Final = ((3, 11), (3, 12), (3, 13))  # SGLang 0.5.19 has wheels for these
_INSTALLED_PER_FETCHED = 3.5  # measured: 615 MB of wheels become 2.1 GB
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Locks:
    """The locked files of one engine: all packages, torch's CPU build alone, what its full build needs besides."""

    engine: lockfile.LockFile
    cpu_torch: lockfile.LockFile
    cuda_deps: lockfile.LockFile

    @classmethod
    def packaged(cls) -> Locks:
        """The files this release was tested with."""
        names = ("engine-cpu.txt", "engine-cpu-torch.txt", "engine-cpu-cuda-deps.txt")
        return cls(*map(lockfile.packaged, names))

    @property
    def digest(self) -> str:
        """What the environment's directory is named by."""
        return lockfile.digest(
            self.engine, self.cpu_torch, self.cuda_deps, python=f"{sys.implementation.cache_tag}-{sys.platform}"
        )

    def size(self, *, cpu: bool) -> int:
        """Bytes to fetch with torch's CPU build, or with the full one."""
        without_torch = self.engine.size - self.engine["torch"].size
        if cpu:
            return without_torch + self.cpu_torch.size
        return self.engine.size + self.cuda_deps.size


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished environment.

    Attributes:
        directory: Where it is.
        torch: The version of torch in it; ``+cpu`` at its end means the CPU build.
        sglang: The version of SGLang in it.
    """

    directory: Path
    torch: str
    sglang: str

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"


def find_environment(root: Path | None = None, locks: Locks | None = None) -> Environment | None:
    """The finished environment of these locks, or None; touches nothing and needs no network."""
    directory = _directory(root, locks or Locks.packaged())
    marker = read_marker(directory)
    if marker is None or not (directory / "bin" / "python").exists():
        return None
    return Environment(directory, str(marker.get("torch")), str(marker.get("sglang")))


async def ensure_environment(
    progress: ProgressCallback = ignore_progress,
    *,
    root: Path | None = None,
    locks: Locks | None = None,
) -> Environment:
    """Give the environment, building it first when it is not there (about a gigabyte to fetch, once).

    Args:
        progress: Told of each package and step.
        root: The cache directory; the project's own by default.
        locks: The locked files; those of this release by default.

    Raises:
        DiskFullError: Less is free than the environment takes.
        NetworkError: A package could not be fetched.
        HashMismatchError: A package offered is not the locked one.
        EnvironmentBuildError: Anything else; the tool's own words are in the message.
    """
    locks = locks or Locks.packaged()
    if found := find_environment(root, locks):
        return found
    final = _directory(root, locks)
    waiting = Progress("wait for another process that builds the engine", 0, 0, "steps")
    async with exclusive(final, on_wait=lambda: progress(waiting)):
        if found := find_environment(root, locks):
            return found
        await _build(final, locks, progress)
    if found := find_environment(root, locks):
        return found
    raise EnvironmentBuildError(f"{final} was built but has no marker that can be read")


async def _build(final: Path, locks: Locks, progress: ProgressCallback) -> None:
    if sys.version_info[:2] not in _PYTHONS:
        raise EnvironmentBuildError(
            f"the engine has wheels for Python 3.11 to 3.13, this is {sys.version_info[0]}.{sys.version_info[1]}",
            hint="run this command with one of those",
        )
    _require_space(final.parent, locks.size(cpu=True))
    versions: dict[str, Any] = {}
    async with staged(final, lambda _: {"lock": locks.digest, **versions}) as staging:
        progress(Progress("make the environment", 0, 1, "steps"))
        import venv  # noqa: PLC0415 - a guest's Python has none: its environments are part of the image

        await asyncio.to_thread(venv.create, staging, symlinks=True, with_pip=not own_pip())
        python = staging / "bin" / "python"
        pip = Pip.of(python)
        progress(Progress("look for a CPU build of torch", 0, 1, "steps"))
        cpu = await _offers(pip, locks.cpu_torch)
        size = locks.size(cpu=cpu)
        progress(Progress("torch", 0, size, "bytes", "CPU build" if cpu else "full build with CUDA"))
        _log.info("engine_environment_build", kind="cpu torch" if cpu else "full torch", bytes=size)
        _require_space(final.parent, size)
        fetching = _Fetching(progress, size)
        for lock in (locks.cpu_torch if cpu else locks.cuda_deps, locks.engine):
            await pip.install(lock, fetching.watcher(lock))
            count = len(lock.requirements)
            progress(Progress("install packages", count, count, "packages"))
        progress(Progress("check", 0, 1, "steps"))
        versions |= await _versions(python)
        progress(Progress("check", 1, 1, "steps"))


@dataclass(slots=True)
class _Fetching:
    """pip's lines turned into progress over all locked files of one build."""

    progress: ProgressCallback
    total: int
    done: int = 0

    def watcher(self, lock: lockfile.LockFile) -> Callable[[str], None]:
        """What watches pip while it installs one file."""
        sizes = {requirement.name: requirement.size for requirement in lock.requirements}

        def watch(line: str) -> None:
            if line.startswith("Collecting "):
                name = re.split(r"[=<>! ]", line.removeprefix("Collecting "), maxsplit=1)[0].lower().replace("_", "-")
                self.progress(Progress("fetch packages", min(self.done, self.total), self.total, "bytes", name))
                self.done += sizes.pop(name, 0)
            elif line.startswith("Installing collected"):
                count = len(lock.requirements)
                self.progress(Progress("install packages", 0, count, "packages"))

        return watch


async def _offers(pip: Pip, lock: lockfile.LockFile) -> bool:
    """Whether pip gets exactly this file's one package from where it looks on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            await pip.download(lock, Path(scratch))
        except (DiskFullError, HashMismatchError, NetworkError):
            raise
        except EnvironmentBuildError:
            return False
    return True


async def _versions(python: Path) -> dict[str, str]:
    code = "import torch, importlib.metadata as m; print('versions', torch.__version__, m.version('sglang'))"
    result = await run_tool([python, "-I", "-c", code])
    for line in result.tail:
        if line.startswith("versions ") and result.status == 0:
            _, torch, sglang = line.split()
            return {"torch": torch, "sglang": sglang}
    raise EnvironmentBuildError(f"the new environment cannot import torch: {result.text[-500:]}")


def _require_space(directory: Path, fetched: int) -> None:
    needed = int(fetched * _INSTALLED_PER_FETCHED)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskFullError(
            f"{directory} has {free / 1e9:.1f} GB free, the engine needs about {needed / 1e9:.1f} GB",
            hint="free some or move the cache with CHRYSALIS_HOME",
        )


def _directory(root: Path | None, locks: Locks) -> Path:
    return (root or home()) / f"engine-{locks.digest}"
