"""SOCKS5 as far as the router speaks it (protocol specification, section 5.2): both sides, without I/O.

Version 5, method 0; CONNECT to an IPv4 address. The server side also takes method 2 with any user and password when its
port allows that: the user name selects the policy.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum, auto

from attestation.errors import HandshakeError

GREETING = b"\x05\x01\x00"
GREETING_REPLY = b"\x05\x00"
REPLY_PREFIX = b"\x05\x00\x00\x01"
REPLY_SIZE = 10
_NO_AUTH, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_REASONS = {
    1: "general failure",
    2: "not allowed",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}


def connect_request(host: str, port: int) -> bytes:
    """A CONNECT to an IPv4 address.

    Raises:
        HandshakeError: Not an IPv4 address, or not a port.
    """
    try:
        packed = ipaddress.IPv4Address(host).packed
    except ValueError:
        raise HandshakeError(f"router takes IPv4 addresses only, got {host!r}") from None
    if not 0 < port < 65536:
        raise HandshakeError(f"port {port}, expected 1 to 65535")
    return b"\x05\x01\x00\x01" + packed + port.to_bytes(2, "big")


def success_reply(host: str, port: int) -> bytes:
    """The reply to a CONNECT that succeeded, with the local address."""
    return REPLY_PREFIX + ipaddress.IPv4Address(host).packed + port.to_bytes(2, "big")


def check_greeting_reply(data: bytes) -> None:
    """Check the two bytes that answer :data:`GREETING`.

    Raises:
        HandshakeError: Not SOCKS5, or the method is not accepted.
    """
    if data != GREETING_REPLY:
        raise HandshakeError(f"router answers {data.hex()} to the SOCKS5 greeting, expected {GREETING_REPLY.hex()}")


def check_reply(data: bytes) -> None:
    """Check the ten bytes that answer a CONNECT.

    Raises:
        HandshakeError: The router could not connect, or its reply is of another form.
    """
    if data.startswith(REPLY_PREFIX) and len(data) == REPLY_SIZE:
        return
    reason = _REASONS.get(data[1], f"code {data[1]}") if len(data) > 1 and data[0] == 5 and data[1] else data[:4].hex()
    raise HandshakeError(f"router refuses to connect: {reason}")


class _Step(Enum):
    GREETING = auto()
    PASSWORD = auto()
    REQUEST = auto()
    DONE = auto()


@dataclass(slots=True)
class SocksServer:
    """The server's side: feed it bytes, send what it answers, read :attr:`target` when it is set.

    Attributes:
        passwords: Whether method 2 is taken, and then preferred.
        target: Address and port of the CONNECT, when it came.
        user: User name, empty with method 0.
    """

    passwords: bool = False
    target: tuple[str, int] | None = None
    user: str = ""
    _buffer: bytearray = field(default_factory=bytearray)
    _step: _Step = _Step.GREETING

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what has to be sent.

        Raises:
            HandshakeError: Not the SOCKS5 that is spoken here; the connection is closed without a reply.
        """
        if self._step is _Step.DONE:
            raise HandshakeError("bytes after the SOCKS5 request and before its reply")
        self._buffer += data
        if len(self._buffer) > 1024:
            raise HandshakeError("SOCKS5 request over 1024 bytes")
        answer = b""
        progress = True
        while progress:
            step = self._step
            if step is _Step.GREETING:
                answer += self._greeting()
            elif step is _Step.PASSWORD:
                answer += self._password()
            elif step is _Step.REQUEST:
                self._request()
            progress = self._step is not step
        if self.target is not None and self._buffer:
            raise HandshakeError("bytes after the SOCKS5 request and before its reply")
        return answer

    def _greeting(self) -> bytes:
        buffer = self._buffer
        if buffer and buffer[0] != 5:
            raise HandshakeError(f"SOCKS version {buffer[0]}, expected 5")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return b""
        methods = set(buffer[2 : 2 + buffer[1]])
        del buffer[: 2 + buffer[1]]
        if self.passwords and _PASSWORD in methods:
            self._step = _Step.PASSWORD
            return bytes((5, _PASSWORD))
        if _NO_AUTH in methods:
            self._step = _Step.REQUEST
            return bytes((5, _NO_AUTH))
        raise HandshakeError(f"SOCKS5 methods {sorted(methods)}, none is taken here")

    def _password(self) -> bytes:
        """RFC 1929: version 1, user, password; every password is right."""
        buffer = self._buffer
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return b""
        user_end = 2 + buffer[1]
        end = user_end + 1 + buffer[user_end]
        if buffer[0] != 1:
            raise HandshakeError(f"SOCKS5 password version {buffer[0]}, expected 1")
        if len(buffer) < end:
            return b""
        self.user = bytes(buffer[2:user_end]).decode("utf-8", "replace")
        del buffer[:end]
        self._step = _Step.REQUEST
        return b"\x01\x00"

    def _request(self) -> None:
        buffer = self._buffer
        if len(buffer) >= 4 and bytes(buffer[:4]) != b"\x05\x01\x00\x01":
            raise HandshakeError(f"SOCKS5 request {bytes(buffer[:4]).hex()}, expected CONNECT to an IPv4 address")
        if len(buffer) < 10:
            return
        self.target = (str(ipaddress.IPv4Address(bytes(buffer[4:8]))), int.from_bytes(buffer[8:10], "big"))
        del buffer[:10]
        self._step = _Step.DONE
