"""What a verifier needs besides a report: the endorsement key's certificate, AMD's above it, the revocation list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.snp.vek import MAX_CERTIFICATE

MAX_CRL = 32 * 1024
MAX_COLLATERAL = 3 * MAX_CERTIFICATE + MAX_CRL + 256
_FIELDS = frozenset({"vek", "ask", "ark", "crl"})


@dataclass(frozen=True, slots=True)
class SnpCollateral:
    """Certificates of one endorsement key; nothing in it is verified.

    Attributes:
        vek: Of the VCEK or VLEK, DER.
        ask: Of the key that issued it (ASK or ASVK), DER.
        ark: Of AMD's root for the product, DER.
        crl: The root's revocation list, DER; ``None`` if there is none at hand.
    """

    vek: bytes
    ask: bytes
    ark: bytes
    crl: bytes | None

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode({"vek": self.vek, "ask": self.ask, "ark": self.ark, "crl": self.crl})

    @classmethod
    def parse(cls, data: bytes) -> SnpCollateral:
        """Read it back.

        Raises:
            EvidenceError: Not canonical, too long, or fields missing, unknown, of another type or out of bounds.
        """
        value = cbor.decode(data, max_length=MAX_COLLATERAL)
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise EvidenceError(f"SNP collateral is not a map of exactly {sorted(_FIELDS)}")
        return cls(
            vek=_data(value["vek"], "vek", MAX_CERTIFICATE),
            ask=_data(value["ask"], "ask", MAX_CERTIFICATE),
            ark=_data(value["ark"], "ark", MAX_CERTIFICATE),
            crl=None if value["crl"] is None else _data(value["crl"], "crl", MAX_CRL),
        )

    def with_revocation_list_of(self, other: SnpCollateral) -> SnpCollateral:
        """This one, with the other's revocation list if it has none itself and both have the same root.

        The list is signed by that root and dated, so it does not matter whose it is.
        """
        if self.crl is not None or other.ark != self.ark:
            return self
        return replace(self, crl=other.crl)

    @classmethod
    def from_kds(cls, vek: bytes, chain_pem: bytes, crl: bytes | None) -> SnpCollateral:
        """Put together what AMD's key distribution service answers (57230, section 4).

        Args:
            vek: The certificate, DER.
            chain_pem: ASK (or ASVK) and ARK in that order, PEM.
            crl: The revocation list, DER.

        Raises:
            EvidenceError: The chain is not two certificates, or something is out of bounds.
        """
        if len(chain_pem) > 4 * MAX_CERTIFICATE:
            raise EvidenceError(f"AMD's certificate chain of {len(chain_pem)} bytes, at most {4 * MAX_CERTIFICATE}")
        try:
            chain = [
                certificate.public_bytes(serialization.Encoding.DER)
                for certificate in x509.load_pem_x509_certificates(chain_pem)
            ]
        except (ValueError, UnsupportedAlgorithm) as error:
            raise EvidenceError(f"AMD's certificate chain cannot be read: {error}") from None
        if len(chain) != 2:
            raise EvidenceError(f"AMD's certificate chain of {len(chain)} certificates, expected 2")
        return cls.parse(cls(vek, chain[0], chain[1], crl).encode())


def _data(value: Any, name: str, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= limit:
        raise EvidenceError(f"SNP collateral {name} is not 1 to {limit} bytes")
    return value
