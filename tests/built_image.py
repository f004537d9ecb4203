"""The image, built once for all tests that boot it: fixtures that every room's tests share.

``CHRYSALIS_IMAGE`` names an image that is there already. Where QEMU or the means to build are missing the tests fail,
because a suite that silently leaves out the image proves nothing about it; ``CHRYSALIS_WITHOUT_VM=1`` asks for that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = "CHRYSALIS_WITHOUT_VM"
IMAGE = "CHRYSALIS_IMAGE"
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "swtpm": "swtpm", "swtpm_setup": "swtpm-tools"}
BUILD_S = 1800.0


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
