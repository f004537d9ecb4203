"""Fixtures of the engine's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engine_index import Index

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index with an engine of three small packages; pip sees this folder and no network."""
    folder, locks = tmp_path / "wheels", tmp_path / "locks"
    folder.mkdir()
    locks.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    made = Index(folder, locks)
    made.wheel("sglang", "0.1")
    made.wheel("torch", "1.0+cpu", "__version__ = '1.0+cpu'\n")
    made.wheel("torch", "1.0", "import cudalibs\n__version__ = '1.0'\n")
    made.wheel("cudalibs", "3.0")
    return made
