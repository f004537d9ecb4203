"""Errors of the lab: something of the world on one machine does not start, or does not behave."""

from __future__ import annotations

from appliance.errors import ApplianceError


class LabError(ApplianceError):
    """Part of the lab did not start or ended; the message has its last lines."""


class RefusedWorkerError(LabError):
    """The worker was refused, as the demonstration asked for; the message says by whom and why."""
