"""What every platform is: a name, and quotes over 64 bytes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from attestation.errors import CollectionError

REPORT_DATA_SIZE = 64
_ATTEMPTS = 3


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


@runtime_checkable
class LoggingPlatform(Protocol):
    """A platform whose fresh evidence holds more than fits into a certificate."""

    async def collect_with_logs(self, report_data: bytes) -> bytes:
        """Make a quote as :meth:`Platform.collect` does, with the logs that explain it."""


@runtime_checkable
class EventLogPlatform(Protocol):
    """A platform whose registers come with a log beside the quote (TDX)."""

    async def event_log(self) -> bytes | None:
        """The log as bundles carry it (:mod:`attestation.tdx_log`), ``None`` where the machine keeps none.

        Raises:
            CollectionError: There is one and it cannot be read.
        """


async def collect_fresh(platform: Platform, report_data: bytes) -> tuple[bytes, bytes | None]:
    """What a platform shows in fresh evidence, and the log beside it; arguments and errors as :meth:`Platform.collect`.

    A register may be extended while the quote is made: the log is the same before and after it, or both are made anew.
    """
    collect = platform.collect_with_logs if isinstance(platform, LoggingPlatform) else platform.collect
    if not isinstance(platform, EventLogPlatform):
        return await collect(report_data), None
    before = await platform.event_log()
    for _ in range(_ATTEMPTS):
        quote = await collect(report_data)
        after = await platform.event_log()
        if after == before:
            return quote, after
        before = after
    raise CollectionError(
        f"the event log changed during each of {_ATTEMPTS} quotes",
        hint="something keeps extending registers; evidence is made when it has come to rest",
    )


def check_report_data(report_data: bytes) -> None:
    """Refuse report data that is not 64 bytes.

    Raises:
        CollectionError: Another length.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise CollectionError(f"report data of {len(report_data)} bytes, expected {REPORT_DATA_SIZE}")
