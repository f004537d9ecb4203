"""Fixtures of the GPU evidence tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gpu_evidence_support import TOOLS, Samples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def samples(shared: Path) -> Samples:
    """Reports, chains, manifests and revocation status of genuine devices, or a skip that says why not."""
    if not (shared / "samples" / TOOLS).is_dir():
        pytest.skip("the samples of go-nvattest-tools are not beside this checkout")
    return Samples(shared / "samples")
