"""Remove what building and testing left in the checkout; with --caches also what was fetched and built outside it."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFTOVERS = ("build", "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache")


def main() -> None:
    """Remove and say what was removed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caches", action="store_true", help="also remove CHRYSALIS_HOME (environments, models, Node)")
    arguments = parser.parse_args()
    found = [ROOT / name for name in LEFTOVERS] + list(ROOT.glob("*.egg-info"))
    found += [path for path in ROOT.rglob("__pycache__") if ".git" not in path.parts]
    if arguments.caches:
        sys.path.insert(0, str(ROOT))
        from appliance.config.home import home  # noqa: PLC0415 - found only after the path was set

        found.append(home())
    for path in found:
        if path.exists():
            shutil.rmtree(path)
            print(f"removed {path}")


main()
