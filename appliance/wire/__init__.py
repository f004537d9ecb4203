"""The protocol between peers: TL codec, frames, connection (sans-I/O), extensions, and the asyncio transport.

Bytes come in from the network and typed messages go out, and the other way round (protocol specification, section 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.wire.base import TLFunction, TLObject
    from appliance.wire.codec import decode, encode
    from appliance.wire.connection import Connection, Role
    from appliance.wire.errors import (
        CodecError,
        DialError,
        FrameTooLargeError,
        LinkClosedError,
        QueryError,
        QueryTimeoutError,
        WireError,
    )
    from appliance.wire.extensions import Extension
    from appliance.wire.handler import LinkHandler
    from appliance.wire.limits import LinkLimits
    from appliance.wire.link import Link
    from appliance.wire.reconnect import Backoff, keep_connected
    from appliance.wire.transport import Dialer, LinkProtocol, Listener, TcpDialer, TcpListener, dial

__all__ = [
    "Backoff",
    "CodecError",
    "Connection",
    "DialError",
    "Dialer",
    "Extension",
    "FrameTooLargeError",
    "Link",
    "LinkClosedError",
    "LinkHandler",
    "LinkLimits",
    "LinkProtocol",
    "Listener",
    "QueryError",
    "QueryTimeoutError",
    "Role",
    "TLFunction",
    "TLObject",
    "TcpDialer",
    "TcpListener",
    "WireError",
    "decode",
    "dial",
    "encode",
    "keep_connected",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Backoff": "reconnect",
            "CodecError": "errors",
            "Connection": "connection",
            "DialError": "errors",
            "Dialer": "transport",
            "Extension": "extensions",
            "FrameTooLargeError": "errors",
            "Link": "link",
            "LinkClosedError": "errors",
            "LinkHandler": "handler",
            "LinkLimits": "limits",
            "LinkProtocol": "transport",
            "Listener": "transport",
            "QueryError": "errors",
            "QueryTimeoutError": "errors",
            "Role": "connection",
            "TLFunction": "base",
            "TLObject": "base",
            "TcpDialer": "transport",
            "TcpListener": "transport",
            "WireError": "errors",
            "decode": "codec",
            "dial": "transport",
            "encode": "codec",
            "keep_connected": "reconnect",
        },
    )
