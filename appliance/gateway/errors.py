"""Errors of the gateway.

::

    ApplianceError
    └── GatewayError
        ├── AdmissionError        a peer may not come in; carries the protocol's code and closes the connection
        ├── KeyFileError          a key file is missing, readable by others, or not a key
        └── SettlementError       the gateway's contract, wallet or ledger contradict one another
"""

from __future__ import annotations

from appliance.errors import ApplianceError, ErrorCode


class GatewayError(ApplianceError):
    """Root of the gateway's own errors."""


class AdmissionError(GatewayError):
    """A peer may not come in. The connection closes after the peer has been told.

    Args:
        message: What was seen and what was expected.
        code: The protocol's code (specification, section 1.6).
        hint: What the peer's operator can do.
    """

    def __init__(self, message: str, *, code: ErrorCode, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class KeyFileError(GatewayError):
    """A key file is missing, readable by others, or does not hold a key."""


class SettlementError(GatewayError):
    """The gateway's contract, wallet or ledger contradict one another."""
