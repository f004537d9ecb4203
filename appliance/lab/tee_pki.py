"""The public-key side of a synthetic TDX world: certificates, revocation lists and the SGX extension, all made here.

The shapes follow Intel's "SGX PCK Certificate and Certificate Revocation List Profile Specification"; only the keys
are of our own. Revocation lists carry CRLNumber and the authority key identifier, without which no verifier takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

SGX_EXTENSION = "1.2.840.113741.1.13.1"
ROOT_NAME = "Intel SGX Root CA"
PLATFORM_NAME = "Intel SGX PCK Platform CA"
PCK_NAME = "Intel SGX PCK Certificate"
TCB_NAME = "Intel SGX TCB Signing"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """X and Y, 32 bytes each, big-endian."""
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)[1:]


def raw_sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA-SHA256 signature as r and s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pem(*certificates: x509.Certificate) -> str:
    """A chain as PEM text."""
    return b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates).decode("ascii")


class Authority:
    """A key that issues certificates and a revocation list under one name."""

    def __init__(
        self,
        name: str,
        *,
        valid: tuple[dt.datetime, dt.datetime],
        issuer: Authority | None = None,
        path_length: int = 0,
    ) -> None:
        self.name = name
        self.key = new_key()
        self._valid = valid
        self.certificate = (issuer or self).issue(name, self.key, path_length=path_length)

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        path_length: int | None = None,
        sgx_extension: bytes | None = None,
    ) -> x509.Certificate:
        """Issue a certificate; with ``path_length`` it is an authority's, without it a leaf."""
        is_ca = path_length is not None
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._valid[0])
            .not_valid_after(self._valid[1])
            .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
            .add_extension(_key_usage(is_ca=is_ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .add_extension(_crl_location(), critical=False)
        )
        if sgx_extension is not None:
            oid = x509.ObjectIdentifier(SGX_EXTENSION)
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, sgx_extension), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def revocation_list(
        self, revoked: Iterable[int], *, dates: tuple[dt.datetime, dt.datetime], numbered: bool = True
    ) -> bytes:
        """The list of revoked serial numbers as DER; ``dates`` are issue and next update."""
        issued, next_update = dates
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(issued)
            .next_update(next_update)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued).build()
            builder = builder.add_revoked_certificate(entry)
        if numbered:
            builder = builder.add_extension(x509.CRLNumber(1), critical=False).add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def sgx_extension(
    *,
    ppid: bytes,
    component_svns: Sequence[int],
    pce_svn: int,
    pce_id: bytes,
    fmspc: bytes,
    sgx_type: int,
    platform_instance_id: bytes,
    dynamic_platform: bool,
    cached_keys: bool,
    smt_enabled: bool,
) -> bytes:
    """The SGX extension of a PCK certificate as DER (PCK profile, section 1.3.5).

    Args:
        ppid: 16 bytes.
        component_svns: 16 numbers of one byte.
        pce_svn: 16-bit number.
        pce_id: 2 bytes.
        fmspc: 6 bytes.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        platform_instance_id: 16 bytes.
        dynamic_platform: Whether packages may be added.
        cached_keys: Whether Intel keeps the platform's root keys.
        smt_enabled: Whether hyper-threading is on.
    """
    tcb = [_entry(f"2.{i + 1}", _integer(svn)) for i, svn in enumerate(component_svns)]
    tcb.append(_entry("2.17", _integer(pce_svn)))
    tcb.append(_entry("2.18", _octets(bytes(component_svns))))
    settings = (dynamic_platform, cached_keys, smt_enabled)
    return _tlv(
        0x30,
        _entry("1", _octets(ppid)),
        _entry("2", _tlv(0x30, *tcb)),
        _entry("3", _octets(pce_id)),
        _entry("4", _octets(fmspc)),
        _entry("5", _tlv(0x0A, bytes([sgx_type]))),
        _entry("6", _octets(platform_instance_id)),
        _entry("7", _tlv(0x30, *(_entry(f"7.{i + 1}", _boolean(value)) for i, value in enumerate(settings)))),
    )


def _entry(suffix: str, value: bytes) -> bytes:
    return _tlv(0x30, _tlv(0x06, _oid(f"{SGX_EXTENSION}.{suffix}")), value)


def _tlv(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    out = bytearray([40 * first + second])
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        out += bytes(reversed(groups))
    return bytes(out)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _octets(value: bytes) -> bytes:
    return _tlv(0x04, value)


def _boolean(value: bool) -> bytes:
    return _tlv(0x01, b"\xff" if value else b"\x00")


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Intel Corporation"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _crl_location() -> x509.CRLDistributionPoints:
    location = x509.UniformResourceIdentifier("https://simulated.invalid/crl.der")
    return x509.CRLDistributionPoints([x509.DistributionPoint([location], None, None, None)])
