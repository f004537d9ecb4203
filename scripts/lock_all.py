"""Make every lock anew, in the order in which one takes from another; review what `git diff` then shows.

`--only` repeats single steps. `--check` changes nothing and fails when a lock no longer is what its inputs resolve to
(steps that can tell: python, image). Each step is a script that runs by itself, too; its command is printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
# Step: its script, and whether that can check.
STEPS = {
    "python": ("lock.py", True),  # the tools' and developers' environments
    "engine": ("lock_engine.py", False),
    "engine-gpu": ("lock_engine_gpu.py", False),
    "guest": ("lock_guest.py", False),  # takes the tools' versions
    "image": ("lock_image.py", True),  # packages, and one wheel for each line of the image's requirement files
}


def main() -> int:
    """Run the steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(STEPS), action="append", help="only this step; may be repeated")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a lock is out of date")
    parser.add_argument("--upgrade", action="store_true", help="Python packages: the newest versions that fit")
    parser.add_argument("--archive", metavar="URL", help="Debian archive for the image's packages; apt's by default")
    parser.add_argument("--security-archive", metavar="URL", help="the same for security updates")
    parser.add_argument("--older", action="store_true", help="take an archive of an earlier day than the locks' too")
    arguments = parser.parse_args()
    for step, (script, checks) in STEPS.items():
        if (arguments.only and step not in arguments.only) or (arguments.check and not checks):
            continue
        words = [sys.executable, str(SCRIPTS / script)]
        words += ["--check"] if arguments.check else []
        words += ["--upgrade"] if arguments.upgrade and step != "image" else []
        if step == "image":
            words += ["--archive", arguments.archive] if arguments.archive else []
            words += ["--older"] if arguments.older else []
            words += ["--security-archive", arguments.security_archive] if arguments.security_archive else []
        print(f"+ {' '.join(words)}", flush=True)
        if status := subprocess.run(words, check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
