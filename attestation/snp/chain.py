"""The chain above an endorsement key: ARK (pinned), ASK or ASVK, and the root's revocation list.

Everything is signed with RSA-PSS, SHA-384 and salts of 48 bytes (57230, section 2.1), whatever a certificate's own
parameters say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from attestation.certificates import read_whole
from attestation.errors import EvidenceError
from attestation.snp import roots
from attestation.snp.tcb import Product, product_of_name
from attestation.snp.vek import parse_vek

if TYPE_CHECKING:
    from attestation.snp.collateral import SnpCollateral
    from attestation.snp.vek import Vek

_SALT = 48
_MIN_BITS = 2048
_ROOT_NAME = "ARK-"
_CHIP_NAME, _CLOUD_NAME = "SEV-", "SEV-VLEK-"
_LIBRARY_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class Chain:
    """What a verified chain says.

    Attributes:
        vek: The endorsement key's certificate.
        product: Of the root, and so of everything below.
        root_key_id: SHA-384 of the root's public key, 48 bytes.
        revocation_checked: Whether a revocation list was at hand.
        expires_at: Unix time at which the first certificate or the revocation list expires.
    """

    vek: Vek
    product: Product
    root_key_id: bytes
    revocation_checked: bool
    expires_at: float


class RevokedError(EvidenceError):
    """A certificate of the chain is revoked, or the list that says so cannot be relied on."""


def verify_chain(collateral: SnpCollateral, trusted: frozenset[bytes], now: float) -> Chain:
    """Verify certificates and revocation list.

    Args:
        collateral: As a source, a bundle or the host gave it.
        trusted: Key ids of roots (:data:`attestation.snp.roots.AMD_ROOTS`).
        now: Unix time.

    Raises:
        RevokedError: The revocation list revokes the issuer, or is itself forged, stale or another root's.
        EvidenceError: A certificate cannot be read, is not valid now, or its issuer did not sign it.
    """
    ark, ask = _load(collateral.ark, "ARK"), _load(collateral.ask, "ASK")
    vek = parse_vek(collateral.vek)
    root_id = roots.key_id(ark)
    if root_id not in trusted:
        raise EvidenceError(
            f"root key {root_id.hex()[:16]} is not trusted",
            hint="the chain does not end in a root of this policy",
        )
    product = _product(ark, _ROOT_NAME)
    moment = _moment(now)
    for certificate, issuer in ((ark, ark), (ask, ark)):
        _check_authority(certificate, moment)
        if certificate.issuer != issuer.subject or not _signed_by(issuer, certificate):
            raise EvidenceError(f"certificate of {_name(certificate)!r} was not issued by {_name(issuer)!r}")
    issuer_product = _product(ask, _CLOUD_NAME if vek.is_vlek else _CHIP_NAME)
    if not vek.issuer == ask.subject.public_bytes() or not _verifies(_key(ask), vek.signature, vek.signed):
        raise EvidenceError(f"endorsement key was not certified by {_name(ask)!r}")
    if not vek.begins <= now <= vek.ends:
        raise EvidenceError("endorsement key's certificate is not valid now", hint="compare the clocks")
    if not product is issuer_product is vek.product:
        raise EvidenceError(f"chain of products {product}, {issuer_product} and {vek.product}, expected one")
    ends = [vek.ends, ask.not_valid_after_utc.timestamp(), ark.not_valid_after_utc.timestamp()]
    if collateral.crl is not None:
        ends.append(_check_revocation(collateral.crl, ark, ask, moment))
    return Chain(vek, product, root_id, collateral.crl is not None, min(ends))


def _check_revocation(data: bytes, ark: x509.Certificate, ask: x509.Certificate, moment: datetime) -> float:
    """Look the issuer up in the root's list; returns when the list ends."""
    try:
        crl = x509.load_der_x509_crl(data)
        issued, following = crl.last_update_utc, crl.next_update_utc
        signed, signature, pss = crl.tbs_certlist_bytes, crl.signature, _is_pss(crl.signature_algorithm_oid)
        revoked = crl.get_revoked_certificate_by_serial_number(ask.serial_number)
        issuer = crl.issuer
    except _LIBRARY_ERRORS as error:
        raise RevokedError(f"revocation list cannot be read: {type(error).__name__}") from None
    if issuer != ark.subject or not pss or not _verifies(_key(ark), signature, signed):
        raise RevokedError(
            f"revocation list was not signed by {_name(ark)!r}", hint="it is forged, or another product's"
        )
    if following is None or not issued <= moment <= following:
        end = "no end" if following is None else f"{following:%Y-%m-%d %H:%M}"
        raise RevokedError(
            f"revocation list is of {issued:%Y-%m-%d %H:%M} to {end}, now is {moment:%Y-%m-%d %H:%M}",
            hint="refresh the collateral, and check this machine's clock",
        )
    if revoked is not None:
        raise RevokedError(
            f"certificate of {_name(ask)!r} was revoked on {revoked.revocation_date_utc:%Y-%m-%d}",
            hint="AMD no longer vouches for keys under it",
        )
    return following.timestamp()


def _load(data: bytes, what: str) -> x509.Certificate:
    try:
        certificate = read_whole(partial(x509.load_der_x509_certificate, data))
    except EvidenceError as error:
        raise EvidenceError(f"{what}: {error.message}") from None
    key, pss = certificate.public_key(), _is_pss(certificate.signature_algorithm_oid)
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _MIN_BITS or not pss:
        raise EvidenceError(f"certificate of the {what} is not RSA signed with PSS")
    return certificate


def _check_authority(certificate: x509.Certificate, moment: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= moment <= end:
        raise EvidenceError(
            f"certificate of {_name(certificate)!r} is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}, "
            f"now is {moment:%Y-%m-%d}",
            hint="compare the clocks",
        )
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *_LIBRARY_ERRORS):
        raise EvidenceError(f"certificate of {_name(certificate)!r} does not say that it is an authority's") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise EvidenceError(f"certificate of {_name(certificate)!r} is not an authority's")


def _signed_by(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    return _verifies(_key(issuer), certificate.signature, certificate.tbs_certificate_bytes)


def _verifies(key: rsa.RSAPublicKey, signature: bytes, data: bytes) -> bool:
    scheme = padding.PSS(padding.MGF1(hashes.SHA384()), _SALT)
    try:
        key.verify(signature, data, scheme, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def _key(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise EvidenceError(f"key of {_name(certificate)!r} is not RSA")
    return key


def _is_pss(oid: x509.ObjectIdentifier) -> bool:
    return oid == SignatureAlgorithmOID.RSASSA_PSS


def _product(certificate: x509.Certificate, prefix: str) -> Product:
    name = _name(certificate)
    product = product_of_name(name.removeprefix(prefix)) if name.startswith(prefix) else None
    if product is None:
        raise EvidenceError(f"certificate of {name!r}, expected {prefix} and a product of {', '.join(Product)}")
    return product


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value)[:64] if names else ""


def _moment(now: float) -> datetime:
    try:
        return datetime.fromtimestamp(now, UTC)
    except (OverflowError, ValueError, OSError):
        raise EvidenceError(f"a clock of {now} is no time of day") from None
