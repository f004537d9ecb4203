"""Public areas of TPM keys: bytes in, key, attributes and name out.

Layout: TPM 2.0 Library, part 2, sections 8.3 (TPMA_OBJECT), 12.2.3 (TPMT_PUBLIC) and 16 of part 1 (names).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation.errors import EvidenceError
from attestation.tpm import algorithms as alg
from attestation.tpm.marshal import Unmarshal

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PUBLIC = 1024
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
_DEFAULT_EXPONENT = 65537

HIERARCHIES: Mapping[str, int] = {
    "owner": 0x40000001,
    "null": 0x40000007,
    "endorsement": 0x4000000B,
    "platform": 0x4000000C,
}
"""Handles of the hierarchies whose primary keys are told apart (part 2, section 7.4)."""

Key: TypeAlias = "rsa.RSAPublicKey | ec.EllipticCurvePublicKey"


class Attribute(IntFlag):
    """Bits of TPMA_OBJECT that are looked at."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


ATTESTATION_KEY: Mapping[Attribute, bool] = {
    Attribute.FIXED_TPM: True,
    Attribute.FIXED_PARENT: True,
    Attribute.SENSITIVE_DATA_ORIGIN: True,
    Attribute.RESTRICTED: True,
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
}
"""What an attestation key is: made in the TPM, never leaves it, and signs nothing that looks like the TPM's own
statements but those statements (part 1, section 25.1.2)."""


@dataclass(frozen=True, slots=True)
class TpmPublic:
    """A key's public area.

    Attributes:
        key: The public key.
        attributes: All bits of TPMA_OBJECT.
        name_algorithm: TPM_ALG_ID of the hash that names it.
        scheme: TPM_ALG_ID of the scheme it is limited to, ``NULL`` if to none.
        scheme_hash: TPM_ALG_ID of that scheme's hash, ``NULL`` if it has none.
        raw: The TPMT_PUBLIC.
    """

    key: Key
    attributes: int
    name_algorithm: int
    scheme: int
    scheme_hash: int
    raw: bytes

    @property
    def name(self) -> bytes:
        """The name by which the TPM knows it: hash algorithm and hash of the public area."""
        return self.name_algorithm.to_bytes(2, "big") + alg.digest(self.name_algorithm, self.raw)

    def hierarchy(self, qualified: bytes) -> str:
        """Of which hierarchy it is a primary key, by its qualified name; empty if of none that is known."""
        for name, handle in HIERARCHIES.items():
            digest = alg.digest(self.name_algorithm, handle.to_bytes(4, "big") + self.name)
            if qualified == self.name_algorithm.to_bytes(2, "big") + digest:
                return name
        return ""

    @property
    def spki(self) -> bytes:
        """The key as DER SubjectPublicKeyInfo."""
        return spki(self.key)

    def wrong_attributes(self) -> tuple[str, ...]:
        """What keeps it from being an attestation key, in words; empty if nothing does."""
        return tuple(
            f"{'not ' if wanted else ''}{bit.name.lower().replace('_', ' ')}"
            for bit, wanted in ATTESTATION_KEY.items()
            if bit.name and bool(self.attributes & bit) is not wanted
        )


def spki(key: Key) -> bytes:
    """A public key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_public(data: bytes) -> TpmPublic:
    """Read a TPM2B_PUBLIC: the public area behind its length, nothing behind it.

    Raises:
        EvidenceError: Malformed, or a kind of key that is not used here.
    """
    outer = Unmarshal(data, "TPM public key")
    raw = outer.sized(MAX_PUBLIC)
    outer.finish()
    fields = Unmarshal(raw, "TPM public area")
    kind, name_algorithm, attributes = fields.number(2), fields.number(2), fields.number(4)
    alg.hash_algorithm(name_algorithm)
    fields.sized(64)  # authPolicy
    if kind not in {alg.RSA, alg.ECC}:
        raise EvidenceError(f"TPM key of type {kind:#06x}, expected RSA or ECC")
    if fields.number(2) != alg.NULL:  # symmetric algorithm of a storage key: its size and mode
        fields.take(4)
    scheme = fields.number(2)
    scheme_hash = alg.NULL if scheme in {alg.NULL, alg.RSAES} else fields.number(2)
    key = _rsa(fields) if kind == alg.RSA else _ecc(fields)
    fields.finish()
    return TpmPublic(key, attributes, name_algorithm, scheme, scheme_hash, raw)


def _rsa(fields: Unmarshal) -> rsa.RSAPublicKey:
    bits, exponent = fields.number(2), fields.number(4) or _DEFAULT_EXPONENT
    modulus = int.from_bytes(fields.sized(MAX_RSA_BITS // 8), "big")
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS or modulus.bit_length() != bits:
        raise EvidenceError(f"RSA key of {modulus.bit_length()} bits, stated as {bits}, expected 2048 to 4096")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise EvidenceError(f"RSA key that is none: {error}") from None


def _ecc(fields: Unmarshal) -> ec.EllipticCurvePublicKey:
    curve = alg.CURVES.get(identifier := fields.number(2))
    if curve is None:
        raise EvidenceError(f"curve {identifier:#06x}, expected P-256, P-384 or P-521")
    if fields.number(2) != alg.NULL:  # key derivation scheme: its hash
        fields.take(2)
    x, y = (int.from_bytes(fields.sized(66), "big") for _ in "xy")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceError(f"elliptic-curve key that is none: {error}") from None
