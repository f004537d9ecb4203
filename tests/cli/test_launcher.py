"""The committed launcher: errors in words before anything is installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["chrysalis", "just"])
def test_a_cache_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    env = {**os.environ, "CHRYSALIS_HOME": str(blocked / "home")}
    done = subprocess.run([ROOT / name, "--help"], capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode == 1
    assert str(blocked) in done.stderr
    assert "CHRYSALIS_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_both_names_are_one_program() -> None:
    assert (ROOT / "just").is_symlink()
    assert (ROOT / "just").resolve() == ROOT / "chrysalis"
    assert os.access(ROOT / "chrysalis", os.X_OK)
