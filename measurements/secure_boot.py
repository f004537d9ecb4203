"""Register 7 of a TPM, and RTMR0: the variables of secure boot, and who vouches for what is booted.

A build that knows secure boot derives ``SecureBoot``; another has no such variable and measures an empty one. Where it
is enforced, the entry of ``db`` that the booted image was accepted by is measured when the image is loaded.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (which variables, in which order); EDK II
``SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c`` and ``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`` (MeasureAllSecureVariables),
``SecurityPkg/Library/DxeImageVerificationLib`` (IsForbiddenByDbx, IsAllowedByDb, SecureBootHook),
``SecurityPkg/Library/AuthVariableLib``; Microsoft, "Windows Authenticode Portable Executable Signature Format".
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

from measurements import authenticode, pe
from measurements.errors import ArtefactError
from measurements.prediction import PredictedEvent
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, SHA256, X509, signatures, variable_data

if TYPE_CHECKING:
    from uuid import UUID

    from measurements.variable_store import SignatureEntry, VariableStore

VARIABLES: tuple[tuple[UUID, str], ...] = (
    (GLOBAL, "PK"),
    (GLOBAL, "KEK"),
    (IMAGE_SECURITY, "db"),
    (IMAGE_SECURITY, "dbx"),
)
"""Measured after ``SecureBoot``, in this order; ``dbt`` follows where there is one."""

MAX_CERTIFICATES = 32
_CERTIFICATE = struct.Struct("<IHH")
_PKCS7 = 0x0002  # WIN_CERT_TYPE_PKCS_SIGNED_DATA


def policy_contents(store: VariableStore, *, known: bool) -> tuple[tuple[str, bytes], ...]:
    """What is measured before the separator: name of each variable and content of its event, in order.

    Args:
        store: Firmware's variables.
        known: Whether the build knows secure boot.
    """
    enabled = (b"\x01" if store.secure_boot else b"\x00") if known else b""
    measured = [(GLOBAL, "SecureBoot", enabled)]
    measured += [(vendor, name, store.data(vendor, name)) for vendor, name in VARIABLES]
    if timestamps := store.data(IMAGE_SECURITY, "dbt"):
        measured.append((IMAGE_SECURITY, "dbt", timestamps))
    return tuple((name, variable_data(vendor, name, value)) for vendor, name, value in measured)


def policy(store: VariableStore, *, known: bool) -> tuple[PredictedEvent, ...]:
    """The events of :func:`policy_contents`."""
    return tuple(
        PredictedEvent(
            hashlib.sha256(content).digest(),
            f"variable {name}",
            f"UEFI_VARIABLE_DATA of {name}, {len(content)} bytes",
            ("firmware variables", "firmware") if name == "SecureBoot" else ("firmware variables",),
        )
        for name, content in policy_contents(store, known=known)
    )


def authority_content(store: VariableStore, image: bytes) -> bytes:
    """What is measured when firmware accepts an image: the entry of ``db`` that it was accepted by.

    Args:
        store: Firmware's variables.
        image: The image as it is loaded.

    Raises:
        ArtefactError: Neither does a certificate of ``db`` vouch for the image's signer, nor is the image's digest in
            it; or ``dbx`` has that digest or one of those certificates: firmware would not start it.
    """
    listed = signatures(store.data(IMAGE_SECURITY, "db"))
    chain = _embedded(image)
    digest = authenticode.digest(image)
    for entry in signatures(store.data(IMAGE_SECURITY, "dbx")):
        if (entry.kind == SHA256 and entry.content == digest) or (entry.kind == X509 and _vouches(entry, chain)):
            raise ArtefactError(
                f"image with digest {digest.hex()[:16]}… that an entry of dbx revokes",
                hint="firmware with these variables refuses to start it",
            )
    accepted = [entry for entry in listed if entry.kind == X509 and _vouches(entry, chain)]
    if not accepted:
        accepted = [entry for entry in listed if entry.kind == SHA256 and entry.content == digest]
    if not accepted:
        raise ArtefactError(
            f"image with {len(chain)} certificates that no entry of db vouches for",
            hint="firmware with these variables refuses to start it",
        )
    return variable_data(IMAGE_SECURITY, "db", accepted[0].data)


def authority(store: VariableStore, image: bytes) -> PredictedEvent:
    """The event of :func:`authority_content`; errors as there."""
    return PredictedEvent(
        hashlib.sha256(authority_content(store, image)).digest(),
        "authority db",
        "the entry of db that the image was accepted by",
        ("firmware variables", "image"),
    )


def _embedded(image: bytes) -> list[x509.Certificate]:
    """The certificates in the image's first signature; none without one."""
    layout = pe.parse(image)
    start, size = layout.certificate_offset, layout.certificate_size
    if size < _CERTIFICATE.size:
        return []
    length, _, kind = _CERTIFICATE.unpack_from(image, start)
    if kind != _PKCS7 or not _CERTIFICATE.size < length <= size:
        raise ArtefactError(f"image with a certificate of kind {kind:#x} and {length} bytes in a table of {size}")
    try:
        found = load_der_pkcs7_certificates(image[start + _CERTIFICATE.size : start + length])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ArtefactError(f"image whose signature cannot be read: {error}") from None
    return found[:MAX_CERTIFICATES]


def _vouches(entry: SignatureEntry, chain: list[x509.Certificate]) -> bool:
    """Whether a certificate of ``db`` is in the signature, or issued one that is."""
    try:
        trusted = x509.load_der_x509_certificate(entry.content)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return any(item == trusted or _issued(item, trusted) for item in chain)


def _issued(item: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        item.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
