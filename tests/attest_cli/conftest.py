from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attest_cli_lab import LabChain
from attest_cli_support import Site, make_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A worker with one GPU and its evidence."""
    directory: Path = tmp_path_factory.mktemp("site")
    return make_site(directory)


@pytest.fixture(scope="session")
def attest_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabChain]:
    """A running lab chain."""
    running = LabChain(tmp_path_factory.mktemp("attest-chain"))
    try:
        yield running
    finally:
        running.stop()
