"""Strict cells, bags of cells and addresses: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import base64
import binascii
import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.hashmap.hashmap import HashMap
from pytoniq_core.boc.tvm_bitarray import TvmBitarray

from appliance.chain.addresses import Address, parse_friendly
from appliance.chain.boc import decode_boc, decode_boc_roots, encode_boc
from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.errors import AddressError, LayoutError

addresses = st.builds(Address, st.integers(-128, 127), st.binary(min_size=32, max_size=32))


def exotic(data: bytes, references: list[Cell], kind: int) -> Cell:
    bits = TvmBitarray(1023)
    bits.frombytes(data)
    return Cell(bits, references, kind)


@st.composite
def cells(draw: st.DrawFn, depth: int = 4) -> Cell:
    writer = Writer("cell")
    bits = draw(st.integers(0, 1023))
    writer.uint(draw(st.integers(0, (1 << bits) - 1)), bits)
    if depth:
        for child in draw(st.lists(cells(depth=depth - 1), max_size=2)):
            writer.ref(child)
    return writer.end()


# --- addresses


@given(addresses, st.booleans(), st.booleans())
def test_addresses_are_read_back(address: Address, bounceable: bool, testnet: bool) -> None:
    text = address.friendly(bounceable=bounceable, testnet=testnet)
    parsed = parse_friendly(text)
    assert (parsed.address, parsed.bounceable, parsed.testnet) == (address, bounceable, testnet)
    assert Address.parse(text) == Address.parse(address.raw()) == address
    assert Address.parse(base64.b64encode(base64.urlsafe_b64decode(text)).decode()) == address
    assert Address.of(address.to_cell_address()) == address


@given(addresses, st.integers(0, 47), st.integers(1, 63))
def test_a_changed_character_is_noticed(address: Address, position: int, change: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = address.friendly()
    other = alphabet[(alphabet.index(text[position]) + change) % 64]
    with pytest.raises(AddressError):
        Address.parse(text[:position] + other + text[position + 1 :])
    assert Address.parse(text) == address


@given(st.text(max_size=60))
@example("0:" + "0" * 63)
@example("128:" + "0" * 64)
@example("-0129:" + "0" * 64)
@example("０:" + "0" * 64)
@example("A" * 48)
def test_other_texts_are_no_addresses(text: str) -> None:
    with contextlib.suppress(AddressError):
        address = Address.parse(text)
        assert len(text) == 48 or text.count(":") == 1
        assert len(address.hash) == 32


def test_unknown_tag_is_refused() -> None:
    body = b"\x12" + bytes(33)
    text = base64.urlsafe_b64encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "big")).decode()
    with pytest.raises(AddressError, match="tag 0x12"):
        Address.parse(text)
    body = b"\x11" + bytes(33)
    assert Address.parse(base64.urlsafe_b64encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "big")).decode())


@pytest.mark.parametrize(("workchain", "size"), [(128, 32), (-129, 32), (0, 31), (0, 33)])
def test_impossible_addresses(workchain: int, size: int) -> None:
    with pytest.raises(AddressError):
        Address(workchain, bytes(size))


# --- bags of cells


@settings(max_examples=60)
@given(cells())
def test_bags_are_read_back_as_pytoniq_reads_them(cell: Cell) -> None:
    data = encode_boc(cell)
    assert decode_boc(data).hash == cell.hash == Cell.one_from_boc(data).hash
    assert decode_boc(cell.to_boc()).hash == cell.hash
    assert decode_boc(cell.to_boc(hash_crc32=True)).hash == cell.hash


@settings(max_examples=60)
@given(st.lists(cells(depth=2), min_size=1, max_size=4, unique_by=lambda cell: cell.hash))
def test_bags_with_several_roots(roots: list[Cell]) -> None:
    assert [cell.hash for cell in decode_boc_roots(encode_boc(*roots))] == [cell.hash for cell in roots]


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_cell_or_a_layout_error(data: bytes) -> None:
    for each in (data, b"\xb5\xee\x9c\x72" + data, b"\xb5\xee\x9c\x72\x01\x01" + data, b"\x68\xff\x65\xf3" + data):
        with contextlib.suppress(LayoutError):
            assert decode_boc(each).hash


@settings(max_examples=200)
@given(cells(depth=2), st.data())
def test_changed_bags_never_break_the_reader(cell: Cell, data: st.DataObject) -> None:
    raw = bytearray(encode_boc(cell))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    try:
        read = decode_boc(bytes(raw))
    except LayoutError:
        return
    assert read.hash != cell.hash or bytes(raw) != encode_boc(cell)


@given(cells(depth=1), st.binary(min_size=1, max_size=5))
def test_bytes_after_the_bag_are_refused(cell: Cell, rest: bytes) -> None:
    assert decode_boc(encode_boc(cell))
    with pytest.raises(LayoutError, match="after its end"):
        decode_boc(encode_boc(cell) + rest)


def test_shared_cells_cost_nothing() -> None:
    """Thirty levels of four references to the same cell: 4^30 paths, 31 cells."""
    cell = empty_cell()
    for _ in range(30):
        cell = Writer("w").ref(cell).ref(cell).ref(cell).ref(cell).end()
    data = encode_boc(cell)
    assert len(data) < 400
    assert decode_boc(data).hash == cell.hash


def test_depth_is_bounded() -> None:
    cell = empty_cell()
    for _ in range(1023):
        cell = Writer("w").ref(cell).end()
    assert decode_boc(encode_boc(cell)).hash == cell.hash
    deep = bytearray()
    for number in range(1200):
        deep += b"\x01\x00" + (number + 1).to_bytes(2, "big")
    deep += b"\x00\x00"
    head = b"\xb5\xee\x9c\x72\x02\x02" + (1201).to_bytes(2, "big") + b"\x00\x01\x00\x00"
    with pytest.raises(LayoutError, match="impossible cell"):
        decode_boc(head + len(deep).to_bytes(2, "big") + b"\x00\x00" + bytes(deep))


def test_bounds() -> None:
    data = encode_boc(Writer("w").ref(Writer("x").uint(1, 8).end()).end())
    assert decode_boc(data, max_bytes=len(data), max_cells=2)
    with pytest.raises(LayoutError, match="bytes"):
        decode_boc(data, max_bytes=len(data) - 1)
    with pytest.raises(LayoutError, match="2 cells"):
        decode_boc(data, max_cells=1)
    with pytest.raises(LayoutError, match="2 roots"):
        decode_boc(encode_boc(empty_cell(), Writer("x").uint(1, 8).end()))


MAGIC = "b5ee9c72"


@pytest.mark.parametrize(
    ("bag", "reason"),
    [
        (MAGIC + "0101" + "010100" + "02" + "00" + "00", "ends at byte"),
        (MAGIC + "0101" + "010100" + "02" + "00" + "0000" + "00", "after its end"),
        (MAGIC + "0101" + "010100" + "03" + "00" + "0000" + "00", "after its end"),
        (MAGIC + "0101" + "010100" + "03" + "00" + "0100" + "00", "does not follow"),  # refers to itself
        (MAGIC + "0101" + "010100" + "03" + "00" + "0100" + "01", "does not follow"),
        (MAGIC + "0101" + "010100" + "02" + "00" + "0500", "too many references"),
        (MAGIC + "0101" + "010100" + "02" + "00" + "1700", "absent"),
        (MAGIC + "0101" + "010100" + "03" + "00" + "0001" + "80", "overlong"),
        (MAGIC + "0101" + "010100" + "03" + "00" + "0001" + "00", "overlong"),
        (MAGIC + "0101" + "010100" + "02" + "05" + "0000", "beyond its end"),
        (MAGIC + "0101" + "010101" + "02" + "00" + "0000", "absent"),
        (MAGIC + "0101" + "010000" + "02" + "0000", "0 roots"),
        (MAGIC + "0901" + "010100" + "02" + "00" + "0000", "do not fit"),
        (MAGIC + "0001" + "010100" + "02" + "00" + "0000", "do not fit"),
        (MAGIC + "0109" + "010100" + "02" + "00" + "0000", "do not fit"),
        (MAGIC + "0101" + "010100" + "03" + "00" + "0802" + "07", "exotic"),
        (MAGIC + "0101" + "010100" + "02" + "00" + "0800", "exotic"),
        (MAGIC + "0101" + "010100" + "02" + "00" + "2000", "level mask"),
        ("00000000", "ends at byte"),
        ("0000000001", "starts with"),
    ],
)
def test_malformed_bags(bag: str, reason: str) -> None:
    with pytest.raises(LayoutError, match=reason):
        decode_boc(bytes.fromhex(bag))
    assert decode_boc(bytes.fromhex(MAGIC + "0101" + "010100" + "02" + "00" + "0000")) == empty_cell()


def test_checksum() -> None:
    good = Writer("w").uint(1, 8).end().to_boc(hash_crc32=True)
    assert decode_boc(good).bits.to01() == "00000001"
    with pytest.raises(LayoutError, match="checksum"):
        decode_boc(good[:-1] + bytes([good[-1] ^ 1]))


@pytest.mark.parametrize(("head", "root"), [(MAGIC + "81", "00"), ("68ff65f3" + "01", "")])
def test_index(head: str, root: str) -> None:
    """Two cells of three and two bytes end at bytes 3 and 5, in the generic form and in the lean one."""
    tail = "0100" + "01" + "0000"
    assert decode_boc(bytes.fromhex(head + "01" + "020100" + "05" + root + "0305" + tail)).refs == [empty_cell()]
    for index in ("0304", "0205", "0302", "0000"):
        with pytest.raises(LayoutError, match="index"):
            decode_boc(bytes.fromhex(head + "01" + "020100" + "05" + root + index + tail))


def test_index_with_cache_bits() -> None:
    """The lowest bit of each entry says whether the cell is worth caching."""
    tail = "0100" + "01" + "0000"
    assert decode_boc(bytes.fromhex(MAGIC + "a101" + "020100" + "05" + "00" + "070a" + tail)).refs == [empty_cell()]
    with pytest.raises(LayoutError, match="do not fit"):
        decode_boc(bytes.fromhex(MAGIC + "2101" + "020100" + "05" + "00" + tail))


def test_merkle_cells_must_tell_the_truth() -> None:
    inside = Writer("x").uint(1, 8).ref(empty_cell()).end()
    honest = exotic(b"\x03" + inside.hash + (1).to_bytes(2, "big"), [inside], 3)
    assert decode_boc(encode_boc(honest)).refs[0].hash == inside.hash
    for data in (b"\x03" + bytes(32) + (1).to_bytes(2, "big"), b"\x03" + inside.hash + (2).to_bytes(2, "big")):
        with pytest.raises(LayoutError, match="Merkle"):
            decode_boc(encode_boc(exotic(data, [inside], 3)))


def test_pruned_branches_keep_their_level() -> None:
    pruned = exotic(b"\x01\x01" + b"h" * 32 + (3).to_bytes(2, "big"), [], 1)
    whole = Writer("w").ref(pruned).end()
    read = decode_boc(encode_boc(whole))
    assert (read.hash, read.get_hash(0), read.level_mask.mask) == (whole.hash, whole.get_hash(0), 1)


# --- reading and writing


@given(addresses, st.integers(0, (1 << 64) - 1), st.booleans(), st.integers(-(1 << 31), (1 << 31) - 1))
def test_values_are_read_back(address: Address, amount: int, flag: bool, number: int) -> None:
    cell = (
        Writer("w").address(address).address(None).coins(amount).flag(flag).sint(number, 32).maybe_ref(None)
    ).maybe_ref(empty_cell())
    reader = Reader(cell.end(), "w")
    assert reader.address() == address
    assert reader.maybe_address() is None
    assert (reader.coins(), reader.flag(), reader.sint(32)) == (amount, flag, number)
    assert (reader.maybe_ref(), reader.maybe_ref()) == (None, empty_cell())
    reader.end()


def test_coins_are_bounded_and_minimal() -> None:
    assert Reader(Writer("w").uint(8, 4).uint((1 << 64) - 1, 64).end(), "w").coins() == (1 << 64) - 1
    with pytest.raises(LayoutError, match="at most 8"):
        Reader(Writer("w").uint(9, 4).uint(1 << 64, 72).end(), "w").coins()
    with pytest.raises(LayoutError, match="leading zero"):
        Reader(Writer("w").uint(2, 4).uint(255, 16).end(), "w").coins()
    with pytest.raises(LayoutError):
        Writer("w").coins(1 << 64)
    with pytest.raises(LayoutError):
        Writer("w").coins(-1)


@pytest.mark.parametrize("head", ["01", "11", "101"])
def test_other_addresses_are_refused(head: str) -> None:
    tail = Writer("w").uint(int(head, 2), len(head)).raw(bytes(40), 40).end()
    with pytest.raises(LayoutError, match=r"addr_std|kind"):
        Reader(tail, "w").address()
    with pytest.raises(LayoutError, match="empty address"):
        Reader(Writer("w").uint(0, 2).end(), "w").address()
    assert Reader(Writer("w").address(Address(0, bytes(32))).end(), "w").address()


def test_reader_never_runs_over_the_end() -> None:
    cell = Writer("w").uint(5, 3).ref(empty_cell()).end()
    with pytest.raises(LayoutError, match="3 bits left"):
        Reader(cell, "w").uint(4)
    reader = Reader(cell, "w")
    reader.ref()
    with pytest.raises(LayoutError, match="no reference left"):
        reader.ref()
    with pytest.raises(LayoutError, match="3 bits and 0 references"):
        reader.end()
    assert reader.uint(3) == 5
    reader.end()


def test_writer_is_bounded() -> None:
    full = Writer("w").uint(0, 1023)
    with pytest.raises(LayoutError, match="1024 bits"):
        full.uint(0, 1)
    writer = Writer("w")
    for _ in range(4):
        writer.ref(empty_cell())
    with pytest.raises(LayoutError, match="five references"):
        writer.ref(empty_cell())
    for bad in (lambda: Writer("w").uint(8, 3), lambda: Writer("w").uint(-1, 3), lambda: Writer("w").sint(4, 3)):
        with pytest.raises(LayoutError):
            bad()
    with pytest.raises(LayoutError, match="2 bytes"):
        Writer("w").raw(b"ab", 3)
    assert full.end().hash != writer.end().hash


def test_exotic_cells_are_not_read() -> None:
    pruned = exotic(b"\x01\x01" + bytes(34), [], 1)
    with pytest.raises(LayoutError, match="exotic"):
        Reader(pruned, "account")


# --- dictionaries


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, (1 << 32) - 1), st.integers(0, 255), max_size=40))
def test_dictionaries_are_read_back(values: dict[int, int]) -> None:
    cell = Writer("w").dictionary({key: Writer("v").uint(value, 8).end() for key, value in values.items()}, 32).end()
    reader = Reader(cell, "w")
    assert reader.dictionary(32, lambda leaf: leaf.uint(8)) == values
    reader.end()
    table = HashMap(32).with_uint_values(8)
    for key, value in values.items():
        table.set_int_key(key, value)
    assert cell == Writer("w").maybe_ref(table.serialize()).end()


def in_dictionary(root: Cell) -> Reader:
    return Reader(Writer("w").maybe_ref(root).end(), "w")


def test_dictionary_bounds() -> None:
    values = {key: empty_cell() for key in range(9)}
    cell = Writer("w").dictionary(values, 8).end()
    assert len(Reader(cell, "w").dictionary(8, lambda _: None, max_entries=9)) == 9
    with pytest.raises(LayoutError, match="more than 8"):
        Reader(cell, "w").dictionary(8, lambda _: None, max_entries=8)
    with pytest.raises(LayoutError, match="8-bit"):
        Writer("w").dictionary({256: empty_cell()}, 8)


def test_shared_branches_do_not_explode() -> None:
    """Every branch is the same cell: 2^256 keys in 257 cells."""
    cell = Writer("leaf").uint(0, 2).end()
    for _ in range(64):
        cell = Writer("fork").uint(0, 2).ref(cell).ref(cell).end()
    with pytest.raises(LayoutError, match="more than 100"):
        in_dictionary(cell).dictionary(64, lambda _: None, max_entries=100)


@pytest.mark.parametrize(
    "root",
    [
        Writer("label longer than the key").uint(0b10, 2).uint(9, 4).uint(0, 9).end(),
        Writer("same, too long").uint(0b110, 3).uint(15, 4).end(),
        Writer("short, too long").uint(0b0_111111111_0, 11).uint(0, 9).end(),
        Writer("no end of the length").uint(0b0_11, 3).end(),
        Writer("a leaf with a rest").uint(0b10, 2).uint(8, 4).uint(7, 8).uint(0, 1).end(),
        Writer("a fork with one branch").uint(0, 2).ref(empty_cell()).end(),
        Writer("nothing").end(),
    ],
)
def test_malformed_dictionaries(root: Cell) -> None:
    with pytest.raises(LayoutError):
        in_dictionary(root).dictionary(8, lambda _: None)
    good = Writer("leaf").uint(0b10, 2).uint(8, 4).uint(7, 8).end()
    assert in_dictionary(good).dictionary(8, lambda _: None) == {7: None}


def test_fork_with_a_rest() -> None:
    leaf = Writer("leaf").uint(0b10, 2).uint(7, 3).uint(7, 7).end()
    fork = Writer("fork").uint(0, 2).ref(leaf).ref(leaf)
    assert in_dictionary(fork.end()).dictionary(8, lambda _: None) == {7: None, 135: None}
    with pytest.raises(LayoutError, match="are left"):
        in_dictionary(fork.uint(0, 1).end()).dictionary(8, lambda _: None)
