"""A release of the stand-in repository, made once; and a home with the one input that its lock names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from audit_support import Release, fill_cache, make_release

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def audit_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a populated cache. The stand-in needs no root, and neither do its audits."""
    home = tmp_path / "home"
    monkeypatch.setenv("CHRYSALIS_HOME", str(home))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    fill_cache(home)
    return home
