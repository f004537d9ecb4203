"""Dictionaries against pytoniq's own writer and readers, and against what a dictionary is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import HashMap

from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.cells import Writer
from appliance.lab.chain.dictionaries import Augmentation, Dictionary, plain_dictionary
from appliance.lab.chain.proofs import merkle_proof

KEY_BITS = 12
keys = st.integers(0, (1 << KEY_BITS) - 1)
contents = st.dictionaries(keys, st.integers(0, 255), min_size=1, max_size=40)


def value(number: int) -> Any:
    return Writer("value").uint(number, 8).end()


def filled(content: dict[int, int]) -> Dictionary[None]:
    dictionary = plain_dictionary(KEY_BITS)
    for key, number in content.items():
        dictionary = dictionary.set(key, value(number), None)
    return dictionary


def reference_root(content: dict[int, int]) -> Any:
    table = HashMap(KEY_BITS)
    for key, number in content.items():
        table.set_int_key(key, value(number))
    return table.serialize()


@settings(deadline=None)
@given(contents)
def test_cells_are_those_of_an_independent_writer(content: dict[int, int]) -> None:
    assert filled(content).root().hash == reference_root(content).hash


@settings(deadline=None)
@given(contents, st.data())
def test_removal_leaves_what_was_never_there(content: dict[int, int], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from(sorted(content))))
    dictionary = filled(content)
    for key in gone:
        dictionary = dictionary.delete(key)
    left = {key: number for key, number in content.items() if key not in gone}
    assert dict(dictionary.items()).keys() == left.keys()
    if left:
        assert dictionary.root().hash == reference_root(left).hash
    else:
        assert not dictionary
        assert dictionary.root() is None


@settings(deadline=None)
@given(contents, keys)
def test_get_and_items_tell_what_was_set(content: dict[int, int], key: int) -> None:
    dictionary = filled(content)
    leaf = dictionary.get(key)
    assert (leaf is None) == (key not in content)
    assert [k for k, _ in dictionary.items()] == sorted(content)
    assert dictionary.delete(key) is not dictionary if key in content else dictionary.delete(key) is dictionary


@settings(deadline=None)
@given(contents, keys, st.integers(0, 255))
def test_a_change_leaves_the_old_dictionary_alone(content: dict[int, int], key: int, number: int) -> None:
    dictionary = filled(content)
    before = dictionary.root().hash
    changed = dictionary.set(key, value(number), None)
    assert dictionary.root().hash == before
    assert changed.root().hash == reference_root({**content, key: number}).hash


@settings(deadline=None)
@given(contents, keys)
def test_a_path_proves_presence_and_absence(content: dict[int, int], key: int) -> None:
    dictionary = filled(content)
    proof = decode_boc(encode_boc(merkle_proof(dictionary.root(), dictionary.path(key))))
    assert proof.refs[0].get_hash(0) == dictionary.root().hash
    seen: dict[int, Any] = {}
    _walk(proof.refs[0], "", seen)
    assert (key in seen) == (key in content)
    # an absent key's way ends at a label that differs, never at a pruned branch
    assert all(not format(key, f"0{KEY_BITS}b").startswith(prefix) for prefix, cell in seen.items() if cell == "pruned")


@settings(deadline=None)
@given(contents)
def test_extras_are_combined_at_every_fork(content: dict[int, int]) -> None:
    augmentation = Augmentation(0, int.__add__, lambda writer, extra: writer.uint(extra, 16))
    dictionary = Dictionary(KEY_BITS, augmentation)
    for key, number in content.items():
        dictionary = dictionary.set(key, value(number), number)
    assert dictionary.extra == sum(content.values())
    cell = dictionary.write(Writer("whole")).end()
    values, extras = cell.begin_parse().load_hashmap_aug_e(
        KEY_BITS, lambda rest: rest.load_uint(8), lambda rest: rest.load_uint(16)
    )
    assert values == content
    assert max(extras) == sum(content.values())


def test_an_empty_one_writes_its_zero() -> None:
    augmentation = Augmentation(7, int.__add__, lambda writer, extra: writer.uint(extra, 8))
    cell = Dictionary(8, augmentation).write(Writer("whole")).end()
    assert cell.bits.to01() == "0" + "00000111"


@pytest.mark.parametrize("key", [-1, 1 << KEY_BITS])
def test_keys_out_of_range_are_refused(key: int) -> None:
    with pytest.raises(ValueError, match="dictionary key"):
        plain_dictionary(KEY_BITS).get(key)


def _walk(cell: Any, prefix: str, seen: dict[Any, Any]) -> None:
    """All leaves by key, and pruned branches by the prefix they hang on."""
    if cell.is_exotic:
        seen[prefix] = "pruned"
        return
    bits = cell.bits.to01()
    label, rest = _label(bits, KEY_BITS - len(prefix))
    prefix += label
    if len(prefix) == KEY_BITS:
        seen[int(prefix, 2)] = rest
        return
    for bit, child in enumerate(cell.refs):
        _walk(child, prefix + str(bit), seen)


def _label(bits: str, left: int) -> tuple[str, str]:
    width = left.bit_length()
    if bits[0] == "0":
        length = bits.index("0", 1) - 1
        return bits[2 + length : 2 + 2 * length], bits[2 + 2 * length :]
    if bits[1] == "0":
        length = int(bits[2 : 2 + width], 2)
        return bits[2 + width : 2 + width + length], bits[2 + width + length :]
    length = int(bits[3 : 3 + width], 2)
    return bits[2] * length, bits[3 + width :]
