"""The bottom of the exception tree.

Everything this project raises on purpose derives from :class:`ChrysalisError`::

    ChrysalisError
    ├── MeasurementError          an artefact cannot be measured or a log cannot be replayed
    │   ├── ArtefactError         a file is not the image it has to be
    │   └── EventLogError         a log is not an event log, or breaks its bounds
    ├── AttestationError          evidence is malformed, unverified or refused (attestation.errors)
    └── ApplianceError            the running thing: wire, chain, engine, money, configuration (appliance.errors)

An error names what failed, the value seen, the value expected, and carries a hint that says what to do.
It never carries request or answer content, nor a secret.
"""

from __future__ import annotations


class ChrysalisError(Exception):
    """Root of every error raised on purpose.

    Args:
        message: What failed, with the value seen and the value expected.
        hint: What the reader can do about it; empty when the message already says so.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class MeasurementError(ChrysalisError):
    """An artefact cannot be measured, or a log cannot be replayed."""


class ArtefactError(MeasurementError):
    """A file is not the image it has to be: layout, length, or a part that is missing."""


class EventLogError(MeasurementError):
    """Bytes that are not an event log, or one that breaks its bounds."""
