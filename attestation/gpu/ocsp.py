"""OCSP (RFC 6960) for chains of devices and reference manifests: requests out, responses in, both DER.

A response is believed if it speaks of exactly the certificate asked about, is inside its dates, and is signed by the
certificate's issuer or by a responder whom that issuer certified for it. NVIDIA's responses live 24 hours, so the
machine staples them and a verifier checks them at the time of the evidence. A nonce is optional: a stapled response
has none.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from attestation.certificates import LIBRARY_ERRORS, read_whole
from attestation.errors import EvidenceError
from attestation.gpu.chain import (
    check_dates,
    check_issued,
    extension_of,
    fingerprint,
    load_pem,
    moment_of,
    name_of,
    spki,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from attestation.gpu.memory import Memory

MAX_RESPONSE: Final = 16 * 1024
SKEW: Final = timedelta(minutes=5)
"""How far a responder's clock may be ahead of the verifier's."""

_HASHES: Final = (
    hashes.SHA1,
    hashes.SHA256,
    hashes.SHA384,
    hashes.SHA512,
)  # of a CertID, which names and signs nothing
_HINTS: Final = {
    x509.ReasonFlags.certificate_hold: "the certificate is on hold: NVIDIA suspends it while a flaw is looked into, "
    "and may lift that; use another device or version until then",
    x509.ReasonFlags.key_compromise: "the key is known to others: whoever holds it can sign in its name",
}


@dataclass(frozen=True, slots=True)
class OcspRequest:
    """One question.

    Attributes:
        certificate: The certificate asked about, DER.
        issuer: The certificate above it, DER.
        fingerprint: SHA-256 of the certificate, 32 bytes: the answer's key in a staple.
        der: The request.
        url: The responder that the certificate names, empty if it names none.
    """

    certificate: bytes
    issuer: bytes
    fingerprint: bytes
    der: bytes
    url: str


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A believed response.

    Attributes:
        status: ``good``, ``revoked`` or ``unknown``.
        reason: Why it is revoked, empty otherwise; ``certificateHold`` is a suspension.
        hint: What the reason means.
        made_at: Unix time of the statement.
        expires_at: Unix time until which it holds.
    """

    status: str
    reason: str
    hint: str
    made_at: float
    expires_at: float

    @property
    def good(self) -> bool:
        """Whether the certificate stands."""
        return self.status == "good"


def requests(chain: bytes, *, device: bool = True, nonce: bytes | None = None) -> tuple[OcspRequest, ...]:
    """The questions to ask about a chain.

    Args:
        chain: PEM, leaf first, the root included.
        device: Whether it is a device's, whose leaf it made itself, so that no responder knows it.
        nonce: 1 to 32 bytes to put into each request; none for responses that will be stapled.

    Raises:
        EvidenceError: The chain or a certificate cannot be read.
    """
    return requests_for(load_pem(chain), device=device, nonce=nonce)


def requests_for(
    certificates: Sequence[x509.Certificate], *, device: bool, nonce: bytes | None = None
) -> tuple[OcspRequest, ...]:
    """As :func:`requests`, of certificates that are read already."""
    return tuple(_request(certificate, issuer, nonce) for certificate, issuer in asked(certificates, device=device))


def asked(
    certificates: Sequence[x509.Certificate], *, device: bool
) -> Iterator[tuple[x509.Certificate, x509.Certificate]]:
    """Each certificate of a chain that a responder knows, with its issuer; the root is asked about nowhere."""
    below = certificates[1 if device else 0 :]
    return itertools.pairwise(below)


def check_response(
    der: bytes,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    now: float,
    *,
    nonce: bytes | None = None,
    memory: Memory | None = None,
) -> OcspAnswer:
    """Read a response and believe it, or not.

    Args:
        der: The response.
        certificate: What was asked about.
        issuer: The certificate above it, itself verified.
        now: Unix time.
        nonce: What the request carried, if anything.
        memory: Remembers signatures; without it every one is verified.

    Raises:
        EvidenceError: It cannot be read, speaks of another certificate, is outside its dates or signed by nobody who
            may; or its nonce is another.
    """
    if not 0 < len(der) <= MAX_RESPONSE:
        raise EvidenceError(f"OCSP response of {len(der)} bytes, expected 1 to {MAX_RESPONSE}")
    moment = moment_of(now)
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise EvidenceError(
                f"OCSP responder answered {response.response_status.name.lower()}",
                hint="the responder is overloaded or does not know the request: ask again",
            )
        singles = list(response.responses)
        if len(singles) != 1:
            raise EvidenceError(f"OCSP response about {len(singles)} certificates, expected one")
        _check_subject(singles[0], certificate, issuer)
        _check_signer(response, issuer, moment, memory)
        expires = _check_dates(singles[0], moment)
        if nonce is not None:
            seen = response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
            if seen != nonce:
                raise EvidenceError("OCSP response answers another request: its nonce is another")
        return _answer(singles[0], expires)
    except x509.ExtensionNotFound:
        raise EvidenceError("OCSP response without the nonce that was asked for") from None
    except LIBRARY_ERRORS as error:
        raise EvidenceError(f"OCSP response cannot be read: {type(error).__name__}") from None


def _request(certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes | None) -> OcspRequest:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA384())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return OcspRequest(
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        issuer=issuer.public_bytes(serialization.Encoding.DER),
        fingerprint=fingerprint(certificate),
        der=builder.build().public_bytes(serialization.Encoding.DER),
        url=_responder(certificate),
    )


def _responder(certificate: x509.Certificate) -> str:
    access = extension_of(certificate, x509.AuthorityInformationAccess)
    for item in access or ():
        if item.access_method == AuthorityInformationAccessOID.OCSP and isinstance(
            item.access_location, x509.UniformResourceIdentifier
        ):
            return item.access_location.value
    return ""


def _check_subject(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    algorithm = single.hash_algorithm
    if not isinstance(algorithm, _HASHES):
        raise EvidenceError(f"OCSP response names its certificate with {algorithm.name}, which is not used here")
    point = issuer.public_key().public_bytes(*_POINT) if _is_ec(issuer) else spki(issuer)
    wanted = (
        certificate.serial_number,
        hashlib.new(algorithm.name, issuer.subject.public_bytes()).digest(),
        hashlib.new(algorithm.name, point).digest(),
    )
    if (single.serial_number, single.issuer_name_hash, single.issuer_key_hash) != wanted:
        raise EvidenceError(
            f"OCSP response speaks of serial number {single.serial_number:x}, not of the certificate of "
            f"{name_of(certificate.subject)} ({certificate.serial_number:x})"
        )


def _check_signer(
    response: ocsp.OCSPResponse, issuer: x509.Certificate, moment: datetime, memory: Memory | None
) -> None:
    signer = issuer
    if response.certificates:
        signer = read_whole(lambda: response.certificates[0])
        if signer != issuer:
            usages = extension_of(signer, x509.ExtendedKeyUsage)
            if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
                raise EvidenceError(
                    f"OCSP response is signed by {name_of(signer.subject)}, which no authority allowed to answer"
                )
            check_issued(signer, issuer, memory)
    check_dates(signer, moment)
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(algorithm, hashes.SHA256 | hashes.SHA384):
        raise EvidenceError("OCSP response is not signed by an elliptic-curve key over SHA-256 or SHA-384")

    def verify() -> bool:
        try:
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        except InvalidSignature:
            return False
        return True

    over = (b"answered", fingerprint(signer), algorithm.name.encode(), response.tbs_response_bytes, response.signature)
    if not (verify() if memory is None else memory.holds(verify, *over)):
        raise EvidenceError(
            f"OCSP response has a signature that the key of {name_of(signer.subject)} did not make",
            hint="the response was altered, or another responder made it",
        )


def _check_dates(single: ocsp.OCSPSingleResponse, moment: datetime) -> float:
    start, end = single.this_update_utc, single.next_update_utc
    if end is None:
        raise EvidenceError("OCSP response without an end: it could be replayed for ever")
    if not start - SKEW <= moment <= end:
        raise EvidenceError(
            f"OCSP response holds from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, the time is "
            f"{moment:%Y-%m-%d %H:%M}",
            hint="the machine staples a new response every day: compare the clocks, or let it fetch one",
        )
    return end.timestamp()


def _answer(single: ocsp.OCSPSingleResponse, expires: float) -> OcspAnswer:
    status = single.certificate_status
    reason = single.revocation_reason
    words = (reason.value if reason else "unspecified") if status is ocsp.OCSPCertStatus.REVOKED else ""
    return OcspAnswer(
        status=status.name.lower(),
        reason=words,
        hint=_HINTS.get(reason, "") if reason else "",
        made_at=single.this_update_utc.timestamp(),
        expires_at=expires,
    )


_POINT: Final = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _is_ec(certificate: x509.Certificate) -> bool:
    return isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
