"""RA-TLS certificates: how they are made and how they are read (protocol specification, sections 5.5 and 5.6).

A certificate is self-signed by a fresh Ed25519 key and carries a quote over that key. Reading is tolerant where the
reference is: its certificates say version 1 although they have extensions. The self-signature is not relied on; TLS
proves possession of the key.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import warnings
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from attestation.errors import CertificateError
from attestation.tdx import MAX_QUOTE

OID_QUOTE = x509.ObjectIdentifier("1.3.6.1.4.1.12345.1")
OID_CLAIMS = x509.ObjectIdentifier("1.3.6.1.4.1.12345.2")
OID_BUNDLE = x509.ObjectIdentifier("2.25.159271043627158047293518226170937745211")
"""SHA-256 of our evidence bundle (32 raw bytes), never critical. An arc under 2.25 is a random UUID: nobody else's."""

MAX_CERTIFICATE = MAX_QUOTE + 4096
LIFETIME = dt.timedelta(days=1)
SERVER_NAME = "127.0.0.1"
_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)
_LIBRARY_ERRORS = (
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)
_KNOWN_CRITICAL = {
    OID_QUOTE,
    OID_CLAIMS,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "AE"),
        x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "DUBAI"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "TDLib Development"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Security"),
        x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
    ]
)


@dataclass(frozen=True, slots=True)
class RatlsCertificate:
    """What a peer's certificate says.

    Attributes:
        public_key: Raw Ed25519 key, 32 bytes.
        quote: The quote, ``None`` if there is none.
        bundle_digest: SHA-256 of the peer's evidence bundle, ``None`` if it names none.
        not_before: Unix time.
        not_after: Unix time.
        self_issued: Whether subject and issuer are the same.
        dns_names: dNSName entries.
        common_name: The subject's common name, empty if there is none.
        usages: Extended key usages as dotted text, ``None`` without that extension.
        signs: Whether key usage, if present, allows digital signatures.
        is_authority: Whether basic constraints say CA.
    """

    public_key: bytes
    quote: bytes | None
    bundle_digest: bytes | None
    not_before: float
    not_after: float
    self_issued: bool
    dns_names: tuple[str, ...]
    common_name: str
    usages: frozenset[str] | None
    signs: bool
    is_authority: bool

    @property
    def names_server(self) -> bool:
        """Whether it is good for the host name ``127.0.0.1``, which every connecting side asks for."""
        return SERVER_NAME in self.dns_names or (not self.dns_names and self.common_name == SERVER_NAME)


def build_certificate(
    key: Ed25519PrivateKey,
    quote: bytes | None,
    *,
    now: float,
    bundle_digest: bytes | None = None,
    lifetime: dt.timedelta = LIFETIME,
) -> bytes:
    """Make a self-signed certificate as the reference makes them, in its order of extensions.

    Args:
        key: The key it is for and signed by.
        quote: Quote whose report data is SHA-512 of the raw public key; ``None`` for a peer without attestation.
        now: Unix time from which it is valid.
        bundle_digest: SHA-256 of the evidence bundle, for the one extension of our own.
        lifetime: How long it is valid.

    Returns:
        DER.

    Raises:
        CertificateError: The quote or digest has a length that no peer accepts.
    """
    if quote is not None and not 0 < len(quote) <= MAX_QUOTE:
        raise CertificateError(f"quote of {len(quote)} bytes, a certificate carries 1 to {MAX_QUOTE}")
    if bundle_digest is not None and len(bundle_digest) != 32:
        raise CertificateError(f"bundle digest of {len(bundle_digest)} bytes, expected 32")
    public = key.public_key()
    start = dt.datetime.fromtimestamp(int(now), dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
    )
    if quote is not None:
        claims = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        builder = builder.add_extension(x509.UnrecognizedExtension(OID_QUOTE, quote), critical=True)
        builder = builder.add_extension(x509.UnrecognizedExtension(OID_CLAIMS, claims), critical=True)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNATURE_ONLY, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.DNSName(SERVER_NAME), x509.IPAddress(ipaddress.ip_address("::1"))]
            ),
            critical=False,
        )
    )
    if bundle_digest is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(OID_BUNDLE, bundle_digest), critical=False)
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)


def parse_certificate(der: bytes) -> RatlsCertificate:
    """Read a peer's certificate.

    Raises:
        CertificateError: Not a certificate, another key type, an oversize or repeated extension, or a critical
            extension that is not known.
    """
    if len(der) > MAX_CERTIFICATE:
        raise CertificateError(f"certificate of {len(der)} bytes, at most {MAX_CERTIFICATE} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
            public_key = certificate.public_key()
            extensions = certificate.extensions
            not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            self_issued = certificate.subject == certificate.issuer
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            common_name = str(names[0].value) if names else ""
    except (ValueError, TypeError, *_LIBRARY_ERRORS) as error:
        raise CertificateError(f"certificate cannot be read: {type(error).__name__}") from None
    if not isinstance(public_key, Ed25519PublicKey):
        raise CertificateError(f"certificate with a key of {type(public_key).__name__}, expected Ed25519")
    unknown = [item.oid.dotted_string for item in extensions if item.critical and item.oid not in _KNOWN_CRITICAL]
    if unknown:
        raise CertificateError(f"certificate with unknown critical extensions {unknown}")
    quote = _raw(extensions, OID_QUOTE)
    if quote is not None and len(quote) > MAX_QUOTE:
        raise CertificateError(f"certificate with a quote of {len(quote)} bytes, at most {MAX_QUOTE}")
    digest = _raw(extensions, OID_BUNDLE)
    if digest is not None and len(digest) != 32:
        raise CertificateError(f"certificate with a bundle digest of {len(digest)} bytes, expected 32")
    alternative = _typed(extensions, x509.SubjectAlternativeName)
    usages = _typed(extensions, x509.ExtendedKeyUsage)
    key_usage = _typed(extensions, x509.KeyUsage)
    constraints = _typed(extensions, x509.BasicConstraints)
    return RatlsCertificate(
        public_key=public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
        quote=quote,
        bundle_digest=digest,
        not_before=not_before.timestamp(),
        not_after=not_after.timestamp(),
        self_issued=self_issued,
        dns_names=tuple(alternative.get_values_for_type(x509.DNSName)) if alternative else (),
        common_name=common_name,
        usages=frozenset(item.dotted_string for item in usages) if usages else None,
        signs=key_usage is None or key_usage.digital_signature,
        is_authority=bool(constraints and constraints.ca),
    )


_SIGNATURE_ONLY = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _typed(extensions: x509.Extensions, kind: type[_ExtensionT]) -> _ExtensionT | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _raw(extensions: x509.Extensions, oid: x509.ObjectIdentifier) -> bytes | None:
    """The bytes in the extension's OCTET STRING as they are (section 5.5)."""
    try:
        value = extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise CertificateError(f"certificate extension {oid.dotted_string} is not raw bytes")
    return value.value
