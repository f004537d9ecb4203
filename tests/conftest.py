"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and samples beside the checkout, or a skip that says so."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip("the shared vectors and samples are not beside this checkout")
    return SHARED
