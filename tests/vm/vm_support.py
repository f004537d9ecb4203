"""The running demonstration, as the tests of this folder look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Network:
    """The running demonstration.

    Attributes:
        result: What it had shown when it stayed.
        directory: Its own, with logs.
        image: The image that was booted.
    """

    result: dict[str, Any]
    directory: Path
    image: Path

    @property
    def vm(self) -> dict[str, Any]:
        """What the result says of the machine."""
        found: dict[str, Any] = self.result["vm"]
        return found

    @property
    def status_url(self) -> str:
        """The guest's attested status port, as this machine reaches it."""
        return str(self.vm["status_url"])

    def console(self) -> str:
        """Everything that was written on the guest's console."""
        return Path(self.vm["console"]).read_text(errors="replace")
