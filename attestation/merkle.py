"""A Merkle tree over nonces, so that one quote answers many requests (quotes are slow and serial).

Leaf: SHA-256(0x00 ‖ nonce). Node: SHA-256(0x01 ‖ left ‖ right). A level of odd length lifts its last node unchanged.
A path is the siblings from leaf to root, each with the side it stands on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attestation.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LEAVES = 4096
MAX_PATH = 12


@dataclass(frozen=True, slots=True)
class Step:
    """One sibling on the way to the root: 32 bytes, and whether it stands on the left."""

    sibling: bytes
    on_left: bool


def leaf(nonce: bytes) -> bytes:
    """Hash of one nonce: 32 bytes."""
    return hashlib.sha256(b"\0" + nonce).digest()


def tree(nonces: Sequence[bytes]) -> tuple[bytes, list[tuple[Step, ...]]]:
    """Build a tree.

    Args:
        nonces: 1 to ``MAX_LEAVES`` nonces.

    Returns:
        The root (32 bytes) and one path for each nonce, in order.

    Raises:
        EvidenceError: No nonce, or too many.
    """
    if not 0 < len(nonces) <= MAX_LEAVES:
        raise EvidenceError(f"tree over {len(nonces)} nonces, expected 1 to {MAX_LEAVES}")
    level = [leaf(nonce) for nonce in nonces]
    paths: list[list[Step]] = [[] for _ in nonces]
    members = [[i] for i in range(len(nonces))]
    while len(level) > 1:
        above, merged = [], []
        for i in range(0, len(level) - 1, 2):
            left, right = level[i], level[i + 1]
            for member in members[i]:
                paths[member].append(Step(right, on_left=False))
            for member in members[i + 1]:
                paths[member].append(Step(left, on_left=True))
            above.append(_node(left, right))
            merged.append(members[i] + members[i + 1])
        if len(level) % 2:
            above.append(level[-1])
            merged.append(members[-1])
        level, members = above, merged
    return level[0], [tuple(path) for path in paths]


def root_of(nonce: bytes, path: Sequence[Step]) -> bytes:
    """The root that a nonce and its path lead to."""
    value = leaf(nonce)
    for step in path:
        value = _node(step.sibling, value) if step.on_left else _node(value, step.sibling)
    return value


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
