"""Fixtures that every room's tests share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
import structlog
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["built_image", "command_chain"]

# Tests assert behaviour, never time: a busy machine must not turn a slow example into a failure.
settings.register_profile("chrysalis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chrysalis")

SHARED = Path(__file__).resolve().parents[2] / "shared"
_SAMPLE = "sample row"
_COLUMNS = ("sample", "source", "expected", "seen")


class SampleTable(Protocol):
    """Adds one row to the table of real-hardware samples that the suite prints at its end."""

    def __call__(self, sample: str, source: str, expected: str, seen: str) -> None:
        """Say which sample of which project was judged, what the specification expects and what was seen."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was counted and how the samples were judged: tests record both while they run."""
    counted, rows = [], []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            rows += [value for what, value in report.user_properties if what == _SAMPLE]
            numbers = ", ".join(f"{value} {what}" for what, value in report.user_properties if what != _SAMPLE)
            if numbers and outcome == "passed":
                counted.append(f"{report.nodeid.rpartition('::')[2]}: {numbers}")
    if counted:
        terminalreporter.section("counted")
        for line in counted:
            terminalreporter.write_line(line)
    if rows:
        terminalreporter.section(f"samples of real hardware ({len(rows)})")
        for line in _table([_COLUMNS, *sorted(map(tuple, rows), key=lambda row: (row[1], row[0]))]):
            terminalreporter.write_line(line)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@pytest.fixture(autouse=True)
def _logs_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that runs in this process sets up the process's logs; what it wrote to is closed after its test."""
    configure = structlog.configure
    monkeypatch.setattr(structlog, "configure", lambda **how: configure(**how | {"cache_logger_on_first_use": False}))
    before = tuple(logging.root.handlers)
    yield
    structlog.reset_defaults()
    for handler in tuple(logging.root.handlers):
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture
def sample_table(record_property: Callable[[str, object], None]) -> SampleTable:
    """Adds rows to the table of samples: call it before the assertion, so that a wrong verdict is shown too."""

    def add(sample: str, source: str, expected: str, seen: str) -> None:
        record_property(_SAMPLE, [sample, source, expected, seen])

    return add


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden vectors and samples beside the checkout, or a skip that says so."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip("the shared vectors and samples are not beside this checkout")
    return SHARED
