"""Errors of a worker's links.

::

    ApplianceError
    └── WorkerError
        └── HandshakeError        a gateway does not pass the checks of section 2.2; its link is closed
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class WorkerError(ApplianceError):
    """Root of what the worker room raises."""


class HandshakeError(WorkerError):
    """A gateway does not pass the checks of the handshake; its link is closed."""
