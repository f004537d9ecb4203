"""Merkle proofs and Merkle updates: trees in which whatever need not be shown is a pruned branch.

In: trees of cells and the hashes of the cells to show. Out: ``MERKLE_PROOF`` and ``MERKLE_UPDATE`` cells. Layout: TVM
paper, section 3.1.7, and TON's ``crypto/vm/cells``; a branch below ``n`` Merkle cells is pruned at level ``n``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.exotic import CellTypes
from pytoniq_core.boc.tvm_bitarray import TvmBitarray

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_MERKLE = frozenset({CellTypes.merkle_proof, CellTypes.merkle_update})


def merkle_proof(root: Cell, keep: AbstractSet[bytes]) -> Cell:
    """A proof that shows the cells of ``root`` whose hash is in ``keep``.

    Cells without references are shown too (a pruned branch would not be smaller); anything else is pruned.
    """
    body = _Pruner(keep).prune(root, level=1)
    return _exotic(CellTypes.merkle_proof, _reference(root), [body])


def merkle_update(old: Cell, new: Cell, shared: AbstractSet[bytes]) -> tuple[Cell, set[bytes], set[bytes]]:
    """The update that turns ``old`` into ``new``.

    Args:
        old: The tree before.
        new: The tree after.
        shared: Hashes of all cells of ``old``; a missing or stale hash costs size, never correctness.

    Returns:
        The update; the hashes of the cells that it shows of ``old``; those that it shows of ``new``. The next
        update's ``shared`` is this one's without the former and with the latter.
    """
    fresh, border = _fresh_cells(new, shared)
    gone, met = _fresh_cells(old, border)
    # What the new side prunes must be met on the old side, or nobody could look it up there.
    before = _Pruner(gone).prune(old, level=1)
    after = _Pruner(fresh | _below(new, border - met)).prune(new, level=1)
    update = _exotic(CellTypes.merkle_update, _update_header(old, new), [before, after])
    return update, gone, fresh


def cell_hashes(*roots: Cell) -> set[bytes]:
    """The hashes of all cells reachable from ``roots``."""
    return _fresh_cells_of(list(roots), frozenset())[0]


def pruned(cell: Cell, level: int) -> Cell:
    """The pruned branch of level ``level`` that stands for ``cell``."""
    mask = cell.level_mask.mask
    lower = [bit for bit in range(level) if bit == 0 or mask >> (bit - 1) & 1]
    data = bytes([CellTypes.pruned_branch, mask | 1 << (level - 1)])
    data += b"".join(cell.get_hash(bit) for bit in lower)
    data += b"".join(cell.get_depth(bit).to_bytes(2, "big") for bit in lower)
    return _exotic(CellTypes.pruned_branch, data, [])


class _Pruner:
    """Rewrites a tree, remembering what it made of each cell at each level."""

    def __init__(self, keep: AbstractSet[bytes]) -> None:
        self._keep = keep
        self._made: dict[tuple[bytes, int], Cell] = {}

    def prune(self, cell: Cell, level: int) -> Cell:
        known = self._made.get((cell.hash, level))
        if known is None:
            known = self._made[cell.hash, level] = self._rewrite(cell, level)
        return known

    def _rewrite(self, cell: Cell, level: int) -> Cell:
        if not cell.refs:
            return cell
        if cell.hash not in self._keep:
            return pruned(cell, level)
        below = level + 1 if cell.type_ in _MERKLE else level
        return Cell(cell.bits, [self.prune(reference, below) for reference in cell.refs], cell.type_)


def _fresh_cells(root: Cell, known: AbstractSet[bytes]) -> tuple[set[bytes], set[bytes]]:
    return _fresh_cells_of([root], known)


def _fresh_cells_of(stack: list[Cell], known: AbstractSet[bytes]) -> tuple[set[bytes], set[bytes]]:
    """Hashes met before any known one, and the known ones at which the walk stopped."""
    fresh: set[bytes] = set()
    border: set[bytes] = set()
    while stack:
        cell = stack.pop()
        if cell.hash in known:
            border.add(cell.hash)
        elif cell.hash not in fresh:
            fresh.add(cell.hash)
            stack.extend(cell.refs)
    return fresh, border


def _below(root: Cell, tops: AbstractSet[bytes]) -> set[bytes]:
    """Hashes of the cells named in ``tops`` and of everything below them."""
    if not tops:
        return set()
    found: list[Cell] = []
    stack, seen = [root], set[bytes]()
    while stack:
        cell = stack.pop()
        if cell.hash in seen:
            continue
        seen.add(cell.hash)
        if cell.hash in tops:
            found.append(cell)
        else:
            stack.extend(cell.refs)
    return cell_hashes(*found)


def _reference(cell: Cell) -> bytes:
    return b"".join((bytes([CellTypes.merkle_proof]), cell.get_hash(0), _depth(cell)))


def _update_header(old: Cell, new: Cell) -> bytes:
    hashes: tuple[bytes, bytes] = (old.get_hash(0), new.get_hash(0))
    return b"".join((bytes([CellTypes.merkle_update]), *hashes, _depth(old), _depth(new)))


def _depth(cell: Cell) -> bytes:
    depth: int = cell.get_depth(0)
    return depth.to_bytes(2, "big")


def _exotic(kind: int, data: bytes, references: list[Cell]) -> Cell:
    bits = TvmBitarray(1023)
    bits.frombytes(data)
    return Cell(bits, references, kind)
