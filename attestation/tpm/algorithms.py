"""Numbers of the TPM's algorithms that are used here, and what they are in the cryptography library.

Source: TCG Algorithm Registry, section 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

RSA: Final = 0x0001
SHA256: Final = 0x000B
NULL: Final = 0x0010
RSASSA: Final = 0x0014
RSAES: Final = 0x0015
RSAPSS: Final = 0x0016
OAEP: Final = 0x0017
ECDSA: Final = 0x0018
ECDH: Final = 0x0019
ECC: Final = 0x0023

HASHES: Mapping[int, type[hashes.HashAlgorithm]] = {
    SHA256: hashes.SHA256,
    0x000C: hashes.SHA384,
    0x000D: hashes.SHA512,
}
"""Hashes that are good enough for a signature or a name; SHA-1 is not among them."""

CURVES: Mapping[int, type[ec.EllipticCurve]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1, 0x0005: ec.SECP521R1}


def hash_algorithm(identifier: int) -> hashes.HashAlgorithm:
    """The hash with a TPM_ALG_ID.

    Raises:
        EvidenceError: Not one of :data:`HASHES`.
    """
    if identifier not in HASHES:
        raise EvidenceError(f"hash algorithm {identifier:#06x}, expected SHA-256, SHA-384 or SHA-512")
    return HASHES[identifier]()


def digest(identifier: int, data: bytes) -> bytes:
    """Digest by the hash with a TPM_ALG_ID; errors as :func:`hash_algorithm`."""
    state = hashes.Hash(hash_algorithm(identifier))
    state.update(data)
    return state.finalize()
