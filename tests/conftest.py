"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests assert behaviour, never time: a busy machine must not turn a slow example into a failure.
settings.register_profile("chrysalis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chrysalis")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was counted: tests that go through a whole set record how many it held."""
    counted = []
    for report in terminalreporter.stats.get("passed", ()):
        if report.user_properties:
            numbers = ", ".join(f"{number} {what}" for what, number in report.user_properties)
            counted.append(f"{report.nodeid.rpartition('::')[2]}: {numbers}")
    if counted:
        terminalreporter.section("counted")
        for line in counted:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and samples beside the checkout, or a skip that says so."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip("the shared vectors and samples are not beside this checkout")
    return SHARED
