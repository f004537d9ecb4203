"""Frames: a byte stream cut into payloads and back (specification, section 1.1).

Layout: payload length u32, sequence number i32, payload; little-endian, numbers counted from 0 in each direction.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from appliance.wire.errors import FrameTooLargeError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.wire.limits import LinkLimits

_HEADER: Final = struct.Struct("<II")
HEADER_SIZE: Final = _HEADER.size
_SEQUENCE_MASK: Final = 0xFFFFFFFF  # an i32 that wraps, seen as unsigned


class FrameReader:
    """Cuts what arrives into payloads.

    It holds at most one incomplete frame besides what it was given last, because a length is checked as soon as its
    header is there. However small the pieces, each byte is copied a fixed number of times.
    """

    __slots__ = ("_buffer", "_limits", "_sequence")

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._sequence = 0

    @property
    def buffered(self) -> int:
        """Bytes of the incomplete frame held."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take bytes and give the payloads they complete, one by one; has to be read to its end.

        Raises:
            ProtocolError: A length is out of bounds or a sequence number is wrong. The payloads before it have been
                given; the stream cannot be read any further.
        """
        source: bytes | bytearray
        if self._buffer:
            self._buffer += data
            source = self._buffer
        else:
            # The usual case, whole frames in one read: cut from it without passing through the buffer.
            source = data if isinstance(data, bytes) else bytes(data)
        position = 0
        while len(source) - position >= HEADER_SIZE:
            length, sequence = _HEADER.unpack_from(source, position)
            self._check(length, sequence)
            end = position + HEADER_SIZE + length
            if len(source) < end:
                break
            self._sequence = (sequence + 1) & _SEQUENCE_MASK
            start, position = position + HEADER_SIZE, end
            yield source[start:end] if isinstance(source, bytes) else bytes(memoryview(source)[start:end])
        if source is self._buffer:
            del self._buffer[:position]
        else:
            self._buffer += source[position:]

    def _check(self, length: int, sequence: int) -> None:
        limits = self._limits
        if not limits.min_frame <= length <= limits.max_frame:
            raise ProtocolError(
                f"a frame of {length} bytes was announced, expected {limits.min_frame} to {limits.max_frame}"
            )
        if sequence != self._sequence:
            raise ProtocolError(f"a frame has sequence number {sequence}, expected {self._sequence}")


class FrameWriter:
    """Puts payloads into frames and counts them."""

    __slots__ = ("_limits", "_sequence")

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._sequence = 0

    def header(self, length: int) -> bytes:
        """The header of the next frame; the payload has to follow it.

        Args:
            length: Bytes of the payload.

        Raises:
            FrameTooLargeError: The payload is over the limit; no sequence number is used.
        """
        if length > self._limits.max_frame:
            raise FrameTooLargeError(length, self._limits.max_frame)
        sequence, self._sequence = self._sequence, (self._sequence + 1) & _SEQUENCE_MASK
        return _HEADER.pack(length, sequence)
