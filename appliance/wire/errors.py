"""The wire's part of the exception tree.

::

    WireError
    ├── CodecError                    bytes are not the TL object they should be
    │   ├── UnknownConstructorError   the id is not in the table
    │   └── EncodeError               an object of ours cannot be written
    ├── ProtocolError                 a peer broke a rule of frames, handshake or packets
    ├── FrameTooLargeError            a packet of ours is over the frame limit
    ├── SilenceError                  nothing was heard for the time of section 1.4
    ├── SlowPeerError                 the peer does not read what it is sent
    ├── LinkClosedError               the link is closed, or not ready yet
    ├── DialError                     no ready link could be made
    ├── QueryError                    the peer answered a query with an error
    ├── QueryTimeoutError             the peer did not answer in time
    ├── TooManyQueriesError           the bound on open queries is reached
    └── ExtensionNotAgreedError       an extension's message for a peer that did not agree to it

None of them carries the content of a message.
"""

from __future__ import annotations

from appliance.errors import ApplianceError, ErrorCode


class WireError(ApplianceError):
    """Something is wrong between two peers; the root of what this room raises."""


class CodecError(WireError):
    """Bytes are not the TL object they should be; the connection or the one request they belong to fails."""


class UnknownConstructorError(CodecError):
    """The constructor id is not in the table.

    Args:
        constructor: The id as a 32-bit number.
    """

    def __init__(self, constructor: int) -> None:
        super().__init__(f"unknown constructor 0x{constructor:08x}", hint="the peer may speak a newer protocol")
        self.constructor = constructor


class EncodeError(CodecError):
    """An object of ours cannot be written; a mistake of the caller, found before a byte is sent."""


class ProtocolError(WireError):
    """A peer broke a rule of frames, handshake or packets; its connection is closed."""


class FrameTooLargeError(WireError):
    """A packet is over the frame limit, so it was not sent (nothing is ever dropped silently).

    Args:
        size: Bytes of the packet.
        limit: The most bytes a frame may hold.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a packet of {size} bytes does not fit into a frame of at most {limit} bytes",
            hint="send less at once: split the body or shorten the request",
        )
        self.size = size
        self.limit = limit


class SilenceError(WireError):
    """Nothing was heard from the peer for the time of section 1.4."""


class SlowPeerError(WireError):
    """The peer does not read: what waits for it passed the bound, so the link is given up."""


class LinkClosedError(WireError):
    """The link is closed, or not ready yet; nothing was sent."""


class DialError(WireError):
    """No ready link could be made to an address."""


class QueryError(WireError):
    """A query was answered with an error; raised by a query's handler, it becomes that answer.

    Args:
        message: The text of ``tcp.queryError``.
        code: Its number (section 1.6); peers may send numbers that :class:`ErrorCode` does not name.
        hint: What the reader can do; not sent.
    """

    def __init__(self, message: str, *, code: int = ErrorCode.ERROR, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = int(code)


class QueryTimeoutError(WireError):
    """The peer did not answer a query in time; a late answer is ignored."""


class TooManyQueriesError(WireError):
    """The bound on open queries of this link is reached; nothing was sent."""


class ExtensionNotAgreedError(WireError):
    """A message of an extension was meant for a peer that did not agree to it; nothing was sent."""
