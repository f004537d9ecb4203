"""The files that a machine measures, as bytes: what every predictor takes besides the machine's shape.

Nothing is read here; a caller hands over what it has, and a predictor says which part it misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from measurements.errors import ArtefactError

if TYPE_CHECKING:
    from measurements.acpi import AcpiTables


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainKernel:
    """A kernel that is no unified image, handed over by the machine monitor.

    Attributes:
        kernel: The bzImage.
        initrd: Its initrd; None without one.
        command_line: As given to the monitor.
    """

    kernel: bytes
    initrd: bytes | None = None
    command_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """What is at hand; None is what is not.

    Attributes:
        firmware: The firmware as one file (``OVMF.fd``; for SEV-SNP ``OVMF.amdsev.fd``): code and variables.
        firmware_code: Its code as a file of its own (``OVMF_CODE.fd``), where the machine has two.
        firmware_variables: Its variables as a file of their own (``OVMF_VARS.fd``), as the machine starts with them.
        image: The unified kernel image.
        disk: The disk's first sectors, with the whole partition table.
        kernel: A plain kernel instead of an image.
        acpi: The tables that the machine monitor builds for the machine's shape.
        measured_config: Digest of the ``MeasuredConfig``, 32 bytes.
    """

    firmware: bytes | None = None
    firmware_code: bytes | None = None
    firmware_variables: bytes | None = None
    image: bytes | None = None
    disk: bytes | None = None
    kernel: PlainKernel | None = None
    acpi: AcpiTables | None = None
    measured_config: bytes | None = None

    def need(self, name: str, what: str) -> bytes:
        """One file.

        Args:
            name: Of the attribute.
            what: What it is needed for.

        Raises:
            ArtefactError: It is not at hand.
        """
        content: bytes | None = getattr(self, name)
        if content is None:
            raise ArtefactError(f"no {name.replace('_', ' ')} given, needed for {what}")
        return content
