"""The part of the exception tree that belongs to the running thing.

::

    ChrysalisError
    └── ApplianceError
        ├── ConfigError           a configuration file is wrong: file, line and key are named
        ├── WireError             bytes from a peer that the protocol does not allow (appliance.wire.errors)
        ├── ChainError            the chain, its proofs, wallets and contracts (appliance.chain.errors)
        ├── LedgerError           money state on disk (appliance.accounting.errors)
        ├── EngineError           the model server and its environment (appliance.engine.errors)
        ├── RequestError          one request cannot be served; carries the protocol's code (section 1.6)
        └── StageError            a stage of a program's start-up failed
"""

from __future__ import annotations

from enum import IntEnum

from measurements.errors import ChrysalisError


class ErrorCode(IntEnum):
    """Codes of ``tcp.queryError`` and of the ``error_code`` fields (protocol specification, section 1.6)."""

    PLAIN = 0
    FAILURE = 601
    ERROR = 602
    WARNING = 603
    PROTOCOL_VIOLATION = 621
    NOT_READY = 651
    TIMEOUT = 652
    CANCELLED = 653


class ApplianceError(ChrysalisError):
    """Root of the errors of the running thing."""


class ConfigError(ApplianceError):
    """A configuration file is wrong; the message names file, line and key."""


class RequestError(ApplianceError):
    """One request cannot be served.

    Args:
        message: Says why, without any content of the request.
        code: The protocol's code for it.
        hint: What the caller can do.
        retry_after: Seconds after which the same request may succeed, when that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.ERROR,
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after = retry_after


def leaf(error: BaseException) -> BaseException:
    """What went wrong in a group of tasks, where it was one thing: that one says more than the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class StageError(ApplianceError):
    """A stage of a program's start-up failed; the message names the stage and the reason."""
