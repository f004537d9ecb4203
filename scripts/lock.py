"""Make every lock file anew from its inputs. Needs the package index; review what changed before committing.

Prints each command it runs, so that one lock can be repeated by hand. `--check` leaves the tree alone and fails when a
lock no longer satisfies its input.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
COMPILE = ("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-header",
           "--python-version", "3.11")  # fmt: skip
# Lock file: its extras of pyproject.toml, further inputs, and the lock whose versions it shares.
LOCKS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "tools.txt": (("lab", "image"), (), None),
    "dev.txt": (("lab", "image", "sigstore"), ("dev.in",), "tools.txt"),
    "client.txt": (("client",), (), "tools.txt"),
    "verify.txt": ((), (), "tools.txt"),
}


def command(name: str, output: str, *, upgrade: bool) -> list[str]:
    """The uv command that makes one lock, to run in the requirements folder."""
    extras, inputs, constraint = LOCKS[name]
    words = [*COMPILE, "../pyproject.toml", *inputs, "-o", output]
    for extra in extras:
        words += ["--extra", extra]
    if constraint:
        words += ["-c", constraint]
    return [*words, "--upgrade"] if upgrade else words


def main() -> None:
    """Make or check the locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the inputs allow")
    arguments = parser.parse_args()
    stale = []
    for name in LOCKS:
        lock = REQUIREMENTS / name
        with tempfile.TemporaryDirectory() as scratch:
            output = lock
            if arguments.check:
                output = Path(scratch) / name
                output.write_bytes(lock.read_bytes())
            words = command(name, str(output), upgrade=arguments.upgrade)
            print("+ " + " ".join(words))
            subprocess.run(words, cwd=REQUIREMENTS, check=True)
            if arguments.check and output.read_bytes() != lock.read_bytes():
                stale.append(name)
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}; run ./just lock")


main()
