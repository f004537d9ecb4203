"""Whether an image comes out the same, wherever and whenever it is built.

In: a profile and a populated cache. Out: the digests of every artefact of at least two builds, and where they differ
the first file that does. Each build is a process of its own with the command that a person would type, in a directory
of its own, with a home of its own (only the cache of locked inputs is the same, as hard links), and in surroundings
that differ from the other's: time zone, locale, umask, host name, number of processors, clock.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.config.home import home
from appliance.engine.progress import Progress, ignore_progress
from appliance.image.compare import Row, compare, explain
from appliance.image.errors import BuildError
from appliance.image.fetch import cache
from appliance.image.source import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.engine.progress import ProgressCallback

_KEEP_BELOW = 1 << 20
"""Files of a build that is dropped stay when they are smaller than this: lists and manifests explain differences."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What differs from build to build and must not matter.

    Attributes:
        timezone: ``TZ``.
        locale: ``LC_ALL``.
        umask: Of the whole build.
        host_name: Seen in a UTS namespace of its own.
        processors: How many the build may use; 0 for all.
        days: How far the build's clock is ahead of this machine's.
    """

    timezone: str
    locale: str
    umask: int
    host_name: str
    processors: int
    days: int

    @property
    def shown(self) -> str:
        """For a person."""
        processors = self.processors or "all"
        return (
            f"TZ={self.timezone} LC_ALL={self.locale} umask {self.umask:03o} host {self.host_name}, "
            f"{processors} processors, clock {self.days:+d} days"
        )


VARIED = (
    Surroundings("UTC", "C.UTF-8", 0o022, "first", 0, 0),
    # UTC+14, the locale that breaks naive upper-casing, files that only their owner may read
    Surroundings("Pacific/Kiritimati", "tr_TR.UTF-8", 0o077, "second.example", 1, 500),
    Surroundings("America/St_Johns", "de_DE.UTF-8", 0o027, "third", 0, 31),
    Surroundings("Asia/Kolkata", "C", 0o002, "fourth", 2, 4000),
)
"""In turn for each build."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came out.

    Attributes:
        profile: What was built.
        rows: Every artefact with its digest in each build.
        differences: In words: what differs, down to the first file.
        surroundings: Of each build.
        seconds: Of each build.
    """

    profile: str
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    surroundings: tuple[Surroundings, ...]
    seconds: tuple[float, ...]

    @property
    def same(self) -> bool:
        """Whether every artefact is the same in every build."""
        return all(row.same for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The command's JSON object."""
        return {
            "ok": self.same,
            "profile": self.profile,
            "artefacts": {row.name: {"same": row.same, "sha256": list(row.digests)} for row in self.rows},
            "differences": list(self.differences),
            "builds": [
                {"surroundings": item.shown, "seconds": seconds}
                for item, seconds in zip(self.surroundings, self.seconds, strict=True)
            ],
        }


def check_image(
    profile: str,
    *,
    builds: int = 2,
    work: Path | None = None,
    announce: Callable[[str], None],
    progress: ProgressCallback = ignore_progress,
    debug: bool = False,
) -> CheckResult:
    """Build several times and compare.

    Args:
        profile: What to build.
        builds: How often.
        work: Scratch space, removed afterwards; below ``<home>/image`` when not given.
        announce: Told each command.
        progress: Told each build.
        debug: Whether with the debug profile.

    Raises:
        BuildError: A build failed.
    """
    top = home() / "image"
    top.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".check-", dir=work or top))
    scratch.chmod(0o755)
    chosen = tuple(VARIED[number % len(VARIED)] for number in range(builds))
    found: list[dict[str, Any]] = []
    try:
        for number, item in enumerate(chosen):
            progress(Progress("builds", number, builds, "steps", item.shown))
            # Names of different lengths: a path that leaked would move bytes.
            place = scratch / ("build" + "-again" * number)
            found.append(_build(profile, place, item, announce, debug=debug))
            if number + 1 < builds:
                _drop_large(place / "output", keep=number == 0 and profile != "engine-gpu")
        rows = compare([{name: entry["sha256"] for name, entry in build["files"].items()} for build in found])
        outputs = [Path(build["directory"]) for build in found]
        differences = tuple(explain(rows, outputs, announce))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return CheckResult(profile, rows, differences, chosen, tuple(sum(build["seconds"].values()) for build in found))


def build_command(
    profile: str, place: Path, surroundings: Surroundings, *, debug: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The command of one build and its environment.

    Args:
        profile: What to build.
        place: The build's own directory.
        surroundings: What it sees of the world.
        debug: Whether with the debug profile.
    """
    script = f'hostname {shlex.quote(surroundings.host_name)} && umask {surroundings.umask:03o} && exec "$@"'
    command = ["unshare", "--uts", "--", "sh", "-c", script, "sh"]
    if surroundings.processors:
        last = min(surroundings.processors, os.cpu_count() or 1) - 1
        command += ["taskset", "--cpu-list", f"0-{last}"]
    command += [sys.executable, "-m", "appliance.cli", "image", "build", "--profile", profile, "--offline", "--json",
                "--output", str(place / "output"), "--work", str(place / "work")]  # fmt: skip
    if debug:
        command.append("--debug")
    if surroundings.days:
        command += ["--clock-days", str(surroundings.days)]
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": str(place),
        "CHRYSALIS_HOME": str(place / "home"),
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TZ": surroundings.timezone,
        "LC_ALL": surroundings.locale,
    }
    return command, environment


def _build(
    profile: str, place: Path, item: Surroundings, announce: Callable[[str], None], *, debug: bool
) -> dict[str, Any]:
    _own_cache(place / "home")
    command, environment = build_command(profile, place, item, debug=debug)
    words = [f"{name}={value}" for name, value in environment.items()]
    announce(shlex.join(["env", "-i", *words, *command]))
    said: deque[str] = deque(maxlen=30)
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as shown,
        subprocess.Popen(  # noqa: S603 - our own command, printed above
            command,
            env=environment,
            cwd=SOURCE,
            stdin=subprocess.DEVNULL,
            stdout=shown,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stderr is not None  # noqa: S101 - PIPE was asked for
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("+ "):
                announce(line[2:].rstrip())
        process.wait()
        shown.seek(0)
        lines = shown.read().splitlines()
    if process.returncode or not lines:
        raise BuildError(f"the build with {item.shown} failed:\n" + "\n".join(said))
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _own_cache(target: Path) -> None:
    """A home whose cache holds the same locked inputs, as hard links where the file system has them; nothing made."""
    for name in ("debs", "wheels"):
        source = cache() / name
        if not source.is_dir():
            continue
        place = target / "image" / "cache" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, place, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _drop_large(output: Path, *, keep: bool) -> None:
    """Disk is short: of a build that others follow, large files go as soon as their digests are known."""
    if keep:
        return
    for path in output.iterdir():
        if path.stat().st_size >= _KEEP_BELOW and not path.name.endswith(".files"):
            path.unlink()
