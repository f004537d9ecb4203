"""A sigstore of one process: authority, certificate log and signature log under keys of its own, and bundles by it.

It follows the formats and not the library under test: certificates with an embedded timestamp (RFC 6962, sections 3.2
and 3.3), an entry ``hashedrekord`` 0.0.1, a tree with a proof (RFC 6962, section 2.1), a signed checkpoint, a promise.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

IDENTITY = "release@example.org"
ISSUER = "https://login.example.org"
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIGNED = datetime.datetime(2026, 11, 23, 12, 0, 0, tzinfo=datetime.UTC)
_ISSUER_OID = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_OID = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256 = ec.ECDSA(hashes.SHA256())


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class SigstoreWorld:
    """The keys of everybody but the signer."""

    authority: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    certificates: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    log: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        usage = _usage(certificates=True)
        key = x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key())
        self.root = (
            x509.CertificateBuilder(name, name, self.authority.public_key(), 1)
            .not_valid_before(BEGIN)
            .not_valid_after(BEGIN + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(key, critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def trusted_root(self) -> bytes:
        """``trusted_root.json``."""

        def log(key: ec.EllipticCurvePrivateKey, address: str) -> dict[str, Any]:
            return {
                "baseUrl": address,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(spki(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": "2026-01-01T00:00:00Z"},
                },
                "logId": {"keyId": b64(hashlib.sha256(spki(key)).digest())},
            }

        return json.dumps({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log, "https://log.example.org")],
            "certificateAuthorities": [{
                "subject": {"organization": "example.org", "commonName": "authority of a test"},
                "uri": "https://authority.example.org",
                "certChain": {"certificates": [
                    {"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}
                ]},
                "validFor": {"start": "2026-01-01T00:00:00Z"},
            }],
            "ctlogs": [log(self.certificates, "https://certificates.example.org")],
            "timestampAuthorities": [],
        }).encode()  # fmt: skip

    def certificate(
        self,
        key: ec.EllipticCurvePrivateKey,
        *,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        seen: bool = True,
    ) -> x509.Certificate:
        """A certificate of ten minutes; ``seen``: the certificate log vouches that it saw it."""
        begin = SIGNED - datetime.timedelta(minutes=2)
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(minutes=10))
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), critical=False
            )
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer.encode()), critical=False)
        )
        draft = builder.sign(self.authority, hashes.SHA256())
        if not seen:
            return draft
        moment = int(begin.timestamp() * 1000)
        issuer_id = hashlib.sha256(spki(self.authority)).digest()
        body = draft.tbs_certificate_bytes
        signed = struct.pack(">BBQH", 0, 0, moment, 1) + issuer_id + len(body).to_bytes(3, "big") + body + b"\0\0"
        signature = self.certificates.sign(signed, _SHA256)
        stamp = b"\0" + hashlib.sha256(spki(self.certificates)).digest() + struct.pack(">QH", moment, 0)
        stamp += b"\4\3" + struct.pack(">H", len(signature)) + signature
        stamps = struct.pack(">HH", len(stamp) + 2, len(stamp)) + stamp
        extension = x509.UnrecognizedExtension(_SCT_OID, b"\4" + _length(len(stamps)) + stamps)
        return builder.add_extension(extension, critical=False).sign(self.authority, hashes.SHA256())

    def bundle(
        self,
        data: bytes,
        *,
        logged: bytes | None = None,
        at: datetime.datetime = SIGNED,
        **certificate: Any,
    ) -> dict[str, Any]:
        """A bundle over ``data``; what the log holds can be made to speak of other bytes, at another time."""
        key = new_key()
        made = self.certificate(key, **certificate)
        signature = key.sign(data, _SHA256)
        body = _canonical({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(logged or data).hexdigest()}},
                "signature": {
                    "content": b64(signature),
                    "publicKey": {"content": b64(made.public_bytes(serialization.Encoding.PEM))},
                },
            },
        })  # fmt: skip
        # A tree of three leaves; ours is the second: the first beside it, the third one level up.
        leaves = [hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"first", body, b"third")]
        left = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()
        top = hashlib.sha256(b"\1" + left + leaves[2]).digest()
        log_id = hashlib.sha256(spki(self.log)).digest()
        note = f"log.example.org - 1\n3\n{b64(top)}\n"
        sealed = b64(log_id[:4] + self.log.sign(note.encode(), _SHA256))
        seconds = int(at.timestamp())
        promise = _canonical({"body": b64(body), "integratedTime": seconds, "logID": log_id.hex(), "logIndex": 1})
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(made.public_bytes(serialization.Encoding.DER))},
                "tlogEntries": [{
                    "logIndex": "1",
                    "logId": {"keyId": b64(log_id)},
                    "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
                    "integratedTime": str(seconds),
                    "inclusionPromise": {"signedEntryTimestamp": b64(self.log.sign(promise, _SHA256))},
                    "inclusionProof": {
                        "logIndex": "1",
                        "rootHash": b64(top),
                        "treeSize": "3",
                        "hashes": [b64(leaves[0]), b64(leaves[2])],
                        "checkpoint": {"envelope": f"{note}\n— log.example.org {sealed}\n"},
                    },
                    "canonicalizedBody": b64(body),
                }],
            },
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(data).digest())},
                "signature": b64(signature),
            },
        }  # fmt: skip


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _length(size: int) -> bytes:
    """A length in DER."""
    return bytes([size]) if size < 128 else b"\x81" + bytes([size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
