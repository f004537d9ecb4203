"""A simulated TDX machine: quotes of the real layout from the lab's quoting service over a Unix socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from attestation import quoting
from attestation.errors import CollectionError
from attestation.platforms.base import check_report_data
from attestation.tdx_log import MAX_LOG

if TYPE_CHECKING:
    from pathlib import Path


def log_path(socket_path: Path) -> Path:
    """Where the quoting service at a socket leaves its machine's event log."""
    return socket_path.with_name(socket_path.name + ".log.cbor")


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

    async def event_log(self) -> bytes | None:
        """The machine's event log; see :class:`attestation.platforms.base.EventLogPlatform`."""
        return await asyncio.to_thread(_read, log_path(self._path))


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LOG + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CollectionError(f"event log {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_LOG:
        raise CollectionError(f"event log {path} has more than {MAX_LOG} bytes")
    return data
