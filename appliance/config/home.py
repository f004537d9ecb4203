"""Where everything that is fetched or built is kept: one directory, moved by ``CHRYSALIS_HOME``."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The cache directory (created, mode 0700): ``$CHRYSALIS_HOME``, else ``$XDG_CACHE_HOME/chrysalis``."""
    named = os.environ.get("CHRYSALIS_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(named).expanduser() if named else Path(base) / "chrysalis"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path.resolve()
