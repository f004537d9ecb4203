"""The device service: a process that holds synthetic GPUs and answers nonces with their evidence on a Unix socket.

A worker that asks it holds none of the devices' keys, as on real hardware; beside the quoting service's socket it is
where :class:`attestation.platforms.simulated_gpus.SimulatedGpus` looks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from attestation.errors import AttestationError
from attestation.platforms import simulated_gpus as protocol

if TYPE_CHECKING:
    from pathlib import Path

    from attestation.evidence import DeviceCollector

_log = structlog.get_logger(__name__)
_IDLE_S = 60.0


async def start(path: Path, devices: DeviceCollector) -> asyncio.Server:
    """Answer on a Unix socket (mode 0600).

    Args:
        path: The socket; what is there is replaced.
        devices: Synthetic GPUs.

    Returns:
        The running server; the caller closes it.
    """
    await asyncio.to_thread(path.unlink, missing_ok=True)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await _answer(reader, devices))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            return
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, path=path, limit=4096)
    await asyncio.to_thread(path.chmod, 0o600)
    _log.info("device service listens")
    return server


async def _answer(reader: asyncio.StreamReader, devices: DeviceCollector) -> bytes:
    async with asyncio.timeout(_IDLE_S):
        request = await reader.readexactly(protocol.REQUEST_SIZE)
    try:
        nonces = protocol.decode_request(request)
        return protocol.encode_answer(await devices.collect(nonces.__getitem__))
    except AttestationError as error:
        return protocol.encode_refusal(error.message)
