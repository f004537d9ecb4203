"""Server-sent events on their way to the caller: only whole ones leave. Pure.

An error that ends a stream is an event of its own; after half an event it could not be read. So the end of a part that
is no end of an event waits for the rest. A model server writes whole events, and then nothing is copied.
"""

from __future__ import annotations

MAX_TAIL = 1 << 20
"""Bytes of one event that are held back at most; a longer one is passed on as it comes."""
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventCutter:
    """Cuts a stream of bytes at the ends of events."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def cut(self, data: bytes) -> bytes:
        """What can leave now, of what came before and ``data``."""
        if self._tail:
            data, self._tail = self._tail + data, b""
        if data.endswith(_ENDS):
            return data
        at = max(data.rfind(end) + len(end) if end in data else 0 for end in _ENDS)
        if not at and len(data) > MAX_TAIL:
            return data
        self._tail = data[at:]
        return data[:at]

    def rest(self) -> bytes:
        """What is left at a good end."""
        tail, self._tail = self._tail, b""
        return tail
