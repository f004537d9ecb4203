"""pip, run for a directory of ours, with its failures turned into our errors.

pip decides where packages come from (its configuration: index, mirror, ``--find-links``); the locked hashes decide what
may come.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.engine.errors import DiskFullError, EnvironmentBuildError, HashMismatchError, NetworkError
from appliance.engine.tool import ToolResult, run_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.engine.lockfile import LockFile

_NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|name resolution|Network is unreachable|ConnectionError"
    r"|Connection (refused|reset|aborted)|SSLError|ProxyError|Read timed out"
)
_LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input", "--progress-bar", "off")


def own_pip() -> bool:
    """Whether this process's Python has pip; where it has none, an environment must bring its own."""
    return importlib.util.find_spec("pip") is not None


@dataclass(frozen=True, slots=True)
class Pip:
    """One way to run pip.

    Attributes:
        command: Program and first arguments.
    """

    command: tuple[str, ...]

    @classmethod
    def of(cls, python: Path) -> Pip:
        """The pip that installs for ``python``: ours if we have one, else its own."""
        if own_pip():
            return cls((sys.executable, "-m", "pip", "--python", str(python)))
        return cls((str(python), "-m", "pip"))

    async def install(self, lock: LockFile, on_line: Callable[[str], None]) -> None:
        """Install exactly what the locked file names.

        Raises:
            EnvironmentBuildError: One of its subclasses where the cause is known.
        """
        arguments = ("install", *_LOCKED, "--no-compile", "--requirement", str(lock.path))
        result = await run_tool([*self.command, *arguments], on_line=on_line)
        if result.status:
            raise explain(f"installing {lock.path.name}", result)

    async def download(self, lock: LockFile, directory: Path, on_line: Callable[[str], None] = lambda _: None) -> None:
        """Fetch the wheels that the locked file names into ``directory``; same errors."""
        arguments = ("download", *_LOCKED, "--dest", str(directory), "--requirement", str(lock.path))
        result = await run_tool([*self.command, *arguments], on_line=on_line)
        if result.status:
            raise explain(f"fetching {lock.path.name}", result)


def explain(what: str, result: ToolResult) -> EnvironmentBuildError:
    """The error that pip's last lines tell of."""
    said = next((line for line in reversed(result.tail) if line.startswith("ERROR:")), result.text[-500:])
    message = f"{what} failed: {said.removeprefix('ERROR:').strip()[:500]}"
    if "No space left on device" in result.text:
        return DiskFullError(message, hint="free some gigabytes or move the cache with CHRYSALIS_HOME")
    if "DO NOT MATCH THE HASHES" in result.text:
        seen = "; ".join(line.strip() for line in result.tail if "Expected " in line or "Got  " in line)
        return HashMismatchError(
            f"{what}: a package is not the locked one: {seen[:500]}",
            hint="do not use it: ask whoever runs the package index or mirror",
        )
    if _NO_NETWORK.search(result.text):
        return NetworkError(message, hint="connect to a package index, or point pip at a mirror or at --find-links")
    return EnvironmentBuildError(message, hint="pip said so; its configuration decides where it looks")
