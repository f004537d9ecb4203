"""A release as it lies in a directory: its manifest with signatures, and its files checked against it.

Signatures are by keys (``manifest.json.sig``, :mod:`measurements.signature`), by a person
(``manifest.json.sigstore.json``, :mod:`appliance.image.sigstore_bundle`), or both; whoever opens a release says whose
have to be there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.image.errors import ImageError
from appliance.image.sigstore_bundle import MAX_BUNDLE_BYTES, Signer, verify_bundle
from measurements.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SIGNATURE_NAME,
    SIGSTORE_NAME,
    parse_manifest,
)
from measurements.signature import MAX_SIGNATURE_BYTES, parse_public_key, sign_manifest, verify_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import BinaryIO

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from measurements.manifest import Artefact, Manifest

CHUNK_BYTES = 4 << 20
MAX_KEY_FILE_BYTES = 16384


class ReleaseError(ImageError):
    """A release's directory does not hold what its manifest says."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who is trusted to sign releases.

    Attributes:
        signer: Who it is.
        trusted_root: What their signature is judged by (:func:`~appliance.image.sigstore_bundle.verify_bundle`).
    """

    signer: Signer
    trusted_root: Path | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A release.

    Attributes:
        directory: Where its files are.
        manifest: Its manifest.
        digest: SHA-256 of the manifest, 32 bytes.
        signers: The trusted keys that signed it; empty where no key's signature was asked for.
        person: The person who signed it, where one's signature was asked for.
    """

    directory: Path
    manifest: Manifest
    digest: bytes
    signers: tuple[bytes, ...]
    person: Signer | None = None

    def path(self, name: str) -> Path:
        """Where one of its files is.

        Raises:
            ManifestError: The manifest lists no such file.
        """
        return self.directory / self.manifest.artefact(name).name


def open_release(
    directory: Path,
    keys: Collection[bytes] | None,
    *,
    person: Person | None = None,
    development: bool = False,
) -> Release:
    """Read a release's manifest, its signatures first.

    Args:
        directory: Where it lies.
        keys: Trusted public keys, one of which has to have signed; None: no key has to.
        person: Who has to have signed besides, or instead; None: nobody. With neither it is one's own build, which
            needs no release number.
        development: Take debug builds and builds of uncommitted source too.

    Raises:
        ReleaseError: A file is missing or too large.
        SigstoreError: The person did not sign these bytes, or it cannot be told.
        ManifestError: The manifest is malformed, not signed by a trusted key, or no release.
    """
    data = _read(directory / MANIFEST_NAME, MAX_MANIFEST_BYTES, "chrysalis image build makes one")
    signers: tuple[bytes, ...] = ()
    if keys is not None:
        signed = _read(directory / SIGNATURE_NAME, MAX_SIGNATURE_BYTES, "chrysalis image sign makes one")
        _, signers = verify_manifest(data, signed, keys)
    if person is not None:
        bundle = _read(directory / SIGSTORE_NAME, MAX_BUNDLE_BYTES, "chrysalis image sign --sigstore makes one")
        verify_bundle(data, bundle, person.signer, person.trusted_root)
    manifest = parse_manifest(data)
    if not development:
        manifest.require_release(numbered=keys is not None or person is not None)
    return Release(directory, manifest, hashlib.sha256(data).digest(), signers, person.signer if person else None)


def verify_files(release: Release, report: Callable[[str, int, int], None]) -> None:
    """Compare every file of a release with its manifest.

    Args:
        release: The release.
        report: Told the step in words, bytes done, and bytes in all.

    Raises:
        ReleaseError: One is missing or differs; the first is named.
    """
    total, done = sum(entry.size for entry in release.manifest.artefacts), 0
    for entry in release.manifest.artefacts:
        digest = hashlib.sha256()
        with open_artefact(release, entry) as handle:
            while data := handle.read(CHUNK_BYTES):
                digest.update(data)
                done += len(data)
                report(f"verifying {entry.name}", done, total)
        require_digest(entry, digest.hexdigest())


def open_artefact(release: Release, entry: Artefact) -> BinaryIO:
    """Open a file of a release for reading; its length is what the manifest says.

    Raises:
        ReleaseError: It is missing, or has another length.
    """
    path = release.directory / entry.name
    try:
        handle = path.open("rb")
        size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}", hint="the manifest lists it") from None
    if size != entry.size:
        handle.close()
        raise ReleaseError(f"{entry.name} has {size} bytes, the manifest says {entry.size}")
    return handle


def require_digest(entry: Artefact, seen: str) -> None:
    """Refuse a file that is not the one the manifest lists.

    Raises:
        ReleaseError: The digests differ.
    """
    if seen != entry.sha256:
        raise ReleaseError(
            f"{entry.name} has SHA-256 {seen}, the manifest says {entry.sha256}",
            hint="the file was altered after the build, or belongs to another one",
        )


def sign(
    directory: Path,
    key: Ed25519PrivateKey | None,
    report: Callable[[str, int, int], None],
    *,
    bundle: Callable[[bytes], bytes] | None = None,
    previous: Path | None = None,
    development: bool = False,
) -> Release:
    """Sign the manifest in a directory, after checking that it is one to sign.

    Args:
        directory: The release.
        key: The signer's key; None to sign with none.
        report: Told the step in words, bytes done, and bytes in all.
        bundle: Makes a person's signature of the manifest's bytes, such as
            :func:`~appliance.image.sigstore_bundle.sign_bundle`.
        previous: The manifest of the release before, whose number this one has to exceed.
        development: Sign debug builds and builds of uncommitted source too.

    Raises:
        ManifestError: It is no release, or its number does not rise.
        ReleaseError: A file is missing or differs from the manifest.
        SigstoreError: The person's signature cannot be had; nothing was written then.
    """
    release = open_release(directory, None, development=development)
    if not development:
        release.manifest.require_release()
    if previous is not None:
        release.manifest.require_newer_than(parse_manifest(_read(previous, MAX_MANIFEST_BYTES, "")))
    verify_files(release, report)
    data = release.manifest.encode()
    made: dict[str, bytes] = {}
    if bundle is not None:
        made[SIGSTORE_NAME] = bundle(data)
    if key is not None:
        path = directory / SIGNATURE_NAME
        present = _read(path, MAX_SIGNATURE_BYTES, "") if path.exists() else None
        made[SIGNATURE_NAME] = sign_manifest(data, key, present)
    for name, content in made.items():
        new = directory / f"{name}.new"
        new.write_bytes(content)
        new.replace(directory / name)
    return release


def read_keys(named: Collection[str]) -> tuple[bytes, ...]:
    """Public keys from texts: each a key in base64 or hex, or a file with a line ``ed25519 <key>`` for each.

    The lines of a file say what they are, so that a secret key's file, named by mistake, is not taken for one.

    Raises:
        ReleaseError: A file cannot be read, or has another line.
        ManifestSignatureError: Something is no key.
    """
    found: list[bytes] = []
    for text in named:
        path = Path(text)
        if path.is_file():
            for line in _read(path, MAX_KEY_FILE_BYTES, "").decode("ascii", errors="replace").splitlines():
                kind, _, key = line.partition(" ")
                if kind != "ed25519":
                    raise ReleaseError(
                        f"{path} has a line that is not 'ed25519 <public key>'",
                        hint="chrysalis image keygen FILE writes the public key to FILE.pub",
                    )
                found.append(parse_public_key(key))
        else:
            found.append(parse_public_key(text))
    return tuple(found)


def _read(path: Path, limit: int, hint: str) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise ReleaseError(f"{path}: {error.strerror}", hint=hint) from None
    if len(data) > limit:
        raise ReleaseError(f"{path}: more than {limit} bytes")
    return data
