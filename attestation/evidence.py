"""The fresh evidence bundle: made in the guest for a nonce, one canonical CBOR map, signed as a whole.

The quote's report data covers nonce, keys, GPU evidence and workload statement
(:func:`attestation.claims.report_data`); the signature, by the TLS key the quote covers, holds the rest: block hash,
time, collateral. Order of making: keys → statement → GPU evidence → report data → quote → signature.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import cbor, claims, merkle
from attestation.claims import MAX_STATEMENT, WorkloadStatement
from attestation.dcap import MAX_COLLATERAL
from attestation.errors import EvidenceError
from attestation.platforms.base import collect_fresh
from attestation.tpm.evidence import MAX_EVIDENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from attestation.platforms import Platform

VERSION = 1
MAX_BUNDLE = 4 * 1024 * 1024
MAX_DEVICES = 16
MAX_DEVICE_EVIDENCE = 128 * 1024
_DOMAIN = b"chrysalis evidence bundle v1\0"
KEY_PURPOSES = frozenset({"tls", "hpke", "receipt"})
_FIELDS = frozenset(
    {
        "version",
        "platform",
        "nonce",
        "root",
        "path",
        "keys",
        "statement",
        "gpu",
        "quote",
        "collateral",
        "block",
        "made",
        "signature",
    }
)


class DeviceCollector(Protocol):
    """What asks the devices of a machine for evidence."""

    async def collect(self, nonces: Callable[[int], bytes]) -> Sequence[bytes]:
        """Evidence of every device, in an order that stays the same (:mod:`attestation.gpu.evidence`).

        Args:
            nonces: The 32 bytes that the device at an index is asked with.

        Raises:
            CollectionError: A device gives none.
        """


class Signer(Protocol):
    """The part of an identity that signs bundles."""

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 key, 32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A parsed bundle; nothing in it is verified yet.

    Attributes:
        platform: Name of the platform that made the quote.
        nonce: The verifier's 32 bytes.
        root: Merkle root over all nonces that this quote answers, 32 bytes.
        path: From the nonce to the root.
        keys: Public keys by purpose; ``tls`` is always there.
        statement: The workload statement.
        devices: Evidence of each GPU.
        quote: The quote; of a TPM machine its evidence with logs (:mod:`attestation.tpm.evidence`).
        collateral: Stapled collateral as JSON, ``None`` if none.
        block_hash: Root hash of a recent proven block, 32 bytes, or empty.
        made_at: Unix time in whole seconds.
        signed: What the signature is over.
        signature: 64 bytes.
    """

    platform: str
    nonce: bytes
    root: bytes
    path: tuple[merkle.Step, ...]
    keys: Mapping[str, bytes]
    statement: WorkloadStatement
    devices: tuple[bytes, ...]
    quote: bytes
    collateral: bytes | None
    block_hash: bytes
    made_at: int
    signed: bytes
    signature: bytes

    def report_data(self) -> bytes:
        """The 64 bytes that the quote's report data has to be."""
        return _report_data(self.root, self.keys, self.devices, self.statement)

    def path_holds(self) -> bool:
        """Whether the nonce is under the root."""
        return merkle.root_of(self.nonce, self.path) == self.root

    def signature_holds(self) -> bool:
        """Whether the bundle's own TLS key signed all of it."""
        try:
            Ed25519PublicKey.from_public_bytes(self.keys["tls"]).verify(self.signature, self.signed)
        except (InvalidSignature, ValueError):
            return False
        return True


async def build_bundle(  # noqa: PLR0917 - the order in which they come to be
    platform: Platform,
    identity: Signer,
    statement: WorkloadStatement,
    nonce: bytes,
    block_hash: bytes,
    collateral: bytes | None = None,
    *,
    keys: Mapping[str, bytes] | None = None,
    devices: Sequence[bytes] = (),
    made_at: float | None = None,
) -> bytes:
    """Make a bundle for one nonce; :class:`attestation.batch.EvidenceMaker` answers many with one quote.

    Args:
        platform: Collects the quote.
        identity: Signs the bundle; its key is the ``tls`` key.
        statement: What this guest runs.
        nonce: The verifier's 32 bytes.
        block_hash: Root hash of a recent proven block, or empty.
        collateral: JSON to staple.
        keys: More public keys by purpose (``hpke``, ``receipt``).
        devices: Evidence of each GPU.
        made_at: Unix time; now by default.

    Raises:
        CollectionError: The platform gives no quote.
        EvidenceError: An argument is out of bounds.
    """
    bundles = await build_bundles(
        platform, identity, statement, [nonce], block_hash, collateral, keys=keys, devices=devices, made_at=made_at
    )
    return bundles[0]


async def build_bundles(  # noqa: PLR0917 - as build_bundle
    platform: Platform,
    identity: Signer,
    statement: WorkloadStatement,
    nonces: Sequence[bytes],
    block_hash: bytes,
    collateral: bytes | None = None,
    *,
    keys: Mapping[str, bytes] | None = None,
    devices: Sequence[bytes] = (),
    made_at: float | None = None,
) -> list[bytes]:
    """Make one bundle for each nonce over a single quote; arguments as :func:`build_bundle`."""
    if any(len(nonce) != 32 for nonce in nonces):
        raise EvidenceError("a nonce is 32 bytes")
    all_keys = {**(keys or {}), "tls": identity.public_key}
    root, paths = merkle.tree(nonces)
    quote = await collect_fresh(platform, _report_data(root, all_keys, devices, statement))
    common: dict[str, Any] = {
        "version": VERSION,
        "platform": platform.name,
        "root": root,
        "keys": all_keys,
        "statement": statement.to_cbor(),
        "gpu": list(devices),
        "quote": quote,
        "collateral": collateral,
        "block": block_hash,
        "made": int(time.time() if made_at is None else made_at),
    }
    bundles = []
    for nonce, path in zip(nonces, paths, strict=True):
        content = {**common, "nonce": nonce, "path": [[step.on_left, step.sibling] for step in path]}
        signature = identity.sign(_DOMAIN + cbor.encode(content))
        bundle = cbor.encode({**content, "signature": signature})
        parse_bundle(bundle)
        bundles.append(bundle)
    return bundles


def bundle_digest(bundle: bytes) -> bytes:
    """SHA-256 of a bundle, as the certificate's extension and the chain carry it; 32 bytes."""
    return hashlib.sha256(bundle).digest()


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
    """
    value = cbor.decode(data, max_length=MAX_BUNDLE)
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise EvidenceError(f"bundle is not a map of exactly {sorted(_FIELDS)}")
    fields = _Fields(value)
    if fields.number("version", 2**16) != VERSION:
        raise EvidenceError(f"bundle version {value['version']}, expected {VERSION}")
    statement = WorkloadStatement.from_cbor(fields.data("statement", MAX_STATEMENT))
    signature = fields.data("signature", 64, exactly=True)
    del value["signature"]
    return Bundle(
        platform=fields.text("platform", 64),
        nonce=fields.data("nonce", 32, exactly=True),
        root=fields.data("root", 32, exactly=True),
        path=_path(fields.items("path", merkle.MAX_PATH)),
        keys=_keys(value["keys"]),
        statement=statement,
        devices=_devices(fields.items("gpu", MAX_DEVICES)),
        quote=fields.data("quote", MAX_EVIDENCE),
        collateral=None if value["collateral"] is None else fields.data("collateral", MAX_COLLATERAL),
        block_hash=_block(fields.data("block", 32)),
        made_at=fields.number("made", 2**53),
        signed=_DOMAIN + cbor.encode(value),
        signature=signature,
    )


class _Fields:
    """Typed, bounded access to a decoded map."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value

    def data(self, name: str, limit: int, *, exactly: bool = False) -> bytes:
        found = self._value[name]
        if not isinstance(found, bytes) or len(found) > limit or (exactly and len(found) != limit):
            raise EvidenceError(f"bundle field {name} is not {'' if exactly else 'at most '}{limit} bytes")
        return found

    def text(self, name: str, limit: int) -> str:
        found = self._value[name]
        if not isinstance(found, str) or len(found) > limit:
            raise EvidenceError(f"bundle field {name} is not text of at most {limit} characters")
        return found

    def number(self, name: str, limit: int) -> int:
        found = self._value[name]
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < limit:
            raise EvidenceError(f"bundle field {name} is not a number from 0 to {limit - 1}")
        return found

    def items(self, name: str, limit: int) -> list[Any]:
        found = self._value[name]
        if not isinstance(found, list) or len(found) > limit:
            raise EvidenceError(f"bundle field {name} is not a list of at most {limit}")
        return found


def _path(items: list[Any]) -> tuple[merkle.Step, ...]:
    steps = []
    for item in items:
        if (
            not isinstance(item, list)
            or len(item) != 2
            or not isinstance(item[0], bool)
            or not isinstance(item[1], bytes)
            or len(item[1]) != 32
        ):
            raise EvidenceError("bundle path holds a step that is not a side and 32 bytes")
        steps.append(merkle.Step(item[1], item[0]))
    return tuple(steps)


def _keys(value: object) -> Mapping[str, bytes]:
    if (
        not isinstance(value, dict)
        or "tls" not in value
        or not KEY_PURPOSES.issuperset(value)
        or not all(isinstance(key, bytes) and len(key) == 32 for key in value.values())
    ):
        raise EvidenceError(f"bundle keys are not 32-byte keys for tls and others of {sorted(KEY_PURPOSES)}")
    return value


def _devices(items: list[Any]) -> tuple[bytes, ...]:
    if not all(isinstance(item, bytes) and len(item) <= MAX_DEVICE_EVIDENCE for item in items):
        raise EvidenceError(f"bundle holds GPU evidence that is not at most {MAX_DEVICE_EVIDENCE} bytes")
    return tuple(items)


def _block(value: bytes) -> bytes:
    if len(value) not in {0, 32}:
        raise EvidenceError(f"bundle block hash of {len(value)} bytes, expected 32 or none")
    return value


def _report_data(
    root: bytes, keys: Mapping[str, bytes], devices: Sequence[bytes], statement: WorkloadStatement
) -> bytes:
    return claims.report_data(root, claims.keys_hash(keys), claims.gpu_evidence_hash(devices), statement.digest())
