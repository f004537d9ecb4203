"""The checks of a bundle itself: that it answers us, now, over the link we have, and that nobody changed it since.

In: a parsed bundle and what was asked for. Out: checks; no quote is looked at here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.verdict import Check, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from attestation.evidence import Bundle

CLOCK_SKEW_S = 300.0
"""How far in the future evidence may be dated, in seconds."""

_GROUP = "bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for; what is ``None`` is not looked at, and the verdict says so.

    Attributes:
        now: Unix time at which everything has to hold.
        stated: Whether ``now`` is a time in the past that the caller took from the evidence.
        nonce: The 32 bytes that the bundle has to answer.
        public_key: The key of the channel over which it came.
        digest: SHA-256 that it must have.
        block_known: Says whether a block hash is a recent proven one.
        anchored_at: Unix time since when the chain holds the bundle's digest.
    """

    now: float
    stated: bool = False
    nonce: bytes | None = None
    public_key: bytes | None = None
    digest: bytes | None = None
    block_known: Callable[[bytes], bool] | None = None
    anchored_at: float | None = None


def bundle_checks(bundle: bytes, parsed: Bundle, asked: Asked) -> tuple[Check, ...]:
    """Look at a bundle.

    Args:
        bundle: As it came.
        parsed: The same, read.
        asked: What was asked for.
    """
    checks = [_nonce(parsed, asked), _channel(parsed, asked), *_whole(bundle, parsed, asked), *_times(parsed, asked)]
    return tuple(check.within(_GROUP) for check in checks)


def _nonce(parsed: Bundle, asked: Asked) -> Check:
    why = "evidence that answers no question of yours may be old, or made for somebody else"
    if asked.nonce is None:
        return _open("nonce", parsed.nonce.hex(), "nobody asked with a nonce", why)
    hint = "the bundle was made for another request: a replay"
    return _equal("nonce", parsed.nonce, asked.nonce, hint, why)


def _channel(parsed: Bundle, asked: Asked) -> Check:
    why = "evidence of a good machine can be shown by a bad one, unless the link's key is in it"
    seen = parsed.keys["tls"]
    if asked.public_key is None:
        return _open("channel key", seen.hex(), "there is no link to compare with", why)
    return _equal("channel key", seen, asked.public_key, "the evidence is of another machine than the link", why)


def _whole(bundle: bytes, parsed: Bundle, asked: Asked) -> list[Check]:
    """Signature and digest."""
    holds = parsed.signature_holds()
    checks = [
        Check(
            "bundle signature",
            holds,
            "holds" if holds else "does not hold",
            "the key in the bundle signed all of it",
            "the bundle was changed after it was made",
            why="the quote covers this key, and this key covers every byte",
        )
    ]
    if asked.digest is not None:
        seen = hashlib.sha256(bundle).digest()
        why = "the peer's certificate names one bundle"
        checks.append(_equal("bundle digest", seen, asked.digest, "the certificate names another bundle", why))
    return checks


def _times(parsed: Bundle, asked: Asked) -> list[Check]:
    checks = [
        Check(
            "freshness path",
            parsed.path_holds(),
            f"{len(parsed.path)} steps",
            "the nonce is under the root",
            "the bundle's nonce is not among those that its quote answers",
            why="one quote answers many askers: each gets the way from its nonce to the root that was quoted",
        ),
        Check(
            "made at",
            parsed.made_at <= asked.now + CLOCK_SKEW_S,
            moment(parsed.made_at),
            f"not after {moment(asked.now + CLOCK_SKEW_S)}",
            "compare the clocks",
            why="collateral and certificates hold for a time, so it matters when evidence was made",
        ),
        _block(parsed, asked),
    ]
    if asked.stated or asked.anchored_at is not None:
        checks.append(_anchor(parsed, asked))
    return checks


def _block(parsed: Bundle, asked: Asked) -> Check:
    why = "a block's hash cannot be known before the block exists, so the evidence is not older"
    seen = parsed.block_hash.hex() or "none"
    if asked.block_known is None:
        return _open("block", seen, "no chain was asked", why)
    return Check(
        "block", asked.block_known(parsed.block_hash), seen, "a recent proven block", "evidence made too early", why=why
    )


def _anchor(parsed: Bundle, asked: Asked) -> Check:
    why = "whoever breaks this kind of machine later can make evidence and date it back to before"
    if asked.anchored_at is None:
        seen = f"{moment(parsed.made_at)} is the evidence's own word"
        return _open("anchor", seen, "its digest was not looked for on a chain", why)
    gap = asked.anchored_at - parsed.made_at
    return Check(
        "anchor",
        gap >= -CLOCK_SKEW_S,
        f"on chain since {moment(asked.anchored_at)}, {max(0.0, gap):.0f} s after the stated time",
        "on chain after it was made",
        "the chain had it before the time that it states: that time is wrong",
        why=why,
    )


def _open(name: str, seen: str, reason: str, why: str) -> Check:
    return Check(name, True, seen, f"not checked: {reason}", checked=False, why=why)


def _equal(name: str, seen: bytes, wanted: bytes, hint: str, why: str) -> Check:
    return Check(name, seen == wanted, seen.hex(), wanted.hex(), hint, why=why)
