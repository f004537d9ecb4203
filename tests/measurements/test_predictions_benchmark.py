"""The benchmark of predictions runs, and says every row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


@pytest.mark.vm
def test_it_runs(built_image: Path) -> None:
    environment = {**os.environ, "CHRYSALIS_IMAGE": str(built_image)}
    command = [sys.executable, str(RUN), "--quick", "--json", "--only", "predictions"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["benchmarks"]["predictions"]["rows"]}
    assert {name.split()[0] for name in rows} == {"predict", "acpi", "snp,"}
    assert {name.split()[1].split("-")[0] for name in rows if name.startswith("predict")} == {"tpm", "tdx"}
    assert "snp, plain sev-snp-measure" in rows, "what the others are held against"
    assert all({"median_ms", "best_ms"} <= row.keys() for row in rows.values())
