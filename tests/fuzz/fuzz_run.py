"""Runs fuzz targets for a time each and says what came of it: ``just fuzz [--seconds 600] [--target NAME] [--json]``.

Each target runs in a process of its own, with bounds on memory and on the time of a single input. New inputs that reach
new code are kept in the home directory; ``--keep`` takes the smallest into the repository's corpus. Exit
status 1 when there is a finding; the input is kept and its path printed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from fuzz_all import TARGETS  # noqa: E402 - as above
from rich.console import Console  # noqa: E402 - found only after the path was set
from rich.progress import Progress  # noqa: E402 - as above
from rich.table import Table  # noqa: E402 - as above

from appliance.config import home  # noqa: E402 - as above

CORPUS = HERE / "corpus"
MEMORY_MIB = 1024
"""Most that a process may take, the libraries and the instrumentation included (about 250 MiB)."""
INPUT_SECONDS = 10
"""An input that takes longer is a hang."""
KEPT_BYTES = 16 << 10
"""The most that a target's kept corpus may have; a single input of more is not kept either."""


@dataclass(frozen=True)
class Result:
    """What a run of one target came to.

    Attributes:
        target: Its name.
        executions: Inputs that were tried.
        branches: Edges of instrumented code that were reached.
        corpus: Inputs that are kept because each reaches something of its own.
        peak_mib: Most memory that the process had.
        finding: The input that broke it, if one did.
        said: The end of what was printed, if it broke.
    """

    target: str
    executions: int
    branches: int
    corpus: int
    peak_mib: int
    finding: str = ""
    said: str = ""


def fuzz(name: str, *, seconds: int = 0, runs: int = -1, kept: Path, seed: int = 0) -> Result:
    """Fuzz one target.

    Args:
        name: The target.
        seconds: How long; 0 leaves it to ``runs``.
        runs: How many inputs; -1 leaves it to ``seconds``.
        kept: Folder of the inputs that were found, which grows.
        seed: Of the search; 0 for another each time.
    """
    kept.mkdir(parents=True, exist_ok=True)
    findings = kept.parent / "findings" / name
    findings.mkdir(parents=True, exist_ok=True)
    committed = CORPUS / name
    with tempfile.TemporaryDirectory() as seeds:
        folders = [str(kept), *([str(committed)] if committed.is_dir() else []), seeds]
        command = [sys.executable, str(HERE / "fuzz_one.py"), name, f"-max_total_time={seconds}", f"-runs={runs}"]
        command += [f"-seed={seed}", f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={INPUT_SECONDS}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={findings}/", *folders]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    broke = done.returncode != 0
    named = re.search(r"Test unit written to (\S+)", said)
    return Result(
        target=name,
        executions=_number(r"number_of_executed_units: *(\d+)", said),
        branches=_number(r"cov: (\d+)", said),
        corpus=sum(1 for _ in kept.iterdir()),
        peak_mib=_number(r"peak_rss_mb: *(\d+)", said),
        finding=(named[1] if named else f"status {done.returncode}") if broke else "",
        said=(done.stdout[-3000:] + done.stderr[-1500:]) if broke else "",
    )


def keep(name: str, kept: Path) -> int:
    """Take what was found into the repository's corpus, the smallest inputs first, up to :data:`KEPT_BYTES`.

    Each reached something of its own when it was found; libFuzzer's own merge starts the program anew by a command line
    that a Python program does not have.

    Returns:
        How many inputs the corpus then has.
    """
    committed = CORPUS / name
    committed.mkdir(parents=True, exist_ok=True)
    found = {path.name: path for folder in (committed, kept) for path in folder.iterdir()}
    room = KEPT_BYTES
    for path in sorted(found.values(), key=lambda path: (path.stat().st_size, path.name)):
        room -= path.stat().st_size
        if path.parent != committed and room >= 0:
            shutil.copyfile(path, committed / path.name)
        elif path.parent == committed and room < 0:
            path.unlink()
    return sum(1 for _ in committed.iterdir())


def _number(pattern: str, text: str) -> int:
    """The last of them."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def main() -> int:
    """Run the targets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="for each target (600)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--keep", action="store_true", help="afterwards merge what was found into the corpus")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    names = arguments.target or sorted(TARGETS)
    kept = home() / "fuzz"
    results = []
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        task = progress.add_task("fuzz", total=len(names))
        for name in names:
            progress.update(task, description=name)
            results.append(fuzz(name, seconds=arguments.seconds, kept=kept / name))
            if arguments.keep:
                keep(name, kept / name)
            progress.advance(task)
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        table = Table("target", "executions", "branches", "corpus", "peak MiB", "finding")
        for item in results:
            table.add_row(item.target, f"{item.executions:,}", f"{item.branches:,}", str(item.corpus),
                          str(item.peak_mib), item.finding)  # fmt: skip
        Console().print(table)
        for item in results:
            if item.finding:
                sys.stdout.write(f"{item.target}: {item.finding}\n{item.said}\n")
    return 1 if any(item.finding for item in results) else 0


if __name__ == "__main__":
    sys.exit(main())
