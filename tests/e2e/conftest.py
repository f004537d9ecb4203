"""One lab chain for all networks of these tests, and one healthy network for tests that leave it healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from e2e_network import LabChain, Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabChain]:
    """A running lab chain; every network on it has contracts of its own."""
    running = LabChain(tmp_path_factory.mktemp("chain"))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(chain: LabChain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """A healthy network for one module; its tests run in order and leave it healthy."""
    async with Network(tmp_path_factory.mktemp("network"), chain) as running:
        await running.start_all()
        yield running
