"""AMD's side of a synthetic SEV-SNP world: root, signing keys, endorsement keys and revocation lists, all made here.

The shapes are those of AMD's "VCEK Certificate and KDS Interface Specification" (57230), RSA-PSS and all; only the keys
are of our own. Endorsement keys' certificates have serial number 0 and bare hardware ids, as AMD's have and as no
library writes: they are put together by hand.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from attestation.snp import vek
from attestation.snp.tcb import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from attestation.snp.tcb import Product, Tcb

KEY_BITS = 2048
"""AMD's keys have 4096, which take seconds to make."""

_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_SEQUENCE, _INTEGER, _BIT_STRING, _OCTETS, _OID, _IA5, _UTC = 0x30, 0x02, 0x03, 0x04, 0x06, 0x16, 0x17
_PSS_PARAMETERS = bytes.fromhex(
    "a00f300d06096086480165030402020500"  # hash: SHA-384
    "a11c301a06092a864886f70d010108300d06096086480165030402020500"  # mask: MGF1 with SHA-384
    "a203020130"  # salt: 48 bytes
    "a303020101"
)


class Authority:
    """A key that certifies under one name.

    Args:
        name: Common name.
        valid: First and last moment.
        issuer: Who certifies it; itself by default.
        serial: Of its certificate.
        bits: Of its key.
    """

    def __init__(
        self,
        name: str,
        valid: tuple[dt.datetime, dt.datetime],
        *,
        issuer: Authority | None = None,
        serial: int = 0x10000,
        bits: int = KEY_BITS,
    ) -> None:
        self.name = name
        self.key = rsa.generate_private_key(65537, bits)
        signer = issuer or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(_subject(signer.name))
            .public_key(self.key.public_key())
            .serial_number(serial)
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
            .add_extension(x509.BasicConstraints(True, None if issuer is None else 0), critical=True)
            .add_extension(_authority_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(signer.key, hashes.SHA384(), rsa_padding=_PSS)
        )

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate, as AMD's service gives it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def endorse(
        self,
        key: EllipticCurvePublicKey,
        tcb: Tcb,
        valid: tuple[dt.datetime, dt.datetime],
        *,
        hardware_id: bytes = b"",
        provider: str = "",
    ) -> bytes:
        """Certify an endorsement key.

        Args:
            key: P-384.
            tcb: What it was derived for.
            valid: First and last moment.
            hardware_id: Of the chip, for a VCEK.
            provider: Of the cloud, for a VLEK.

        Returns:
            DER.
        """
        extensions = [
            (vek.PRODUCT_NAME, _tlv(_IA5, tcb.product.encode())),
            *((vek.LEVEL_OIDS[name], _number(level)) for name, level in tcb.levels.items()),
            *((vek.LEVEL_OIDS[name], _number(0)) for name in _reserved(tcb)),
            (vek.HARDWARE_ID, hardware_id) if hardware_id else (vek.PROVIDER, _tlv(_IA5, provider.encode())),
        ]
        algorithm = _sequence(_tlv(_OID, vek.RSASSA_PSS), _sequence(_PSS_PARAMETERS))
        signed = _sequence(
            _tlv(0xA0, _number(2)),
            _number(0),
            algorithm,
            _subject(self.name).public_bytes(),
            _sequence(*(_tlv(_UTC, moment.strftime("%y%m%d%H%M%SZ").encode()) for moment in valid)),
            _subject("SEV-VCEK" if hardware_id else "SEV-VLEK").public_bytes(),
            key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
            _tlv(0xA3, _sequence(*(_sequence(_tlv(_OID, oid), _tlv(_OCTETS, value)) for oid, value in extensions))),
        )
        signature = self.key.sign(signed, _PSS, hashes.SHA384())
        return _sequence(signed, algorithm, _tlv(_BIT_STRING, b"\0" + signature))

    def revocation_list(self, revoked: Iterable[int], dates: tuple[dt.datetime, dt.datetime]) -> bytes:
        """The list of revoked serial numbers, DER; ``dates`` are issue and next update."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_subject(self.name))
            .last_update(dates[0])
            .next_update(dates[1])
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(dates[0]).build()
            builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self.key, hashes.SHA384(), rsa_padding=_PSS)
        return crl.public_bytes(serialization.Encoding.DER)


class SnpPki:
    """AMD's keys for one product.

    Args:
        product: The product line.
        now: Unix time; everything begins a year before it.
        bits: Of the RSA keys.

    Attributes:
        product: The product line.
        ark: Root.
        ask: Certifies VCEKs.
        asvk: Certifies VLEKs.
        valid: First and last moment of all certificates.
    """

    def __init__(self, product: Product, now: float, *, bits: int = KEY_BITS) -> None:
        self.product = product
        born = dt.datetime.fromtimestamp(now, dt.UTC).replace(microsecond=0) - dt.timedelta(days=365)
        self.valid = (born, born + dt.timedelta(days=5000))
        self.ark = Authority(f"ARK-{product}", self.valid, bits=bits)
        self.ask = Authority(f"SEV-{product}", self.valid, issuer=self.ark, serial=0x10001, bits=bits)
        self.asvk = Authority(f"SEV-VLEK-{product}", self.valid, issuer=self.ark, serial=0x10101, bits=bits)


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Chrysalis lab, not AMD"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _authority_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _reserved(tcb: Tcb) -> Sequence[str]:
    """The reserved levels that the product's certificates carry as well."""
    return [name for name in LAYOUTS[tcb.product] if name not in tcb.levels]


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(digits))) + digits + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(_SEQUENCE, b"".join(parts))


def _number(value: int) -> bytes:
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
