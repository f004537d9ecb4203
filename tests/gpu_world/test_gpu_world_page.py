"""The page about synthetic GPUs: its example runs, and every test and fault that it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from appliance.lab.collateral_faults import Fault

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "synthetic-gpus.md").read_text()


def test_its_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_it_names_is_there() -> None:
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert all(f"def {name}(" in here for name in named)
    assert {fault.name for fault in Fault} == set(re.findall(r"`([A-Z_]+)`", PAGE))
