"""Merkle proofs: bags of cells from a liteserver, bound to the hash each root is a proof for.

In: bytes of an answer. Out: the virtual root, whose level-0 hash is the one asked for. Reading further goes through
:class:`~appliance.chain.cells.Reader`, which refuses pruned cells, so nothing can be read that the hash does not
cover. Layout: TVM paper, section 3.1.7 (exotic cells).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytoniq_core.boc.exotic import CellTypes

from appliance.chain.boc import decode_boc_roots
from appliance.chain.errors import LayoutError, ProofError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytoniq_core.boc.cell import Cell

MAX_PROOF_BYTES = 1 << 22
MAX_PROOF_CELLS = 1 << 16


@contextmanager
def proving(what: str) -> Iterator[None]:
    """Turn a misfit found while reading a proof into a :class:`ProofError` that says which proof it was."""
    try:
        yield
    except LayoutError as error:
        raise ProofError(f"{what}: {error}", hint="the liteserver's answer is malformed or pruned too far") from error


def parse_roots(data: bytes, count: int, what: str) -> list[Cell]:
    """Read a bag with exactly ``count`` roots; raises :class:`ProofError`."""
    with proving(what):
        roots = decode_boc_roots(data, max_bytes=MAX_PROOF_BYTES, max_cells=MAX_PROOF_CELLS, max_roots=max(count, 1))
    if len(roots) != count:
        raise ProofError(f"{what}: {len(roots)} roots, expected {count}")
    return roots


def virtual_root(proof: Cell, what: str, *, expected: bytes | None = None) -> Cell:
    """The root a Merkle proof cell stands for.

    Args:
        proof: The Merkle proof cell (type 3); that it states its reference's hash was checked when it was parsed.
        what: Names the proof in errors.
        expected: The 32-byte hash the root must have; None leaves the binding to the caller.

    Raises:
        ProofError: The cell is not a Merkle proof, or proves something else.
    """
    if proof.type_ != CellTypes.merkle_proof:
        raise ProofError(f"{what}: cell of type {proof.type_}, expected a Merkle proof (3)")
    root: Cell = proof.refs[0]
    if expected is not None:
        require_hash(root, expected, what)
    return root


def require_hash(root: Cell, expected: bytes, what: str) -> None:
    """Check the level-0 hash of a cell; raises :class:`ProofError`."""
    seen: bytes = root.get_hash(0)
    if seen != expected:
        raise ProofError(
            f"{what}: the proof is for hash {seen.hex()}, expected {expected.hex()}",
            hint="the liteserver proved something else than what was asked",
        )
