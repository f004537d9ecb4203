from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog
from client_world import Machine, World, open_world

from appliance.lab.tee import SyntheticTdx
from attestation.ratls import Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[dict[str, object]]]:
    """What was logged, as dictionaries."""
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc]  # structlog types them as mutable mappings


@pytest.fixture(scope="session")
def tdx() -> SyntheticTdx:
    return SyntheticTdx()


@pytest.fixture
async def machine(tdx: SyntheticTdx) -> Machine:
    return Machine(tdx, await Identity.create(None))


@pytest.fixture
async def world(tmp_path: Path, machine: Machine) -> AsyncIterator[World]:
    async with open_world(tmp_path, machine) as made:
        yield made
