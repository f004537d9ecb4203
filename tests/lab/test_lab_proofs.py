"""Merkle proofs and updates, and bags with several roots, read back by pytoniq and by the rules of the format."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Cell
from pytoniq_core.boc.exotic import CellTypes

from appliance.chain.boc import decode_boc_roots, encode_boc
from appliance.chain.cells import Writer
from appliance.lab.chain.dictionaries import plain_dictionary
from appliance.lab.chain.proofs import cell_hashes, merkle_proof, merkle_update, pruned


@st.composite
def trees(draw: st.DrawFn) -> Any:
    """A tree in which cells are shared."""
    cells = [Writer("leaf").uint(draw(st.integers(0, 255)), 8).end()]
    for _ in range(draw(st.integers(1, 12))):
        writer = Writer("node").uint(draw(st.integers(0, 255)), 8)
        for child in draw(st.lists(st.sampled_from(cells), min_size=0, max_size=4)):
            writer.ref(child)
        cells.append(writer.end())
    return cells[-1]


@settings(deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4, unique_by=lambda cell: cell.hash))
def test_bags_of_several_roots_come_back(roots: list[Any]) -> None:
    data = encode_boc(*roots)
    assert [cell.hash for cell in decode_boc_roots(data)] == [cell.hash for cell in roots]
    assert [cell.hash for cell in Cell.from_boc(data)] == [cell.hash for cell in roots]


@settings(deadline=None)
@given(trees(), st.data())
def test_a_proof_has_the_hash_of_the_whole(root: Any, data: st.DataObject) -> None:
    keep = data.draw(st.sets(st.sampled_from(sorted(cell_hashes(root)))))
    proof = merkle_proof(root, keep)
    assert proof.level_mask.mask == 0
    assert proof.refs[0].get_hash(0) == root.hash
    assert decode_boc_roots(encode_boc(proof))[0].hash == proof.hash
    shown = {cell.get_hash(0) for cell in _cells(proof.refs[0]) if cell.type_ == CellTypes.ordinary and cell.refs}
    assert shown <= keep


@settings(deadline=None)
@given(trees(), trees(), st.data())
def test_a_proof_may_reach_into_an_update(old: Any, new: Any, data: st.DataObject) -> None:
    update, _, _ = merkle_update(old, new, cell_hashes(old))
    block = Writer("block").ref(update).ref(old).end()
    keep = {block.hash, update.hash} | data.draw(st.sets(st.sampled_from(sorted(cell_hashes(update)))))
    proof = merkle_proof(block, keep)
    assert proof.refs[0].get_hash(0) == block.hash
    assert proof.level_mask.mask == 0
    assert decode_boc_roots(encode_boc(proof))[0].hash == proof.hash


def test_pruned_branches_keep_lower_hashes() -> None:
    inner = Writer("inner").uint(1, 8).ref(Writer("leaf").uint(2, 8).end()).end()
    once = Writer("outer").ref(pruned(inner, 1)).end()
    twice = pruned(once, 2)
    assert once.level_mask.mask == 1
    assert twice.level_mask.mask == 3
    assert (twice.get_hash(0), twice.get_hash(1)) == (once.get_hash(0), once.get_hash(1))


@settings(deadline=None)
@given(st.lists(trees(), min_size=2, max_size=5), st.booleans())
def test_updates_can_be_applied_one_after_another(states: list[Any], knows_the_first: bool) -> None:
    known = cell_hashes(states[0]) if knows_the_first else set()
    for old, new in itertools.pairwise(states):
        update, gone, fresh = merkle_update(old, new, known)
        known = known - gone | fresh
        assert update.type_ == CellTypes.merkle_update
        assert (update.data[1:33], update.data[33:65]) == (old.hash, new.hash)
        assert _applied(update, old).hash == new.hash


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=30, max_size=60, unique=True), st.data())
def test_an_update_of_a_large_state_is_small(keys: list[int], data: st.DataObject) -> None:
    dictionary = plain_dictionary(32)
    for key in keys:
        dictionary = dictionary.set(key, Writer("value").uint(key, 64).end(), None)
    key = data.draw(st.sampled_from(keys))
    changed = dictionary.set(key, Writer("value").uint(1 << 63, 64).end(), None)
    old, new = dictionary.root(), changed.root()
    update, gone, fresh = merkle_update(old, new, cell_hashes(old))
    assert len(gone) == len(dictionary.path(key))
    assert fresh == changed.path(key) - dictionary.path(key)
    assert _applied(update, old).hash == new.hash


def _cells(root: Any) -> list[Any]:
    found, stack = [], [root]
    while stack:
        cell = stack.pop()
        found.append(cell)
        stack.extend(cell.refs)
    return found


def _applied(update: Any, old: Any) -> Any:
    """As TON's ``MerkleUpdate::apply``: what the old side meets may be looked up for the new side's pruned branches."""
    known: dict[bytes, Any] = {}

    def meet(shown: Any, real: Any) -> None:
        assert shown.get_hash(0) == real.hash
        known[real.hash] = real
        if shown.type_ != CellTypes.pruned_branch:
            for below, real_below in zip(shown.refs, real.refs, strict=True):
                meet(below, real_below)

    def build(shown: Any) -> Any:
        if shown.type_ == CellTypes.pruned_branch:
            return known[shown.get_hash(0)]
        return Cell(shown.bits, [build(below) for below in shown.refs], shown.type_)

    meet(update.refs[0], old)
    return build(update.refs[1])
