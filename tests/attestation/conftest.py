from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from attest_support import NOW, Lab, settle

from appliance.lab.tee import SyntheticTdx, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def world() -> SyntheticTdx:
    return SyntheticTdx(clock=lambda: NOW)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    tdx = SyntheticTdx()
    server = await start(tmp_path / "quote.sock", tdx)
    yield Lab(tdx, tmp_path / "quote.sock")
    await settle()
    server.close()
    await server.wait_closed()
