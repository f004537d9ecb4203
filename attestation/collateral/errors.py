"""Why there is no collateral: each reason is an error of its own, since each is cured by somebody else.

::

    CollateralError (attestation.errors)
    ├── ServiceUnreachableError   no answer: name, connection, proxy, TLS, or the time was up
    ├── ServiceRefusedError       an answer that is a refusal: a status other than 200, or "ask later"
    │   └── NotServedError        the service answers and does not know what was asked for (404)
    └── MalformedAnswerError      an answer that cannot be what was asked for, or is too long
"""

from __future__ import annotations

from attestation.errors import CollateralError


class ServiceUnreachableError(CollateralError):
    """The service gives no answer: its name, the connection, the proxy or TLS failed, or the time was up."""


class ServiceRefusedError(CollateralError):
    """The service answers with a refusal."""


class NotServedError(ServiceRefusedError):
    """The service answers, and does not know what was asked for."""


class MalformedAnswerError(CollateralError):
    """The service answers with something that cannot be what was asked for."""
