"""Strict reading and writing of single cells.

In: a pytoniq cell from anywhere. Out: plain values; everything that does not fit the layout exactly is a
:class:`~appliance.chain.errors.LayoutError` that names the structure, never another exception. The notation is that
of the protocol specification, section 6. Bags of cells: :mod:`appliance.chain.boc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bitarray import bitarray
from bitarray.util import ba2int, int2ba
from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.hashmap.hashmap import HashMap

from appliance.chain.addresses import Address
from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytoniq_core.boc.cell import Cell

LeafT = TypeVar("LeafT")

MAX_COIN_BYTES = 8
"""The reference runner rejects amounts of more bytes (section 6)."""

DEFAULT_MAX_ENTRIES = 4096


class Reader:
    """A cursor over one ordinary cell.

    Args:
        cell: The cell; an exotic one (pruned, library, Merkle) is refused.
        name: What the cell is, for error texts.

    Every method raises :class:`LayoutError` when the cell does not hold what is asked for.
    """

    __slots__ = ("_bits", "_name", "_position", "_reference", "_references")

    def __init__(self, cell: Cell, name: str) -> None:
        if cell.is_exotic:
            raise LayoutError(
                f"{name}: exotic cell of type {cell.type_}, expected an ordinary one",
                hint="a proof that prunes this part cannot be read here",
            )
        self._bits: bitarray = cell.bits
        self._references: list[Cell] = cell.refs
        self._name = name
        self._position = 0
        self._reference = 0

    @property
    def bits_left(self) -> int:
        """Bits not read yet."""
        return len(self._bits) - self._position

    @property
    def references_left(self) -> int:
        """References not read yet."""
        return len(self._references) - self._reference

    def bits(self, count: int) -> bitarray:
        """The next ``count`` bits."""
        end = self._position + count
        if end > len(self._bits):
            raise LayoutError(f"{self._name}: {self.bits_left} bits left, expected at least {count}")
        piece = self._bits[self._position : end]
        self._position = end
        return bitarray(piece)

    def uint(self, count: int) -> int:
        """An unsigned big-endian number of ``count`` bits."""
        return ba2int(self.bits(count)) if count else 0

    def sint(self, count: int) -> int:
        """A signed big-endian number of ``count`` bits, at least one."""
        return ba2int(self.bits(count), signed=True)

    def flag(self) -> bool:
        """One bit."""
        return bool(self.uint(1))

    def raw(self, count: int) -> bytes:
        """``count`` bytes, aligned or not."""
        return self.bits(count * 8).tobytes()

    def constant(self, value: int, count: int, what: str) -> None:
        """A number of ``count`` bits that must be ``value``."""
        seen = self.uint(count)
        if seen != value:
            raise LayoutError(f"{self._name}: {what} is 0x{seen:x}, expected 0x{value:x}")

    def coins(self) -> int:
        """An amount in nanotons: 4-bit byte count and at most 8 bytes, without leading zero bytes."""
        count = self.uint(4)
        if count > MAX_COIN_BYTES:
            raise LayoutError(f"{self._name}: an amount of {count} bytes, expected at most {MAX_COIN_BYTES}")
        value = self.uint(count * 8)
        if count and value >> (count * 8 - 8) == 0:
            raise LayoutError(f"{self._name}: an amount has a leading zero byte")
        return value

    def address(self) -> Address:
        """An ``addr_std`` without anycast (267 bits)."""
        address = self.maybe_address()
        if address is None:
            raise LayoutError(f"{self._name}: empty address, expected an account")
        return address

    def maybe_address(self) -> Address | None:
        """``addr_none`` (2 bits) or ``addr_std`` without anycast (267 bits)."""
        tag = self.uint(2)
        if tag == 0:
            return None
        if tag != 2 or self.uint(1):
            raise LayoutError(f"{self._name}: address of kind {tag:02b} or with anycast, expected addr_std without")
        return Address(self.sint(8), self.raw(32))

    def ref(self) -> Cell:
        """The next reference."""
        if not self.references_left:
            raise LayoutError(f"{self._name}: no reference left, expected one more")
        cell = self._references[self._reference]
        self._reference += 1
        return cell

    def maybe_ref(self) -> Cell | None:
        """``Maybe ^Cell``: one bit, and the reference when it is set."""
        return self.ref() if self.flag() else None

    def dictionary(
        self, key_bits: int, read: Callable[[Reader], LeafT], *, max_entries: int = DEFAULT_MAX_ENTRIES
    ) -> dict[int, LeafT]:
        """``HashmapE key_bits X``: keys as unsigned numbers, values by ``read`` (which must consume each leaf)."""
        root = self.maybe_ref()
        return {} if root is None else _read_dictionary(root, key_bits, read, max_entries, self._name)

    def rest(self) -> Cell:
        """Everything that was not read, as a cell."""
        builder = Builder()
        builder.store_bits(self.bits(self.bits_left))
        while self.references_left:
            builder.store_ref(self.ref())
        return builder.end_cell()

    def end(self) -> None:
        """Check that nothing is left."""
        if self.bits_left or self.references_left:
            raise LayoutError(
                f"{self._name}: {self.bits_left} bits and {self.references_left} references are left, expected none"
            )


class Writer:
    """A cell under construction; every method returns the writer and raises :class:`LayoutError` on a misfit."""

    __slots__ = ("_bits", "_name", "_references")

    def __init__(self, name: str) -> None:
        self._bits = bitarray()
        self._references: list[Cell] = []
        self._name = name

    def bits(self, bits: bitarray) -> Writer:
        """Append bits."""
        if len(self._bits) + len(bits) > 1023:
            raise LayoutError(f"{self._name}: {len(self._bits) + len(bits)} bits, expected at most 1023")
        self._bits.extend(bits)
        return self

    def uint(self, value: int, count: int) -> Writer:
        """An unsigned number of ``count`` bits."""
        if not 0 <= value < 1 << count:
            raise LayoutError(f"{self._name}: {value} is not an unsigned {count}-bit number")
        return self.bits(int2ba(value, count)) if count else self

    def sint(self, value: int, count: int) -> Writer:
        """A signed number of ``count`` bits."""
        if not -(1 << (count - 1)) <= value < 1 << (count - 1):
            raise LayoutError(f"{self._name}: {value} is not a signed {count}-bit number")
        return self.bits(int2ba(value, count, signed=True))

    def flag(self, value: bool) -> Writer:
        """One bit."""
        return self.uint(int(value), 1)

    def raw(self, value: bytes, count: int) -> Writer:
        """Exactly ``count`` bytes."""
        if len(value) != count:
            raise LayoutError(f"{self._name}: {len(value)} bytes, expected {count}")
        bits = bitarray()
        bits.frombytes(value)
        return self.bits(bits)

    def coins(self, value: int) -> Writer:
        """An amount in nanotons, at most 8 bytes."""
        if not 0 <= value < 1 << (8 * MAX_COIN_BYTES):
            raise LayoutError(f"{self._name}: {value} is not an amount of at most {MAX_COIN_BYTES} bytes")
        count = (value.bit_length() + 7) // 8
        return self.uint(count, 4).uint(value, count * 8)

    def address(self, value: Address | None) -> Writer:
        """``addr_std``, or ``addr_none`` for None."""
        if value is None:
            return self.uint(0, 2)
        return self.uint(0b100, 3).sint(value.workchain, 8).raw(value.hash, 32)

    def ref(self, cell: Cell) -> Writer:
        """A reference."""
        if len(self._references) == 4:
            raise LayoutError(f"{self._name}: five references, expected at most 4")
        self._references.append(cell)
        return self

    def maybe_ref(self, cell: Cell | None) -> Writer:
        """``Maybe ^Cell``."""
        return self.uint(0, 1) if cell is None else self.uint(1, 1).ref(cell)

    def inline(self, cell: Cell) -> Writer:
        """All bits and references of ``cell``."""
        self.bits(bitarray(cell.bits))
        for reference in cell.refs:
            self.ref(reference)
        return self

    def dictionary(self, values: Mapping[int, Cell], key_bits: int) -> Writer:
        """``HashmapE key_bits X``; the content of each value's cell is the leaf."""
        if any(not 0 <= key < 1 << key_bits for key in values):
            raise LayoutError(f"{self._name}: a dictionary key is not an unsigned {key_bits}-bit number")
        table = HashMap(key_bits)
        for key, value in values.items():
            table.set_int_key(key, value)
        return self.maybe_ref(table.serialize())

    def end(self) -> Cell:
        """The finished cell."""
        builder = Builder()
        builder.store_bits(self._bits)
        for reference in self._references:
            builder.store_ref(reference)
        return builder.end_cell()


def empty_cell() -> Cell:
    """The cell without bits and references."""
    return Writer("empty cell").end()


def _read_dictionary(
    root: Cell, key_bits: int, read: Callable[[Reader], LeafT], max_entries: int, name: str
) -> dict[int, LeafT]:
    """Walk a ``Hashmap`` (TON's ``block.tlb``): every label fits, forks carry nothing else, leaves are consumed."""
    entries: dict[int, LeafT] = {}
    stack = [(root, 0, key_bits)]  # cell, key bits read so far as a number, key bits left
    while stack:
        cell, prefix, left = stack.pop()
        reader = Reader(cell, f"{name}: dictionary")
        label, length = _label(reader, left)
        prefix, left = prefix << length | label, left - length
        if left == 0:
            entries[prefix] = read(reader)
            reader.end()
            if len(entries) > max_entries:
                raise LayoutError(f"{name}: a dictionary has more than {max_entries} entries")
            continue
        branches = (reader.ref(), reader.ref())
        reader.end()
        stack.extend((branch, prefix << 1 | bit, left - 1) for bit, branch in reversed(list(enumerate(branches))))
    return entries


def _label(reader: Reader, limit: int) -> tuple[int, int]:
    """``HmLabel ~n limit`` as (bits as a number, their count)."""
    if not reader.flag():  # hml_short$0: unary length
        length = 0
        while reader.flag():
            length += 1
    elif not reader.flag():  # hml_long$10
        length = reader.uint(limit.bit_length())
    else:  # hml_same$11
        bit = reader.uint(1)
        length = reader.uint(limit.bit_length())
        _check_label(length, limit)
        return ((1 << length) - 1) * bit, length
    _check_label(length, limit)
    return reader.uint(length), length


def _check_label(length: int, limit: int) -> None:
    if length > limit:
        raise LayoutError(f"a dictionary label has {length} bits, expected at most {limit}")
