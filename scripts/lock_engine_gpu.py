"""Make the GPU engine's locked requirement files again: ``python scripts/lock_engine_gpu.py [--upgrade]``.

Comes in: ``requirements/engine-gpu.in`` with its ``.excludes``, and ``requirements/engine-gpu-cuda.in``. Goes out: the
``.txt`` beside each, with SHA-256 hashes, naming no host. Both are for one Python and one platform, the image's: every
package is a wheel. Versions that are already locked are kept unless ``--upgrade`` is given. Each command is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
PYTHON = "3.13"  # Debian trixie's
PLATFORM = "x86_64-manylinux_2_40"  # the newest below trixie's glibc 2.41
COMPILE = ("pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url", "--no-header", "--only-binary",
           ":all:", "--python-version", PYTHON, "--python-platform", PLATFORM)  # fmt: skip


def command(name: str, *, upgrade: bool) -> list[str]:
    """The uv command that makes one lock, to run in the requirements folder."""
    words = [sys.executable, "-m", "uv", *COMPILE, f"{name}.in", "--output-file", f"{name}.txt"]
    if (REQUIREMENTS / f"{name}.excludes").exists():
        words += ["--excludes", f"{name}.excludes"]
    return [*words, "--upgrade"] if upgrade else words


def main() -> None:
    """Make both locks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = parser.parse_args().upgrade
    # Wheels that only this machine offers do not belong into a lock.
    environment = {key: value for key, value in os.environ.items() if key not in {"UV_FIND_LINKS", "PIP_FIND_LINKS"}}
    for name in ("engine-gpu", "engine-gpu-cuda"):
        words = command(name, upgrade=upgrade)
        print("+ " + " ".join(words))
        subprocess.run(words, cwd=REQUIREMENTS, env=environment, check=True)


if __name__ == "__main__":
    main()
