"""The audit: whether a source builds a release, and what its machines measure. Runs on an auditor's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from appliance.audit.errors import AuditError, InputsUnavailableError, UncheckedError
    from appliance.audit.outcome import Finding, Row, Step, Verdict
    from appliance.audit.plan import Audit, run_audit
    from appliance.audit.request import AuditRequest, MachineEvidence, RegistryFacts
    from appliance.audit.work import WorkDirectory

__all__ = [
    "Audit",
    "AuditError",
    "AuditRequest",
    "Finding",
    "InputsUnavailableError",
    "MachineEvidence",
    "RegistryFacts",
    "Row",
    "Step",
    "UncheckedError",
    "Verdict",
    "WorkDirectory",
    "run_audit",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Audit": "plan",
            "AuditError": "errors",
            "AuditRequest": "request",
            "Finding": "outcome",
            "InputsUnavailableError": "errors",
            "MachineEvidence": "request",
            "RegistryFacts": "request",
            "Row": "outcome",
            "Step": "outcome",
            "UncheckedError": "errors",
            "Verdict": "outcome",
            "WorkDirectory": "work",
            "run_audit": "plan",
        },
    )
