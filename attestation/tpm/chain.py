"""Chains of X.509 certificates to one of a few given roots; DER in, the leaf and what binds it out.

A small verifier on purpose: the general ones look for host names and refuse the extensions that certificates of TPMs
have. Names, signatures, dates, basic constraints, key usage and path lengths are checked (RFC 5280, section 6.1);
revocation is not: an attestation key's certificate lives for days.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from attestation.certificates import LIBRARY_ERRORS, read_whole
from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.tpm.keys import Key

ATTESTATION_USAGE = x509.ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate (TCG EK Credential Profile 2.5, section 4): what an attestation key's certificate is for."""

ENDORSEMENT_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate."""

KEY_ID_SIZE = 48
"""Bytes of a :func:`root_key_id`."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_KNOWN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # a TPM's maker and model: not relied on
}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that holds.

    Attributes:
        key: The leaf's public key.
        machine: Identifier of the machine that the leaf names (its subject's serial number, hex), empty without one.
        root_key_id: SHA-384 of the root's public key, 48 bytes.
        expires_at: Unix time at which the first certificate expires.
    """

    key: Key
    machine: bytes
    root_key_id: bytes
    expires_at: float


def verify_chain(
    chain: Sequence[bytes], roots: Sequence[bytes], *, usage: x509.ObjectIdentifier | None, now: float
) -> Chain:
    """Verify a chain under any of several roots.

    Args:
        chain: Leaf first, DER; the root may be left out, unless it is known by its key alone.
        roots: Trusted certificates, DER, or key ids of 48 bytes (:func:`root_key_id`): with one of those, the chain's
            last certificate is the root if it has that key and signed itself.
        usage: Extended key usage that the leaf must have; ``None`` for an attestation key whose certificate says by its
            key usage alone that it signs (Google's).
        now: Unix time at which all of it has to be valid.

    Raises:
        EvidenceError: It does not hold, with the reason.
    """
    certificates = [_load(der) for der in chain]
    if not certificates or len(certificates) > 8:
        raise EvidenceError(f"chain of {len(certificates)} certificates, expected 1 to 8")
    trusted = [_load(root) for root in roots if len(root) != KEY_ID_SIZE]
    if root_key_id(last := certificates[-1]) in roots and _signed(last, last):
        trusted.append(last)
    root = _root_above(certificates[-1], trusted)
    path = certificates if certificates[-1] == root else [*certificates, root]
    if len(path) < 2:
        raise EvidenceError("chain that is a root alone, without a certificate below it")
    moment = _moment(now)
    for depth, certificate in enumerate(path):
        _check_one(certificate, moment)
        if depth:
            _check_authority(certificate, below=depth - 1)
            _check_issued(path[depth - 1], certificate)
    leaf = path[0]
    _check_leaf(leaf, usage)
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise EvidenceError(f"certificate with a key of {type(key).__name__}, expected RSA or elliptic-curve")
    expires = min(certificate.not_valid_after_utc.timestamp() for certificate in path)
    return Chain(key, _machine(leaf), root_key_id(root), expires)


def root_key_id(root: x509.Certificate) -> bytes:
    """SHA-384 of a root's public key, 48 bytes: of the X.962 point as for Intel's, of the DER for other kinds."""
    key = root.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        raw = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    else:
        raw = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha384(raw).digest()


def _load(der: bytes) -> x509.Certificate:
    certificate = read_whole(partial(x509.load_der_x509_certificate, der))
    critical = [item.oid for item in certificate.extensions if item.critical]
    unknown = [oid.dotted_string for oid in critical if oid not in _KNOWN_CRITICAL]
    if unknown:
        raise EvidenceError(f"certificate in a chain with unknown critical extensions {unknown}")
    return certificate


def _root_above(last: x509.Certificate, trusted: Sequence[x509.Certificate]) -> x509.Certificate:
    for root in trusted:
        if root == last or (root.subject == last.issuer and _signed(last, root)):
            return root
    raise EvidenceError(
        f"chain that ends with a certificate issued by {_name(last.issuer)}, which is no trusted root",
        hint="roots are made for a run: compare tpm_roots with the run's own",
    )


def _check_one(certificate: x509.Certificate, moment: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= moment <= end:
        raise EvidenceError(
            f"certificate of {_name(certificate.subject)} is valid from {start:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M}, now is {moment:%Y-%m-%d %H:%M}",
            hint="compare the clocks; the key has to be certified again",
        )


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise EvidenceError(f"certificate of {_name(certificate.subject)} is not an authority's")
    if constraints.path_length is not None and below > constraints.path_length:
        raise EvidenceError(f"certificate of {_name(certificate.subject)} allows no chain of this length")


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    if certificate.issuer != issuer.subject or not _signed(certificate, issuer):
        raise EvidenceError(
            f"certificate of {_name(certificate.subject)} was not issued by {_name(issuer.subject)} of this chain"
        )


def _check_leaf(leaf: x509.Certificate, usage: x509.ObjectIdentifier | None) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    allowed = _extension(leaf, x509.KeyUsage)
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    signs = usage in {ATTESTATION_USAGE, None}
    wrong = constraints is not None and constraints.ca
    if allowed is not None:
        right = allowed.digital_signature if signs else allowed.key_encipherment or allowed.key_agreement
        wrong = wrong or not right
    named = allowed is not None if usage is None else usages is not None and usage in usages
    if wrong or not named:
        raise EvidenceError(
            f"certificate of {_name(leaf.subject)} is not for a TPM's "
            f"{'attestation' if signs else 'endorsement'} key (usage {usage.dotted_string if usage else 'signature'})"
        )


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *LIBRARY_ERRORS):
        return False
    return True


def _machine(leaf: x509.Certificate) -> bytes:
    names = leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    try:
        return bytes.fromhex(str(names[0].value)) if names else b""
    except ValueError:
        return b""


def _moment(now: float) -> datetime:
    try:
        return datetime.fromtimestamp(now, UTC)
    except (OverflowError, ValueError, OSError):
        raise EvidenceError(f"a clock of {now} is no time of day") from None


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()[:120])
