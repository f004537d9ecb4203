"""The highest release of each image family that was ever seen here, so that no older one is believed afterwards.

In: manifests whose signatures and dates were checked. Out: nothing, or an error that names what is wrong. The memory is
one JSON file. It is written beside its place, brought to the disk and renamed over the old one, so that a program
killed at any moment leaves the old or the new memory; a lock file keeps two programs from writing at once. A damaged
file is an error: a memory that forgot would let a rollback pass.

A family is the manifest's ``image_id`` and ``profile``. Of each its highest release is kept, with the digest of that
release's files: another image under the same number is refused too. A manifest may be issued again for the same files,
with other dates or more shapes.

What it cannot see: a release from before this file existed. Who deletes the file, or puts an old copy of the machine's
disk back, begins anew; the root contract's list and the manifests' expiry are what holds then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from attestation.errors import AttestationError
from measurements.manifest import Digest, Natural, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from measurements.manifest import Manifest

FORMAT: Final = "chrysalis release memory 1"
MAX_FAMILIES: Final = 256
MAX_MEMORY_BYTES: Final = 128 * 1024
Family = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}/[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$")
]
BOUNDARIES: Final = ("written", "synced", "renamed")
"""Moments of a write, in order; see :class:`ReleaseMemory`."""


class ReleaseMemoryError(AttestationError):
    """The memory of releases cannot be read or written, or is full."""


class RollbackError(AttestationError):
    """A manifest is older than a release that was seen already, or says something else under the same number."""


class Seen(BaseModel):
    """The highest release of a family.

    Attributes:
        release: Its number.
        files: SHA-256 of its list of files (:func:`files_digest`), hex.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    release: Natural
    files: Digest


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["chrysalis release memory 1"]
    families: Annotated[dict[Family, Seen], Field(max_length=MAX_FAMILIES)]


def family_of(manifest: Manifest) -> str:
    """What a manifest is a release of: ``image_id/profile``."""
    return f"{manifest.image_id}/{manifest.profile}"


def files_digest(manifest: Manifest) -> str:
    """What a release is, whatever its manifest's dates and predictions: SHA-256 of its files' names and digests."""
    entries = [[entry.name, entry.sha256] for entry in manifest.artefacts]
    return hashlib.sha256(canonical(entries)).hexdigest()


def raised(families: Mapping[str, Seen], manifests: Iterable[Manifest]) -> dict[str, Seen]:
    """What is known after these manifests were seen together. Pure.

    Of each family the highest one given has to be at least the highest one known; lower ones beside it are no rollback.

    Raises:
        RollbackError: It is lower, or two releases have the same number and other files.
        ReleaseMemoryError: There are more than :data:`MAX_FAMILIES`.
    """
    given: dict[str, Seen] = {}
    for manifest in manifests:
        family, seen = family_of(manifest), Seen(release=manifest.release, files=files_digest(manifest))
        highest = given.get(family)
        _same_number(family, seen, highest)
        if highest is None or seen.release > highest.release:
            given[family] = seen
    merged = dict(families)
    for family, seen in given.items():
        known = merged.get(family)
        if known is not None and seen.release < known.release:
            raise RollbackError(
                f"release {seen.release} of {family} is older than release {known.release}, which was seen here before",
                hint=f"take the manifest of release {known.release} or a later one; an older image with a known hole "
                "would be brought back this way",
            )
        _same_number(family, seen, known)
        merged[family] = seen
    if len(merged) > MAX_FAMILIES:
        raise ReleaseMemoryError(
            f"{len(merged)} image families, at most {MAX_FAMILIES} are remembered",
            hint="give this network's programs a memory of their own",
        )
    return merged


def _same_number(family: str, seen: Seen, known: Seen | None) -> None:
    if known is not None and seen.release == known.release and seen.files != known.files:
        raise RollbackError(
            f"release {seen.release} of {family} has files {seen.files[:16]}…, "
            f"the one seen before has {known.files[:16]}…",
            hint="one number was given to two images: ask who signed them; a new image needs a new number",
        )


@dataclass(slots=True)
class ReleaseMemory:
    """The memory in one file. Safe for several programs at once.

    Attributes:
        path: The file; it is made when the first release is remembered. Its lock is beside it, with ``.lock`` after
            the name.
        on_boundary: Told each moment of a write (:data:`BOUNDARIES`) once it has passed.
    """

    path: Path
    on_boundary: Callable[[str], None] = field(default=lambda _: None, repr=False)

    def families(self) -> dict[str, Seen]:
        """What is remembered; nothing where there is no file.

        Raises:
            ReleaseMemoryError: The file cannot be read, or is not one that this project wrote.
        """
        try:
            with self.path.open("rb") as handle:
                data = handle.read(MAX_MEMORY_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._trouble(f"cannot be read: {error.strerror}") from None
        if len(data) > MAX_MEMORY_BYTES:
            raise self._trouble(f"has more than {MAX_MEMORY_BYTES} bytes")
        try:
            found = _File.model_validate_json(data)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors())
            raise self._trouble(f"is damaged: {faults[:300]}") from None
        return dict(found.families)

    def check(self, manifests: Iterable[Manifest]) -> None:
        """Compare manifests with what is remembered, and remember nothing.

        Raises:
            RollbackError: See :func:`raised`.
            ReleaseMemoryError: The memory cannot be read.
        """
        raised(self.families(), manifests)

    def remember(self, manifests: Iterable[Manifest]) -> None:
        """Compare manifests with what is remembered, and remember the higher ones, on disk, before this returns.

        Raises:
            RollbackError: See :func:`raised`; nothing of these manifests is remembered then.
            ReleaseMemoryError: The memory cannot be read or written.
        """
        with self._locked():
            known = self.families()
            merged = raised(known, manifests)
            if merged != known:
                self._write(merged)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._trouble(f"cannot be locked: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, families: Mapping[str, Seen]) -> None:
        values = {family: seen.model_dump() for family, seen in families.items()}
        data = json.dumps({"format": FORMAT, "families": values}, sort_keys=True, indent=1).encode() + b"\n"
        # The name is always the same: the lock is held, and what a killed program left is written over.
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                self.on_boundary("written")
                os.fsync(handle.fileno())
            self.on_boundary("synced")
            partial.replace(self.path)
            self.on_boundary("renamed")
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise self._trouble(f"cannot be written: {error.strerror}") from None

    def _trouble(self, what: str) -> ReleaseMemoryError:
        return ReleaseMemoryError(
            f"the memory of releases {self.path} {what}",
            hint="restore it from a backup; if there is none, look up the highest release yourself before you move the "
            "file away: a rollback from before goes unnoticed then",
        )
