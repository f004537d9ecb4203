"""Releases of a private network: what their machines measure, and the signed manifests that say so."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.lab.tee import DEFAULT_REGISTERS
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers
from measurements.signature import sign_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DAY = 86_400
ROOT_HASH = "ab" * 32


@dataclass(frozen=True, slots=True)
class Image:
    """An image for simulated TDX machines: firmware that is its own makes it another one.

    Attributes:
        profile: Its family.
        name: Names its files and firmware; empty is what a simulated machine runs by itself.
    """

    profile: str
    name: str = ""

    @property
    def registers(self) -> dict[str, bytes]:
        """What its machines measure besides what every simulated one does, by the quote's names."""
        return {"mr_td": hashlib.sha384(f"firmware of {self.name}".encode()).digest()} if self.name else {}

    @property
    def stated(self) -> dict[str, str]:
        """The same as a manifest has it."""
        values = {**DEFAULT_REGISTERS, **self.registers}
        return {"mrtd": values["mr_td"].hex()} | {name: values[name].hex() for name in ("rtmr0", "rtmr1", "rtmr2")}


@dataclass(slots=True)
class Publisher:
    """Whoever signs releases."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        """The key that verifiers trust, base64."""
        return base64.b64encode(self.key.public_key().public_bytes_raw()).decode()

    def manifest(
        self, image: Image, release: int, *, since: int = -10 * DAY, until: int = 90 * DAY, shapes: int = 1
    ) -> Manifest:
        """A release.

        Args:
            image: What it is.
            release: Its number.
            since: When it begins to count, seconds from now.
            until: When it expires, seconds from now.
            shapes: Machine shapes; the first is that of the machines here, the others measure other ACPI tables.
        """
        now = int(time.time())
        return Manifest(
            image_id="chrysalis",
            version="0.1.0",
            release=release,
            not_before=now + since,
            expires=now + until,
            profile=image.profile,
            debug=False,
            engine=Engine(name="none", version="0"),
            command_line=f"quiet roothash={ROOT_HASH}",
            root_hash=ROOT_HASH,
            source_commit="a" * 40,
            source_modified=False,
            source_date_epoch=1_750_000_000,
            recipe=BuildRecipe(
                profile=image.profile, mkosi_version="25.3", tools_lock="cd" * 32, command="chrysalis image build"
            ),
            locks={},
            artefacts=(Artefact(name="chrysalis.efi", size=3, sha256=hashlib.sha256(image.name.encode()).hexdigest()),),
            registers=tuple(
                Registers(platform="tdx", boot="direct", shape=f"s{number:02}", values=_shaped(image.stated, number))
                for number in range(shapes)
            ),
        )

    def write(self, path: Path, manifest: Manifest) -> Path:
        """Write a manifest with its signature: the manifest last, so that nobody reads it without."""
        path.parent.mkdir(exist_ok=True)
        data = manifest.encode()
        path.with_name(path.name + ".sig").write_bytes(sign_manifest(data, self.key))
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(data)
        partial.replace(path)
        return path


def _shaped(values: Mapping[str, str], number: int) -> dict[str, str]:
    other = hashlib.sha384(f"tables of shape {number}".encode()).hexdigest()
    return {**values, "rtmr0": other} if number else dict(values)
