"""Releases for tests: small, and true to the form."""

from __future__ import annotations

import hashlib
from typing import Any

from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers, sorted_artefacts

ROOT_HASH = hashlib.sha256(b"root").hexdigest()
BEGIN, END = 1_790_000_000, 1_800_000_000
"""When the release of these tests counts, Unix seconds."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make(files: dict[str, bytes] | None = None, **changes: Any) -> Manifest:
    files = {"chrysalis.raw": b"disk", "chrysalis.efi": b"uki"} if files is None else files
    values: dict[str, Any] = {
        "image_id": "chrysalis",
        "version": "0.1.0",
        "release": 7,
        "not_before": BEGIN,
        "expires": END,
        "profile": "engine-cpu",
        "debug": False,
        "engine": Engine(name="transformers", version="5.23.0"),
        "command_line": f"console=ttyS0 quiet roothash={ROOT_HASH}",
        "root_hash": ROOT_HASH,
        "source_commit": "a" * 40,
        "source_modified": False,
        "source_date_epoch": 1_750_000_000,
        "recipe": recipe(),
        "locks": {"packages.json": digest("packages"), "guest.txt": digest("guest")},
        "artefacts": sorted_artefacts(
            Artefact(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
        ),
        "registers": (
            Registers(platform="tpm", boot="direct", values={"pcr4": digest("4"), "pcr11": digest("11")}),
            Registers(platform="tpm", boot="disk", values={"pcr4": digest("d4"), "pcr11": digest("d11")}),
        ),
    }
    if changes.get("release") == 0:
        values |= {"not_before": 0, "expires": 0}
    if "profile" in changes:
        values["recipe"] = recipe(changes["profile"])
    return Manifest(**(values | changes))


def recipe(profile: str = "engine-cpu") -> BuildRecipe:
    return BuildRecipe(
        profile=profile,
        mkosi_version="25.3-7",
        tools_lock=digest("tools"),
        command=f"chrysalis image build --profile {profile} --release 7",
    )
