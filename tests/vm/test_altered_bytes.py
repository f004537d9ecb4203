"""One byte altered of each part that a guest boots: the worker is refused, and the refusal names the part.

The control is the network of the other tests, which differs in that byte only. Five boots take a quarter of an hour
where the processor is emulated, so they are asked for: ``CHRYSALIS_TAMPER=1``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from vm_support import Network

ASKED = "CHRYSALIS_TAMPER"
RUN_S = 1500.0

pytestmark = [
    pytest.mark.vm,
    pytest.mark.demo,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(ASKED), reason=f"five boots: {ASKED}=1 asks for them"),
]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("root", ("root file system", "is corrupted")),
        ("uki", ("PCR 4", "PCR 11")),
        ("command-line", ("kernel command line", "missing: quiet")),
        ("configuration", ("PCR 14", "measured configuration")),
        ("model", ("the model volume was altered", "model.safetensors")),
    ],
)
def test_one_byte_is_refused_by_name(network: Network, tmp_path: Path, part: str, named: tuple[str, ...]) -> None:
    assert network.result["ok"]
    demo = [sys.executable, "-m", "appliance.cli", "demo", "--vm", "--json"]
    command = [*demo, "--image", network.image, "--tamper", part]
    run = subprocess.run(
        command, capture_output=True, timeout=RUN_S, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == 1
    assert not found["ok"]
    for words in ("the worker is refused", *named):
        assert words in found["error"]
    assert found["prompts"] == []
    assert found["processes_left"] == []
