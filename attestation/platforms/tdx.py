"""A real TDX guest: quotes through the kernel's configfs interface (Documentation/ABI/testing/configfs-tsm).

It is asked first: it needs no port of the host and no knowledge of the host's service, works under every machine
monitor, and its generation count says that a quote answers this request. Where a kernel lacks it (before 6.7),
:class:`attestation.platforms.tdx_qgs.QgsTdx` is asked instead.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attestation.errors import CollectionError
from attestation.platforms.base import check_report_data
from attestation.platforms.tdx_qgs import DEVICE, QgsTdx
from attestation.tdx import MAX_QUOTE, without_padding
from attestation.tdx_log_files import LogFiles, gather_encoded

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
REPORTS = Path("/sys/kernel/config/tsm/report")
_POLL_S = 0.05
_BUSY = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR})


def open_tdx(reports: Path = REPORTS, device: Path = DEVICE) -> ConfigfsTdx | QgsTdx:
    """The interface that this guest has: configfs, or the older device with the host's service where only that is."""
    if not reports.is_dir() and device.exists():
        return QgsTdx(device)
    return ConfigfsTdx(reports)


class ConfigfsTdx:
    """Asks the TDX module and the host's quoting enclave by way of the kernel.

    Args:
        reports: The configfs directory.
        timeout: Seconds for one quote; the kernel answers ``EBUSY`` while another is being made.
        files: Where the event log is.
    """

    name = "tdx"

    def __init__(self, reports: Path = REPORTS, *, timeout: float = 30.0, files: LogFiles | None = None) -> None:
        self._reports = reports
        self._timeout = timeout
        self._files = files
        self._one_at_a_time = asyncio.Lock()

    async def collect(self, report_data: bytes) -> bytes:
        """Make a quote; the kernel makes one at a time, and so does this.

        Raises:
            CollectionError: No such interface, another provider, or no quote within the time limit.
        """
        check_report_data(report_data)
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._collect, report_data)

    async def event_log(self) -> bytes | None:
        """The machine's event log; see :class:`attestation.platforms.base.EventLogPlatform`."""
        return await gather_encoded(self._files)

    def _collect(self, report_data: bytes) -> bytes:
        entry = self._reports / f"chrysalis-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            entry.mkdir()
        except OSError as error:
            raise CollectionError(
                f"{self._reports} takes no request: {error.strerror}",
                hint="a TDX guest with kernel 6.7 or newer and configfs mounted has it",
            ) from None
        try:
            provider = (entry / "provider").read_text().strip()
            if provider != "tdx_guest":
                raise CollectionError(f"quotes come from provider {provider!r}, expected 'tdx_guest'")
            return self._exchange(entry, report_data)
        except OSError as error:
            raise CollectionError(
                f"no quote: {error.strerror}", hint="the host's quote generation service may be down"
            ) from None
        finally:
            entry.rmdir()

    def _exchange(self, entry: Path, report_data: bytes) -> bytes:
        """Write the request once and read until it is answered.

        ``generation`` counts the writes that the kernel took: it is one higher after ours, unless another wrote too.
        """
        deadline = time.monotonic() + self._timeout
        expected = self._until_answered(deadline, lambda: _generation(entry)) + 1
        self._until_answered(deadline, lambda: (entry / "inblob").write_bytes(report_data))
        quote = self._until_answered(deadline, (entry / "outblob").read_bytes)
        generation = self._until_answered(deadline, lambda: _generation(entry))
        if generation != expected or not 0 < len(quote) <= MAX_QUOTE:
            raise CollectionError(
                f"configfs gave {len(quote)} bytes in generation {generation}, expected 1 to {MAX_QUOTE} in {expected}",
                hint="somebody else wrote to this request" if generation != expected else "",
            )
        return without_padding(quote)

    def _until_answered(self, deadline: float, ask: Callable[[], T]) -> T:
        """Ask until the kernel is not busy; a write that it refuses as busy did not take place."""
        while True:
            try:
                return ask()
            except OSError as error:
                if error.errno not in _BUSY:
                    raise
            if time.monotonic() > deadline:
                raise CollectionError(
                    f"no quote within {self._timeout:.0f} s", hint="the platform may not be registered"
                )
            time.sleep(_POLL_S)


def _generation(entry: Path) -> int:
    text = (entry / "generation").read_text().strip()
    if not text.isdecimal() or not text.isascii():
        raise CollectionError(f"configfs gives generation {text!r:.40}, expected a number")
    return int(text)
