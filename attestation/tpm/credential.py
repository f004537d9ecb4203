"""Credential activation: a secret that only the TPM with one endorsement key and one named key can take out.

What TPM2_MakeCredential computes, without a TPM. In: the endorsement key of a certificate, a key's name, a secret. Out:
the two structures that TPM2_ActivateCredential takes. Source: TPM 2.0 Library, part 1, section 24 and appendices B.10
(RSA) and C.6 (ECC); key derivation: section 11.4.10; symmetric algorithm and name hash by kind of key: TCG EK
Credential Profile 2.5, appendix B (templates).
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from attestation.errors import EvidenceError
from attestation.tpm.marshal import sized

if TYPE_CHECKING:
    from attestation.tpm.keys import Key

MAX_SECRET = 32
_IDENTITY = b"IDENTITY\0"
_STORAGE = b"STORAGE\0"
_INTEGRITY = b"INTEGRITY\0"


@dataclass(frozen=True, slots=True)
class _Template:
    """What the standard endorsement key of a kind is made with: its name's hash, and AES of so many bits."""

    algorithm: hashes.HashAlgorithm
    aes_bits: int


_SMALL = _Template(hashes.SHA256(), 128)  # L-1, L-2 and H-1, H-2: RSA 2048, P-256
_LARGE = _Template(hashes.SHA384(), 256)  # H-3, H-6, H-7: P-384, RSA 3072, RSA 4096


@dataclass(frozen=True, slots=True)
class Credential:
    """What goes to the TPM.

    Attributes:
        blob: TPM2B_ID_OBJECT: the secret, encrypted and authenticated together with the name.
        secret: TPM2B_ENCRYPTED_SECRET: the seed of both keys, encrypted to the endorsement key.
    """

    blob: bytes
    secret: bytes

    def to_file(self) -> bytes:
        """As ``tpm2_activatecredential`` reads it (tpm2-tools, ``lib/files.c``: magic, version, both structures)."""
        return bytes.fromhex("badcc0de00000001") + self.blob + self.secret


def make_credential(endorsement: Key, name: bytes, secret: bytes) -> Credential:
    """Encrypt a secret so that only the TPM with ``endorsement`` and a key named ``name`` gives it out.

    Args:
        endorsement: Public endorsement key, from its certificate.
        name: :attr:`attestation.tpm.keys.TpmPublic.name` of the key that is to be certified.
        secret: 1 to 32 bytes.

    Raises:
        EvidenceError: An endorsement key for which there is no standard template, or a secret of another length.
    """
    if not 0 < len(secret) <= MAX_SECRET:
        raise EvidenceError(f"secret of {len(secret)} bytes, expected 1 to {MAX_SECRET}")
    template = _template(endorsement)
    if isinstance(endorsement, rsa.RSAPublicKey):
        seed = os.urandom(template.algorithm.digest_size)
        oaep = padding.OAEP(padding.MGF1(template.algorithm), template.algorithm, _IDENTITY)
        encrypted = endorsement.encrypt(seed, oaep)
    else:
        ephemeral = ec.generate_private_key(endorsement.curve)
        seed, encrypted = _agree(template, endorsement, ephemeral)
    key = _derive(template, seed, _STORAGE, name, template.aes_bits)
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(sized(secret)) + encryptor.finalize()
    mac_key = _derive(template, seed, _INTEGRITY, b"", template.algorithm.digest_size * 8)
    mac = hmac.digest(mac_key, identity + name, template.algorithm.name)
    return Credential(sized(sized(mac) + identity), sized(encrypted))


def _template(endorsement: Key) -> _Template:
    size = endorsement.key_size
    if isinstance(endorsement, rsa.RSAPublicKey):
        known = {2048: _SMALL, 3072: _LARGE, 4096: _LARGE}
    else:
        known = {256: _SMALL, 384: _LARGE}
    if size not in known:
        kind = "RSA" if isinstance(endorsement, rsa.RSAPublicKey) else "elliptic-curve"
        raise EvidenceError(f"{kind} endorsement key of {size} bits, known are {sorted(known)}")
    return known[size]


def _agree(
    template: _Template, endorsement: ec.EllipticCurvePublicKey, ephemeral: ec.EllipticCurvePrivateKey
) -> tuple[bytes, bytes]:
    """Seed by KDFe over a one-time key, and that key's point (TPMS_ECC_POINT)."""
    size = (endorsement.key_size + 7) // 8
    shared = ephemeral.exchange(ec.ECDH(), endorsement)
    mine, theirs = ephemeral.public_key().public_numbers(), endorsement.public_numbers()
    x, y = mine.x.to_bytes(size, "big"), mine.y.to_bytes(size, "big")
    state = hashes.Hash(template.algorithm)
    state.update((1).to_bytes(4, "big") + shared + _IDENTITY + x + theirs.x.to_bytes(size, "big"))
    return state.finalize(), sized(x) + sized(y)


def _derive(template: _Template, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa; one round is enough for the lengths used here."""
    message = (1).to_bytes(4, "big") + label + context + bits.to_bytes(4, "big")
    return hmac.digest(key, message, template.algorithm.name)[: bits // 8]
