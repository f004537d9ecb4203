"""A simulated TDX machine: quotes of the real layout from the lab's quoting service over a Unix socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attestation import quoting
from attestation.errors import CollectionError
from attestation.platforms.base import check_report_data

if TYPE_CHECKING:
    from pathlib import Path


class SimulatedTdx:
    """Asks a quoting service; this process holds none of its keys.

    Args:
        socket_path: Where the service listens.
        timeout: Seconds for one quote.
    """

    name = "simulated"

    def __init__(self, socket_path: Path, *, timeout: float = 10.0) -> None:
        self._path = socket_path
        self._timeout = timeout

    async def collect(self, report_data: bytes) -> bytes:
        """Ask for a quote.

        Raises:
            CollectionError: The service is out of reach, slow, or refuses.
        """
        check_report_data(report_data)
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(quoting.encode_request(report_data))
                    return await quoting.read_answer(reader)
                finally:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise CollectionError(
                f"quoting service at {self._path} gives no quote: {type(error).__name__}",
                hint="is the lab's quoting service running?",
            ) from None
