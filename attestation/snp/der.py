"""A reader of DER (X.690), as strict as certificates of endorsement keys need: one cursor over bytes.

It exists because AMD gives every VCEK the serial number 0, which RFC 5280 forbids and libraries are about to refuse.
"""

from __future__ import annotations

from attestation.errors import EvidenceError

INTEGER, BIT_STRING, OCTET_STRING, OID, IA5_STRING = 0x02, 0x03, 0x04, 0x06, 0x16
UTC_TIME, GENERALIZED_TIME, BOOLEAN = 0x17, 0x18, 0x01
SEQUENCE = 0x30
_LONGEST = 4  # bytes of a length


def explicit(number: int) -> int:
    """Tag of a context-specific constructed field."""
    return 0xA0 | number


class Der:
    """Reads items one after the other.

    Args:
        data: What the items fill.
    """

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def __bool__(self) -> bool:
        """Whether something is left."""
        return self._offset < len(self._data)

    @property
    def tag(self) -> int | None:
        """Tag of the next item, ``None`` at the end."""
        return self._data[self._offset] if self else None

    def take(self, tag: int) -> bytes:
        """Content of the next item, which has to have this tag; raises ``EvidenceError``."""
        return self.take_whole(tag)[1]

    def take_whole(self, tag: int) -> tuple[bytes, bytes]:
        """The next item with its head, and its content.

        Raises:
            EvidenceError: Another tag, or a length that is not DER or exceeds the data.
        """
        if self.tag != tag:
            seen = "nothing" if self.tag is None else f"{self.tag:#04x}"
            raise EvidenceError(f"DER item {seen} at byte {self._offset}, expected {tag:#04x}")
        start = self._offset
        length, begin = self._length(start + 1)
        end = begin + length
        if end > len(self._data):
            raise EvidenceError(f"DER item at byte {start} ends after the data")
        self._offset = end
        return self._data[start:end], self._data[begin:end]

    def inside(self, tag: int = SEQUENCE) -> Der:
        """A reader of what is inside the next item; raises ``EvidenceError``."""
        return Der(self.take(tag))

    def number(self) -> int:
        """The next item as an integer; raises ``EvidenceError``."""
        content = self.take(INTEGER)
        if not content or (len(content) > 1 and content[0] in {0x00, 0xFF} and (content[0] ^ content[1]) < 0x80):
            raise EvidenceError("DER integer that is empty or not the shortest")
        return int.from_bytes(content, "big", signed=True)

    def end(self) -> None:
        """Refuse what is left; raises ``EvidenceError``."""
        if self:
            raise EvidenceError(f"{len(self._data) - self._offset} bytes after the last DER item")

    def _length(self, offset: int) -> tuple[int, int]:
        head = self._data[offset : offset + 1]
        if not head:
            raise EvidenceError("DER ends inside an item's head")
        if head[0] < 0x80:
            return head[0], offset + 1
        size = head[0] & 0x7F
        digits = self._data[offset + 1 : offset + 1 + size]
        value = int.from_bytes(digits, "big")
        if not 0 < size <= _LONGEST or len(digits) != size or value < max(0x80, 1 << 8 * (size - 1)):
            raise EvidenceError("DER length that is indefinite, cut off or not the shortest")
        return value, offset + 1 + size
