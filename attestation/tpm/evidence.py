"""TPM evidence: one canonical CBOR map; values in, bytes out, and back. Nothing here is verified.

It has two forms. A certificate carries the one without logs, about two kilobytes; a fresh bundle the one with logs,
up to 60 kilobytes, which would not fit into a handshake (:data:`attestation.tdx.MAX_QUOTE`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attestation import cbor
from attestation.errors import EvidenceError
from attestation.tpm.logs import BootLogs
from attestation.tpm.marshal import MAX_STRUCTURE
from measurements.eventlog import MAX_LOG

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
KIND = "tpm"
REGISTERS = tuple(range(16))
"""Registers that are quoted, in the SHA-256 bank; those above 15 can be reset by software."""

MAX_CHAIN = 4
MAX_CERTIFICATE = 8 * 1024
MAX_EVIDENCE = MAX_LOG + 512 * 1024
_FIELDS = frozenset({"kind", "version", "quote", "signature", "key", "chain", "registers", "logs"})
_MAP = 5  # CBOR's major type; the quotes of other platforms begin with a small number


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmEvidence:
    """What a machine shows.

    Attributes:
        quote: TPMS_ATTEST.
        signature: TPMT_SIGNATURE over it.
        key: TPM2B_PUBLIC of the attestation key.
        chain: Certificate of that key and of the authorities above it, DER; without the root, where verifiers have it.
            Empty where something else vouches for the key (a paravisor's report).
        registers: Values of :data:`REGISTERS`, 32 bytes each.
        logs: What the registers were extended with; ``None`` in a certificate.
    """

    quote: bytes
    signature: bytes
    key: bytes
    chain: tuple[bytes, ...]
    registers: tuple[bytes, ...]
    logs: BootLogs | None

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode(
            {
                "kind": KIND,
                "version": VERSION,
                "quote": self.quote,
                "signature": self.signature,
                "key": self.key,
                "chain": list(self.chain),
                "registers": list(self.registers),
                "logs": None if self.logs is None else self.logs.plain(),
            }
        )


def is_tpm_evidence(evidence: bytes) -> bool:
    """Whether evidence has this form rather than a TDX quote's; a malformed one of this form counts as one."""
    return bool(evidence) and evidence[0] >> 5 == _MAP


def qualifying_data(report_data: bytes) -> bytes:
    """What a quote over 64 bytes of report data carries, since a TPM has no room for more than one hash; 32 bytes."""
    return hashlib.sha256(report_data).digest()


def parse_evidence(data: bytes) -> TpmEvidence:
    """Read evidence.

    Raises:
        EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
    """
    value = cbor.decode(data, max_length=MAX_EVIDENCE)
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise EvidenceError(f"TPM evidence is not a map of exactly {sorted(_FIELDS)}")
    if value["kind"] != KIND or value["version"] != VERSION or isinstance(value["version"], bool):
        raise EvidenceError(f"TPM evidence of kind {value['kind']!r}, version {value['version']!r}; expected {VERSION}")
    return TpmEvidence(
        quote=_data(value["quote"], "quote", MAX_STRUCTURE),
        signature=_data(value["signature"], "signature", MAX_STRUCTURE),
        key=_data(value["key"], "key", MAX_STRUCTURE),
        chain=_list(value["chain"], "chain", range(MAX_CHAIN + 1), MAX_CERTIFICATE),
        registers=_registers(value["registers"]),
        logs=None if value["logs"] is None else BootLogs.from_plain(value["logs"]),
    )


def _data(value: Any, name: str, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= limit:
        raise EvidenceError(f"TPM evidence field {name} is not 1 to {limit} bytes")
    return value


def _list(value: Any, name: str, counts: range, limit: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) not in counts:
        raise EvidenceError(f"TPM evidence field {name} is not a list of {counts[0]} to {counts[-1]}")
    return tuple(_data(item, name, limit) for item in value)


def _registers(value: Any) -> tuple[bytes, ...]:
    found: Sequence[bytes] = _list(value, "registers", range(len(REGISTERS), len(REGISTERS) + 1), 32)
    if any(len(item) != 32 for item in found):
        raise EvidenceError("TPM evidence with a register that is not 32 bytes")
    return tuple(found)
