"""GPUs of a simulated machine: evidence of the real layout from the lab's device service over a Unix socket.

The protocol is one exchange a connection. Request: ``CGD1`` and 16 nonces of 32 bytes, one for each place that a device
can have. Answer: one status byte (0 evidence, 1 error) and one with the number of devices, then each device's evidence
after its length (u32, little-endian); or status 1, the length of a short UTF-8 reason (one byte), and the reason.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Protocol

from attestation.errors import CollectionError
from attestation.evidence import MAX_DEVICES
from attestation.gpu.evidence import MAX_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

NONCE_SIZE = 32
REQUEST_SIZE = 4 + MAX_DEVICES * NONCE_SIZE
_MAGIC = b"CGD1"
_LENGTH = struct.Struct("<I")
_MAX_REASON = 255


class Reader(Protocol):
    """The part of ``asyncio.StreamReader`` that is used."""

    async def readexactly(self, n: int, /) -> bytes:
        """Read exactly ``n`` bytes or raise ``asyncio.IncompleteReadError``."""


def devices_path(socket_path: Path) -> Path:
    """Where the device service of the machine with this quoting service listens."""
    return socket_path.with_name(socket_path.name + ".devices")


class SimulatedGpus:
    """Asks a device service; this process holds none of its keys.

    Args:
        socket_path: Where the service listens.
        timeout: Seconds for all devices.
    """

    def __init__(self, socket_path: Path, *, timeout: float = 10.0) -> None:
        self._path = socket_path
        self._timeout = timeout

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        """Ask for evidence; see :class:`attestation.evidence.DeviceCollector`.

        Raises:
            CollectionError: The service is out of reach, slow, or refuses.
        """
        request = encode_request([nonces(index) for index in range(MAX_DEVICES)])
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(request)
                    return await read_answer(reader)
                finally:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise CollectionError(
                f"device service at {self._path} gives no evidence: {type(error).__name__}",
                hint="is the lab's device service running?",
            ) from None


def encode_request(nonces: Sequence[bytes]) -> bytes:
    """Encode a request.

    Raises:
        CollectionError: Not 16 nonces of 32 bytes.
    """
    if len(nonces) != MAX_DEVICES or any(len(nonce) != NONCE_SIZE for nonce in nonces):
        raise CollectionError(f"device nonces are not {MAX_DEVICES} of {NONCE_SIZE} bytes")
    return _MAGIC + b"".join(nonces)


def decode_request(data: bytes) -> list[bytes]:
    """The nonces of a request.

    Raises:
        CollectionError: Not a request.
    """
    if len(data) != REQUEST_SIZE or not data.startswith(_MAGIC):
        raise CollectionError("not a request for evidence of devices")
    return [data[start : start + NONCE_SIZE] for start in range(len(_MAGIC), REQUEST_SIZE, NONCE_SIZE)]


def encode_answer(devices: Sequence[bytes]) -> bytes:
    """Encode the evidence of all devices, in order.

    Raises:
        CollectionError: More devices, or longer evidence, than a bundle holds.
    """
    if len(devices) > MAX_DEVICES or any(len(evidence) > MAX_EVIDENCE for evidence in devices):
        raise CollectionError(
            f"{len(devices)} devices, or evidence over {MAX_EVIDENCE} bytes: at most {MAX_DEVICES} fit into a bundle"
        )
    return bytes([0, len(devices)]) + b"".join(_LENGTH.pack(len(evidence)) + evidence for evidence in devices)


def encode_refusal(reason: str) -> bytes:
    """Encode a reason instead of evidence."""
    text = reason.encode()[:_MAX_REASON]
    return bytes([1, len(text)]) + text


async def read_answer(reader: Reader) -> list[bytes]:
    """Read one answer.

    Returns:
        Evidence of each device in order.

    Raises:
        CollectionError: The service refused, or what it sent is not an answer.
    """
    status, count = await reader.readexactly(2)
    if status == 1:
        reason = (await reader.readexactly(count)).decode(errors="replace")
        raise CollectionError(f"device service refused: {reason}")
    if status or count > MAX_DEVICES:
        raise CollectionError(
            f"device service answered with status {status} and {count} devices, at most {MAX_DEVICES}"
        )
    found = []
    for _ in range(count):
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_EVIDENCE:
            raise CollectionError(f"device service answers with evidence of {length} bytes, at most {MAX_EVIDENCE}")
        found.append(await reader.readexactly(length))
    return found
