"""Errors of the lab chain.

::

    LabChainError
    ├── DevNetError               the chain cannot do what it was asked: a bad directory, an unknown block or address
    │   └── MessageRefusedError   an external message is malformed or its contract does not accept it
    ├── AdnlError                 bytes of a peer that the transport does not allow; the connection ends
    ├── TlError                   bytes that are no object of the liteserver's schema
    └── QueryRefusedError         a query that is answered with ``liteServer.error``; carries the code
"""

from __future__ import annotations

from enum import IntEnum

from appliance.errors import ApplianceError


class LiteErrorCode(IntEnum):
    """Codes of ``liteServer.error`` (TON, ``common/errorcode.h``)."""

    PLAIN = 0
    ERROR = 602
    PROTOCOL_VIOLATION = 621
    NOT_READY = 651
    TIMEOUT = 652


class LabChainError(ApplianceError):
    """Root of the errors of the lab chain."""


class DevNetError(LabChainError):
    """The chain cannot do what it was asked."""


class MessageRefusedError(DevNetError):
    """An external message is malformed, or the contract it is for does not accept it."""


class AdnlError(LabChainError):
    """Bytes of a peer that the transport does not allow; the connection ends."""


class TlError(LabChainError):
    """Bytes that are no object of the liteserver's schema."""


class QueryRefusedError(LabChainError):
    """A query that is answered with ``liteServer.error``.

    Args:
        message: The text of the answer.
        code: The code of the answer.
    """

    def __init__(self, message: str, *, code: LiteErrorCode = LiteErrorCode.PLAIN) -> None:
        super().__init__(message)
        self.code = code
