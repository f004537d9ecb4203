"""The fresh evidence bundle: made in the guest for a nonce, one canonical CBOR map, signed as a whole.

The quote's report data covers nonce, keys, GPU evidence and workload statement
(:func:`attestation.claims.report_data`); the signature, by the TLS key the quote covers, holds the rest: event log,
block hash, time, collateral. Order of making: keys → statement → GPU evidence → report data → quote → signature.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import cbor, claims, merkle
from attestation.claims import MAX_STATEMENT, WorkloadStatement
from attestation.errors import CollectionError, EvidenceError
from attestation.fields import Fields
from attestation.platforms.base import collect_fresh
from attestation.staple import Staple
from attestation.tpm.evidence import MAX_EVIDENCE
from measurements.eventlog import MAX_LOG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attestation.platforms import Platform

VERSION = 2
MAX_BUNDLE = 4 * 1024 * 1024
MAX_DEVICES = 16
MAX_DEVICE_EVIDENCE = 128 * 1024
_DOMAIN = b"chrysalis evidence bundle v2\0"
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
        "log",
        "collateral",
        "block",
        "made",
        "signature",
    }
)

Stapling: TypeAlias = Callable[[bytes, Sequence[bytes]], Awaitable[Staple]]
"""Finds the collateral of a quote and of the devices' evidence; never raises: a verifier may have its own."""


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
        quote: What the platform shows: a TDX quote, or a canonical map that names its ``kind``
            (:func:`attestation.readers.form_of`).
        log: The event log behind a TDX quote (:mod:`attestation.tdx_log`), ``None`` if none.
        collateral: What was stapled.
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
    log: bytes | None
    collateral: Staple
    block_hash: bytes
    made_at: int
    signed: bytes
    signature: bytes

    def report_data(self) -> bytes:
        """The 64 bytes that the quote's report data has to be."""
        return _report_data(self.root, self.keys, self.devices, self.statement)

    def device_nonce(self, index: int) -> bytes:
        """What the device at an index has to answer, 32 bytes."""
        return claims.gpu_nonce(self.root, claims.keys_hash(self.keys), index)

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


async def build_bundle(
    platform: Platform,
    identity: Signer,
    statement: WorkloadStatement,
    nonce: bytes,
    block_hash: bytes,
    *,
    keys: Mapping[str, bytes] | None = None,
    devices: DeviceCollector | None = None,
    staple: Stapling | None = None,
    made_at: float | None = None,
) -> bytes:
    """Make a bundle for one nonce; :class:`attestation.batch.EvidenceMaker` answers many with one quote.

    Args:
        platform: Collects the quote.
        identity: Signs the bundle; its key is the ``tls`` key.
        statement: What this guest runs.
        nonce: The verifier's 32 bytes.
        block_hash: Root hash of a recent proven block, or empty.
        keys: More public keys by purpose (``hpke``, ``receipt``).
        devices: Asks the machine's devices, ``None`` where it has none.
        staple: Finds collateral to staple, ``None`` to staple nothing.
        made_at: Unix time; now by default.

    Raises:
        CollectionError: The platform gives no quote, or a device no evidence.
        EvidenceError: An argument is out of bounds.
    """
    bundles = await build_bundles(
        platform, identity, statement, [nonce], block_hash, keys=keys, devices=devices, staple=staple, made_at=made_at
    )
    return bundles[0]


async def build_bundles(
    platform: Platform,
    identity: Signer,
    statement: WorkloadStatement,
    nonces: Sequence[bytes],
    block_hash: bytes,
    *,
    keys: Mapping[str, bytes] | None = None,
    devices: DeviceCollector | None = None,
    staple: Stapling | None = None,
    made_at: float | None = None,
) -> list[bytes]:
    """Make one bundle for each nonce over a single quote; arguments as :func:`build_bundle`."""
    if any(len(nonce) != 32 for nonce in nonces):
        raise EvidenceError("a nonce is 32 bytes")
    all_keys = {**(keys or {}), "tls": identity.public_key}
    root, paths = merkle.tree(nonces)
    shown = await _ask_devices(devices, root, claims.keys_hash(all_keys))
    quote, log = await collect_fresh(platform, _report_data(root, all_keys, shown, statement))
    stapled = await staple(quote, shown) if staple is not None else Staple()
    common: dict[str, Any] = {
        "version": VERSION,
        "platform": platform.name,
        "root": root,
        "keys": all_keys,
        "statement": statement.to_cbor(),
        "gpu": list(shown),
        "quote": quote,
        "log": log,
        "collateral": stapled.to_value(),
        "block": block_hash,
        "made": int(time.time() if made_at is None else made_at),
    }
    bundles = []
    for nonce, path in zip(nonces, paths, strict=True):
        content = {**common, "nonce": nonce, "path": [[step.on_left, step.sibling] for step in path]}
        signature = identity.sign(_DOMAIN + cbor.encode(content))
        bundles.append(cbor.encode({**content, "signature": signature}))
    parse_bundle(bundles[0])  # what no verifier would read is refused here; the others differ in nonce and path alone
    return bundles


async def _ask_devices(devices: DeviceCollector | None, root: bytes, keys_hash: bytes) -> tuple[bytes, ...]:
    """Evidence of every device; each is asked with a nonce of its own."""
    if devices is None:
        return ()
    shown = tuple(await devices.collect(lambda index: claims.gpu_nonce(root, keys_hash, index)))
    if not 0 < len(shown) <= MAX_DEVICES:
        raise CollectionError(
            f"{len(shown)} devices gave evidence, expected 1 to {MAX_DEVICES}",
            hint="see what the driver says of the GPUs; a machine without any needs no collector",
        )
    return shown


def bundle_digest(bundle: bytes) -> bytes:
    """SHA-256 of a bundle, as the certificate's extension and the chain carry it; 32 bytes."""
    return hashlib.sha256(bundle).digest()


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        EvidenceError: Not canonical, too long, fields missing, unknown, of another type or out of bounds.
    """
    value = cbor.decode(data, max_length=MAX_BUNDLE)
    if isinstance(value, dict) and value.get("version") != VERSION:
        raise EvidenceError(
            f"bundle version {value.get('version')!r}, expected {VERSION}", hint="another release made it"
        )
    fields = Fields(value, _FIELDS, "bundle")
    fields.number("version", VERSION + 1)
    statement = WorkloadStatement.from_cbor(fields.data("statement", MAX_STATEMENT))
    signature = fields.data("signature", 64, exactly=True)
    del value["signature"]
    return Bundle(
        platform=fields.text("platform", 64),
        nonce=fields.data("nonce", 32, exactly=True),
        root=fields.data("root", 32, exactly=True),
        path=_path(fields.items("path", merkle.MAX_PATH)),
        keys=_keys(fields["keys"]),
        statement=statement,
        devices=_devices(fields.items("gpu", MAX_DEVICES)),
        quote=fields.data("quote", MAX_EVIDENCE),
        log=fields.optional("log", MAX_LOG),
        collateral=Staple.from_value(fields["collateral"]),
        block_hash=_block(fields.data("block", 32)),
        made_at=fields.number("made", 2**53),
        signed=_DOMAIN + cbor.encode(value),
        signature=signature,
    )


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
