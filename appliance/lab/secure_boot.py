"""Secure boot with keys of one's own: they are made, written into a machine's variables, and sign an image.

A host can do all of this to its machine: none of it is the image's author's. The signature is a real Authenticode
signature over the file, so real firmware accepts the image under the keys that were enrolled, and no other.

Sources: UEFI 2.10, section 32.4.1 (EFI_SIGNATURE_LIST) and 32.5; Microsoft, "Windows Authenticode Portable Executable
Signature Format"; RFC 2315 (SignedData of version 1).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import uuid
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from appliance.lab.firmware_variables import (
    BOOT,
    ENABLE,
    GLOBAL,
    NON_VOLATILE,
    RUNTIME,
    SECURITY_DATABASE,
    TIME_BASED,
    Variable,
)
from appliance.lab.tdx_machine_image import signed_content

OWNER = uuid.UUID("6f1b9c1e-35a4-4f2f-9d0f-5a1c0b7d7a10")
"""Who says to have enrolled the keys; no firmware reads it."""

_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
_SIGNED_DATA, _INDIRECT = "1.2.840.113549.1.7.2", "1.3.6.1.4.1.311.2.1.4"
_IMAGE_DATA, _CONTENT_TYPE, _DIGEST = "1.3.6.1.4.1.311.2.1.15", "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SHA256, _RSA = "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.1.1"
_SEQUENCE, _SET, _OCTETS, _OID, _INTEGER, _NULL = 0x30, 0x31, 0x04, 0x06, 0x02, 0x05
_TAGGED = 0xA0
_OBSOLETE = bytes.fromhex("a21e801c") + "<<<Obsolete>>>".encode("utf-16-be")
_REVISION, _PKCS7 = 0x0200, 2


@dataclass(frozen=True, slots=True)
class SecureBootKeys:
    """One key that is platform key, exchange key and signature key in one, and its certificate (DER)."""

    private: rsa.RSAPrivateKey
    certificate: bytes

    @classmethod
    def new(cls, now: dt.datetime) -> SecureBootKeys:
        """Keys of one machine, valid around ``now``."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chrysalis staged secure boot")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=365))
            .not_valid_after(now + dt.timedelta(days=3650))
            .sign(private, hashes.SHA256())
        )
        return cls(private, certificate.public_bytes(serialization.Encoding.DER))

    @property
    def entry(self) -> bytes:
        """EFI_SIGNATURE_DATA of the certificate: the owner and it."""
        return OWNER.bytes_le + self.certificate

    def variables(self) -> tuple[Variable, ...]:
        """What has to be in a variable store so that firmware starts only what these keys signed."""
        entry = self.entry
        listed = _X509 + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry
        signed = NON_VOLATILE | BOOT | RUNTIME | TIME_BASED
        return (
            Variable("SecureBootEnable", ENABLE, b"\1", NON_VOLATILE | BOOT),
            Variable("PK", GLOBAL, listed, signed),
            Variable("KEK", GLOBAL, listed, signed),
            Variable("db", SECURITY_DATABASE, listed, signed),
        )

    def sign(self, image: bytes) -> bytes:
        """An image with a signature behind it; its Authenticode digest stays what it was.

        The file is filled up to a multiple of eight first, as every tool does that signs: a certificate table begins
        on such a boundary.
        """
        image += bytes(-len(image) % 8)
        signature = self._signature(hashlib.sha256(signed_content(image)).digest())
        table = struct.pack("<IHH", 8 + len(signature), _REVISION, _PKCS7) + signature
        table += bytes(-len(table) % 8)
        (start,) = struct.unpack_from("<I", image, 0x3C)
        directory = start + 24 + 112 + 4 * 8
        return image[:directory] + struct.pack("<II", len(image), len(table)) + image[directory + 8 :] + table

    def _signature(self, digest: bytes) -> bytes:
        """SignedData over SpcIndirectDataContent of an image's digest."""
        sha256 = _der(_SEQUENCE, _oid(_SHA256), _der(_NULL))
        page_hashes = _der(_SEQUENCE, bytes.fromhex("030100"), _der(_TAGGED, _OBSOLETE))
        content = _der(_SEQUENCE, _oid(_IMAGE_DATA), page_hashes) + _der(_SEQUENCE, sha256, _der(_OCTETS, digest))
        attributes = (
            _der(_SEQUENCE, _oid(_CONTENT_TYPE), _der(_SET, _oid(_INDIRECT))),
            _der(_SEQUENCE, _oid(_DIGEST), _der(_SET, _der(_OCTETS, hashlib.sha256(content).digest()))),
        )
        ordered = b"".join(sorted(attributes))
        certificate = x509.load_der_x509_certificate(self.certificate)
        issuer = certificate.issuer.public_bytes()
        number = certificate.serial_number
        signer = _der(
            _SEQUENCE,
            _der(_INTEGER, b"\1"),
            _der(_SEQUENCE, issuer, _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))),
            sha256,
            _der(_TAGGED, ordered),
            _der(_SEQUENCE, _oid(_RSA), _der(_NULL)),
            _der(_OCTETS, self.private.sign(_der(_SET, ordered), padding.PKCS1v15(), hashes.SHA256())),
        )
        signed = _der(
            _SEQUENCE,
            _der(_INTEGER, b"\1"),
            _der(_SET, sha256),
            _der(_SEQUENCE, _oid(_INDIRECT), _der(_TAGGED, _der(_SEQUENCE, content))),
            _der(_TAGGED, self.certificate),
            _der(_SET, signer),
        )
        return _der(_SEQUENCE, _oid(_SIGNED_DATA), _der(_TAGGED, signed))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _oid(text: str) -> bytes:
    first, second, *rest = (int(part) for part in text.split("."))
    encoded = bytes((40 * first + second,))
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        encoded += bytes(reversed(groups))
    return _der(_OID, encoded)
