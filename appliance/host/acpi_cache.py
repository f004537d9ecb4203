"""Captured ACPI tables, kept: starting a QEMU for them takes seconds, and the same one gives the same tables.

In: what decides them (QEMU's binary and version, the firmware, the shape). Out: a capture from before, or nothing. A
file that is damaged is not believed: it is captured again.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.config import home
from measurements import acpi_file
from measurements.acpi_file import MAX_FILE_BYTES, AcpiFileError

if TYPE_CHECKING:
    from pathlib import Path

    from measurements.acpi_file import Captured

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CaptureKey:
    """What decides a machine's tables.

    Attributes:
        qemu: Version.
        qemu_sha256: Digest of the binary: distributions patch.
        firmware_sha256: Digest of the firmware: it places the PCI windows.
        inputs: Digest of what of the shape moves tables (:func:`measurements.acpi_file.table_inputs`).
        command: What is started; it changes with this program.
    """

    qemu: str
    qemu_sha256: str
    firmware_sha256: str
    inputs: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """A file name."""
        values = ["acpi 1", self.qemu, self.qemu_sha256, self.firmware_sha256, self.inputs, self.command]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:40] + ".acpi"


class AcpiCache:
    """A directory of captures.

    Args:
        directory: Made when something is kept; the cache directory's ``acpi`` by default.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = home() / "acpi" if directory is None else directory

    def find(self, key: CaptureKey) -> Captured | None:
        """The capture from before."""
        path = self._directory / key.name
        try:
            with path.open("rb") as handle:
                found = acpi_file.parse(handle.read(MAX_FILE_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, AcpiFileError) as error:
            log.warning("kept acpi capture is damaged", path=str(path), reason=str(error)[:200])
            return None
        seen = CaptureKey(found.qemu, found.qemu_sha256, found.firmware_sha256, found.inputs, found.command)
        return found if seen == key else None

    def keep(self, key: CaptureKey, captured: Captured) -> None:
        """Keep a capture. A cache that cannot be written costs time, not correctness."""
        path = self._directory / key.name
        new = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            new.write_bytes(acpi_file.encode(captured.tables, captured.facts))
            new.replace(path)
        except OSError as error:
            log.warning("acpi capture is not kept", path=str(path), reason=str(error))
            with suppress(OSError):
                new.unlink(missing_ok=True)
