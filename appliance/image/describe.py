"""The manifest of what was just built: digests and predicted registers, from the files alone.

In: a recipe and a release's directory. Out: a :class:`~measurements.manifest.Manifest`. Nothing here asks a machine
that booted: the registers are computed from the files (:mod:`appliance.image.predicted`).
"""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
from typing import TYPE_CHECKING

from appliance.image.artefacts import UKI
from appliance.image.errors import BuildError
from appliance.image.issue import Issue
from appliance.image.lock import read_lock
from appliance.image.predicted import predicted_registers
from measurements import uki
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from appliance.image.artefacts import File
    from appliance.image.profiles import Recipe

IMAGE_ID = "chrysalis"
BUILDER = "mkosi"
UNRELEASED = Issue()
"""What is built and released by nobody."""
NO_ENGINE = Engine(name="none", version="0")
"""Of the profile that carries none."""


def make_manifest(
    recipe: Recipe,
    directory: Path,
    files: Iterable[File],
    *,
    engine_version: str | None,
    epoch: int,
    issue: Issue = UNRELEASED,
    say: Callable[[str], None],
) -> Manifest:
    """Describe a release.

    Args:
        recipe: What was built.
        directory: Where it is.
        files: Its files.
        engine_version: Version of the engine; None where there is none.
        epoch: The time inside the image.
        issue: The release's number and dates.
        say: Told of each machine of the shape library that no registers can be stated for, and why.

    Raises:
        ArtefactError: The UKI is not one whose measurements are known.
        BuildError: The UKI names no root.
    """
    image = (directory / UKI).read_bytes()
    command_line = uki.parse(image).command_line
    engine = recipe.content.engine
    commit, modified = source_state(recipe.source)
    return Manifest(
        image_id=IMAGE_ID,
        version=source_version(recipe.source),
        release=issue.release,
        not_before=issue.not_before,
        expires=issue.expires,
        profile=recipe.profile,
        debug=recipe.debug,
        engine=Engine(name=engine.name, version=engine_version) if engine and engine_version else NO_ENGINE,
        command_line=command_line,
        root_hash=root_hash(command_line),
        source_commit=commit,
        source_modified=modified,
        source_date_epoch=epoch,
        recipe=build_recipe(recipe, issue),
        locks={name: _digest(recipe.source / "image" / "lock" / name) for name in lock_files(recipe)},
        artefacts=tuple(
            Artefact(name=file.name, size=file.size, sha256=file.sha256)
            for file in sorted(files, key=lambda file: file.name)
        ),
        registers=predicted_registers(directory, recipe.profile, say),
    )


def build_recipe(recipe: Recipe, issue: Issue) -> BuildRecipe:
    """How the image is built again.

    Raises:
        BuildError: The tools' lock holds no builder.
        LockFormatError: It cannot be read.
    """
    tools = recipe.source / "image" / "lock" / "tools.json"
    versions = [item.version for item in read_lock(tools).packages if item.package == BUILDER]
    if len(versions) != 1:
        raise BuildError(f"the tools' lock names {len(versions)} packages {BUILDER}, expected one")
    return BuildRecipe(
        profile=recipe.profile, mkosi_version=versions[0], tools_lock=_digest(tools), command=issue.command(recipe)
    )


def lock_files(recipe: Recipe) -> list[str]:
    """Names of the lock files that decide an image, below ``image/lock``."""
    names = [f"{name}.json" for name in recipe.lock_names] + ["wheels-guest.json"]
    if recipe.content.engine is not None:
        names.append(f"wheels-{recipe.content.engine.wheels}.json")
    return sorted([*names, *recipe.content.locks])


def root_hash(command_line: str) -> str:
    """The verity root hash that a command line names.

    Raises:
        BuildError: It names none.
    """
    for word in command_line.split():
        if word.startswith("roothash="):
            return word.removeprefix("roothash=")
    raise BuildError(f"the UKI's command line names no root: {command_line!r}")


def source_version(source: Path) -> str:
    """Version of the source's distribution."""
    version = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return str(version)


def source_state(source: Path) -> tuple[str | None, bool]:
    """The commit that a checkout is at, and whether its files differ from it; no commit where it is no checkout."""
    commit = _git(source, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, True
    changed = _git(source, "status", "--porcelain", "--untracked-files=normal")
    return commit, changed is None or bool(changed)


def _git(source: Path, *words: str) -> str | None:
    # A checkout that belongs to someone else (built with sudo) is git's "dubious ownership": it is read, nothing runs.
    command = ["git", "-c", f"safe.directory={source}", "-c", "core.fsmonitor=false", "-C", str(source), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - git
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
