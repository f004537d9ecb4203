"""Certificates of endorsement keys: VCEK (one chip's) and VLEK (one cloud's), with AMD's extensions.

Layout: VCEK Certificate and KDS Interface Specification (57230), section 3; extension values are DER integers and
IA5 strings, but for the hardware id, whose bytes stand there bare. Nothing is verified here but the form; chains are
:mod:`attestation.snp.chain`'s business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import EvidenceError
from attestation.snp import der
from attestation.snp.der import Der
from attestation.snp.tcb import LAYOUTS, Product, Tcb, product_of_name

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CERTIFICATE = 8 * 1024
RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")
_AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
PRODUCT_NAME = _AMD + bytes((2,))
HARDWARE_ID = _AMD + bytes((4,))
PROVIDER = _AMD + bytes((5,))
LEVEL_OIDS: Mapping[str, bytes] = {
    name: _AMD + bytes((3, number))
    for name, number in (
        ("bootloader", 1),
        ("tee", 2),
        ("snp", 3),
        ("spl4", 4),
        ("spl5", 5),
        ("spl6", 6),
        ("spl7", 7),
        ("microcode", 8),
        ("fmc", 9),
    )
}
HARDWARE_ID_SIZES: Mapping[Product, int] = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}
_KEY_USAGE, _BASIC_CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d13")
_KNOWN_CRITICAL = frozenset({_KEY_USAGE, _BASIC_CONSTRAINTS})
_MAX_EXTENSIONS = 32
_TIME = re.compile(r"[0-9]{14}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vek:
    """A certificate of a key that signs reports.

    Attributes:
        key: P-384.
        product: From the product name.
        tcb: The patch levels that the key was derived for.
        hardware_id: Of a VCEK's chip, 64 bytes, Turin's 8; empty in a VLEK's.
        provider: Of a VLEK, the cloud it was made for; empty in a VCEK's.
        issuer: DER of the issuer's name.
        begins: Unix time.
        ends: Unix time.
        signed: What the signature is over.
        signature: Of the issuer, RSA-PSS.
    """

    key: ec.EllipticCurvePublicKey
    product: Product
    tcb: Tcb
    hardware_id: bytes
    provider: str
    issuer: bytes
    begins: float
    ends: float
    signed: bytes
    signature: bytes

    @property
    def is_vlek(self) -> bool:
        """Whether the key is a cloud's rather than a chip's."""
        return not self.hardware_id


def parse_vek(data: bytes) -> Vek:
    """Read a certificate.

    Args:
        data: DER.

    Raises:
        EvidenceError: Not such a certificate: its form, its key, or an extension that is missing, twice there or odd.
    """
    if len(data) > MAX_CERTIFICATE:
        raise EvidenceError(f"certificate of {len(data)} bytes, at most {MAX_CERTIFICATE} are read")
    try:
        return _certificate(data)
    except EvidenceError as error:
        raise EvidenceError(f"endorsement key certificate: {error.message}", hint=error.hint) from None


def _certificate(data: bytes) -> Vek:
    whole = Der(data)
    outer = whole.inside()
    whole.end()
    signed, content = outer.take_whole(der.SEQUENCE)
    _algorithm(outer)
    bits = outer.take(der.BIT_STRING)
    outer.end()
    if not bits or bits[0]:
        raise EvidenceError("signature is not whole bytes")
    fields = Der(content)
    version = fields.inside(der.explicit(0))
    if version.number() != 2:
        raise EvidenceError("certificate is not of version 3")
    version.end()
    fields.number()  # the serial number: AMD writes 0 into each
    _algorithm(fields)
    issuer, _ = fields.take_whole(der.SEQUENCE)
    validity = fields.inside()
    begins, ends = _time(validity), _time(validity)
    validity.end()
    fields.take(der.SEQUENCE)  # the subject: SEV-VCEK or SEV-VLEK
    key, _ = fields.take_whole(der.SEQUENCE)
    tagged = fields.inside(der.explicit(3))
    fields.end()
    extensions = _extensions(tagged.inside())
    tagged.end()
    product = _product(extensions)
    hardware_id, provider = _owner(extensions, product)
    return Vek(
        key=_key(key),
        product=product,
        tcb=_tcb(extensions, product),
        hardware_id=hardware_id,
        provider=provider,
        issuer=issuer,
        begins=begins,
        ends=ends,
        signed=signed,
        signature=bits[1:],
    )


def _algorithm(reader: Der) -> None:
    algorithm = reader.inside()
    if algorithm.take(der.OID) != RSASSA_PSS:
        raise EvidenceError("certificate is not signed with RSA-PSS")
    algorithm.take(der.SEQUENCE)  # its parameters: the chain's are fixed, whatever stands here
    algorithm.end()


def _time(reader: Der) -> float:
    short = reader.tag == der.UTC_TIME
    text = reader.take(der.UTC_TIME if short else der.GENERALIZED_TIME).decode("ascii", "replace")
    if short:  # RFC 5280, section 4.1.2.5.1
        text = ("19" if text[:1] >= "5" else "20") + text
    if not _TIME.fullmatch(text):
        raise EvidenceError("certificate with a date that is not one")
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise EvidenceError("certificate with a date that is in no calendar") from None


def _extensions(reader: Der) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while reader:
        item = reader.inside()
        oid = item.take(der.OID)
        critical = item.tag == der.BOOLEAN and item.take(der.BOOLEAN) != b"\0"
        value = item.take(der.OCTET_STRING)
        item.end()
        if oid in found or len(found) >= _MAX_EXTENSIONS:
            raise EvidenceError(f"extension {oid.hex()} is there twice, or there are over {_MAX_EXTENSIONS}")
        if critical and oid not in _KNOWN_CRITICAL:
            raise EvidenceError(f"critical extension {oid.hex()} is not known")
        found[oid] = value
    return found


def _product(extensions: Mapping[bytes, bytes]) -> Product:
    name = _text(extensions, PRODUCT_NAME, "product name")
    product = product_of_name(name)
    if product is None:
        raise EvidenceError(f"product {name[:32]!r} is not known", hint=f"known are {', '.join(Product)}")
    return product


def _tcb(extensions: Mapping[bytes, bytes], product: Product) -> Tcb:
    levels = {}
    for name in LAYOUTS[product]:
        value = extensions.get(LEVEL_OIDS[name])
        if value is None:
            raise EvidenceError(f"patch level {name} is missing")
        reader = Der(value)
        levels[name] = reader.number()
        reader.end()
    return Tcb.of(product, **levels)


def _owner(extensions: Mapping[bytes, bytes], product: Product) -> tuple[bytes, str]:
    """Hardware id or provider, exactly one of the two."""
    hardware_id = extensions.get(HARDWARE_ID)
    if (hardware_id is None) == (PROVIDER not in extensions):
        raise EvidenceError("certificate names both a chip and a cloud, or neither")
    if hardware_id is None:
        provider = _text(extensions, PROVIDER, "provider")
        if not provider:
            raise EvidenceError("provider is empty")
        return b"", provider
    size = HARDWARE_ID_SIZES[product]
    if len(hardware_id) == size + 2 and hardware_id[:2] == bytes((der.OCTET_STRING, size)):
        hardware_id = hardware_id[2:]  # should AMD begin to write what DER demands
    if len(hardware_id) != size or not any(hardware_id):
        raise EvidenceError(f"hardware id of {len(hardware_id)} bytes, expected {size} for {product}, not all zero")
    return hardware_id, ""


def _text(extensions: Mapping[bytes, bytes], oid: bytes, what: str) -> str:
    reader = Der(extensions.get(oid, b""))
    content = reader.take(der.IA5_STRING)
    reader.end()
    text = content.decode("ascii", "replace")
    if len(text) > 64 or not text.isprintable():
        raise EvidenceError(f"{what} is over 64 characters or cannot be printed")
    return text


def _key(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise EvidenceError("key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EvidenceError("key is not on the curve P-384")
    return key
