"""Published manifests, as they lie in a checkout: ``measurements/reference/<profile>/<release>/manifest.json``.

In: a checkout, a signed release. Out: what was published, and the new one beside it. They are in the repository and in
no wheel: an image cannot contain its own measurement. The keys that sign releases lie with them, ``keys/*.pub``;
whoever does not trust the checkout for that names their own.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.image.release import ReleaseError, open_release, read_keys
from measurements.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SIGNATURE_NAME, SIGSTORE_NAME, parse_manifest

if TYPE_CHECKING:
    from appliance.image.release import Release
    from measurements.manifest import Manifest

REFERENCE: Final = "measurements/reference"
KEYS: Final = "keys"
_NUMBER = re.compile(r"^[1-9][0-9]{0,15}$")


@dataclass(frozen=True, slots=True)
class Published:
    """A published manifest.

    Attributes:
        directory: Where it lies, with its signatures.
        manifest: What it says.
    """

    directory: Path
    manifest: Manifest


def release_keys(source: Path) -> tuple[bytes, ...]:
    """The public keys that sign releases, 32 bytes each; none where the checkout has none.

    Raises:
        ReleaseError: A key file has another line than keys.
        ManifestSignatureError: Something is no key.
    """
    folder = source / REFERENCE / KEYS
    return read_keys([str(path) for path in sorted(folder.glob("*.pub"))])


def published(source: Path, profile: str) -> tuple[Published, ...]:
    """The published manifests of a profile, by number. Their signatures are not looked at.

    Raises:
        ReleaseError: One lies under another number or profile than its own, or cannot be read.
        ManifestError: One is malformed.
    """
    folder = source / REFERENCE / profile
    places = sorted(
        (place for place in (folder.iterdir() if folder.is_dir() else ()) if _NUMBER.match(place.name)),
        key=lambda place: int(place.name),
    )
    return tuple(_read(place, profile) for place in places)


def publish(release: Release, source: Path) -> Path:
    """Put a signed release's manifest and signatures into a checkout, all of it or nothing.

    A person's signature goes with it only where it was judged when the release was opened.

    Args:
        release: The release, opened by the keys that sign releases.
        source: The checkout.

    Returns:
        The directory; what is in it is to be committed.

    Raises:
        ManifestError: It is no release, its number is not above those that were published, or its files were altered
            since it was opened.
        ReleaseError: Nobody's signature was asked for, its place is taken, or it cannot be written.
    """
    manifest = release.manifest
    if not release.signers:
        raise ReleaseError(
            "a manifest is published with a release key's signature", hint="name the key, or put it into "
            f"{REFERENCE}/{KEYS}"
        )  # fmt: skip
    manifest.require_release()
    if before := published(source, manifest.profile):
        manifest.require_newer_than(before[-1].manifest)
    place = source / REFERENCE / manifest.profile / str(manifest.release)
    if place.exists():
        raise ReleaseError(f"{place} is there already", hint="a number belongs to one release for ever")
    names = (MANIFEST_NAME, SIGNATURE_NAME, *([SIGSTORE_NAME] if release.person else []))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".", ignore_cleanup_errors=True) as beside:
            new = Path(beside) / place.name  # with the usual mode, which the directory around it has not
            new.mkdir()
            for name in names:
                shutil.copyfile(release.directory / name, new / name)
            open_release(new, release.signers)
            new.rename(place)
    except OSError as error:
        raise ReleaseError(
            f"{error.filename or place}: {error.strerror or type(error).__name__}",
            hint=f"nothing was published; {place} has to be writable, and the release's files readable",
        ) from None
    return place


def _read(place: Path, profile: str) -> Published:
    try:
        with (place / MANIFEST_NAME).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ReleaseError(f"{place / MANIFEST_NAME}: {error.strerror}") from None
    manifest = parse_manifest(data)
    if (manifest.profile, str(manifest.release)) != (profile, place.name):
        raise ReleaseError(f"{place} holds release {manifest.release} of {manifest.profile}")
    return Published(place, manifest)
