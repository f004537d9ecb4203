"""The revocation service of a synthetic vendor: signed answers about each certificate that its chains hold.

Form of the real answers: issuer named by SHA-384 hashes, one day of life, signed by a delegate of the issuer whose
certificate is enclosed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.lab.gpu_world_attack import OcspFault
from appliance.lab.gpu_world_pki import Authority, Valid, der, key_usage, name, new_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LIFE = dt.timedelta(hours=24)
_AGE = dt.timedelta(hours=1)
_RESPONDER_LIFE = dt.timedelta(days=3 * 365)
_NO_CHECK_USAGE = x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.5")


@dataclass(frozen=True, slots=True)
class Subject:
    """A certificate whose revocation can be asked for.

    Attributes:
        certificate: The certificate.
        issuer: Who certified it.
        role: What an attack calls it.
    """

    certificate: x509.Certificate
    issuer: Authority
    role: str

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate, by which answers are filed; 32 bytes."""
        return hashlib.sha256(der(self.certificate)).digest()


@dataclass(slots=True)
class Responder:
    """Answers for all authorities of a vendor; each has its delegate, made when it is first needed."""

    _delegates: dict[tuple[bytes, OcspFault], tuple[x509.Certificate, EllipticCurvePrivateKey]] = field(
        default_factory=dict
    )

    def answer(
        self,
        subject: Subject,
        now: dt.datetime,
        fault: OcspFault = OcspFault.NONE,
        other: Subject | None = None,
        nonce: bytes | None = None,
    ) -> bytes | None:
        """A signed answer about a certificate.

        Args:
            subject: The certificate.
            now: When it is asked; the answer was made an hour before.
            fault: What is wrong with it.
            other: Whose certificate it is about instead (:attr:`OcspFault.OTHER_CERTIFICATE`).
            nonce: The asker's, which the answer repeats.

        Returns:
            The response as DER; ``None`` if there is none.
        """
        if fault is OcspFault.MISSING:
            return None
        if fault is OcspFault.GARBAGE:
            return b"<html><body>Bad Gateway</body></html>"
        if fault is OcspFault.TRY_LATER:
            busy = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
            return busy.public_bytes(Encoding.DER)
        about = other if fault is OcspFault.OTHER_CERTIFICATE and other is not None else subject
        delegate, key = self.delegate(subject.issuer, now, fault)
        made, until = _times(now, fault)
        status, reason = _STATUS.get(fault, (ocsp.OCSPCertStatus.GOOD, None))
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                about.certificate,
                about.issuer.certificate,
                hashes.SHA384(),
                status,
                made,
                until,
                made - LIFE if status is ocsp.OCSPCertStatus.REVOKED else None,
                reason,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, delegate)
            .certificates([delegate])
        )
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        response = builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)
        return _flipped(response) if fault is OcspFault.BAD_SIGNATURE else response

    def delegate(
        self, issuer: Authority, now: dt.datetime, fault: OcspFault = OcspFault.NONE
    ) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
        """Who answers for an authority: certificate and key."""
        kind = fault if fault in _OTHER_DELEGATES else OcspFault.NONE
        at = (der(issuer.certificate), kind)
        if at not in self._delegates:
            self._delegates[at] = _make_delegate(issuer, now, kind)
        return self._delegates[at]


def _make_delegate(
    issuer: Authority, now: dt.datetime, fault: OcspFault
) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    if fault is OcspFault.WRONG_SIGNER:
        issuer = Authority(issuer.subject, issuer.valid)
    since = now.replace(microsecond=0) - dt.timedelta(days=300)
    until = now.replace(microsecond=0) - LIFE if fault is OcspFault.EXPIRED_RESPONDER else since + _RESPONDER_LIFE
    purposes = [ExtendedKeyUsageOID.OCSP_SIGNING, _NO_CHECK_USAGE]
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), False),
        (key_usage(signs_certificates=False), True),
    ]
    if fault is not OcspFault.NO_PURPOSE:
        extensions.append((x509.ExtendedKeyUsage(purposes), True))
    key = new_key()
    common = issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    subject = name(f"NVIDIA OCSP Responder {str(common).removeprefix('NVIDIA ')}")
    return issuer.issue(subject, key, Valid(since, until), extensions), key


def _times(now: dt.datetime, fault: OcspFault) -> tuple[dt.datetime, dt.datetime | None]:
    made = now.replace(microsecond=0) - _AGE
    if fault is OcspFault.EXPIRED:
        made -= 2 * LIFE
    if fault is OcspFault.FUTURE:
        made += LIFE
    return made, None if fault is OcspFault.ENDLESS else made + LIFE


def _flipped(response: bytes) -> bytes:
    """The response with one bit of its signature changed."""
    signature = ocsp.load_der_ocsp_response(response).signature
    at = response.index(signature) + len(signature) - 1
    return response[:at] + bytes([response[at] ^ 1]) + response[at + 1 :]


_OTHER_DELEGATES = frozenset({OcspFault.WRONG_SIGNER, OcspFault.NO_PURPOSE, OcspFault.EXPIRED_RESPONDER})
_STATUS = {
    OcspFault.REVOKED: (ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.key_compromise),
    OcspFault.ON_HOLD: (ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.certificate_hold),
    OcspFault.UNKNOWN: (ocsp.OCSPCertStatus.UNKNOWN, None),
}


def asked_for(request: bytes, subjects: Iterable[Subject]) -> tuple[Subject | None, bytes | None]:
    """What a request (DER) is about.

    Returns:
        The subject, ``None`` for a certificate of somebody else; and the request's nonce, if it has one.

    Raises:
        ValueError: Not a request.
    """
    asked = ocsp.load_der_ocsp_request(request)
    nonces = [item.value.nonce for item in asked.extensions if isinstance(item.value, x509.OCSPNonce)]
    named = (asked.serial_number, asked.issuer_key_hash, asked.issuer_name_hash)
    for subject in subjects:
        builder = ocsp.OCSPRequestBuilder()
        same = builder.add_certificate(subject.certificate, subject.issuer.certificate, asked.hash_algorithm).build()
        if (same.serial_number, same.issuer_key_hash, same.issuer_name_hash) == named:
            return subject, next(iter(nonces), None)
    return None, None
