"""What was verified before and holds for ever: that one exact key signed these exact bytes.

A verifier that meets a machine again meets the same certificates, manifests and stapled responses again, and most of
its time goes into their signatures. Only what does not depend on time is remembered, under a digest of everything that
it depends on: dates, revocation, nonces and values are looked at each time. A signature that did not hold is not
remembered.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final

from attestation.lru import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.gpu.rim import Manifest

MAX_KEPT: Final = 1024
"""About 100 machines' certificates and responses, 150 KiB; parsed manifests are counted on their own."""

MAX_MANIFESTS: Final = 64


class Memory:
    """Remembers signatures and parsed manifests.

    Args:
        kept: How many signatures; 0 remembers none.
        manifests: How many manifests; 0 remembers none.
    """

    def __init__(self, kept: int = MAX_KEPT, manifests: int = MAX_MANIFESTS) -> None:
        self._signatures: BoundedCache[bool] = BoundedCache(kept)
        self._manifests: BoundedCache[Manifest] = BoundedCache(manifests)
        self._lock = threading.Lock()

    def holds(self, verify: Callable[[], bool], *over: bytes) -> bool:
        """Whether a signature holds.

        Args:
            verify: Verifies it.
            over: Everything that the answer depends on.
        """
        key = digest(*over)
        with self._lock:
            if self._signatures.get(key):
                return True
        held = verify()
        if held:
            with self._lock:
                self._signatures.put(key, True)
        return held

    def manifest(self, make: Callable[[], Manifest], *over: bytes) -> Manifest:
        """A manifest whose signature held, made now or before; who asks looks at its dates.

        Args:
            make: Verifies and reads it; what it raises is not remembered.
            over: Everything but the time that the manifest depends on.
        """
        key = digest(b"manifest", *over)
        with self._lock:
            found = self._manifests.get(key)
        if found is None:
            found = make()
            with self._lock:
                self._manifests.put(key, found)
        return found


def digest(*parts: bytes) -> bytes:
    """SHA-256 over parts with their lengths, 32 bytes."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.digest()
