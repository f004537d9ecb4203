"""What every test of models starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from model_checkpoint import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that may be packed."""
    return write_checkpoint(tmp_path / "checkpoint")
