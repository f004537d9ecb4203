"""Where everything that is fetched or built is kept: one directory, moved by ``CHRYSALIS_HOME``."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.errors import ConfigError


def home() -> Path:
    """The cache directory (created, mode 0700): ``$CHRYSALIS_HOME``, else ``$XDG_CACHE_HOME/chrysalis``.

    Raises:
        ConfigError: It cannot be made.
    """
    named = os.environ.get("CHRYSALIS_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(named).expanduser() if named else Path(base) / "chrysalis"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="CHRYSALIS_HOME names a directory you can write") from None
    return path.resolve()
