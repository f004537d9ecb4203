"""Reading TPM evidence: bytes and roots in, verified claims out, with the checks that belong to it.

What is verified here: that a key certified under a trusted root, which can sign nothing but the TPM's own statements,
signed a quote over exactly the registers that are shown. What the registers have to hold is the rules' business
(:mod:`attestation.tpm.rules`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError
from attestation.tpm import algorithms as alg
from attestation.tpm import references
from attestation.tpm.attest import parse_quote, parse_signature
from attestation.tpm.chain import ATTESTATION_USAGE, verify_chain
from attestation.tpm.evidence import REGISTERS, parse_evidence
from attestation.tpm.keys import parse_public, spki
from attestation.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.tpm.attest import Clock, Quote
    from attestation.tpm.chain import Chain
    from attestation.tpm.evidence import TpmEvidence
    from attestation.tpm.keys import TpmPublic
    from attestation.tpm.logs import BootLogs

SELECTION = ((alg.SHA256, REGISTERS),)
_CHAIN = "a chain to a trusted root"


@dataclass(frozen=True, slots=True)
class TpmClaims:
    """What verified evidence says.

    Attributes:
        registers: SHA-256 registers 0 to 15.
        extra: The 32 bytes that the quote was asked for.
        clock: The TPM's clock.
        hierarchy: Of which hierarchy the attestation key is a primary key, empty if of none that is known.
        logs: What the registers were extended with, ``None`` in a certificate.
        machine: Identifier of the machine, from the attestation key's certificate.
        root_key_id: SHA-384 of the root's public key, 48 bytes.
        expires_at: Unix time at which the first certificate expires.
    """

    registers: Mapping[int, bytes]
    extra: bytes
    clock: Clock
    hierarchy: str
    logs: BootLogs | None
    machine: bytes
    root_key_id: bytes
    expires_at: float

    @property
    def image_hash(self) -> bytes:
        """Identity of image and configuration, 32 bytes."""
        return references.image_hash(self.registers)


def read(data: bytes, roots: tuple[bytes, ...], now: float) -> tuple[TpmClaims | None, tuple[Check, ...]]:
    """Verify evidence under the given roots.

    Args:
        data: The evidence.
        roots: Roots of authorities that certify attestation keys, DER.
        now: Unix time.

    Returns:
        Claims, ``None`` unless every check passed, and the checks.
    """
    try:
        evidence = parse_evidence(data)
    except EvidenceError as error:
        return None, (_failed("tpm evidence", error, "evidence of a TPM"),)
    try:
        chain = verify_chain(evidence.chain, roots, usage=ATTESTATION_USAGE, now=now)
    except EvidenceError as error:
        return None, (_failed("attestation key certificate", error, _CHAIN),)
    claims, checks = examine(evidence, chain, source="certificate")
    return claims, (
        Check("attestation key certificate", True, f"under root {chain.root_key_id.hex()[:16]}", _CHAIN),
        *checks,
    )


def examine(evidence: TpmEvidence, chain: Chain, *, source: str) -> tuple[TpmClaims | None, tuple[Check, ...]]:
    """Verify a quote by a key that something vouches for.

    Args:
        evidence: Its chain is not looked at.
        chain: The key, and what the claims take over from whatever vouches for it.
        source: Where the key was found, in a word or two for people.

    Returns:
        As :func:`read`.
    """
    try:
        key = parse_public(evidence.key)
        quote = parse_quote(evidence.quote)
        signature = parse_signature(evidence.signature)
    except EvidenceError as error:
        return None, (_failed("tpm evidence", error, "evidence of a TPM"),)
    wrong = key.wrong_attributes()
    checks = (
        _own_key(key, chain, source),
        Check(
            "attestation key",
            not wrong,
            ", ".join(wrong) or "restricted signing key, made in the TPM",
            "restricted signing key, made in the TPM",
            "a key that signs what it is given can sign a forged quote",
        ),
        Check(
            "quote signature",
            signature.holds(key.key, evidence.quote),
            "checked",
            "the attestation key signed the quote",
            "the quote was altered, or another TPM made it",
        ),
        *_registers(evidence, quote, signature.hash),
    )
    if not all(check.passed for check in checks):
        return None, checks
    registers = dict(zip(REGISTERS, evidence.registers, strict=True))
    claims = TpmClaims(
        registers=registers,
        extra=quote.extra,
        clock=quote.clock,
        hierarchy=key.hierarchy(quote.signer),
        logs=evidence.logs,
        machine=chain.machine,
        root_key_id=chain.root_key_id,
        expires_at=chain.expires_at,
    )
    return claims, checks


def _own_key(key: TpmPublic, chain: Chain, source: str) -> Check:
    return Check(
        "certified key",
        key.spki == spki(chain.key),
        key.name.hex(),
        f"the key in the {source}",
        f"the {source} belongs to another key",
    )


def _registers(evidence: TpmEvidence, quote: Quote, algorithm: int) -> tuple[Check, ...]:
    digest = alg.digest(algorithm, b"".join(evidence.registers))
    return (
        Check(
            "quoted registers",
            quote.selection == SELECTION,
            "; ".join(f"bank {bank:#06x}: {', '.join(map(str, which))}" for bank, which in quote.selection) or "none",
            "SHA-256 registers 0 to 15 and no others",
        ),
        Check(
            "register digest",
            digest == quote.digest,
            digest.hex(),
            quote.digest.hex(),
            "the values shown are not the ones that were quoted",
        ),
    )


def _failed(name: str, error: EvidenceError, expected: str) -> Check:
    return Check(name, False, error.message, expected, error.hint)
