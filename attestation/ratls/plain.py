"""A plain stream of which a router said who is at its other end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attestation.ratls.peer import Peer


class PlainTransport(asyncio.Transport):
    """A socket transport that also knows the peer. Reading goes straight to the application's protocol."""

    def __init__(self, inner: asyncio.Transport, peer: Peer) -> None:
        super().__init__()
        self._inner = inner
        self._peer = peer
        self.write = inner.write  # type: ignore[method-assign]  # no call in between on the busiest path

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peer``: the :class:`Peer`; the socket's otherwise."""
        return self._peer if name == "peer" else self._inner.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol."""
        self._inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is delivered to."""
        return self._inner.get_protocol()

    def is_closing(self) -> bool:
        """Whether it is closed or being closed."""
        return self._inner.is_closing()

    def close(self) -> None:
        """Send what was written, then close."""
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._inner.resume_reading()

    def is_reading(self) -> bool:
        """Whether the socket is read."""
        return self._inner.is_reading()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write several pieces."""
        self._inner.writelines(list_of_data)

    def write_eof(self) -> None:
        """Close the writing half."""
        self._inner.write_eof()

    def can_write_eof(self) -> bool:
        """Whether the writing half can be closed alone."""
        return self._inner.can_write_eof()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks of back-pressure in bytes."""
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The marks of back-pressure."""
        return self._inner.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._inner.get_write_buffer_size()
