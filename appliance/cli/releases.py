"""Releases as commands about the root contract take them: signed manifests, configurations, what was published before.

In: files. Out: a release with the entries that it has on a root contract, or an error that says what is not in order.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.chain.publish import Listing
from appliance.config import GatewayConfig, MeasuredConfig, WorkerConfig, load
from appliance.config.home import home
from appliance.errors import ConfigError
from attestation.policies.files import open_signed, read_file
from attestation.policies.model import SignedManifest
from attestation.policies.reference_images import UNBOUND, Configuration, ReferenceImages, image_hashes
from attestation.policies.release_memory import ReleaseMemory, family_of
from measurements.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from appliance.chain.addresses import Address
    from measurements.manifest import Manifest

MEMORY_DIRECTORY = "published"
"""Below the cache directory; one memory for each root contract."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured configuration and the model it serves, empty without one."""

    configuration: Configuration
    model: str = ""


@dataclass(frozen=True, slots=True)
class PublishedRelease:
    """A release with all that it has on a root contract.

    Attributes:
        manifest: Signed.
        images: Its image hashes, and what has none.
        listing: Its entries.
    """

    manifest: Manifest
    images: ReferenceImages
    listing: Listing

    @property
    def name(self) -> str:
        """For people."""
        return f"{family_of(self.manifest)} release {self.manifest.release}"

    def require_publishable(self, now: float) -> None:
        """Refuse what nobody would take; a release whose time is still to come is taken.

        Raises:
            ManifestError: It expired.
        """
        self.manifest.require_current(max(now, float(self.manifest.not_before)))


@dataclass(frozen=True, slots=True)
class Known:
    """Where earlier releases are known from.

    Attributes:
        memory: A memory's file; ``None`` is the root contract's own, below the cache directory.
        previous: Manifests that were published before.
    """

    memory: Path | None
    previous: tuple[Path, ...]


def read_release(
    path: Path, keys: Collection[bytes], threshold: int, measured: Sequence[Measured], *, gateways: bool
) -> PublishedRelease:
    """A signed release under some configurations.

    Raises:
        PolicyError: The file cannot be read, is not signed by enough of the keys, or is no release.
        ConfigError: None of its machines has an image hash.
    """
    file = path / MANIFEST_NAME if path.is_dir() else path
    manifest, _ = open_signed(_stated(file, keys, threshold), Path())
    images = image_hashes(manifest, [item.configuration for item in measured])
    if not images.hashes:
        reasons = "; ".join(f"{place}: {reason}" for place, reason in list(images.left_out.items())[:3])
        raise ConfigError(
            f"{file}: nothing of this release can be listed: {reasons or 'it states no registers'}",
            hint="predict its registers for the shapes that run it: chrysalis measure predict",
        )
    models = frozenset(item.model for item in measured if item.model)
    return PublishedRelease(manifest, images, Listing(frozenset(images.hashes), models, gateways))


def measured_configurations(paths: Sequence[Path], *, unbound: bool) -> tuple[Measured, ...]:
    """Configurations in files: a guest's ``measured.toml``, or the file of a worker or gateway.

    Raises:
        ConfigError: A file is none of these, or there is none at all.
    """
    found = [_measured(path) for path in paths]
    if unbound:
        found.append(Measured(UNBOUND))
    if not found:
        raise ConfigError(
            "no measured configuration was named, and image hashes cover it",
            hint="--measured measured.toml for each that machines of this release run; --unbound for machines that "
            "are launched without one",
        )
    return tuple(found)


def known_releases(known: Known, root: Address, manifest: Manifest) -> ReleaseMemory:
    """The memory of what was published, once the release is above all that is known.

    Raises:
        ManifestError: It does not follow one of the named manifests.
        RollbackError: It does not follow what is remembered.
    """
    for path in known.previous:
        file = path / MANIFEST_NAME if path.is_dir() else path
        manifest.require_newer_than(parse_manifest(read_file(file, MAX_MANIFEST_BYTES)))
    memory = ReleaseMemory(known.memory or home() / MEMORY_DIRECTORY / f"{root.raw().replace(':', '_')}.json")
    memory.check([manifest])
    return memory


def _stated(file: Path, keys: Collection[bytes], threshold: int) -> SignedManifest:
    if threshold > len(set(keys)):
        raise ConfigError(f"--threshold {threshold} with {len(set(keys))} release keys", hint="name more: --signed-by")
    return SignedManifest(file=file, keys=tuple(keys), threshold=threshold)


def _measured(path: Path) -> Measured:
    config = _load(path)
    return Measured(Configuration(path.name, config.digest()), config.model or "")


def _load(path: Path) -> MeasuredConfig:
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {}
    if "measured" not in values:
        # Its faults, and those of a file that cannot be read, are told with their lines.
        return load(path, MeasuredConfig)
    if "model" in values["measured"]:
        return load(path, WorkerConfig).measured
    return load(path, GatewayConfig).measured
