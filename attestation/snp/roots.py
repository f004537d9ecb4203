"""AMD's root keys, pinned.

The values were taken from AMD's own certificates: Milan's and Turin's stand in chains of real machines that the tests
verify, Genoa's in the chain that AMD's key distribution service publishes for it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from attestation.errors import AttestationError
from attestation.snp.tcb import Product

if TYPE_CHECKING:
    from collections.abc import Mapping

AMD_ROOT_KEYS: Mapping[Product, bytes] = {
    Product.MILAN: bytes.fromhex(
        "1249f67f15cf229a4069195e1a9ce537d1765ef706a1f4a123c36be9518786515d25ecc007f366b564d2b3f31c48082e"
    ),
    Product.GENOA: bytes.fromhex(
        "32ab53a6ce5ec14926207396e5c475ae768a6a9831b7e860b5acf2e1c1dff222bc5a8bfc43eb5e06393189c1f246d880"
    ),
    Product.TURIN: bytes.fromhex(
        "3475f08a9727f8ac9a1deaea5f2a2097aa59d64d05c2a678c229c873e6359d3a6926287a2a22cd5f88a385e333a2fcc5"
    ),
}
"""SHA-384 of each root's public key (DER, SubjectPublicKeyInfo), 48 bytes."""

AMD_ROOTS = frozenset(AMD_ROOT_KEYS.values())
"""What a policy that rests on AMD trusts."""


def key_id(certificate: x509.Certificate) -> bytes:
    """SHA-384 of a certificate's public key, DER: 48 bytes."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha384(spki).digest()


def root_key_id(root_der: bytes) -> bytes:
    """The key id of a root made for a run, as policies take it; 48 bytes.

    Raises:
        AttestationError: Not a certificate.
    """
    try:
        return key_id(x509.load_der_x509_certificate(root_der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AttestationError(f"root is not a certificate: {error}") from None
