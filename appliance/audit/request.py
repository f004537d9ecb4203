"""What an audit is asked: one release, a source, and what else it is to be held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from appliance.image.archive import Archives
    from attestation.policies.reference_images import Configuration
    from measurements.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryFacts:
    """What the root contract listed when it was asked; proven.

    Attributes:
        root: Its address.
        version: Of its state.
        block: Number of the masterchain block it was seen in.
        worker_images: Listed image hashes of workers, 32 bytes each.
        gateway_images: Of gateways.
    """

    root: str
    version: int
    block: int
    worker_images: frozenset[bytes]
    gateway_images: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class MachineEvidence:
    """Evidence of a live machine.

    Attributes:
        name: The bundle's file, or the address that was asked.
        bundle: The bytes; None where none could be had.
        problem: Why there are none.
        nonce: The 32 bytes that it was asked with; empty for a bundle from a file.
        public_key: The raw Ed25519 key at the other end of the connection, 32 bytes; empty for a bundle from a file.
    """

    name: str
    bundle: bytes | None = field(repr=False)
    problem: str = ""
    nonce: bytes = b""
    public_key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRequest:
    """An audit.

    Attributes:
        source: A checkout's path, or an address that git can clone.
        manifest: The manifest's file.
        signature: Its signatures; beside the manifest when not given.
        keys: Public keys one of which has to have signed; empty: nobody's signature is asked for.
        as_it_is: Build the tree at ``source`` as it lies there, instead of the commit that the manifest names.
        built: A finished build to take instead of building.
        published: Directory with the release's files as they were published.
        shapes: Only register sets of these shapes; empty for all.
        known: Other manifests, by a name for people: they explain images that the registry lists.
        configurations: Measured configurations that machines are launched with.
        registry: What the root contract lists; words where it was asked and cannot be read; None where not asked.
        machines: Evidence of live machines.
        archives: Says where locked packages are, asked when one is missing; None where nothing may be fetched.
        fallback: An archive that keeps old versions.
    """

    source: str
    manifest: Path
    signature: Path | None = None
    keys: tuple[bytes, ...] = ()
    as_it_is: bool = False
    built: Path | None = None
    published: Path | None = None
    shapes: tuple[str, ...] = ()
    known: Mapping[str, Manifest] = field(default_factory=dict)
    configurations: tuple[Configuration, ...] = ()
    registry: RegistryFacts | str | None = None
    machines: tuple[MachineEvidence, ...] = ()
    archives: Callable[[], Archives] | None = None
    fallback: Archives | None = None
