"""Quotes: TPMS_ATTEST and TPMT_SIGNATURE; bytes in, values out.

Layout: TPM 2.0 Library, part 2, sections 10.12 (attestation structures), 10.6.1 (PCR selection), 11.3 (signatures).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.errors import EvidenceError
from attestation.tpm import algorithms as alg
from attestation.tpm.marshal import Unmarshal

if TYPE_CHECKING:
    from attestation.tpm.keys import Key

MAGIC = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key signs nothing from outside that begins with it."""

TYPE_QUOTE = 0x8018
_MAX_SELECTIONS = 8
_MAX_SELECT = 4


@dataclass(frozen=True, slots=True)
class Clock:
    """The TPM's sense of time; none of it is a date.

    Attributes:
        milliseconds: Time that the TPM was powered, ever.
        resets: How often it was reset: every boot of its machine.
        restarts: How often it was resumed since.
        safe: Whether the clock cannot have been turned back by a loss of power.
        firmware: Version that its maker gave it.
    """

    milliseconds: int
    resets: int
    restarts: int
    safe: bool
    firmware: int


@dataclass(frozen=True, slots=True)
class Quote:
    """A TPM's statement about its registers.

    Attributes:
        signer: Qualified name of the key that it says signed it.
        extra: What the asker put in, up to 64 bytes.
        clock: When.
        selection: Registers by bank (TPM_ALG_ID), in the order of the statement.
        digest: Hash over the values of all selected registers.
    """

    signer: bytes
    extra: bytes
    clock: Clock
    selection: tuple[tuple[int, tuple[int, ...]], ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature with its scheme.

    Attributes:
        scheme: TPM_ALG_ID: RSASSA, RSAPSS or ECDSA.
        hash: TPM_ALG_ID of its hash.
        value: As the cryptography library takes it (DER for ECDSA).
    """

    scheme: int
    hash: int
    value: bytes

    def holds(self, key: Key, message: bytes) -> bool:
        """Whether ``key`` made it over ``message``."""
        algorithm = alg.hash_algorithm(self.hash)
        try:
            if isinstance(key, rsa.RSAPublicKey):
                if self.scheme == alg.RSASSA:
                    key.verify(self.value, message, padding.PKCS1v15(), algorithm)
                elif self.scheme == alg.RSAPSS:
                    key.verify(self.value, message, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
                else:
                    return False
            elif self.scheme == alg.ECDSA:
                key.verify(self.value, message, ec.ECDSA(algorithm))
            else:
                return False
        except InvalidSignature:
            return False
        return True


def parse_quote(data: bytes) -> Quote:
    """Read a TPMS_ATTEST of a quote, all of it.

    Raises:
        EvidenceError: Not made by a TPM's own commands, not a quote, or malformed.
    """
    fields = Unmarshal(data, "TPM quote")
    if fields.number(4) != MAGIC:
        raise EvidenceError("TPM quote that does not begin with TPM_GENERATED_VALUE", hint="no TPM made this statement")
    if (kind := fields.number(2)) != TYPE_QUOTE:
        raise EvidenceError(f"TPM statement of type {kind:#06x}, expected a quote ({TYPE_QUOTE:#06x})")
    signer, extra = fields.sized(68), fields.sized(64)
    milliseconds, resets, restarts, safe = fields.number(8), fields.number(4), fields.number(4), fields.number(1)
    if safe > 1:
        raise EvidenceError(f"TPM quote with a flag of {safe}, expected 0 or 1")
    clock = Clock(milliseconds, resets, restarts, bool(safe), fields.number(8))
    count = fields.number(4)
    if count > _MAX_SELECTIONS:
        raise EvidenceError(f"TPM quote over {count} banks, at most {_MAX_SELECTIONS}")
    selection = tuple(_selection(fields) for _ in range(count))
    digest = fields.sized(64)
    fields.finish()
    return Quote(signer, extra, clock, selection, digest)


def parse_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE, all of it.

    Raises:
        EvidenceError: Malformed, or another scheme or hash than those used here.
    """
    fields = Unmarshal(data, "TPM signature")
    scheme, algorithm = fields.number(2), fields.number(2)
    alg.hash_algorithm(algorithm)
    if scheme in {alg.RSASSA, alg.RSAPSS}:
        value = fields.sized(512)
    elif scheme == alg.ECDSA:
        r, s = (int.from_bytes(fields.sized(66), "big") for _ in "rs")
        value = encode_dss_signature(r, s)
    else:
        raise EvidenceError(f"TPM signature of scheme {scheme:#06x}, expected RSASSA, RSAPSS or ECDSA")
    fields.finish()
    return Signature(scheme, algorithm, value)


def _selection(fields: Unmarshal) -> tuple[int, tuple[int, ...]]:
    bank, size = fields.number(2), fields.number(1)
    if size > _MAX_SELECT:
        raise EvidenceError(f"TPM quote with a selection of {size} bytes, at most {_MAX_SELECT}")
    bits = int.from_bytes(fields.take(size), "little")
    return bank, tuple(register for register in range(8 * size) if bits >> register & 1)
