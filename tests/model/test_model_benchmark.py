"""The benchmark of volumes says what it could not measure, and is one of those that ``just bench`` runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


def test_without_an_image_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--quick", "--json", "--only", "model_volume"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CHRYSALIS_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["benchmarks"]["model_volume"]["rows"]
    assert rows
    for row in rows:  # a machine with device-mapper needs no image
        assert row["name"].startswith("readers: not measured") or row["ratio"] > 0
    assert list(tmp_path.iterdir()) == []
