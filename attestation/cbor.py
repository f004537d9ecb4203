"""Canonical CBOR (RFC 8949, section 4.2) for everything that is hashed or signed: values in, bytes out, and back.

Only the part of CBOR that evidence needs is read: integers of 64 bits, byte and text strings, arrays, maps with
text keys, booleans and null. Tags, floats and indefinite lengths are refused before the library sees the bytes, and a
value is accepted only if encoding it again gives the same bytes, which rules out duplicate keys and every
second way of writing a value.
"""

from __future__ import annotations

from typing import Any

import cbor2

from attestation.errors import EvidenceError

MAX_DEPTH = 12
MAX_ITEMS = 4096
_SIMPLE = {0xF4, 0xF5, 0xF6}  # false, true, null


def encode(value: Any) -> bytes:
    """Encode a tree of plain values canonically."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, *, max_length: int) -> Any:
    """Decode one canonical item that fills ``data``.

    Args:
        data: Bytes from outside.
        max_length: The longest input that is looked at, in bytes.

    Raises:
        EvidenceError: Too long, too deep, not canonical, trailing bytes, or a type that is not used here.
    """
    if len(data) > max_length:
        raise EvidenceError(f"CBOR of {len(data)} bytes, at most {max_length} are read")
    end = _Scanner(data).scan()
    if end != len(data):
        raise EvidenceError(f"{len(data) - end} bytes follow the CBOR item")
    try:
        value = cbor2.loads(data)
        again = encode(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        raise EvidenceError(f"CBOR that cannot be read: {type(error).__name__}") from error
    if again != data:
        raise EvidenceError(
            "CBOR is not canonical: encoding it again gives other bytes",
            hint="duplicate or unsorted map keys, or a length that is not the shortest",
        )
    return value


class _Scanner:
    """Walks the heads of an item without building it."""

    __slots__ = ("_data", "_items")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = 0

    def scan(self, offset: int = 0, depth: int = 0) -> int:
        """Return the offset after the item that starts at ``offset``."""
        data = self._data
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise EvidenceError(f"CBOR nests over {MAX_DEPTH} levels or holds over {MAX_ITEMS} items")
        if offset >= len(data):
            raise EvidenceError("CBOR ends inside an item")
        head = data[offset]
        major, info = head >> 5, head & 0x1F
        if major == 7:
            if head not in _SIMPLE:
                raise EvidenceError(f"CBOR head {head:#04x}: floats and other simple values are not used in evidence")
            return offset + 1
        if major == 6 or info > 27:
            raise EvidenceError(f"CBOR head {head:#04x}: tags and indefinite lengths are not used in evidence")
        size = 0 if info < 24 else 1 << (info - 24)
        if offset + 1 + size > len(data):
            raise EvidenceError("CBOR ends inside a length")
        value = info if info < 24 else int.from_bytes(data[offset + 1 : offset + 1 + size], "big")
        offset += 1 + size
        if major < 2:
            return offset
        if value > len(data) - offset:
            raise EvidenceError(f"CBOR announces {value} bytes or items where {len(data) - offset} bytes are left")
        if major < 4:
            return offset + value
        for _ in range(value):
            if major == 5:
                if offset < len(data) and data[offset] >> 5 != 3:
                    raise EvidenceError("CBOR map key is not text")
                offset = self.scan(offset, depth + 1)
            offset = self.scan(offset, depth + 1)
        return offset
