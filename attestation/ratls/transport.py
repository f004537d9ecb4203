"""An asyncio transport over TLS memory BIOs: what the application writes is encrypted, what arrives is decrypted.

Each write is encrypted at once; who writes joins what belongs together, as a link does once in a turn of the loop.
Back-pressure is the socket transport's own: its marks, its pausing, passed through.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL

from attestation.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attestation.ratls.peer import Peer

_RECORD = 16384
_READ = 1 << 16


class RatlsTransport(asyncio.Transport):
    """The application's side of an established connection.

    Args:
        loop: The running loop.
        inner: The socket's transport.
        connection: TLS after its handshake.
        peer: Given out as ``get_extra_info("peer")``.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, inner: asyncio.Transport, connection: SSL.Connection, peer: Peer
    ) -> None:
        super().__init__()
        self._loop = loop
        self._inner = inner
        self._tls = connection
        self._peer = peer
        self._protocol: asyncio.BaseProtocol | None = None
        self._reading = True
        self._closing = False
        self._error: Exception | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``peer``: the :class:`Peer`; ``cipher``: the suite's name; the socket's otherwise."""
        if name == "peer":
            return self._peer
        if name == "cipher":
            return self._tls.get_cipher_name()
        return self._inner.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that is delivered to."""
        if self._protocol is None:
            raise HandshakeError("transport without a protocol")
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed or being closed."""
        return self._closing or self._inner.is_closing()

    def close(self) -> None:
        """Send what was written, then close. Without close_notify, as the reference does (section 5.4)."""
        if self._closing:
            return
        self._closing = True
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._inner.abort()

    def pause_reading(self) -> None:
        """Deliver nothing, and stop reading from the socket."""
        self._reading = False
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Read from the socket again, and deliver what is left from before."""
        if not self._reading:
            self._reading = True
            self._inner.resume_reading()
            self._loop.call_soon(self.feed, b"")

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return self._reading and not self.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt data and hand it to the socket's transport, in records of up to 16 KiB."""
        if not data or self.is_closing():
            return
        try:
            self._tls.sendall(data)
            self._drain_tls()
        except SSL.Error as error:
            self._fail(error)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Not possible.

        Raises:
            NotImplementedError: Always; TLS has no half-closed streams here.
        """
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        """No."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the socket transport's marks, in bytes of ciphertext."""
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The socket transport's marks."""
        return self._inner.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._inner.get_write_buffer_size()

    def feed(self, data: bytes) -> None:
        """Decrypt what arrived and deliver it (called by the session)."""
        if data:
            self._tls.bio_write(data)
        if not self._reading or self._closing:
            return
        parts = []
        try:
            while True:
                parts.append(self._tls.recv(_RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._loop.call_soon(self.close)
        except SSL.Error as error:
            self._fail(error)
            return
        self._drain_tls()
        if parts and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))

    def lost(self, error: Exception | None) -> None:
        """Tell the protocol that the socket is gone (called by the session)."""
        self._closing = True
        if self._protocol is not None:
            self._protocol.connection_lost(self._error or error)

    def _drain_tls(self) -> None:
        """Send what TLS has to send. A read that is not full was the last: asking again would only raise."""
        size = _READ
        while size == _READ:
            try:
                data = self._tls.bio_read(_READ)
            except SSL.WantReadError:
                return
            self._inner.write(data)
            size = len(data)

    def _fail(self, error: SSL.Error) -> None:
        self._closing = True
        self._error = HandshakeError(f"TLS failed: {describe(error)}")
        self._inner.abort()


def describe(error: SSL.Error) -> str:
    """OpenSSL's reasons in one line."""
    if error.args and isinstance(error.args[0], list):
        reasons = [str(item[-1]) for item in error.args[0] if item]
        return ", ".join(reasons) or type(error).__name__
    return type(error).__name__
