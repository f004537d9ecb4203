"""How long an image takes to build, step by step, and how many bytes each part of it has.

``python benchmarks/image.py [--json] [--profile base] [--image DIR]``. Builds the profile from the cache (as root,
without a network), or takes one that is built: then there are no seconds. Bytes by part come from the image's own file
list, as they are before compression; the ratio is what EROFS makes of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from appliance.image import artefacts  # noqa: E402 - found only after the path was set

PARTS = (
    ("the engine's environment", "/usr/lib/chrysalis-engine/"),
    ("the guest's environment", "/usr/lib/chrysalis/"),
    ("the distribution's Python packages", "/usr/lib/python3/"),
    ("Python", "/usr/lib/python3.13/"),
    ("kernel modules", "/usr/lib/modules/"),
    ("firmware", "/usr/lib/firmware/"),
    ("systemd", "/usr/lib/systemd/"),
    ("libraries", "/usr/lib/x86_64-linux-gnu/"),
    ("programs", "/usr/bin/"),
    ("programs", "/usr/sbin/"),
)
REST = "everything else"


def bytes_by_part(listed: str) -> dict[str, int]:
    """Sizes of an image's files by part, largest first.

    Args:
        listed: The image's file list (``chrysalis.root.files``).
    """
    found: Counter[str] = Counter()
    for line in listed.splitlines():
        path, _, rest = line.partition("\t")
        words = rest.split(" ")
        if words[0] == "file":
            part = next((name for name, prefix in PARTS if path.startswith(prefix)), REST)
            found[part] += int(words[3])
    return dict(found.most_common())


def build(profile: str, output: Path) -> dict[str, float]:
    """Seconds of each step of a build."""
    command = [sys.executable, "-m", "appliance.cli", "image", "build", "--profile", profile, "--output", str(output)]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, cwd=ROOT, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return seconds


def measure(profile: str, image: Path | None) -> list[dict[str, Any]]:
    """The rows."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="chrysalis-benchmark-") as scratch:
        directory = image or Path(scratch) / "image"
        if image is None:
            seconds = build(profile, directory)
            rows += [{"what": f"build: {step}", "value": value, "unit": "s"} for step, value in seconds.items()]
            rows.append({"what": "build: all", "value": round(sum(seconds.values()), 1), "unit": "s"})
        for name, limit in (
            (artefacts.UKI, 45),
            (artefacts.KERNEL, None),
            (artefacts.INITRD, None),
            (artefacts.ROOT, 130),
            (artefacts.VERITY, None),
        ):
            row = {"what": name, "value": round((directory / name).stat().st_size / 1e6, 1), "unit": "MB"}
            if limit and (name == artefacts.UKI or profile == "base"):
                row["goal"] = f"≤ {limit}"
            rows.append(row)
        parts = bytes_by_part((directory / artefacts.ROOT_FILES).read_text(encoding="utf-8"))
        rows += [{"what": f"root: {part}", "value": round(size / 1e6, 1), "unit": "MB"} for part, size in parts.items()]
        whole = sum(parts.values())
        ratio = round((directory / artefacts.ROOT).stat().st_size / whole, 2)
        rows.append({"what": "root: compressed to", "value": ratio, "unit": "of its files"})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--profile", default="base", help="what to build")
    parser.add_argument("--image", type=Path, help="take this built image")
    arguments = parser.parse_args()
    rows = measure(arguments.profile, arguments.image)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print(f"{row['what']:40} {row['value']:>10} {row['unit']:12} {row.get('goal', '')}")


if __name__ == "__main__":
    main()
