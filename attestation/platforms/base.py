"""What every platform is: a name, and quotes over 64 bytes."""

from __future__ import annotations

from typing import Protocol

from attestation.errors import CollectionError

REPORT_DATA_SIZE = 64


class Platform(Protocol):
    """A confidential machine that can prove what it is."""

    @property
    def name(self) -> str:
        """The platform's name, as bundles carry it."""

    async def collect(self, report_data: bytes) -> bytes:
        """Make a quote.

        Args:
            report_data: 64 bytes that the quote will carry.

        Raises:
            CollectionError: This machine gives none.
        """


def check_report_data(report_data: bytes) -> None:
    """Refuse report data that is not 64 bytes.

    Raises:
        CollectionError: Another length.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise CollectionError(f"report data of {len(report_data)} bytes, expected {REPORT_DATA_SIZE}")
