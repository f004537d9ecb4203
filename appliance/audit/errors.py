"""Errors of the audit room.

::

    ApplianceError
    └── AuditError                the audit itself cannot be run: a wrong request, a busy work directory
        └── UncheckedError        one question cannot be answered; the audit goes on and its verdict says why
            └── InputsUnavailableError   a locked input cannot be had any more: nothing was compared, nothing differs

What differs is no error: it is what an audit is there to find, and stands in its report.
"""

from __future__ import annotations

from appliance.errors import ApplianceError


class AuditError(ApplianceError):
    """The audit itself cannot be run: what was asked for makes no sense, or its work directory is in use."""


class UncheckedError(AuditError):
    """A question that the audit was asked cannot be answered; the message says why."""


class InputsUnavailableError(UncheckedError):
    """A locked input cannot be had any more. That is no mismatch: nothing was rebuilt, so nothing was compared."""
