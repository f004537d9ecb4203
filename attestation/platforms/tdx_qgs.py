"""A TDX guest without the kernel's configfs interface: a report from the device, a quote from the host's own service.

The report comes from ``/dev/tdx_guest`` (Linux 6.2 and newer, ``include/uapi/linux/tdx-guest.h``), the quote from
Intel's quote generation service, which listens for guests on a vsock port of the host (:mod:`attestation.qgs`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from pathlib import Path

from attestation import qgs
from attestation.errors import CollectionError, EvidenceError
from attestation.platforms.base import REPORT_DATA_SIZE, check_report_data
from attestation.tdx import parse_quote, without_padding
from attestation.tdx_log_files import LogFiles, gather_encoded

DEVICE = Path("/dev/tdx_guest")
HOST = 2
"""VMADDR_CID_HOST (``include/uapi/linux/vm_sockets.h``)."""

GET_REPORT0 = 0xC4405401
"""TDX_CMD_GET_REPORT0: ``_IOWR('T', 1, struct tdx_report_req)``, 64 bytes of report data and 1024 of report."""

_REPORT_DATA_AT = 128
"""In REPORTMACSTRUCT: type, reserved, CPUSVN and two hashes come first (Intel TDX module specification)."""


class QgsTdx:
    """Asks the TDX module by the older device, and the host's service for the signature.

    Args:
        device: The device file.
        service: A vsock port of the host, or the path of a Unix socket, which the service offers too.
        timeout: Seconds for one quote.
        files: Where the event log is.
    """

    name = "tdx"

    def __init__(
        self,
        device: Path = DEVICE,
        service: int | Path = qgs.PORT,
        *,
        timeout: float = 30.0,
        files: LogFiles | None = None,
    ) -> None:
        self._device = device
        self._service = service
        self._timeout = timeout
        self._files = files
        self._one_at_a_time = asyncio.Lock()

    async def collect(self, report_data: bytes) -> bytes:
        """Make a quote.

        Raises:
            CollectionError: No device, no service, a refusal, or no answer within the time limit.
        """
        check_report_data(report_data)
        async with self._one_at_a_time:
            report = await asyncio.to_thread(td_report, report_data, self._device)
            try:
                async with asyncio.timeout(self._timeout):
                    quote = without_padding(await self._ask(report))
                seen = parse_quote(quote).report.report_data
            except EvidenceError as error:
                raise CollectionError(f"quote generation service sent no quote: {error.message}") from None
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                raise CollectionError(
                    f"quote generation service at {self._service} gives no quote: {type(error).__name__}",
                    hint="is it running on the host, and does the machine have a vsock device?",
                ) from None
        if seen != report_data:
            raise CollectionError("quote generation service answered with a quote over other report data")
        return quote

    async def event_log(self) -> bytes | None:
        """The machine's event log; see :class:`attestation.platforms.base.EventLogPlatform`."""
        return await gather_encoded(self._files)

    async def _ask(self, report: bytes) -> bytes:
        reader, writer = await self._connect()
        try:
            request = qgs.encode_request(report)
            writer.write(qgs.PREFIX.pack(len(request)) + request)
            (size,) = qgs.PREFIX.unpack(await reader.readexactly(qgs.PREFIX.size))
            if size > qgs.MAX_MESSAGE:
                raise EvidenceError(f"message of {size} bytes, at most {qgs.MAX_MESSAGE} are read")
            return qgs.decode_answer(await reader.readexactly(size))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._service, Path):
            return await asyncio.open_unix_connection(self._service)
        connection = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (HOST, self._service))
            return await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise


def td_report(report_data: bytes, device: Path = DEVICE) -> bytes:
    """A TD report of 1024 bytes over 64 bytes of report data; only this machine's processor can check it.

    Raises:
        CollectionError: No such device, or the TDX module refuses.
    """
    check_report_data(report_data)
    request = bytearray(report_data + bytes(qgs.REPORT_SIZE))
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, GET_REPORT0, request, True)
        finally:
            os.close(handle)
    except OSError as error:
        raise CollectionError(
            f"{device} gives no report: {error.strerror}", hint="a TDX guest with the tdx_guest driver has it"
        ) from None
    report = bytes(request[REPORT_DATA_SIZE:])
    if report[_REPORT_DATA_AT : _REPORT_DATA_AT + REPORT_DATA_SIZE] != report_data:
        raise CollectionError(f"{device} gave a report over other report data")
    return report
