"""The demonstration with its worker inside the built image, booted once: what the tests here look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vm_support import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN_S = 1800.0
ENDED_S = 180.0
POLL_S = 0.2


@pytest.fixture(scope="session")
def network(built_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """The demonstration with the worker in the image, everything shown, still running. It must end well, too."""
    home = tmp_path_factory.mktemp("vm")
    out, err = home / "stdout", home / "stderr"
    command = [sys.executable, "-m", "appliance.cli", "demo", "--vm", "--image", built_image, "--stay", "--json"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env={**os.environ, "TMPDIR": str(home)}
        )
    try:
        deadline = time.monotonic() + SHOWN_S
        while not out.read_bytes().endswith(b"\n"):
            assert process.poll() is None, err.read_text(errors="replace")
            assert time.monotonic() < deadline, err.read_text(errors="replace")
            time.sleep(POLL_S)
        shown = json.loads(out.read_text().splitlines()[-1])
        assert shown.get("vm"), shown.get("error")
        yield Network(shown, Path(shown["vm"]["directory"]), built_image)
        process.send_signal(signal.SIGTERM)
        process.wait(ENDED_S)
        ended = json.loads(out.read_text().splitlines()[-1])
        assert process.returncode == 0, ended["error"]
        assert ended["ok"]
        assert ended["processes_left"] == []
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDED_S)
            process.kill()
