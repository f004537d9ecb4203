"""Releases for these tests: manifests with any number, dates and registers, and a key that signs them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers
from measurements.signature import sign_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOW = 1_795_000_000
DAY = 86_400
ROOT_HASH = "ab" * 32
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha384(text: str) -> str:
    return hashlib.sha384(text.encode()).hexdigest()


def tdx_values(name: str) -> dict[str, str]:
    """Registers of an image for TDX; a name gives other ones."""
    return {register: sha384(f"{register} of {name}") for register in ("mrtd", "rtmr0", "rtmr1", "rtmr2")}


def manifest(
    release: int,
    *,
    profile: str = "engine-cpu",
    image: str | None = None,
    since: int = NOW - 30 * DAY,
    until: int = NOW + 300 * DAY,
    values: Mapping[str, str] | None = None,
    **changes: Any,
) -> Manifest:
    """A release whose files and registers follow from ``image``, by default from profile and number."""
    name = image or f"{profile} {release}"
    content: dict[str, Any] = {
        "image_id": "chrysalis",
        "version": "0.1.0",
        "release": release,
        "not_before": since if release else 0,
        "expires": until if release else 0,
        "profile": profile,
        "debug": False,
        "engine": Engine(name="transformers", version="5.23.0"),
        "command_line": f"quiet roothash={ROOT_HASH}",
        "root_hash": ROOT_HASH,
        "source_commit": "a" * 40,
        "source_modified": False,
        "source_date_epoch": 1_750_000_000,
        "recipe": BuildRecipe(
            profile=profile, mkosi_version="25.3", tools_lock=sha256("tools"), command="chrysalis image build"
        ),
        "locks": {},
        "artefacts": (Artefact(name="chrysalis.efi", size=3, sha256=sha256(name)),),
        "registers": (Registers(platform="tdx", boot="direct", values=dict(values or tdx_values(name))),),
    }
    return Manifest(**(content | changes))


def write(path: Path, made: Manifest, *keys: Ed25519PrivateKey) -> Path:
    """Write a manifest and its signatures; by default the one trusted key's."""
    data = made.encode()
    signatures: bytes | None = None
    for key in keys or (KEY,):
        signatures = sign_manifest(data, key, signatures)
    assert signatures is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".sig").write_bytes(signatures)
    path.write_bytes(data)
    return path
