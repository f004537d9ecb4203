"""The command line against a local chain that the command line started: for every room whose commands need one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0
"""Longer than the slowest machine takes: it only ends a chain that hangs."""


def chrysalis(*words: str | Path, status: int = 0) -> dict[str, Any]:
    """Run a command with --json; its last line."""
    command = [sys.executable, "-m", "appliance.cli", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def lab_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running chain; its directory."""
    directory = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "appliance.cli", "lab", "chain", "-d", str(directory), "--block-time", "0.5"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        try:
            while not (directory / "network.json").exists():
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, "the chain did not start"
                time.sleep(0.1)
            yield directory
        finally:
            process.terminate()
            try:
                assert process.wait(60) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
