"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests assert behaviour, never time: a busy machine must not turn a slow example into a failure.
settings.register_profile("chrysalis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chrysalis")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and samples beside the checkout, or a skip that says so."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip("the shared vectors and samples are not beside this checkout")
    return SHARED
