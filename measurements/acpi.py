"""ACPI tables as a machine monitor hands them to firmware, and what firmware measures of them.

In: the three files of QEMU's configuration device (``etc/acpi/tables``, ``etc/acpi/rsdp``,
``etc/table-loader``), or the first alone. Out: :class:`AcpiTables`. No table is ever built here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """What firmware reads; each is measured as it stands, filling included.

    Attributes:
        tables: ``etc/acpi/tables``.
        rsdp: ``etc/acpi/rsdp``.
        loader: ``etc/table-loader``.
    """

    tables: bytes
    rsdp: bytes
    loader: bytes
