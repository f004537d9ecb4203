"""The part of the exception tree that belongs to evidence.

::

    ChrysalisError
    └── AttestationError
        ├── EvidenceError         bytes that are not the evidence they claim to be: layout, length, encoding
        ├── CollateralError       collateral is missing, stale or cannot be fetched
        ├── CertificateError      an RA-TLS certificate is malformed or cannot be made
        ├── HandshakeError        proof of work, TLS or the router's frames failed
        ├── CollectionError       this machine cannot produce evidence
        ├── PolicyError           a policy's file cannot be read, or says what is not possible
        └── RefusedError          well-formed evidence that a policy refuses; carries the verdict
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from attestation.verdict import Verdict


class AttestationError(ChrysalisError):
    """Root of the errors of evidence, its verification and the handshakes that carry it."""


class EvidenceError(AttestationError):
    """Bytes that are not the evidence they claim to be."""


class CollateralError(AttestationError):
    """Collateral is missing, stale or cannot be fetched."""


class CertificateError(AttestationError):
    """An RA-TLS certificate is malformed or cannot be made."""


class HandshakeError(AttestationError):
    """Proof of work, TLS or one of the router's frames failed."""


class CollectionError(AttestationError):
    """This machine cannot produce evidence."""


class PolicyError(AttestationError):
    """A policy cannot be read, or demands what is not possible; the message names the key."""


class RefusedError(AttestationError):
    """Well-formed evidence that a policy refuses.

    Args:
        verdict: Every check with what was seen; the message names the first that failed, with its hint.
    """

    def __init__(self, verdict: Verdict) -> None:
        failed = verdict.failed
        if failed:
            first = failed[0]
            more = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
            message = (
                f"policy {verdict.policy!r} refuses: {first.name} is {first.seen}, expected {first.expected}{more}"
            )
            hint = first.hint
        else:
            message, hint = f"policy {verdict.policy!r} refuses", ""
        super().__init__(message, hint=hint)
        self.verdict = verdict
