"""What evidence claims and how a quote is bound to it: image hash, report data, workload statement."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from attestation import cbor
from attestation.errors import EvidenceError

MAX_STATEMENT = 64 * 1024
MAX_TEXT = 1024
_REPORT_DOMAIN = b"chrysalis report data v1\0"
_KEYS_DOMAIN = b"chrysalis keys v1\0"
_GPU_DOMAIN = b"chrysalis gpu evidence v1\0"
_GPU_NONCE_DOMAIN = b"chrysalis gpu nonce v1\0"
_IDENTITY_DOMAIN = "chrysalis image v1"

Plain: TypeAlias = "int | str | bytes | bool | list[Plain] | dict[str, Plain] | None"


def image_hash(measurements: bytes) -> bytes:
    """Image hash of a TDX machine (protocol specification, section 5.7).

    Args:
        measurements: MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0 to RTMR3, 384 bytes (``TdReport.measurements``).

    Returns:
        32 bytes: SHA-256 of the measurements and 64 zero bytes, which stand where report data would.

    Raises:
        EvidenceError: If the measurements are not 384 bytes.
    """
    if len(measurements) != 8 * 48:
        raise EvidenceError(f"measurements of {len(measurements)} bytes, expected {8 * 48}")
    return hashlib.sha256(measurements + bytes(64)).digest()


def platform_image_hash(platform: str, measurements: Mapping[str, bytes]) -> bytes:
    """Identity of a machine that is not TDX: SHA-256 of platform name and measurements in canonical CBOR; 32 bytes."""
    return hashlib.sha256(cbor.encode([_IDENTITY_DOMAIN, platform, dict(measurements)])).digest()


def certificate_report_data(public_key: bytes) -> bytes:
    """Report data of an RA-TLS certificate: SHA-512 of the raw Ed25519 key (specification, section 5.7); 64 bytes."""
    return hashlib.sha512(public_key).digest()


def keys_hash(keys: Mapping[str, bytes]) -> bytes:
    """Hash of all public keys of a guest by purpose (``tls``, ``hpke``, ``receipt``); 32 bytes."""
    return hashlib.sha256(_KEYS_DOMAIN + cbor.encode(dict(keys))).digest()


def gpu_evidence_hash(devices: Sequence[bytes]) -> bytes:
    """Hash of the evidence of all GPUs in order, also of none; 32 bytes."""
    return hashlib.sha256(_GPU_DOMAIN + cbor.encode(list(devices))).digest()


def gpu_nonce(root: bytes, keys_hash: bytes, index: int) -> bytes:
    """The nonce that one device of one guest is asked with (attestation specification, section 4).

    Args:
        root: Merkle root over the verifiers' nonces, 32 bytes.
        keys_hash: :func:`keys_hash`, 32 bytes.
        index: Place of the device in the evidence, from 0; u32 little-endian.

    Returns:
        32 bytes: SHA-256 of domain, root, keys hash and index.

    Raises:
        EvidenceError: If a hash is not 32 bytes or the index is out of range.
    """
    if len(root) != 32 or len(keys_hash) != 32 or not 0 <= index < 2**32:
        raise EvidenceError(
            f"GPU nonce of a root of {len(root)} and a keys hash of {len(keys_hash)} bytes at index {index}, "
            "expected 32, 32 and a number of 32 bits"
        )
    return hashlib.sha256(_GPU_NONCE_DOMAIN + root + keys_hash + index.to_bytes(4, "little")).digest()


def report_data(nonce: bytes, keys_hash: bytes, gpu_evidence_hash: bytes, statement_hash: bytes) -> bytes:
    """Report data of fresh evidence (attestation specification, section 4).

    Args:
        nonce: 32 bytes that the verifier chose (or the Merkle root over several verifiers' nonces).
        keys_hash: :func:`keys_hash`, 32 bytes.
        gpu_evidence_hash: :func:`gpu_evidence_hash`, 32 bytes.
        statement_hash: :meth:`WorkloadStatement.digest`, 32 bytes.

    Returns:
        64 bytes.

    Raises:
        EvidenceError: If an argument is not 32 bytes.
    """
    parts = (nonce, keys_hash, gpu_evidence_hash, statement_hash)
    if any(len(part) != 32 for part in parts):
        raise EvidenceError(f"report data is made of four 32-byte values, got {[len(part) for part in parts]}")
    return hashlib.sha512(_REPORT_DOMAIN + b"".join(parts)).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadStatement:
    """What a guest says it runs; its digest goes into report data, so none of it can be changed unseen.

    Attributes:
        image: Image hash of the guest, 32 bytes.
        measured_config: Digest of its ``MeasuredConfig``, 32 bytes.
        model: Full model name ``name@commit:hash``, empty for a guest without one.
        model_hash: Root hash of the model volume; empty without a model.
        engine: The engine and every flag it was started with.
        root_contract: Address of the root contract it obeys.
        owner: Address that is paid.
        coefficient: Price in thousandths.
        role: ``worker``, ``gateway`` or ``client``.
        chain: Root hash of the chain's zerostate, 32 bytes or empty.
        generation: How often what the rest speaks of has begun anew since the guest started: a restart of the engine, a
            reset of a GPU, another load of its driver. Verdicts on an earlier one are void.
    """

    image: bytes
    measured_config: bytes
    model: str = ""
    model_hash: bytes = b""
    engine: Mapping[str, Plain] = field(default_factory=dict)
    root_contract: str = ""
    owner: str = ""
    coefficient: int = 1000
    role: str = "worker"
    chain: bytes = b""
    generation: int = 0

    def __post_init__(self) -> None:
        if len(self.image) != 32 or len(self.measured_config) != 32:
            raise EvidenceError(
                f"statement with an image of {len(self.image)} and a configuration digest of "
                f"{len(self.measured_config)} bytes, expected 32 each"
            )
        if len(self.model_hash) not in {0, 32} or len(self.chain) not in {0, 32}:
            raise EvidenceError("statement with a model or chain hash that is neither empty nor 32 bytes")
        if any(len(text) > MAX_TEXT for text in (self.model, self.root_contract, self.owner, self.role)):
            raise EvidenceError(f"statement with a text over {MAX_TEXT} characters")
        if not 0 <= self.coefficient < 10**9:
            raise EvidenceError(f"statement with coefficient {self.coefficient}, expected 0 to 999999999")
        if not 0 <= self.generation < 2**32:
            raise EvidenceError(f"statement of generation {self.generation}, expected a number of 32 bits")

    def to_cbor(self) -> bytes:
        """The canonical encoding: a map of all fields by name."""
        return cbor.encode({item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def from_cbor(cls, data: bytes) -> WorkloadStatement:
        """Read a statement back.

        Raises:
            EvidenceError: Not canonical, fields missing, unknown or of another type.
        """
        value = cbor.decode(data, max_length=MAX_STATEMENT)
        names = {item.name for item in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise EvidenceError(f"statement is not a map of exactly {sorted(names)}")
        for name, kind in _STATEMENT_TYPES.items():
            if not isinstance(value[name], kind) or (kind is int and isinstance(value[name], bool)):
                raise EvidenceError(f"statement field {name} is {type(value[name]).__name__}, expected {kind.__name__}")
        return cls(**value)

    def digest(self) -> bytes:
        """SHA-256 of the canonical encoding: 32 bytes."""
        return hashlib.sha256(self.to_cbor()).digest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; bytes are lower-case hex."""
        return {item.name: _jsonable(getattr(self, item.name)) for item in fields(self)}


_STATEMENT_TYPES: Mapping[str, type] = {
    "image": bytes,
    "measured_config": bytes,
    "model": str,
    "model_hash": bytes,
    "engine": dict,
    "root_contract": str,
    "owner": str,
    "coefficient": int,
    "role": str,
    "chain": bytes,
    "generation": int,
}


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
