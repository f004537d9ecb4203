"""A directory of release manifests as a running program keeps it: signed, remembered, read again while it runs.

``*.json`` are manifests, with their signatures beside them (``.sig``). What is taken over is taken over whole: with one
file that does not hold, or a rollback, the last good state stays in force and the error says why.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from attestation.errors import PolicyError
from attestation.policies.files import open_signed, reference_sets
from attestation.policies.model import SignedManifest
from attestation.policies.releases import Release, standings, started

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from attestation.policies.release_memory import ReleaseMemory
    from attestation.policies.releases import Standing

MAX_FILES: Final = 64


class ReleaseShelf:
    """The manifests of a directory.

    Args:
        directory: Where they are.
        keys: Release keys that are trusted, 32 bytes each.
        threshold: How many of them have to have signed each.
        grace_s: Seconds for which an older release is taken beside a newer one.
        memory: The highest releases that were ever seen.
        clock: Unix time.
    """

    def __init__(
        self,
        directory: Path,
        keys: Collection[bytes],
        *,
        threshold: int,
        grace_s: float,
        memory: ReleaseMemory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._keys = tuple(keys)
        self._threshold = threshold
        self._grace_s = grace_s
        self._memory = memory
        self._clock = clock
        self._standings: tuple[Standing, ...] = ()

    @property
    def standings(self) -> tuple[Standing, ...]:
        """The releases as they stood when the directory was last read."""
        return self._standings

    def refresh(self) -> None:
        """Read the directory, remember what is newer, take it over.

        Raises:
            PolicyError: The directory or a file cannot be read, or a manifest's signatures do not hold.
            RollbackError: A family's highest release is older than one seen before.
            ReleaseMemoryError: The memory cannot be read or written.
        """
        now = self._clock()
        releases = self._read()
        self._memory.remember(started((release.manifest for release in releases), now))
        self._standings = standings(releases, now, self._grace_s)

    def require_some(self) -> None:
        """Refuse to go on with no release that is taken now.

        Raises:
            PolicyError: There is none; each one's reason is named.
        """
        now = self._clock()
        reasons = [item.refusal(now) for item in self._standings]
        if all(reasons):
            raise PolicyError(
                f"no release manifest in {self._directory} is in force: {'; '.join(reasons) or 'there is none'}",
                hint="put the newest release's manifest.json and its .sig there, and check this machine's clock",
            )

    def _read(self) -> list[Release]:
        try:
            files = sorted(path for path in self._directory.iterdir() if path.suffix == ".json")
        except OSError as error:
            raise PolicyError(
                f"{self._directory}: {error.strerror}", hint="host.manifests names the directory of the manifests"
            ) from None
        if len(files) > MAX_FILES:
            raise PolicyError(f"{self._directory} holds {len(files)} manifests, at most {MAX_FILES} are read")
        found = []
        for path in files:
            stated = SignedManifest(file=path, keys=self._keys, threshold=self._threshold)
            manifest, signers = open_signed(stated, path.parent)
            found.append(Release(manifest, reference_sets(manifest, signers, stated.boot)))
        return found
