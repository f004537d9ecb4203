"""Bags of cells, read with bounds and written in linear time.

In: bytes from peers, liteservers and files. Out: pytoniq cells, and back. pytoniq's own reader raises arbitrary
exceptions and its writer visits a shared cell once for each path to it, which a hostile bag turns into exponential
work; both are replaced here. Layout: TON's ``boc.tlb`` (``serialized_boc``, ``serialized_boc_idx`` and
``serialized_boc_idx_crc32c``) and the cell format of the TVM paper, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from bitarray import bitarray
from pytoniq_core.boc.cell import Cell, CellError
from pytoniq_core.boc.exotic import CellTypes
from pytoniq_core.boc.tvm_bitarray import TvmBitarray
from pytoniq_core.crypto.crc import crc32c

from appliance.chain.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GENERIC = b"\xb5\xee\x9c\x72"
_LEAN = b"\x68\xff\x65\xf3"
_LEAN_CHECKED = b"\xac\xc3\xa7\x28"
_HASH_AND_DEPTH = 34
_MAX_DEPTH = 1024

DEFAULT_MAX_BYTES = 1 << 16
DEFAULT_MAX_CELLS = 1 << 11


def decode_boc(data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_cells: int = DEFAULT_MAX_CELLS) -> Cell:
    """Read a bag with exactly one root.

    Args:
        data: The bag; every byte must belong to it.
        max_bytes: Largest accepted size.
        max_cells: Largest accepted number of cells.

    Raises:
        LayoutError: The bag is too large, malformed, or has another number of roots.
    """
    roots = decode_boc_roots(data, max_bytes=max_bytes, max_cells=max_cells, max_roots=1)
    return roots[0]


def decode_boc_roots(
    data: bytes,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
    max_cells: int = DEFAULT_MAX_CELLS,
    max_roots: int = 16,
) -> list[Cell]:
    """Read a bag with one to ``max_roots`` roots; see :func:`decode_boc`."""
    if len(data) > max_bytes:
        raise LayoutError(f"a bag of cells has {len(data)} bytes, expected at most {max_bytes}")
    head = _Bytes(data)
    magic = head.take(4)
    flags = head.byte()
    if magic == _GENERIC:
        has_index, has_checksum, has_cache_bits = bool(flags & 128), bool(flags & 64), bool(flags & 32)
        reserved = flags & 24
    elif magic in {_LEAN, _LEAN_CHECKED}:
        has_index, has_checksum, has_cache_bits, reserved = True, magic == _LEAN_CHECKED, False, flags & 248
    else:
        raise LayoutError(f"a bag of cells starts with {magic.hex()}, expected {_GENERIC.hex()}")
    size, offset_size = flags & 7, head.byte()
    if reserved or not 1 <= size <= 4 or not 1 <= offset_size <= 8 or (has_cache_bits and not has_index):
        raise LayoutError(
            f"a bag of cells has flags 0x{flags:02x} and offsets of {offset_size} bytes, which do not fit"
        )
    count, root_count, absent = head.uint(size), head.uint(size), head.uint(size)
    total = head.uint(offset_size)
    if absent or not 1 <= root_count <= min(max_roots, count) or count > max_cells:
        raise LayoutError(
            f"a bag of cells has {count} cells, {root_count} roots and {absent} absent cells, "
            f"expected at most {max_cells}, 1 to {max_roots} and 0"
        )
    roots = [head.uint(size) for _ in range(root_count)] if magic == _GENERIC else [0]
    if magic != _GENERIC and root_count != 1:
        raise LayoutError(f"a lean bag of cells has {root_count} roots, expected 1")
    index = [head.uint(offset_size) for _ in range(count)] if has_index else None
    payload = _Bytes(head.take(total))
    if has_checksum:
        expected = crc32c(data[: head.position])
        seen = head.take(4)
        if seen != expected:
            raise LayoutError(f"a bag of cells has checksum {seen.hex()}, expected {expected.hex()}")
    head.end()
    return _build(payload, count, size, roots, index, has_cache_bits=has_cache_bits)


def encode_boc(*roots: Cell) -> bytes:
    """Write a bag with these distinct roots: no index, no checksum, parents before children (section 6.6)."""
    order = list(_parents_first(roots))
    index = {cell.hash: position for position, cell in enumerate(order)}
    size = max(1, (len(order).bit_length() + 7) // 8)
    payload = bytearray()
    for cell in order:
        # The two descriptor bytes and the padded data are what pytoniq caches for hashing.
        payload += cell.get_descriptors(cell.level_mask)
        payload += cell.data
        for reference in cell.refs:
            payload += index[reference.hash].to_bytes(size, "big")
    offset_size = max(1, (len(payload).bit_length() + 7) // 8)
    head = _GENERIC + bytes([size, offset_size])
    head += len(order).to_bytes(size, "big") + len(roots).to_bytes(size, "big") + bytes(size)
    head += len(payload).to_bytes(offset_size, "big")
    head += b"".join(index[root.hash].to_bytes(size, "big") for root in roots)
    return head + bytes(payload)


def _parents_first(roots: tuple[Cell, ...]) -> Iterator[Cell]:
    """Every distinct cell once, each before all cells it refers to; the order in which TON's own writer starts."""
    finished: list[Cell] = []
    seen: set[bytes] = set()
    for root in roots:
        stack: list[tuple[Cell, bool]] = [(root, False)]
        while stack:
            cell, expanded = stack.pop()
            if expanded:
                finished.append(cell)
            elif cell.hash not in seen:
                seen.add(cell.hash)
                stack.append((cell, True))
                stack.extend((reference, False) for reference in reversed(cell.refs))
    yield from reversed(finished)


class _Bytes:
    """A cursor over bytes that never runs over the end."""

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise LayoutError(f"a bag of cells ends at byte {len(self._data)}, expected at least {end}")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def uint(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def end(self) -> None:
        if self.position != len(self._data):
            raise LayoutError(
                f"a bag of cells has {len(self._data) - self.position} bytes after its end, expected none"
            )


def _build(
    payload: _Bytes, count: int, size: int, roots: list[int], index: list[int] | None, *, has_cache_bits: bool
) -> list[Cell]:
    raw: list[tuple[int, bitarray, list[int]]] = []
    for position in range(count):
        raw.append(_raw_cell(payload, position, count, size))
        if index is not None and index[position] >> has_cache_bits != payload.position:
            raise LayoutError(f"the index of a bag of cells says that cell {position} ends at another byte")
    payload.end()
    built: list[Cell | None] = [None] * count
    for position in range(count - 1, -1, -1):
        descriptor, bits, references = raw[position]
        # References point forwards only, so they are built already.
        built[position] = _cell(descriptor, bits, [cast("Cell", built[i]) for i in references])
    if any(root >= count for root in roots):
        raise LayoutError(f"a bag of cells of {count} cells names a root beyond its end")
    return [cast("Cell", built[root]) for root in roots]


def _raw_cell(payload: _Bytes, position: int, count: int, size: int) -> tuple[int, bitarray, list[int]]:
    descriptor, bits_descriptor = payload.byte(), payload.byte()
    reference_count = descriptor & 7
    if reference_count > 4:
        raise LayoutError(f"cell {position} of a bag has descriptor 0x{descriptor:02x}: absent or too many references")
    if descriptor & 16:  # the cell carries its hashes and depths; they are computed afresh instead
        payload.take(_HASH_AND_DEPTH * ((descriptor >> 5).bit_count() + 1))
    data = payload.take((bits_descriptor + 1) // 2)
    bits = bitarray()
    bits.frombytes(data)
    if bits_descriptor & 1:
        if not data[-1] & 0x7F:
            raise LayoutError(f"cell {position} of a bag has an overlong encoding of its bits")
        while not bits.pop():
            pass
    references = [payload.uint(size) for _ in range(reference_count)]
    if any(not position < reference < count for reference in references):
        raise LayoutError(f"cell {position} of a bag refers to a cell that does not follow it")
    return descriptor, bits, references


def _cell(descriptor: int, bits: bitarray, references: list[Cell]) -> Cell:
    kind = CellTypes.ordinary
    if descriptor & 8:
        kind = _checked_kind(bits, references)
    content = TvmBitarray(1023)
    content.extend(bits)
    try:
        cell = Cell(content, references, kind)
    except CellError as error:  # deeper than 1024
        raise LayoutError(
            f"a bag of cells has an impossible cell: {error}", hint=f"depth limit {_MAX_DEPTH}"
        ) from error
    if cell.level_mask.mask != descriptor >> 5:
        raise LayoutError(f"a cell of a bag states level mask {descriptor >> 5}, expected {cell.level_mask.mask}")
    return cell


def _checked_kind(bits: bitarray, references: list[Cell]) -> int:
    """The type of an exotic cell whose shape is right (TVM paper, 3.1.7); Merkle cells must tell the truth."""
    data = bits.tobytes()
    kind = data[0] if len(bits) >= 8 else 0
    mask = data[1] if kind == CellTypes.pruned_branch and len(bits) >= 16 else 0
    shapes = {
        CellTypes.pruned_branch: (16 + mask.bit_count() * 272, 0),
        CellTypes.library_ref: (264, 0),
        CellTypes.merkle_proof: (280, 1),
        CellTypes.merkle_update: (552, 2),
    }
    if shapes.get(kind) != (len(bits), len(references)) or (kind == CellTypes.pruned_branch and not 1 <= mask <= 7):
        raise LayoutError(
            f"an exotic cell of type {kind} has {len(bits)} bits and {len(references)} references, which do not fit"
        )
    if kind in {CellTypes.merkle_proof, CellTypes.merkle_update}:
        stated = len(references)
        for number, reference in enumerate(references):
            seen = data[1 + 32 * number : 33 + 32 * number]
            depth_at = 1 + 32 * stated + 2 * number
            depth = int.from_bytes(data[depth_at : depth_at + 2], "big")
            if seen != reference.get_hash(0) or depth != reference.get_depth(0):
                raise LayoutError(f"a Merkle cell states hash {seen.hex()}, expected {reference.get_hash(0).hex()}")
    return int(kind)
