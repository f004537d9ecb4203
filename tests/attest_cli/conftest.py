from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attest_cli_support import Site, make_site

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A worker with one GPU and its evidence."""
    directory: Path = tmp_path_factory.mktemp("site")
    return make_site(directory)
