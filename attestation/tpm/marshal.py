"""The TPM's way of writing structures: big-endian numbers and buffers behind a 16-bit length, read to the last byte.

Source: TPM 2.0 Library, part 2, section 10 (TPM2B) and part 1, appendix A (canonicalisation).
"""

from __future__ import annotations

from attestation.errors import EvidenceError

MAX_STRUCTURE = 8 * 1024
"""Longest structure that is read, in bytes; the ones here have a few hundred."""


class Unmarshal:
    """Takes values off the front of a structure.

    Args:
        data: The structure.
        what: Its name, for messages.

    Raises:
        EvidenceError: It is over :data:`MAX_STRUCTURE` bytes; every method raises it when the structure ends too soon.
    """

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        if len(data) > MAX_STRUCTURE:
            raise EvidenceError(f"{what} of {len(data)} bytes, at most {MAX_STRUCTURE} are read")
        self._data = data
        self._offset = 0
        self._what = what

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        end = self._offset + size
        if end > len(self._data):
            raise EvidenceError(f"{self._what} of {len(self._data)} bytes ends inside a field")
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def number(self, size: int) -> int:
        """A number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        """A buffer behind its length (TPM2B).

        Raises:
            EvidenceError: It is longer than ``limit``.
        """
        size = self.number(2)
        if size > limit:
            raise EvidenceError(f"{self._what} with a field of {size} bytes, at most {limit}")
        return self.take(size)

    def rest(self) -> bytes:
        """Whatever is left."""
        return self.take(len(self._data) - self._offset)

    def finish(self) -> None:
        """Refuse trailing bytes.

        Raises:
            EvidenceError: Some are left.
        """
        if self._offset != len(self._data):
            raise EvidenceError(f"{self._what} with {len(self._data) - self._offset} trailing bytes")


def sized(content: bytes) -> bytes:
    """A buffer behind its length (TPM2B)."""
    return len(content).to_bytes(2, "big") + content
