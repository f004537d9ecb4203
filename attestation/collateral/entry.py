"""One piece of collateral with where it came from and how long it holds: a file of the cache, a part of a bundle.

Layout: a canonical CBOR map ``{content, expires, fetched, identity, issued, kind, sha256, source, v}``. The digest is
of the content and finds damage of a disk, not an attacker: who can write here can write a digest too, and gains
nothing, since a verifier checks signatures and dates of what it is given.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

from attestation import cbor
from attestation.collateral.dates import KINDS
from attestation.errors import EvidenceError

VERSION = 1
MAX_CONTENT = 1024 * 1024
"""Longest content of an entry, in bytes."""
MAX_ENTRY = MAX_CONTENT + 2048
MAX_IDENTITY = 512
MAX_SOURCE = 512
_FIELDS = frozenset({"content", "expires", "fetched", "identity", "issued", "kind", "sha256", "source", "v"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A piece of collateral.

    Attributes:
        kind: One of :data:`attestation.collateral.dates.KINDS`.
        identity: What it is of: a platform, a chip with its TCB, a manifest's id, a certificate's digest.
        source: Host or path that gave it.
        fetched: Unix time at which it came.
        issued: Unix time at which its newest part was made, by its own word.
        expires: Unix time at which its first part ends, by its own word.
        content: The bytes as a verifier takes them.
    """

    kind: str
    identity: str
    source: str
    fetched: float
    issued: float
    expires: float
    content: bytes

    def to_value(self) -> dict[str, Any]:
        """Plain values for a canonical map; times in whole seconds."""
        return {
            "content": self.content,
            "expires": _seconds(self.expires),
            "fetched": _seconds(self.fetched),
            "identity": self.identity,
            "issued": _seconds(self.issued),
            "kind": self.kind,
            "sha256": hashlib.sha256(self.content).digest(),
            "source": self.source,
            "v": VERSION,
        }

    @classmethod
    def from_value(cls, value: Any) -> Entry:
        """Read plain values back.

        Raises:
            EvidenceError: Fields missing, unknown, of another type, out of bounds, or a digest of something else.
        """
        if not isinstance(value, dict) or set(value) != _FIELDS or value["v"] != VERSION:
            raise EvidenceError(f"a cached piece is not a map of exactly {sorted(_FIELDS)} of version {VERSION}")
        for name, limit in (("kind", 32), ("identity", MAX_IDENTITY), ("source", MAX_SOURCE)):
            if not isinstance(value[name], str) or len(value[name]) > limit:
                raise EvidenceError(f"a cached piece with a {name} that is not text of at most {limit} characters")
        if value["kind"] not in KINDS:
            raise EvidenceError(f"a cached piece of kind {value['kind']!r}, expected one of {sorted(KINDS)}")
        for name in ("expires", "fetched", "issued"):
            if type(value[name]) is not int or not 0 <= value[name] < 1 << 40:
                raise EvidenceError(f"a cached piece whose {name} is no time")
        content = value["content"]
        if not isinstance(content, bytes) or len(content) > MAX_CONTENT:
            raise EvidenceError(f"a cached piece whose content is not at most {MAX_CONTENT} bytes")
        if hashlib.sha256(content).digest() != value["sha256"]:
            raise EvidenceError("a cached piece whose content is not what was written")
        return cls(
            kind=value["kind"],
            identity=value["identity"],
            source=value["source"],
            fetched=float(value["fetched"]),
            issued=float(value["issued"]),
            expires=float(value["expires"]),
            content=content,
        )

    def encode(self) -> bytes:
        """The canonical encoding."""
        return cbor.encode(self.to_value())

    @classmethod
    def parse(cls, data: bytes) -> Entry:
        """Read an encoding back.

        Raises:
            EvidenceError: It is none, or not canonical.
        """
        return cls.from_value(cbor.decode(data, max_length=MAX_ENTRY))


class Store(Protocol):
    """Where pieces are kept; losing all of them at any time is harmless."""

    def read(self, kind: str, identity: str) -> Entry | None:
        """The piece; None where there is none that can be read."""

    def write(self, entry: Entry) -> None:
        """Keep a piece; nothing is raised where that fails."""


def _seconds(moment: float) -> int:
    return min(max(int(moment), 0), (1 << 40) - 1)
