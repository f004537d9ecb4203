from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from tdx_support import NOW, digest

from appliance.lab.tee import SyntheticTdx
from attestation.tdx_log import RuntimeEvent

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def machine() -> SyntheticTdx:
    """A healthy machine whose guest extended RTMR3 twice."""
    runtime = (RuntimeEvent(digest("model volume"), "model volume"), RuntimeEvent(digest("engine"), "engine"))
    return SyntheticTdx(runtime=runtime, clock=lambda: NOW)
