"""The protocol's fake TDX: a quote that is the report data and proves nothing (specification, section 5.7)."""

from __future__ import annotations

from attestation.platforms.base import check_report_data


class FakeTdx:
    """Development only."""

    name = "fake_tdx"

    async def collect(self, report_data: bytes) -> bytes:
        """Return the report data."""
        check_report_data(report_data)
        return report_data
