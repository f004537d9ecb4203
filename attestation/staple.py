"""Collateral that travels with evidence, so that a verifier needs no network; values in, plain values out, and back.

Nothing here is trusted: all of it is signed by the makers of the hardware and dated, and the verifier checks both. A
verifier's own source goes first (:mod:`attestation.verifier`); what is stapled is used where that has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attestation.errors import EvidenceError
from attestation.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TDX = 1024 * 1024
"""Longest collateral of a TDX quote, in bytes (:data:`attestation.dcap.MAX_COLLATERAL`); Intel's is about 20 KiB."""

MAX_SNP = 64 * 1024
"""Longest chain and revocation list of an SNP report, in bytes."""

MAX_RIM = 512 * 1024
"""Longest reference manifest, in bytes; NVIDIA's are 20 to 60 KiB."""

MAX_RIMS = 16
MAX_RIM_ID = 256
MAX_OCSP = 16 * 1024
"""Longest OCSP response, in bytes; NVIDIA's are about 1 KiB."""

MAX_RESPONSES = 256
_FIELDS = frozenset({"tdx", "snp", "rims", "ocsp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Staple:
    """What came with a bundle.

    Attributes:
        tdx: JSON of ``dcap_qvl.QuoteCollateralV3``.
        snp: A chain and its revocation list (:mod:`attestation.snp.collateral`).
        rims: Reference manifests by id.
        ocsp: OCSP responses, DER, by SHA-256 of the certificate they speak of.
    """

    tdx: bytes | None = None
    snp: bytes | None = None
    rims: Mapping[str, bytes] = field(default_factory=dict)
    ocsp: Mapping[bytes, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.tdx or self.snp or self.rims or self.ocsp)

    def to_value(self) -> dict[str, Any]:
        """Plain values for a canonical map; certificates are named by 64 hex digits, since a map has text keys."""
        return {
            "tdx": self.tdx,
            "snp": self.snp,
            "rims": dict(self.rims),
            "ocsp": {digest.hex(): response for digest, response in self.ocsp.items()},
        }

    @classmethod
    def from_value(cls, value: Any) -> Staple:
        """Read plain values back.

        Raises:
            EvidenceError: Fields missing, unknown, of another type or out of bounds.
        """
        fields = Fields(value, _FIELDS, "stapled collateral")
        tdx, snp = fields.optional("tdx", MAX_TDX), fields.optional("snp", MAX_SNP)
        if b"" in {tdx, snp}:
            raise EvidenceError("stapled collateral of 0 bytes", hint="a machine that has none staples nothing")
        return cls(tdx=tdx, snp=snp, rims=_rims(fields["rims"]), ocsp=_ocsp(fields["ocsp"]))


def _data(value: Any, name: str, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= limit:
        raise EvidenceError(f"stapled collateral {name} is not 1 to {limit} bytes")
    return value


def _rims(value: Any) -> Mapping[str, bytes]:
    if not isinstance(value, dict) or len(value) > MAX_RIMS:
        raise EvidenceError(f"stapled reference manifests are not a map of at most {MAX_RIMS}")
    if any(not 0 < len(name) <= MAX_RIM_ID for name in value):
        raise EvidenceError(f"stapled reference manifest with an id that is not 1 to {MAX_RIM_ID} characters")
    return {name: _data(item, "reference manifest", MAX_RIM) for name, item in value.items()}


def _ocsp(value: Any) -> Mapping[bytes, bytes]:
    if not isinstance(value, dict) or len(value) > MAX_RESPONSES:
        raise EvidenceError(f"stapled OCSP responses are not a map of at most {MAX_RESPONSES}")
    return {_digest(name): _data(item, "OCSP response", MAX_OCSP) for name, item in value.items()}


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32 or digest.hex() != text:
        raise EvidenceError("stapled OCSP response under a name that is not 64 lower-case hex digits")
    return digest
