"""The attestation frame: what a router tells its own runner about the peer (protocol specification, section 5.8).

u32 length, then: i32 has_attestation; if 1, i32 kind (0 TDX) and 448 bytes MRTD … RTMR3, REPORTDATA; 48 bytes root
key id; TL string public key; TL string source address, i32 source port; TL string destination address, i32 destination
port. All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from attestation import claims
from attestation.errors import HandshakeError
from attestation.ratls.peer import Peer
from attestation.verdict import NO_ATTESTATION

MAX_FRAME = 16536
HEAD_SIZE = 4
_INT = struct.Struct("<i")
_LENGTH = struct.Struct("<I")
_MEASUREMENTS = 384
_KIND_TDX = 0
_KIND_SGX = 1


@dataclass(frozen=True, slots=True)
class AttestationFrame:
    """The frame's fields.

    Attributes:
        measurements: MRTD … RTMR3, 384 bytes; ``None`` without attestation.
        report_data: 64 bytes; empty without attestation.
        root_key_id: 48 bytes, zeros if no root was involved.
        public_key: The peer's raw key.
        source: Address and port the connection came from.
        destination: Address and port it went to.
    """

    measurements: bytes | None
    report_data: bytes
    root_key_id: bytes
    public_key: bytes
    source: tuple[str, int]
    destination: tuple[str, int]

    @property
    def peer(self) -> Peer:
        """The peer as the connection's user sees it; the verdict stayed in the router."""
        image = NO_ATTESTATION if self.measurements is None else claims.image_hash(self.measurements)
        return Peer(image, self.public_key, None, f"{self.source[0]}:{self.source[1]}")

    def encode(self) -> bytes:
        """The frame with its length."""
        body = bytearray()
        body += _INT.pack(0 if self.measurements is None else 1)
        if self.measurements is not None:
            if len(self.measurements) != _MEASUREMENTS or len(self.report_data) != 64:
                raise HandshakeError("attestation frame with measurements that are not 384 and 64 bytes")
            body += _INT.pack(_KIND_TDX) + self.measurements + self.report_data
        body += self.root_key_id.ljust(48, b"\0") + _tl_string(self.public_key)
        for address, port in (self.source, self.destination):
            body += _tl_string(address.encode()) + _INT.pack(port)
        return _LENGTH.pack(len(body)) + bytes(body)


def frame_for(peer: Peer, source: tuple[str, int], destination: tuple[str, int]) -> AttestationFrame:
    """The frame that tells of a peer that was verified here."""
    report = peer.verdict.report if peer.verdict is not None else None
    return AttestationFrame(
        measurements=report.measurements if report else None,
        report_data=report.report_data if report else b"",
        root_key_id=peer.verdict.root_key_id if peer.verdict else b"",
        public_key=peer.public_key or b"",
        source=source,
        destination=destination,
    )


def frame_length(head: bytes) -> int:
    """Length of the body that follows the first four bytes.

    Raises:
        HandshakeError: Over the limit.
    """
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise HandshakeError(
            f"attestation frame of {length} bytes, at most {MAX_FRAME}",
            hint="is there a router, and does it run with --serialize-info?",
        )
    return int(length)


def decode_frame(body: bytes) -> AttestationFrame:
    """Read the body of a frame, all of it.

    Raises:
        HandshakeError: Too short, trailing bytes, another kind of evidence, or a field out of bounds.
    """
    reader = _Reader(body)
    attested = reader.integer()
    if attested not in {0, 1}:
        raise HandshakeError(f"attestation frame with flag {attested}, expected 0 or 1")
    measurements: bytes | None = None
    report_data = b""
    if attested:
        kind = reader.integer()
        if kind != _KIND_TDX:
            name = "SGX" if kind == _KIND_SGX else str(kind)
            raise HandshakeError(f"attestation frame of kind {name}, expected TDX")
        measurements, report_data = reader.take(_MEASUREMENTS), reader.take(64)
    root_key_id = reader.take(48)
    public_key = reader.string(64)
    source = (reader.text(), reader.integer())
    destination = (reader.text(), reader.integer())
    reader.finish()
    return AttestationFrame(measurements, report_data, root_key_id, public_key, source, destination)


class _Reader:
    """Takes fields off the front."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        end = self._offset + size
        if end > len(self._data):
            raise HandshakeError(f"attestation frame of {len(self._data)} bytes ends inside a field")
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def integer(self) -> int:
        return int(_INT.unpack(self.take(4))[0])

    def string(self, limit: int) -> bytes:
        """A TL string of up to 253 bytes (section 1.7): length byte, data, zeros up to a multiple of 4."""
        length = self.take(1)[0]
        if length > limit:
            raise HandshakeError(f"attestation frame with a string of {length} bytes, at most {limit}")
        value = self.take(length)
        if any(self.take(-(1 + length) % 4)):
            raise HandshakeError("attestation frame with padding that is not zero")
        return value

    def text(self) -> str:
        try:
            return self.string(253).decode()
        except UnicodeDecodeError:
            raise HandshakeError("attestation frame with an address that is not text") from None

    def finish(self) -> None:
        if self._offset != len(self._data):
            raise HandshakeError(f"attestation frame with {len(self._data) - self._offset} trailing bytes")


def _tl_string(value: bytes) -> bytes:
    if len(value) > 253:
        raise HandshakeError(f"attestation frame string of {len(value)} bytes, at most 253")
    return bytes([len(value)]) + value + bytes(-(1 + len(value)) % 4)
