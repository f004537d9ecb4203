"""Persistent (augmented) dictionaries: ``Hashmap``, ``HashmapE``, ``HashmapAug`` and ``HashmapAugE`` of ``block.tlb``.

In: keys as unsigned numbers, values as cells whose content becomes the leaf, and for augmented ones an extra a leaf.
Out: cells with canonical labels, and the cells on the way to a key, which is what a Merkle proof keeps. A change
returns a new dictionary that shares everything else with the old one, so every block keeps its own at little cost.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from bitarray import bitarray

from appliance.chain.cells import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytoniq_core.boc.cell import Cell

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Augmentation(Generic[E]):
    """How extras are written, combined at forks, and what an empty dictionary carries."""

    zero: E
    combine: Callable[[E, E], E]
    write: Callable[[Writer, E], object]


@dataclass(slots=True)
class _Node(Generic[E]):
    """A leaf (``value``) or a fork (``left`` and ``right``); ``left_bits`` is the key length before the label."""

    label: str
    left_bits: int
    extra: E
    value: Cell | None = None
    left: _Node[E] | None = None
    right: _Node[E] | None = None
    cell: Cell | None = field(default=None, repr=False)

    def child(self, bit: str) -> _Node[E] | None:
        return self.left if bit == "0" else self.right


class Dictionary(Generic[E]):
    """An immutable dictionary with keys of ``key_bits`` bits; see the module for what the parts are."""

    __slots__ = ("_augmentation", "_root", "key_bits")

    def __init__(self, key_bits: int, augmentation: Augmentation[E], root: _Node[E] | None = None) -> None:
        self.key_bits = key_bits
        self._augmentation = augmentation
        self._root = root

    @property
    def extra(self) -> E:
        """The extra of the whole: the root's, or the empty dictionary's."""
        return self._augmentation.zero if self._root is None else self._root.extra

    def __bool__(self) -> bool:
        return self._root is not None

    def set(self, key: int, value: Cell, extra: E) -> Dictionary[E]:
        """With ``value`` at ``key`` (replaced when it is there)."""
        return self._with(self._inserted(self._root, self._bits(key), value, extra))

    def delete(self, key: int) -> Dictionary[E]:
        """Without ``key``; the same dictionary when it is not there."""
        return self._with(self._removed(self._root, self._bits(key)))

    def get(self, key: int) -> Cell | None:
        """The leaf's content as a cell."""
        bits, node = self._bits(key), self._root
        while node is not None and bits.startswith(node.label):
            if node.value is not None:
                return node.value
            bits = bits[len(node.label) :]
            node, bits = node.child(bits[0]), bits[1:]
        return None

    def items(self) -> Iterator[tuple[int, Cell]]:
        """Keys and values in the order of keys."""
        stack = [("", self._root)] if self._root is not None else []
        while stack:
            prefix, node = stack.pop()
            prefix += node.label
            if node.value is not None:
                yield int(prefix, 2), node.value
            elif node.left is not None and node.right is not None:
                stack += [(prefix + "1", node.right), (prefix + "0", node.left)]

    def path(self, key: int) -> builtins.set[bytes]:
        """Hashes of the cells from the root to the leaf, or to the fork or leaf that proves the key's absence."""
        bits, node, hashes = self._bits(key), self._root, builtins.set[bytes]()
        while node is not None:
            hashes.add(self._cell(node).hash)
            if node.value is not None or not bits.startswith(node.label):
                break
            bits = bits[len(node.label) :]
            node, bits = node.child(bits[0]), bits[1:]
        return hashes

    def root(self) -> Cell | None:
        """``Hashmap``/``HashmapAug``: the root cell, None when empty."""
        return None if self._root is None else self._cell(self._root)

    def write(self, writer: Writer) -> Writer:
        """``HashmapE``/``HashmapAugE``: one bit, the root's reference, the extra."""
        writer.maybe_ref(self.root())
        self._augmentation.write(writer, self.extra)
        return writer

    def _with(self, root: _Node[E] | None) -> Dictionary[E]:
        return self if root is self._root else Dictionary(self.key_bits, self._augmentation, root)

    def _bits(self, key: int) -> str:
        if not 0 <= key < 1 << self.key_bits:
            msg = f"a dictionary key of {key.bit_length()} bits, expected an unsigned number of {self.key_bits}"
            raise ValueError(msg)
        return format(key, f"0{self.key_bits}b")

    def _fork(self, label: str, left_bits: int, left: _Node[E], right: _Node[E]) -> _Node[E]:
        return _Node(label, left_bits, self._augmentation.combine(left.extra, right.extra), None, left, right)

    def _inserted(self, node: _Node[E] | None, bits: str, value: Cell, extra: E) -> _Node[E]:
        if node is None:
            return _Node(bits, len(bits), extra, value)
        shared = _shared_prefix(node.label, bits)
        if shared == len(node.label):
            if node.left is None or node.right is None:
                return _Node(bits, len(bits), extra, value)
            rest = bits[shared + 1 :]
            if bits[shared] == "0":
                return self._fork(node.label, len(bits), self._inserted(node.left, rest, value, extra), node.right)
            return self._fork(node.label, len(bits), node.left, self._inserted(node.right, rest, value, extra))
        below = len(bits) - shared - 1
        old = _Node(node.label[shared + 1 :], below, node.extra, node.value, node.left, node.right)
        new = _Node(bits[shared + 1 :], below, extra, value)
        left, right = (old, new) if node.label[shared] == "0" else (new, old)
        return self._fork(node.label[:shared], len(bits), left, right)

    def _removed(self, node: _Node[E] | None, bits: str) -> _Node[E] | None:
        if node is None or not bits.startswith(node.label):
            return node
        if node.left is None or node.right is None:
            return None
        at = len(node.label)
        on_left = bits[at] == "0"
        inside, beside = (node.left, node.right) if on_left else (node.right, node.left)
        remaining = self._removed(inside, bits[at + 1 :])
        if remaining is inside:
            return node
        if remaining is None:
            label = node.label + ("1" if on_left else "0") + beside.label
            return _Node(label, len(bits), beside.extra, beside.value, beside.left, beside.right)
        left, right = (remaining, beside) if on_left else (beside, remaining)
        return self._fork(node.label, len(bits), left, right)

    def _cell(self, node: _Node[E]) -> Cell:
        if node.cell is None:
            writer = Writer("dictionary node").bits(label_bits(node.label, node.left_bits))
            if node.left is not None and node.right is not None:
                writer.ref(self._cell(node.left)).ref(self._cell(node.right))
            self._augmentation.write(writer, node.extra)
            if node.value is not None:
                writer.inline(node.value)
            node.cell = writer.end()
        return node.cell


def plain_dictionary(key_bits: int) -> Dictionary[None]:
    """An empty dictionary without extras (``Hashmap``)."""
    return Dictionary(key_bits, Augmentation(zero=None, combine=lambda _left, _right: None, write=lambda _w, _e: None))


def label_bits(label: str, left_bits: int) -> bitarray:
    """``HmLabel``: the shortest of its three forms, as TON's ``append_dict_label`` chooses.

    Args:
        label: The bits as ``0`` and ``1``.
        left_bits: Key bits that are left before the label, which the length field must be able to hold.
    """
    length, width = len(label), left_bits.bit_length()
    size = format(length, f"0{width}b") if width else ""
    if length > 1 and label == label[0] * length and width < 2 * length - 1:
        return bitarray("11" + label[0] + size)
    if width < length:
        return bitarray("10" + size + label)
    return bitarray("0" + "1" * length + "0" + label)


def _shared_prefix(left: str, right: str) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
