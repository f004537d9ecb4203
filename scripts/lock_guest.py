"""Make the guest's locked requirement file, requirements/guest.txt: ``python scripts/lock_guest.py [--upgrade]``.

Comes in: the dependencies of ``packaging/guest/pyproject.toml``, less ``requirements/guest.excludes``, and
``requirements/tools.txt``, whose versions are taken, so that a gateway and a guest run the same code. Goes out: every
package for the image's Python, Linux x86-64, wheels only, with the hash of each wheel that fits and naming no host.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from lock_engine import IMAGE_PYTHON, REQUIREMENTS, resolve, versions, write

GUEST = REQUIREMENTS.parent / "packaging" / "guest" / "pyproject.toml"


def main() -> None:
    """Resolve and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="accepted; the versions are those of tools.txt")
    parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write(versions(REQUIREMENTS / "tools.txt"))
        kept.flush()
        write(
            REQUIREMENTS / "guest.txt", resolve(GUEST, [REQUIREMENTS / "guest.excludes"], Path(kept.name), IMAGE_PYTHON)
        )


if __name__ == "__main__":
    main()
