"""Detached Ed25519 signatures over a manifest: ``manifest.json.sig``.

The file is text, one line a signer, sorted: ``ed25519 <public key> <signature>``, both base64 (RFC 4648, section 4).
The signature is plain Ed25519 (RFC 8032) over the bytes of ``manifest.json``, so any tool can check it; what is signed
says what it is by its own ``format`` value. Several people may sign one manifest.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from measurements.manifest import ManifestError, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Collection

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from measurements.manifest import Manifest

MAX_SIGNATURE_BYTES = 4096
MAX_SIGNERS = 16
KEY_BYTES = 32
SIGNATURE_BYTES = 64
_KIND = "ed25519"


class ManifestSignatureError(ManifestError):
    """A manifest's signature is absent, malformed, wrong, or made by nobody who is trusted."""


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """One signer's line: public key (32 bytes) and signature (64 bytes)."""

    key: bytes
    signature: bytes


def encode_signatures(signatures: Collection[Signature]) -> bytes:
    """The file for a set of signatures."""
    lines = [f"{_KIND} {_b64(item.key)} {_b64(item.signature)}\n" for item in sorted(signatures)]
    return "".join(lines).encode()


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """Read a signature file from bytes of any origin.

    Raises:
        ManifestSignatureError: Too long, another form, not sorted, or one key twice.
    """
    if not 0 < len(data) <= MAX_SIGNATURE_BYTES:
        raise ManifestSignatureError(f"a signature file of {len(data)} bytes, expected 1 to {MAX_SIGNATURE_BYTES}")
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise ManifestSignatureError("the signature file is not ASCII text") from None
    if lines.pop() or len(lines) > MAX_SIGNERS:
        raise ManifestSignatureError(f"the signature file does not hold 1 to {MAX_SIGNERS} whole lines")
    found = tuple(_line(number, line) for number, line in enumerate(lines, start=1))
    if encode_signatures(found) != data or len({item.key for item in found}) != len(found):
        raise ManifestSignatureError("the signature file is not sorted, or names one key twice")
    return found


def sign_manifest(data: bytes, key: Ed25519PrivateKey, present: bytes | None = None) -> bytes:
    """Add a signature.

    Args:
        data: The manifest's bytes.
        key: The signer's key.
        present: The signature file as it is, if there is one; signatures that are wrong for ``data`` are dropped.

    Returns:
        The new signature file.

    Raises:
        ManifestError: ``data`` is no manifest, or ``present`` no signature file.
    """
    parse_manifest(data)
    own = Signature(key.public_key().public_bytes_raw(), key.sign(data))
    kept = [item for item in parse_signatures(present) if _holds(item, data)] if present else []
    merged = [own, *(item for item in kept if item.key != own.key)]
    if len(merged) > MAX_SIGNERS:
        raise ManifestSignatureError(f"{len(merged)} signers, at most {MAX_SIGNERS}")
    return encode_signatures(merged)


def verify_manifest(data: bytes, signatures: bytes, keys: Collection[bytes]) -> tuple[Manifest, tuple[bytes, ...]]:
    """Check a manifest against the keys that are trusted, before a value of it is used.

    A line that is wrong for these bytes refuses the file, whoever made it: somebody altered one of the two.

    Args:
        data: Bytes of ``manifest.json``.
        signatures: Bytes of ``manifest.json.sig``.
        keys: Trusted public keys, 32 bytes each; one of them has to have signed.

    Returns:
        The manifest, and those of ``keys`` that signed it.

    Raises:
        ManifestSignatureError: No trusted key signed these bytes, or a signature is wrong.
        ManifestError: Signed, and still no manifest.
    """
    found = parse_signatures(signatures)
    for item in found:
        if not _holds(item, data):
            raise ManifestSignatureError(
                f"the signature of key {_b64(item.key)} does not cover these bytes",
                hint="manifest.json or manifest.json.sig was altered, or they belong to different builds",
            )
    trusted = tuple(item.key for item in found if item.key in keys)
    if not trusted:
        signers = ", ".join(_b64(item.key) for item in found)
        wanted = ", ".join(sorted(_b64(key) for key in keys)) or "none given"
        raise ManifestSignatureError(
            f"signed by {signers}; trusted keys: {wanted}", hint="name the release key with --key"
        )
    return parse_manifest(data), trusted


def parse_public_key(text: str) -> bytes:
    """A public key from base64 or hex.

    Raises:
        ManifestSignatureError: Neither gives 32 bytes.
    """
    text = text.strip()
    try:
        raw = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ManifestSignatureError(f"{text[:80]!r} is no Ed25519 public key: expected 32 bytes in base64 or hex")
    return raw


def _line(number: int, line: str) -> Signature:
    parts = line.split(" ")
    try:
        key, signature = (base64.b64decode(part, validate=True) for part in parts[1:])
    except (ValueError, binascii.Error):
        key = signature = b""
    if parts[0] != _KIND or len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ManifestSignatureError(f"line {number} of the signature file is not 'ed25519 <public key> <signature>'")
    return Signature(key, signature)


def _holds(item: Signature, data: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(item.key).verify(item.signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
