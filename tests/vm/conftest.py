"""The image, built once, and the demonstration with its worker inside it, booted once: what the tests here look at.

``CHRYSALIS_IMAGE`` names an image that is there already. Where QEMU or the means to build are missing the tests fail,
because a suite that silently leaves out the image proves nothing about it; ``CHRYSALIS_WITHOUT_VM=1`` asks for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
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

WITHOUT = "CHRYSALIS_WITHOUT_VM"
IMAGE = "CHRYSALIS_IMAGE"
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "swtpm": "swtpm", "swtpm_setup": "swtpm-tools"}
BUILD_S = 1800.0
SHOWN_S = 1800.0
ENDED_S = 180.0
POLL_S = 0.2


@pytest.fixture(scope="session")
def virtual_machines() -> None:
    """QEMU and a TPM emulator are here; without them the tests fail, or are skipped where that was asked for."""
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set: nothing is booted")
    missing = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if missing:
        pytest.fail(f"apt-get install {' '.join(missing)}, or set {WITHOUT}=1 to leave the image out")


@pytest.fixture(scope="session")
def built_image(virtual_machines: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release image of profile engine-cpu: built now, or where ``CHRYSALIS_IMAGE`` says."""
    if given := os.environ.get(IMAGE):
        return Path(given)
    output = tmp_path_factory.mktemp("image")
    command = [sys.executable, "-m", "appliance.cli", "image", "build", "--profile", "engine-cpu", "--output", output]
    log = output.with_suffix(".log")
    with log.open("wb") as handle:
        built = subprocess.run(command, stdout=handle, stderr=handle, timeout=BUILD_S, check=False)
    assert built.returncode == 0, "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    return output


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
