"""Evidence of a Google machine: one canonical CBOR map; values in, bytes out, and back. Nothing here is verified."""

from __future__ import annotations

from dataclasses import dataclass

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.fields import Fields
from attestation.tdx import MAX_QUOTE
from attestation.tpm.evidence import MAX_EVIDENCE, TpmEvidence, parse_evidence

VERSION = 1
KIND = "gcp"
_FIELDS = frozenset({"kind", "version", "tpm", "tdx"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpEvidence:
    """What a Google machine shows.

    Attributes:
        tpm: Its vTPM's quote; the chain ends with Google's root itself.
        tdx: A TDX quote over the same report data; ``None`` of a machine that is no TDX guest.
    """

    tpm: TpmEvidence
    tdx: bytes | None

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode({"kind": KIND, "version": VERSION, "tpm": self.tpm.encode(), "tdx": self.tdx})


def parse_gcp(data: bytes) -> GcpEvidence:
    """Read evidence.

    Raises:
        EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
    """
    fields = Fields(cbor.decode(data, max_length=MAX_EVIDENCE), _FIELDS, "Google evidence")
    if fields["kind"] != KIND or fields.number("version", 2**16) != VERSION:
        raise EvidenceError(f"Google evidence of version {fields['version']}, expected {VERSION}")
    tdx = fields.optional("tdx", MAX_QUOTE)
    return GcpEvidence(tpm=parse_evidence(fields.data("tpm", MAX_EVIDENCE)), tdx=tdx)
