"""Certificate chains of NVIDIA's devices and reference manifests: up to a pinned root, at a given time.

The general verifiers look for host names and refuse what these certificates have (a validity until the year 9999, no
extended key usage, leaves without basic constraints). Names, signatures, dates, basic constraints, key usage and path
lengths are checked (RFC 5280, section 6.1); revocation is :mod:`attestation.gpu.ocsp`.

A device's chain is ``leaf ‖ device ‖ provisioner ‖ identity ‖ root``. The device's key is burnt in and certified by
NVIDIA; its certificate is named after the chip (``GH100 A01 GSP BROM``) and its serial number is one type byte and the
device's 8-byte PDI, under which a switch knows it. The leaf is made by the device for the firmware it loaded, whose
digest (FWID) is in an extension of it (TCG DICE), and signs reports.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID

from attestation.certificates import LIBRARY_ERRORS, read_whole
from attestation.errors import EvidenceError
from attestation.tpm.chain import root_key_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.gpu.memory import Memory

MAX_CERTIFICATES = 8
PDI_SIZE = 8
_KNOWN_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]{1,16384}-----END CERTIFICATE-----\s*\0*")
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Path:
    """A chain that holds.

    Attributes:
        certificates: Leaf first, the pinned root last.
        root_key_id: SHA-384 of the root's public key, 48 bytes.
        expires_at: Unix time at which the first certificate expires.
    """

    certificates: tuple[x509.Certificate, ...]
    root_key_id: bytes
    expires_at: float

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate at the bottom."""
        return self.certificates[0]

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The leaf's P-384 key.

        Raises:
            EvidenceError: It is another kind of key.
        """
        key = self.leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise EvidenceError(f"certificate of {name_of(self.leaf.subject)} has a key that is not of curve P-384")
        return key


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Which device a chain speaks for.

    Attributes:
        device_id: SHA-256 of the device key (SubjectPublicKeyInfo), 32 bytes; the same for every firmware.
        chip: First word of the device certificate's name, for example ``GH100``.
        model: The whole name, for example ``GH100 A01 GSP BROM``.
        pdi: The identifier under which NVSwitches know the device, 8 bytes, empty if its serial number has none.
    """

    device_id: bytes
    chip: str
    model: str
    pdi: bytes


def load_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    """Certificates of a PEM text in the order they come; nothing may stand between them.

    Raises:
        EvidenceError: None, too many, or one that cannot be read.
    """
    rest = data.strip(b"\0 \t\r\n")
    texts: list[bytes] = []
    while rest:
        match = _PEM.match(rest)
        if match is None or len(texts) == MAX_CERTIFICATES:
            raise EvidenceError(
                f"certificate chain with something else than 1 to {MAX_CERTIFICATES} certificates in PEM "
                f"after {len(texts)} certificates"
            )
        texts.append(match.group().rstrip(b"\0"))
        rest = rest[match.end() :]
    if not texts:
        raise EvidenceError("certificate chain without certificates")
    return tuple(read_whole(partial(x509.load_pem_x509_certificate, text)) for text in texts)


def load_der(der: bytes) -> x509.Certificate:
    """One certificate.

    Raises:
        EvidenceError: It cannot be read.
    """
    return read_whole(partial(x509.load_der_x509_certificate, der))


def verify_path(
    certificates: Sequence[x509.Certificate], roots: Sequence[bytes], now: float, memory: Memory | None = None
) -> Path:
    """Verify a chain under any of several roots.

    Args:
        certificates: Leaf first; the root may be left out.
        roots: Trusted certificates, DER.
        now: Unix time at which all of it has to be valid.
        memory: Remembers signatures; without it every one is verified.

    Raises:
        EvidenceError: It does not hold, with the reason.
    """
    if not 0 < len(certificates) <= MAX_CERTIFICATES:
        raise EvidenceError(f"chain of {len(certificates)} certificates, expected 1 to {MAX_CERTIFICATES}")
    trusted = [load_der(der) for der in roots]
    root = _root_above(certificates[-1], trusted, memory)
    path = tuple(certificates) if certificates[-1] == root else (*certificates, root)
    if len(path) < 2:
        raise EvidenceError("chain that is a root alone, without a certificate below it")
    check_path_dates(path, now)
    # From the root down, so that no key is used before the key above it said whose it is.
    for depth, certificate in reversed(list(enumerate(path))):
        _check_critical(certificate)
        if depth:
            _check_authority(certificate, below=depth - 1)
            check_issued(path[depth - 1], certificate, memory)
    _check_leaf(path[0])
    expires = min(certificate.not_valid_after_utc.timestamp() for certificate in path)
    return Path(path, root_key_id(root), expires)


def device_identity(path: Path) -> DeviceIdentity:
    """Who a verified device chain speaks for.

    Raises:
        EvidenceError: The chain has no device certificate between leaf and root, or it has no name.
    """
    if len(path.certificates) < 3:
        raise EvidenceError("device chain without a device certificate between leaf and root")
    device = path.certificates[1]
    names = device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not str(names[0].value).split():
        raise EvidenceError(f"device certificate of {name_of(device.subject)}, expected one name that says the chip")
    model = str(names[0].value)
    serial = device.serial_number
    number = serial.to_bytes((serial.bit_length() + 7) // 8, "big")
    return DeviceIdentity(
        hashlib.sha256(spki(device)).digest(),
        model.split(maxsplit=1)[0],
        model[:64],
        number[1:] if len(number) == 1 + PDI_SIZE else b"",
    )


def spki(certificate: x509.Certificate) -> bytes:
    """A certificate's public key in DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's DER, 32 bytes: the key under which a bundle staples its OCSP response."""
    return certificate.fingerprint(hashes.SHA256())


def name_of(name: x509.Name) -> str:
    """A name for a person, quoted and cut."""
    return repr(name.rfc4514_string()[:120])


def moment_of(now: float) -> datetime:
    """A Unix time as a date.

    Raises:
        EvidenceError: It is none.
    """
    try:
        return datetime.fromtimestamp(now, UTC)
    except (OverflowError, ValueError, OSError):
        raise EvidenceError(f"a clock of {now} is no time of day") from None


def check_dates(certificate: x509.Certificate, moment: datetime) -> None:
    """Refuse a certificate outside its dates.

    Raises:
        EvidenceError: It is expired or not valid yet.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= moment <= end:
        raise EvidenceError(
            f"certificate of {name_of(certificate.subject)} is valid from {start:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M}, the time is {moment:%Y-%m-%d %H:%M}",
            hint="compare the clocks; certificates of reference manifests live about two years: fetch the manifest "
            "again, or verify at the time the evidence was made",
        )


def check_path_dates(certificates: Sequence[x509.Certificate], now: float) -> None:
    """Refuse certificates of which one is outside its dates; raises ``EvidenceError``."""
    moment = moment_of(now)
    for certificate in certificates:
        check_dates(certificate, moment)


def check_issued(certificate: x509.Certificate, issuer: x509.Certificate, memory: Memory | None = None) -> None:
    """Refuse a certificate that another did not issue.

    Raises:
        EvidenceError: Names or signature differ.
    """
    if certificate.issuer != issuer.subject or not _signed(certificate, issuer, memory):
        raise EvidenceError(
            f"certificate of {name_of(certificate.subject)} was not issued by {name_of(issuer.subject)} of this chain"
        )


def extension_of(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """An extension's value, ``None`` without it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _root_above(last: x509.Certificate, trusted: Sequence[x509.Certificate], memory: Memory | None) -> x509.Certificate:
    for root in trusted:
        if root == last or (root.subject == last.issuer and _signed(last, root, memory)):
            return root
    raise EvidenceError(
        f"chain that ends with a certificate issued by {name_of(last.issuer)}, which is no trusted root",
        hint="evidence of a synthetic world is trusted only where its own roots are given",
    )


def _check_critical(certificate: x509.Certificate) -> None:
    critical = [item.oid for item in certificate.extensions if item.critical]
    unknown = [oid.dotted_string for oid in critical if oid not in _KNOWN_CRITICAL]
    if unknown:
        raise EvidenceError(
            f"certificate of {name_of(certificate.subject)} with unknown critical extensions {', '.join(unknown)}"
        )


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    constraints = extension_of(certificate, x509.BasicConstraints)
    usage = extension_of(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
        raise EvidenceError(f"certificate of {name_of(certificate.subject)} is not an authority's")
    if constraints.path_length is not None and below > constraints.path_length:
        raise EvidenceError(f"certificate of {name_of(certificate.subject)} allows no chain of this length")


def _check_leaf(leaf: x509.Certificate) -> None:
    constraints = extension_of(leaf, x509.BasicConstraints)
    usage = extension_of(leaf, x509.KeyUsage)
    if (constraints is not None and constraints.ca) or usage is None or not usage.digital_signature:
        raise EvidenceError(f"certificate of {name_of(leaf.subject)} is not for signing reports or manifests")
    if extension_of(leaf, x509.ExtendedKeyUsage) is not None:
        raise EvidenceError(
            f"certificate of {name_of(leaf.subject)} has an extended key usage, which signers of reports and manifests "
            "do not have",
            hint="an OCSP responder's certificate stands below the same authority and signs neither",
        )


def _signed(certificate: x509.Certificate, issuer: x509.Certificate, memory: Memory | None) -> bool:
    def verify() -> bool:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, *LIBRARY_ERRORS):
            return False
        return True

    if memory is None:
        return verify()
    return memory.holds(verify, b"issued", fingerprint(certificate), fingerprint(issuer))
