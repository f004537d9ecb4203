"""Look-up in a (possibly pruned) dictionary: the entry, a proof of its absence, or an error; never a guess.

In: the root cell of a ``Hashmap`` or ``HashmapAug`` (TON's ``block.tlb``) and a key. Out: a reader on the leaf, behind
its label, or None where the labels read prove that no such key exists. An augmented leaf starts with its extra, which
the caller skips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.chain.cells import Reader
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytoniq_core.boc.cell import Cell


def lookup(root: Cell | None, key: int, key_bits: int, name: str) -> Reader | None:
    """Find ``key`` (unsigned, ``key_bits`` long).

    Returns:
        A reader positioned at the leaf's value (or extra), or None when the dictionary provably lacks the key.

    Raises:
        LayoutError: A cell on the path is pruned or malformed, so that neither is proven.
    """
    cell, left = root, key_bits
    while cell is not None:
        reader = Reader(cell, name)
        label, length = _read_label(reader, left, name)
        left -= length
        if key >> left & ((1 << length) - 1) != label:
            return None
        if left == 0:
            return reader
        left -= 1
        branches = reader.ref(), reader.ref()
        cell = branches[key >> left & 1]
    return None


def entries(root: Cell | None, key_bits: int, name: str, *, limit: int) -> Iterator[tuple[int, Reader]]:
    """All entries in ascending key order; raises :class:`LayoutError` if a part is pruned or ``limit`` is exceeded."""
    stack = [(root, 0, key_bits)] if root is not None else []
    count = 0
    while stack:
        cell, prefix, left = stack.pop()
        reader = Reader(cell, name)
        label, length = _read_label(reader, left, name)
        prefix, left = prefix << length | label, left - length
        if left == 0:
            count += 1
            if count > limit:
                raise LayoutError(f"{name}: more than {limit} entries")
            yield prefix, reader
            continue
        low, high = reader.ref(), reader.ref()
        stack.append((high, prefix << 1 | 1, left - 1))
        stack.append((low, prefix << 1, left - 1))


def _read_label(reader: Reader, room: int, name: str) -> tuple[int, int]:
    """``HmLabel ~n room`` as its bits (a number) and their count."""
    repeated: int | None = None
    if not reader.flag():  # hml_short$0, length in unary
        length = 0
        while reader.flag():
            length += 1
    else:
        if reader.flag():  # hml_same$11
            repeated = reader.uint(1)
        length = reader.uint(room.bit_length())  # hml_long$10 and hml_same: a number of at most room
    if length > room:
        raise LayoutError(f"{name}: a label of {length} bits, expected at most {room}")
    if repeated is not None:
        return ((1 << length) - 1) * repeated, length
    return reader.uint(length), length
