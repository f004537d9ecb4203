"""Who is at the other end of a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attestation.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end, as proven by its certificate or as told by the own router.

    Attributes:
        image_hash: 32 bytes, zeros without attestation.
        public_key: Raw Ed25519 key, 32 bytes; ``None`` when not known.
        verdict: Ours; ``None`` when a router verified.
        source: Address and port the connection comes from or goes to, for people.
    """

    image_hash: bytes
    public_key: bytes | None
    verdict: Verdict | None
    source: str
