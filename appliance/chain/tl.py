"""The few pieces of TL that liteserver traffic is made of: numbers, ``Bool`` and byte strings.

In: bytes from a liteserver (hostile), or values. Out: values, or bytes. Layout: https://core.telegram.org/mtproto/TL.
"""

from __future__ import annotations

from appliance.chain.errors import LayoutError

_TRUE, _FALSE = 0x997275B5, 0xBC799737


def tl_uint(value: int) -> bytes:
    """``#``, or an ``int`` that is not negative."""
    return value.to_bytes(4, "little")


def tl_bytes(value: bytes) -> bytes:
    """``bytes`` or ``string``: length, content, padding to four."""
    length = len(value)
    head = bytes([length]) if length < 254 else b"\xfe" + length.to_bytes(3, "little")
    return head + value + bytes(-(len(head) + length) % 4)


class TlReader:
    """A cursor over TL bytes that never runs over the end; every method raises :class:`LayoutError` on a misfit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self._position + count
        if end > len(self._data):
            raise LayoutError(f"a liteserver's answer ends at byte {len(self._data)}, expected at least {end}")
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def uint(self) -> int:
        """``#`` or an unsigned ``int``."""
        return int.from_bytes(self.take(4), "little")

    def sint(self) -> int:
        """``int``."""
        return int.from_bytes(self.take(4), "little", signed=True)

    def flag(self) -> bool:
        """``Bool``."""
        value = self.uint()
        if value not in {_TRUE, _FALSE}:
            raise LayoutError(f"a liteserver's answer has Bool 0x{value:08x}")
        return value == _TRUE

    def blob(self) -> bytes:
        """``bytes`` or ``string``, as bytes."""
        length, head = self.take(1)[0], 1
        if length == 255:
            raise LayoutError("a liteserver's answer has a byte string of an unknown form (255)")
        if length == 254:
            length, head = int.from_bytes(self.take(3), "little"), 4
        value = self.take(length)
        self.take(-(head + length) % 4)
        return value

    def count(self, limit: int) -> int:
        """The length of a vector, at most ``limit``."""
        value = self.uint()
        if value > limit:
            raise LayoutError(f"a liteserver's answer lists {value} items, expected at most {limit}")
        return value

    def end(self) -> None:
        """Check that nothing is left."""
        left = len(self._data) - self._position
        if left:
            raise LayoutError(f"a liteserver's answer has {left} bytes after its end, expected none")
