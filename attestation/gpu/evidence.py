"""One device's evidence as it travels in a bundle: values in, bytes out, and back. Nothing here is verified.

It is a canonical CBOR map of four fields. The report is what the driver returns: the SPDM request (37 bytes) and the
device's response to it, because the signature is over both. The certificates are the driver's PEM, leaf first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from attestation import cbor
from attestation.errors import EvidenceError

Kind = Literal["gpu", "switch"]
KINDS: frozenset[str] = frozenset(get_args(Kind))

MAX_ARCHITECTURE = 32
MAX_REPORT = 16 * 1024
"""NVML's buffer is 8 KiB; reports seen are 2 to 5 KiB."""

MAX_CHAIN = 32 * 1024
"""NVML's buffer is 5 KiB, the chains of switches and of later GPUs are no longer."""

MAX_EVIDENCE = 128 * 1024
_FIELDS = frozenset({"kind", "architecture", "report", "chain"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvidence:
    """What one GPU or one NVSwitch shows.

    Attributes:
        kind: ``gpu`` or ``switch``.
        architecture: The driver's word, in lower case (``hopper``, ``blackwell``, ``ls10``); the certificates decide.
        report: SPDM GET_MEASUREMENTS request and MEASUREMENTS response, one after the other.
        chain: Certificates of the device in PEM, leaf first.
    """

    kind: Kind
    architecture: str
    report: bytes
    chain: bytes

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise EvidenceError(f"device evidence of kind {self.kind!r}, expected {' or '.join(sorted(KINDS))}")
        if not 0 < len(self.architecture) <= MAX_ARCHITECTURE:
            raise EvidenceError(
                f"device evidence with an architecture of {len(self.architecture)} characters, expected 1 to "
                f"{MAX_ARCHITECTURE}"
            )
        for name, value, limit in (("report", self.report, MAX_REPORT), ("chain", self.chain, MAX_CHAIN)):
            if not 0 < len(value) <= limit:
                raise EvidenceError(f"device evidence with a {name} of {len(value)} bytes, expected 1 to {limit}")

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode(
            {"kind": self.kind, "architecture": self.architecture, "report": self.report, "chain": self.chain}
        )

    @classmethod
    def parse(cls, data: bytes) -> DeviceEvidence:
        """Read evidence back.

        Raises:
            EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
        """
        value = cbor.decode(data, max_length=MAX_EVIDENCE)
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise EvidenceError(f"device evidence is not a map of exactly {sorted(_FIELDS)}")
        for name, kind in (("kind", str), ("architecture", str), ("report", bytes), ("chain", bytes)):
            if not isinstance(value[name], kind):
                raise EvidenceError(
                    f"device evidence field {name} is {type(value[name]).__name__}, expected {kind.__name__}"
                )
        return cls(**value)
