"""Building an image: inputs from the cache, one mkosi run in the locked tools tree, a release's directory.

In: a checkout and a populated cache. Out: the artefacts of :mod:`appliance.image.artefacts` with their manifest. No
step uses the network; every program that runs is announced as a command that can be repeated.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from appliance.config.home import home
from appliance.engine.progress import Progress, ignore_progress
from appliance.image import artefacts, staging
from appliance.image.clock import clock_mounts
from appliance.image.commands import Commands
from appliance.image.describe import make_manifest
from appliance.image.errors import BuildError
from appliance.image.fetch import cache, deb_path
from appliance.image.fetch_repository import make_repository
from appliance.image.issue import Issue
from appliance.image.lock import read_lock
from appliance.image.profiles import Recipe, read_recipe
from appliance.image.sbom import sbom
from appliance.image.source import SOURCE
from appliance.image.tools_tree import inside, make_tools_tree
from appliance.image.trees import TreeContext, engine_version, make_trees
from measurements.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from appliance.engine.progress import ProgressCallback

_STEPS = ("tools", "packages", "staging", "mkosi", "artefacts")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build and where.

    Attributes:
        profile: ``engine-cpu`` or ``engine-gpu``.
        debug: Whether with the debug profile.
        output: The release's directory; ``<home>/image/<profile>`` when not given.
        work: Scratch space, removed afterwards; beside the output when not given.
        source: The checkout.
        issue: The release's number and dates; those of no release by default.
        clock_days: How far ahead of this machine's clock the build's is, for :mod:`appliance.image.check`.
    """

    profile: str
    debug: bool = False
    output: Path | None = None
    work: Path | None = None
    source: Path = SOURCE
    issue: Issue = field(default_factory=Issue)
    clock_days: int = 0


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """A finished build.

    Attributes:
        directory: Where the files are.
        files: The release's files.
        seconds: How long each step took.
    """

    directory: Path
    files: tuple[artefacts.File, ...]
    seconds: dict[str, float] = field(default_factory=dict)


def output_directory(recipe: Recipe) -> Path:
    """Where an image goes when nobody says otherwise: ``<home>/image/<profile>``."""
    return home() / "image" / recipe.name


def build_image(
    request: BuildRequest,
    *,
    announce: Callable[[str], None],
    progress: ProgressCallback = ignore_progress,
) -> BuiltImage:
    """Build an image.

    Args:
        request: What and where.
        announce: Told each command before it runs.
        progress: Told each step.

    Returns:
        The release's directory; an older one of that name is replaced only when the build ended well.

    Raises:
        BuildError: A step failed.
        InputError: A locked package is not in the cache.
        LockFormatError: A lock cannot be read.
    """
    recipe = read_recipe(request.source, request.profile, debug=request.debug)
    output = (request.output or output_directory(recipe)).resolve()
    work = (request.work or output.with_name(f".{output.name}.work")).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o755)
    commands = Commands(announce, output.with_name(f"{output.name}.log"))
    commands.log.unlink(missing_ok=True)
    clock = _Clock(progress)
    umask = os.umask(0o022)
    try:
        with clock.step("tools"):
            lock = read_lock(request.source / "image/lock/tools.json")
            tools = make_tools_tree(lock, cache(), home() / "image" / "tools", commands)
        with clock.step("packages"):
            repository = make_repository(recipe.locks)
        with clock.step("staging"):
            settings = _Settings.read(recipe)
            trees = _trees(recipe, settings, work, tools, commands)
            staging.stage(recipe, work / "config", trees, epoch=settings.epoch)
        with clock.step("mkosi"):
            _run_mkosi(recipe, work, tools, repository, commands, clock_days=request.clock_days)
        with clock.step("artefacts"):
            made = work / "release"
            made.mkdir()
            artefacts.take_over(work / "output", made)
            locks = [read_lock(request.source / f"image/lock/{name}.json") for name in artefacts.FIRMWARE_LOCKS]
            firmware = [(item.package, deb_path(item, cache())) for lock in locks for item in lock.packages]
            artefacts.take_firmware(firmware, made, work / "firmware", commands)
            (made / artefacts.SBOM).write_bytes(sbom(request.profile, debug=request.debug, checkout=request.source))
            files = artefacts.describe_all(made, [path.name for path in made.iterdir()])
            manifest = make_manifest(
                recipe,
                made,
                files,
                engine_version=engine_version(recipe),
                epoch=settings.epoch,
                issue=request.issue,
                say=lambda text: announce(f"# {text}"),
            )
            (made / MANIFEST_NAME).write_bytes(manifest.encode())
            files = (*files, artefacts.describe(made / MANIFEST_NAME))
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, output)
    finally:
        os.umask(umask)
        shutil.rmtree(work, ignore_errors=True)
    return BuiltImage(output, files, clock.seconds)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What of mkosi's configuration the image itself has to know."""

    command_line: str
    epoch: int

    @classmethod
    def read(cls, recipe: Recipe) -> _Settings:
        image = recipe.source / "image"
        files = [image / "mkosi.conf", *(image / f"mkosi.profiles/{name}/mkosi.conf" for name in recipe.mkosi_profiles)]
        epoch = staging.settings(files, "SourceDateEpoch")
        if len(epoch) != 1 or not epoch[0].isdigit():
            raise BuildError(f"SourceDateEpoch is {epoch}, expected one number of seconds")
        return cls(" ".join(staging.settings(files, "KernelCommandLine")), int(epoch[0]))


def _trees(recipe: Recipe, settings: _Settings, work: Path, tools: Path, commands: Commands) -> list[str]:
    """Make what goes into the image besides packages; the names below ``<work>/trees``."""
    scratch = work / "scratch"
    scratch.mkdir()
    context = TreeContext(recipe, tools, cache(), scratch, commands)
    return make_trees(context, work / "trees", epoch=settings.epoch, command_line=settings.command_line)


def _run_mkosi(
    recipe: Recipe, work: Path, tools: Path, repository: Path, commands: Commands, *, clock_days: int
) -> None:
    for name in ("output", "workspace", "packages", "tmp"):
        (work / name).mkdir()
    mounts = clock_mounts(tools, work / "clock", clock_days) if clock_days else []
    within = inside(
        tools,
        mounts=[(work, "/build")],
        read_only=[(repository, staging.REPOSITORY), *mounts],
        # The root is copied there before its file system is made; with an engine it does not fit into memory.
        environment={"TMPDIR": "/build/tmp"},
        chdir="/build/config",
    )
    commands.run(
        [*within, "mkosi", "--profile", ",".join(recipe.mkosi_profiles), "--local-mirror",
         f"file://{staging.REPOSITORY}", "--output-directory", "/build/output", "--workspace-directory",
         "/build/workspace", "--package-cache-directory", "/build/packages", "--force", "build"]
    )  # fmt: skip


@dataclass(slots=True)
class _Clock:
    """Seconds of each step, reported as they begin."""

    progress: ProgressCallback
    seconds: dict[str, float] = field(default_factory=dict)

    def step(self, name: str) -> _Step:
        return _Step(self, name)


@dataclass(slots=True)
class _Step:
    clock: _Clock
    name: str
    begun: float = 0.0

    def __enter__(self) -> None:
        self.begun = time.monotonic()
        self.clock.progress(Progress("image", _STEPS.index(self.name), len(_STEPS), "steps", self.name))

    def __exit__(self, *_: object) -> None:
        self.clock.seconds[self.name] = round(time.monotonic() - self.begun, 1)
