"""Releases for tests: small, and true to the form."""

from __future__ import annotations

import hashlib
from typing import Any

from measurements.manifest import Artefact, Engine, Manifest, Registers, sorted_artefacts

ROOT_HASH = hashlib.sha256(b"root").hexdigest()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make(files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    files = {"chrysalis.raw": b"disk", "chrysalis.efi": b"uki"} if files is None else files
    values: dict[str, Any] = {
        "image_id": "chrysalis",
        "version": "0.1.0",
        "release": 7,
        "profile": "engine-cpu",
        "debug": False,
        "engine": Engine(name="transformers", version="5.23.0"),
        "command_line": f"console=ttyS0 quiet roothash={ROOT_HASH}",
        "root_hash": ROOT_HASH,
        "source_commit": "a" * 40,
        "source_modified": False,
        "source_date_epoch": 1_750_000_000,
        "locks": {"packages.json": digest("packages"), "guest.txt": digest("guest")},
        "artefacts": sorted_artefacts(
            Artefact(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
        ),
        "registers": (
            Registers(platform="tpm", boot="direct", values={"pcr4": digest("4"), "pcr11": digest("11")}),
            Registers(platform="tpm", boot="disk", values={"pcr4": digest("d4"), "pcr11": digest("d11")}),
        ),
    }
    return Manifest(**(values | changes))
