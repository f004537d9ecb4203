"""The public-key side of a synthetic GPU world: authorities, device chains and the extension that names firmware.

Names, extensions and order are those of NVIDIA's chains (device: root → identity → provisioner → boot ROM → firmware;
manifests: root → reference values → issuer → signer); only the keys are of our own. All keys are P-384.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

ENDLESS = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
OCSP_ADDRESS = "http://ocsp.simulated.invalid"
COMPOSITE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
"""TCG DICE: key and firmware of the layer below (Hopper, NVSwitch)."""
TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
"""TCG DICE: TCB info (Blackwell)."""
_SPDM_DEVICE = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
_SHA384_OID = bytes.fromhex("0609608648016503040202")
_COUNTRY, _ORGANISATION = "US", "NVIDIA Corporation"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def raw_sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA-SHA384 signature as r and s, 48 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """A chain as PEM text."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates)


def der(certificate: x509.Certificate) -> bytes:
    """A certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def name(common: str, *, organisation: str = _ORGANISATION, country: str | None = _COUNTRY) -> x509.Name:
    """A subject as the vendor writes it."""
    parts = [
        x509.NameAttribute(NameOID.COMMON_NAME, common),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
    ]
    if country:
        parts.append(x509.NameAttribute(NameOID.COUNTRY_NAME, country))
    return x509.Name(parts)


def numbered_name(common: str, serial: str) -> x509.Name:
    """The subject of a device's certificate, which begins with its serial number."""
    parts = {
        NameOID.SERIAL_NUMBER: serial,
        NameOID.COUNTRY_NAME: _COUNTRY,
        NameOID.ORGANIZATION_NAME: _ORGANISATION,
        NameOID.COMMON_NAME: common,
    }
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts.items()])


@dataclass(frozen=True, slots=True)
class Valid:
    """From when to when a certificate holds."""

    since: dt.datetime
    until: dt.datetime = ENDLESS


class Authority:
    """A key that issues certificates under one name, and answers about their revocation by delegates.

    Args:
        subject: Its name.
        valid: When its certificate holds.
        issuer: Who certifies it; itself by default.
        serial: Serial number; random by default.
        path_length: How many authorities may follow; any number by default.
        signs_lists: Whether it may sign revocation lists; a device's boot ROM may not.
        responder: Whether its own certificate names a revocation service.
    """

    def __init__(
        self,
        subject: x509.Name,
        valid: Valid,
        issuer: Authority | None = None,
        *,
        serial: int | None = None,
        path_length: int | None = None,
        signs_lists: bool = True,
        responder: bool = True,
    ) -> None:
        self.subject = subject
        self.key = new_key()
        self.valid = valid
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=path_length), True),
            (key_usage(signs_certificates=True, signs_lists=signs_lists), True),
        ]
        if issuer is not None and responder:
            extensions.append((ocsp_location(), False))
        self.certificate = (issuer or self).issue(subject, self.key, valid, extensions, serial=serial)

    def issue(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        valid: Valid,
        extensions: Iterable[tuple[x509.ExtensionType, bool]],
        *,
        serial: int | None = None,
        signing_key: ec.EllipticCurvePrivateKey | None = None,
    ) -> x509.Certificate:
        """Certify a key.

        Args:
            subject: Whose it is.
            key: The key; its public half is certified.
            valid: When the certificate holds.
            extensions: Extensions with their criticality; both key identifiers are added.
            serial: Serial number; random by default.
            signing_key: Signs in this authority's place (an attack).
        """
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(valid.since)
            .not_valid_after(valid.until)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(above, critical=False).sign(signing_key or self.key, hashes.SHA384())


@dataclass(frozen=True, slots=True)
class Chip:
    """How one kind of chip is named.

    Attributes:
        name: As in subjects and manifests.
        rom: Common name of a device's boot ROM.
        firmware: Common name of a device's attestation key.
        serial_prefix: First byte of a boot ROM's serial number.
        names_tcb: Whether firmware is named by a TCB info instead of a composite identity.
    """

    name: str
    rom: str
    firmware: str
    serial_prefix: int
    names_tcb: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A device's identity: what is burnt into it and what was certified in its factory.

    Attributes:
        chip: Its kind.
        pdi: Its identifier among the devices of a machine, 8 bytes: the tail of its boot ROM's serial number.
        rom: The boot ROM, which certifies the firmware's key.
        key: The attestation key.
        fwid: SHA-384 of the firmware that holds the key.
        leaf: The attestation key's certificate.
    """

    chip: Chip
    pdi: bytes
    rom: Authority
    key: ec.EllipticCurvePrivateKey
    fwid: bytes
    leaf: x509.Certificate


GH100 = Chip("GH100", "GH100 A01 GSP BROM", "GH100 A01 GSP FMC LF", 0x41)
GB100 = Chip("GB100", "GB100 A01 GSP BROM", "GB100 A01 GSP FMC LF", 0x41, names_tcb=True)
LS10 = Chip("LS_10", "LS_10 A01 FSP BROM", "LS_10 A01 FSP FMC LF", 0x50)


def make_device(
    chip: Chip,
    provisioner: Authority,
    valid: Valid,
    fwid: bytes,
    *,
    names_firmware: bool = True,
    signing_key: ec.EllipticCurvePrivateKey | None = None,
) -> Device:
    """Make a device and certify it.

    Args:
        chip: Its kind.
        provisioner: Certifies boot ROMs of that kind.
        valid: When its certificates hold.
        fwid: SHA-384 of its firmware, 48 bytes.
        names_firmware: Whether the leaf carries ``fwid``.
        signing_key: Signs the leaf in the boot ROM's place (an attack).
    """
    pdi = os.urandom(8)
    serial = bytes([chip.serial_prefix]) + pdi
    rom = Authority(
        numbered_name(chip.rom, serial.hex().upper()),
        valid,
        provisioner,
        serial=int.from_bytes(serial, "big"),
        signs_lists=False,
        responder=False,
    )
    key = new_key()
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    own = bytes([digest[0] & 0x7F]) + digest[1:]
    address = f"NVIDIA:{chip.name}:{os.urandom(8).hex().upper()}"
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (key_usage(signs_certificates=False), True),
        (x509.SubjectAlternativeName([x509.OtherName(_SPDM_DEVICE, _der(0x0C, address.encode()))]), False),
    ]
    if names_firmware:
        extensions.append((_tcb_info(fwid) if chip.names_tcb else _composite_id(rom, fwid), False))
    leaf = rom.issue(
        numbered_name(chip.firmware, own.hex().upper()),
        key,
        valid,
        extensions,
        serial=int.from_bytes(own, "big"),
        signing_key=signing_key,
    )
    return Device(chip, pdi, rom, key, fwid, leaf)


def key_usage(*, signs_certificates: bool, signs_lists: bool = True) -> x509.KeyUsage:
    """Key usage of an authority, or of a key that signs statements."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates and signs_lists,
        encipher_only=False,
        decipher_only=False,
    )


def ocsp_location() -> x509.AuthorityInformationAccess:
    """Where the certificate says that its revocation can be asked for; a name that nothing resolves."""
    location = x509.UniformResourceIdentifier(OCSP_ADDRESS)
    return x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)])


def _composite_id(rom: Authority, fwid: bytes) -> x509.UnrecognizedExtension:
    """Version 1, the boot ROM's key, SHA-384 and the digest (TCG DICE, composite device identity)."""
    key = rom.key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    value = _der(0x30, _der(0x02, b"\x01"), key, _der(0x30, _SHA384_OID, _der(0x04, fwid)))
    return x509.UnrecognizedExtension(COMPOSITE_ID, value)


def _tcb_info(fwid: bytes) -> x509.UnrecognizedExtension:
    """Vendor, model, version, SVN, layer, index, two FWIDs (the second of zeros), flags (TCG DICE, TCB info)."""
    fwids = b"".join(_der(0x30, _SHA384_OID, _der(0x04, digest)) for digest in (fwid, bytes(48)))
    value = _der(
        0x30,
        _der(0x80, b"NVIDIA"),
        _der(0x81, b"GB100 A01 GSP"),
        _der(0x82, b"01"),
        _der(0x83, b"\x01"),
        _der(0x84, b"\0"),
        _der(0x85, b"\0"),
        _der(0xA6, fwids),
        _der(0x87, b"\0\x80\0\0\x01"),
    )
    return x509.UnrecognizedExtension(TCB_INFO, value)


def _der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body
