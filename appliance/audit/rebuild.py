"""The rebuild step: the build of the commit that is checked out, as a process of its own.

Recipe and build programs belong to the commit that the manifest names: today's would make today's image. So the command
is the one that a person would type in that checkout, run with this program's interpreter and installed packages. The
build uses no network; what it says goes to the log.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.audit.errors import AuditError, UncheckedError
from appliance.audit.outcome import Step
from appliance.engine.progress import Progress, ignore_progress
from appliance.image.artefacts import describe_all
from measurements.manifest import MANIFEST_NAME, date

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from appliance.audit.programs import Programs
    from appliance.engine.progress import ProgressCallback
    from measurements.manifest import Manifest

NAME = "rebuild"
TITLE = "The rebuild"
MAX_MANIFEST_BYTES = 4 << 20
_STAGE = "\N{TRIANGULAR BULLET}"
"""What begins a line in which mkosi says what it does."""
_LOOK_S = 0.5
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Built:
    """A build to compare.

    Attributes:
        directory: Where its files are.
        stated: What its own manifest says, as plain values: a commit's manifest may be of an older form.
    """

    directory: Path
    stated: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Built:
        """A finished build.

        Raises:
            UncheckedError: There is none.
        """
        try:
            with (directory / MANIFEST_NAME).open("rb") as file:
                found = json.loads(file.read(MAX_MANIFEST_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            raise UncheckedError(f"{directory} holds no finished build: {error}") from None
        if not isinstance(found, dict):
            raise UncheckedError(f"{directory} holds no finished build: its manifest is no object")
        return cls(directory, found)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each of its files but the manifest, in hexadecimal; read from the disk now."""
        names = [path.name for path in self.directory.iterdir() if path.name != MANIFEST_NAME]
        return {file.name: file.sha256 for file in describe_all(self.directory, names)}


def build_command(manifest: Manifest, output: Path, work: Path) -> list[str]:
    """The command that builds what a manifest describes.

    Args:
        manifest: Which profile.
        output: Where the files go.
        work: Scratch space.
    """
    command = [sys.executable, "-m", "appliance.cli", "image", "build", "--profile", manifest.profile]
    if manifest.debug:
        command.append("--debug")
    if manifest.release:
        command += ["--release", str(manifest.release)]
        command += ["--not-before", date(manifest.not_before), "--expires", date(manifest.expires)]
    return [*command, "--offline", "--json", "--output", str(output), "--work", str(work)]


def rebuild(
    manifest: Manifest,
    source: Path,
    work: Path,
    programs: Programs,
    *,
    progress: ProgressCallback = ignore_progress,
) -> Step:
    """Build.

    Args:
        manifest: Which profile.
        source: The checkout; its programs do it.
        work: The audit's work directory.
        programs: Runs the command.
        progress: Told what the build does.

    Raises:
        UncheckedError: It cannot be built here, or the build failed; the message has its last words.
    """
    if os.geteuid() != 0:
        raise UncheckedError(
            "building an image needs root, for the namespaces that it is built in",
            hint="run the audit as root, or build as root and name the result: --built DIR",
        )
    output, scratch = work / "rebuilt", work / "building"
    for path in (output, scratch):
        shutil.rmtree(path, ignore_errors=True)
    try:
        with _followed(output.with_name(f"{output.name}.log"), progress):
            programs.run(
                build_command(manifest, output, scratch),
                cwd=source,
                environment={"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            )
    except UncheckedError as error:
        raise UncheckedError(f"the build of that source failed: {error.message}", hint=error.hint) from None
    return described(Built.read(output), "built from the checked-out source", inputs={"source": str(source)})


def take_built(directory: Path, commit: str | None) -> Step:
    """Take a build that the auditor made, instead of making one.

    Raises:
        AuditError: The directory holds no build, or one of another commit.
    """
    try:
        built = Built.read(directory.resolve())
    except UncheckedError as error:
        raise AuditError(f"--built: {error.message}") from None
    if commit is not None and (built.stated.get("source_commit") != commit or built.stated.get("source_modified")):
        raise AuditError(
            f"--built: {directory} was made from commit {built.stated.get('source_commit')}"
            f"{' with changes' if built.stated.get('source_modified') else ''}, the manifest names {commit}",
            hint="leave --built out: the audit builds the right one",
        )
    return described(built, "taken as it was given; this audit did not build it", inputs={"directory": str(directory)})


def described(built: Built, how: str, *, inputs: Mapping[str, str]) -> Step:
    """The step for a finished build."""
    digests = built.digests()
    return Step(
        name=NAME,
        title=TITLE,
        status="same",
        summary=f"{len(digests)} files, {how}",
        inputs={**inputs, "interpreter": sys.version.split()[0]},
        facts={"directory": str(built.directory), "digests": digests},
    )


def still_there(step: Step) -> bool:
    """Whether a kept step's files are still what they were."""
    try:
        built = Built.read(Path(str(step.facts["directory"])))
        return bool(built.digests() == step.facts["digests"])
    except (KeyError, OSError, UncheckedError):
        return False


@contextmanager
def _followed(log: Path, progress: ProgressCallback) -> Iterator[None]:
    """While the block runs, tell what the build's log says that it does."""
    log.unlink(missing_ok=True)
    ended = threading.Event()
    watcher = threading.Thread(target=_follow, args=(log, ended, progress), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _follow(log: Path, ended: threading.Event, progress: ProgressCallback) -> None:
    lines, said, offset = 0, "tools and inputs", 0
    while not ended.wait(_LOOK_S):
        try:
            with log.open("rb") as file:
                file.seek(offset)
                new = file.read()
        except OSError:
            new = b""
        offset += len(new)
        lines += new.count(b"\n")
        stages = [line.strip(f"{_STAGE} ") for line in new.decode("utf-8", "replace").splitlines() if _STAGE in line]
        said = stages[-1][:_SHOWN] if stages else said
        progress(Progress("build", lines, 0, "steps", said))
