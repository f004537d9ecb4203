"""The README's five lines, exactly as they stand there, against a real worker process of the lab."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from attest_cli_lab import running_worker
from attest_cli_support import ROOT, chrysalis

if TYPE_CHECKING:
    from pathlib import Path

    from attest_cli_lab import LabChain

ADDRESS = "worker.example:9443"


def five_lines() -> str:
    """The code of the README that verifies a worker."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "verify_worker" in block]
    assert len([line for line in found.splitlines() if line.strip()]) == 5
    assert ADDRESS in found
    return found


@pytest.mark.slow
async def test_the_five_lines_verify_a_real_worker(attest_chain: LabChain, tmp_path: Path) -> None:
    """Accepted with its own image in the policy; with another image in it the same lines refuse the same worker."""
    async with running_worker(tmp_path, attest_chain) as worker:
        (tmp_path / "root.der").write_bytes(worker.root.read_bytes())
        code = five_lines().replace(ADDRESS, worker.address)

        async def run(image: str) -> subprocess.CompletedProcess[str]:
            (tmp_path / "policy.toml").write_text(
                f'name = "mine"\nplatforms = ["tdx"]\n[simulated]\ntdx = ["root.der"]\n'
                f'[measurements]\nimages = ["{image}"]\n[event_log]\nrequired = false\n'
                "[freshness]\nmax_age_s = 60\n"
            )
            return await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env={"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )

        good = await run(worker.image.hex())
        assert good.returncode == 0, good.stderr
        assert good.stdout.startswith("no assurance"), "roots of a run give none, and that is said first"
        assert "serves stub/model@main:" in good.stdout
        assert worker.image.hex() in good.stdout

        bad = await run("00" * 32)
        assert bad.returncode == 1
        assert "RefusedError: policy 'mine' refuses: image is " + worker.image.hex() in bad.stderr

        # The same worker by the command line: collected, shown, judged by the registry of its own chain.
        bundle = tmp_path / "evidence.cbor"
        await asyncio.to_thread(chrysalis, "attest", "collect", worker.address, "-o", bundle, ok=True)
        (tmp_path / "listed.toml").write_text(
            'name = "listed"\nplatforms = ["tdx"]\n[simulated]\ntdx = ["root.der"]\n[measurements]\nregistry = true\n'
        )
        options = ["attest", "verify", worker.address, "--policy", tmp_path / "listed.toml"]
        asked = await asyncio.to_thread(chrysalis, *options, "-n", worker.config, ok=True)
        assert "image in the registry" in asked.stdout
        unasked = await asyncio.to_thread(chrysalis, *options, ok=False)
        assert "the registry was not asked" in unasked.stdout
