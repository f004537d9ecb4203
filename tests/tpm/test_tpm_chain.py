"""Certificate chains: what holds, and each way in which one does not."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from attestation.errors import EvidenceError
from attestation.tpm.chain import ATTESTATION_USAGE, ENDORSEMENT_USAGE, verify_chain

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def name(text: str, **more: str) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, text)]
    if "serial" in more:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, more["serial"]))
    return x509.Name(attributes)


def usage(**set_bits: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{bit: set_bits.get(bit, False) for bit in names})


@dataclass
class Shape:
    """What a certificate says; the default is an authority's."""

    subject: x509.Name
    issuer: x509.Name
    days: tuple[int, int] = (-1, 10)
    constraints: x509.BasicConstraints | None = field(default_factory=lambda: x509.BasicConstraints(True, None))
    usage: x509.KeyUsage | None = field(default_factory=lambda: usage(key_cert_sign=True))
    purposes: tuple[x509.ObjectIdentifier, ...] = ()
    unknown: bool = False


def issue(shape: Shape, key: Any, signer: Any) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(shape.subject)
        .issuer_name(shape.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + shape.days[0] * DAY)
        .not_valid_after(NOW + shape.days[1] * DAY)
    )
    if shape.constraints is not None:
        builder = builder.add_extension(shape.constraints, critical=True)
    if shape.usage is not None:
        builder = builder.add_extension(shape.usage, critical=True)
    if shape.purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(shape.purposes), critical=False)
    if shape.unknown:
        oid = x509.ObjectIdentifier("1.2.3.4")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\5\0"), critical=True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Pki:
    """A root, an authority and a leaf; every part can be given another shape."""

    def __init__(self, leaf_key: Any = None) -> None:
        self.root_key, self.middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in "ab")
        self.leaf_key = leaf_key or ec.generate_private_key(ec.SECP256R1())
        self.root = Shape(name("root"), name("root"))
        self.middle = Shape(name("middle"), name("root"), constraints=x509.BasicConstraints(True, 0))
        self.leaf = Shape(
            name("leaf", serial="ab" * 32),
            name("middle"),
            constraints=x509.BasicConstraints(False, None),
            usage=usage(digital_signature=True),
            purposes=(ATTESTATION_USAGE,),
        )

    def certificates(self) -> tuple[bytes, bytes, bytes]:
        return (
            issue(self.leaf, self.leaf_key, self.middle_key),
            issue(self.middle, self.middle_key, self.root_key),
            issue(self.root, self.root_key, self.root_key),
        )

    def verify(self, *, purpose: x509.ObjectIdentifier = ATTESTATION_USAGE, now: dt.datetime = NOW) -> Any:
        leaf, middle, root = self.certificates()
        return verify_chain((leaf, middle), (root,), usage=purpose, now=now.timestamp())


def test_a_chain_that_holds() -> None:
    pki = Pki()
    chain = pki.verify()
    assert chain.key == pki.leaf_key.public_key()
    assert chain.machine == b"\xab" * 32
    assert chain.expires_at == (NOW + 10 * DAY).timestamp()
    leaf, middle, root = pki.certificates()
    for shown in ((leaf, middle), (leaf, middle, root)):
        assert (
            verify_chain(shown, (root,), usage=ATTESTATION_USAGE, now=NOW.timestamp()).root_key_id == chain.root_key_id
        )
    # The authority itself may be what is trusted.
    assert verify_chain((leaf,), (middle,), usage=ATTESTATION_USAGE, now=NOW.timestamp()).machine


def test_keys_of_other_kinds() -> None:
    assert Pki(rsa.generate_private_key(65537, 2048)).verify().key.key_size == 2048
    with pytest.raises(EvidenceError, match="key of Ed25519PublicKey"):
        Pki(ed25519.Ed25519PrivateKey.generate()).verify()


def test_purposes_are_not_interchangeable() -> None:
    pki = Pki()
    with pytest.raises(EvidenceError, match="endorsement key"):
        pki.verify(purpose=ENDORSEMENT_USAGE)
    pki.leaf.purposes, pki.leaf.usage = (ENDORSEMENT_USAGE,), usage(key_encipherment=True)
    assert pki.verify(purpose=ENDORSEMENT_USAGE).key
    with pytest.raises(EvidenceError, match="attestation key"):
        pki.verify()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("leaf", {"purposes": ()}, "not for a TPM's attestation key"),
        ("leaf", {"usage": usage(key_encipherment=True)}, "not for a TPM's attestation key"),
        ("leaf", {"constraints": x509.BasicConstraints(True, None)}, "not for a TPM's attestation key"),
        ("leaf", {"days": (-5, -1)}, "is valid from"),
        ("leaf", {"days": (1, 5)}, "is valid from"),
        ("leaf", {"unknown": True}, "unknown critical"),
        ("leaf", {"issuer": name("other")}, "was not issued by"),
        ("middle", {"constraints": x509.BasicConstraints(False, None)}, "not an authority's"),
        ("middle", {"constraints": None}, "not an authority's"),
        ("middle", {"usage": usage(digital_signature=True)}, "not an authority's"),
        ("middle", {"days": (-5, -1)}, "is valid from"),
        ("middle", {"unknown": True}, "unknown critical"),
        ("middle", {"issuer": name("other")}, "no trusted root"),
        ("root", {"days": (-5, -1)}, "is valid from"),
        ("root", {"constraints": x509.BasicConstraints(True, 0)}, "allows no chain of this length"),
        ("root", {"constraints": None}, "not an authority's"),
    ],
)
def test_chains_that_do_not_hold(part: str, changes: dict[str, Any], message: str) -> None:
    pki = Pki()
    assert pki.verify()
    for attribute, value in changes.items():
        setattr(getattr(pki, part), attribute, value)
    with pytest.raises(EvidenceError, match=message):
        pki.verify()


def test_a_signature_by_another_key_of_the_same_name() -> None:
    pki, other = Pki(), Pki()
    leaf, _, _ = other.certificates()
    _, middle, root = pki.certificates()
    with pytest.raises(EvidenceError, match="was not issued by"):
        verify_chain((leaf, middle), (root,), usage=ATTESTATION_USAGE, now=NOW.timestamp())
    _, _, foreign = other.certificates()
    with pytest.raises(EvidenceError, match="no trusted root"):
        verify_chain(pki.certificates()[:2], (foreign,), usage=ATTESTATION_USAGE, now=NOW.timestamp())


def test_chains_of_other_lengths() -> None:
    leaf, middle, root = Pki().certificates()
    for chain, message in (
        ((), "chain of 0"),
        ((leaf,) * 9, "chain of 9"),
        ((root,), "root alone"),
        ((leaf,), "no trusted root"),
        ((b"noise", middle), "cannot be read"),
    ):
        with pytest.raises(EvidenceError, match=message):
            verify_chain(chain, (root,), usage=ATTESTATION_USAGE, now=NOW.timestamp())
    with pytest.raises(EvidenceError, match="no time of day"):
        verify_chain((leaf, middle), (root,), usage=ATTESTATION_USAGE, now=1e30)
