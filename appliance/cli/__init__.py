"""The command line: one thin file a command group; logic lives in the packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.cli.main import build, run

__all__ = [
    "build",
    "run",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "build": "main",
            "run": "main",
        },
    )
