"""What a machine proves: evidence collected in the guest, verified anywhere.

The names below are the public surface. Each is loaded when it is first asked for, so that a program that needs the
errors alone does not load TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.exports import lazily

if TYPE_CHECKING:
    from attestation.appraisal import Policy
    from attestation.batch import EvidenceMaker
    from attestation.claims import WorkloadStatement
    from attestation.errors import (
        AttestationError,
        CertificateError,
        CollateralError,
        CollectionError,
        EvidenceError,
        HandshakeError,
        PolicyError,
        RefusedError,
    )
    from attestation.evidence import Bundle, DeviceCollector, build_bundle, parse_bundle
    from attestation.platforms import Platform, open_platform
    from attestation.policy_file import load_policy
    from attestation.remote import verify_worker
    from attestation.roots import Roots
    from attestation.staple import Staple
    from attestation.tdx import TdxQuote, parse_quote
    from attestation.verdict import Check, CheckGroup, Verdict
    from attestation.verifier import Verifier

__all__ = [
    "AttestationError",
    "Bundle",
    "CertificateError",
    "Check",
    "CheckGroup",
    "CollateralError",
    "CollectionError",
    "DeviceCollector",
    "EvidenceError",
    "EvidenceMaker",
    "HandshakeError",
    "Platform",
    "Policy",
    "PolicyError",
    "RefusedError",
    "Roots",
    "Staple",
    "TdxQuote",
    "Verdict",
    "Verifier",
    "WorkloadStatement",
    "build_bundle",
    "load_policy",
    "open_platform",
    "parse_bundle",
    "parse_quote",
    "verify_worker",
]

_HOMES = {
    "AttestationError": "errors",
    "Bundle": "evidence",
    "CertificateError": "errors",
    "Check": "verdict",
    "CheckGroup": "verdict",
    "CollateralError": "errors",
    "CollectionError": "errors",
    "DeviceCollector": "evidence",
    "EvidenceError": "errors",
    "EvidenceMaker": "batch",
    "HandshakeError": "errors",
    "Platform": "platforms",
    "Policy": "appraisal",
    "PolicyError": "errors",
    "RefusedError": "errors",
    "Roots": "roots",
    "Staple": "staple",
    "TdxQuote": "tdx",
    "Verdict": "verdict",
    "Verifier": "verifier",
    "WorkloadStatement": "claims",
    "build_bundle": "evidence",
    "load_policy": "policy_file",
    "open_platform": "platforms",
    "parse_bundle": "evidence",
    "parse_quote": "tdx",
    "verify_worker": "remote",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, _HOMES)
