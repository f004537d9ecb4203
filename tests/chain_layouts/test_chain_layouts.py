"""Contract data, messages and signed payments: round trips, strictness, and what depends on what."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.chain import layouts, messages
from appliance.chain.addresses import Address
from appliance.chain.boc import encode_boc
from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.contracts import load
from appliance.chain.envelopes import OutgoingMessage, WalletRequest, external_message
from appliance.chain.errors import LayoutError, SignatureError
from appliance.chain.layouts import (
    DEFAULT_MULTIPLIER,
    DEFAULT_STAKE,
    Params,
    RegisteredProxy,
    RootState,
    build_root,
    parse_root,
)
from appliance.chain.messages import Op, ProxyTextCodec
from appliance.chain.signed import (
    CLOSE_OPS,
    MAX_PAYMENT_BYTES,
    PAYMENT_OPS,
    close_from_cell,
    parse_payment,
    payment_from_cell,
    sign_close,
    sign_payment,
)
from appliance.chain.stateinit import StateInit, client_address, proxy_address, wallet_address, worker_address
from appliance.chain.structs import (
    AddressCodec,
    BoolCodec,
    BytesCodec,
    CoinsCodec,
    MaybeRefCodec,
    NestedCodec,
    RefCodec,
    Struct,
    UintCodec,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC, OTHER_PUBLIC = KEY.public_key().public_bytes_raw(), OTHER_KEY.public_key().public_bytes_raw()
HERE, THERE = Address(0, b"\x01" * 32), Address(0, b"\x02" * 32)

addresses = st.builds(Address, st.integers(-128, 127), st.binary(min_size=32, max_size=32))
hashes = st.binary(min_size=32, max_size=32)
coins = st.integers(0, (1 << 64) - 1)
small_cells = st.builds(lambda value: Writer("c").uint(value, 32).end(), st.integers(0, (1 << 32) - 1))


def strategy(codec: Any) -> st.SearchStrategy[Any]:
    """Values of one declared field."""
    simple = {
        BoolCodec: st.booleans(),
        CoinsCodec: coins,
        AddressCodec: addresses,
        RefCodec: small_cells,
        MaybeRefCodec: st.none() | small_cells,
        ProxyTextCodec: st.text(st.characters(max_codepoint=127), max_size=100),
    }
    if isinstance(codec, UintCodec):
        return st.integers(0, (1 << codec.size) - 1)
    if isinstance(codec, BytesCodec):
        return st.binary(min_size=codec.size, max_size=codec.size)
    if isinstance(codec, NestedCodec):
        return structs(codec.kind)
    return simple[type(codec)]


def structs(kind: type[Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    parts = {each.name: strategy(typing.get_args(hints[each.name])[1]) for each in dataclasses.fields(kind)}
    return st.builds(kind, **parts)


KINDS = sorted(
    {
        each
        for module in (layouts, messages)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Struct) and each is not Struct
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(data=st.data())
def test_structures_are_read_back_and_strict(kind: type[Struct], data: st.DataObject) -> None:
    value = data.draw(structs(kind))
    cell = value.to_cell()
    assert kind.from_cell(cell) == value
    with pytest.raises(LayoutError, match="are left"):
        kind.from_cell(Writer("long").inline(cell).uint(0, 1).end())
    if len(cell.refs) < 4:
        with pytest.raises(LayoutError):
            kind.from_cell(Writer("long").inline(cell).ref(empty_cell()).end())
    reader = Reader(cell, "short")
    short = Writer("short").bits(reader.bits(len(cell.bits) - 1))
    for reference in cell.refs:
        short.ref(reference)
    with pytest.raises(LayoutError):
        kind.from_cell(short.end())
    if kind.TAG is not None:
        assert Reader(cell, "op").uint(32) == kind.TAG[0]
        other = Writer("other").uint(kind.TAG[0] ^ 1, 32)
        with pytest.raises(LayoutError, match="operation"):
            kind.from_cell(other.bits(reader_rest(cell)).end())


def reader_rest(cell: Any) -> Any:
    reader = Reader(cell, "rest")
    reader.uint(32)
    return reader.bits(reader.bits_left)


def test_every_operation_has_its_message() -> None:
    with_message = {kind.TAG[0] for kind in KINDS if kind.TAG is not None}
    assert len(with_message) == len([kind for kind in KINDS if kind.TAG is not None])
    assert set(Op) - with_message == PAYMENT_OPS | CLOSE_OPS | {Op.DO_NOT_PROCESS}


def test_values_that_do_not_fit_are_refused() -> None:
    good = messages.ClientTopUp(1, 2, HERE)
    assert good.to_cell()
    for bad in (
        dataclasses.replace(good, query_id=1 << 64),
        dataclasses.replace(good, query_id=-1),
        dataclasses.replace(good, amount=1 << 64),
        messages.ClientChangeSecret(1, b"short", HERE),
    ):
        with pytest.raises(LayoutError):
            bad.to_cell()


# --- parameters and the root


@st.composite
def params(draw: st.DrawFn) -> Params:
    version = draw(st.integers(0, 3))
    number = st.integers(0, (1 << 32) - 1)

    def since(first: int, default: int, values: st.SearchStrategy[int]) -> int:
        return draw(values) if version >= first else default

    return Params(
        struct_version=version,
        params_version=draw(number),
        unique_id=draw(number),
        is_test=draw(st.booleans()),
        price_per_token=draw(coins),
        worker_fee_per_token=draw(coins),
        prompt_tokens_price_multiplier=since(3, DEFAULT_MULTIPLIER, number),
        cached_tokens_price_multiplier=since(2, DEFAULT_MULTIPLIER, number),
        completion_tokens_price_multiplier=since(3, DEFAULT_MULTIPLIER, number),
        reasoning_tokens_price_multiplier=since(2, DEFAULT_MULTIPLIER, number),
        proxy_delay_before_close=draw(number),
        client_delay_before_close=draw(number),
        min_proxy_stake=since(1, DEFAULT_STAKE, coins),
        min_client_stake=since(1, DEFAULT_STAKE, coins),
        proxy_code=draw(st.none() | small_cells),
        worker_code=draw(st.none() | small_cells),
        client_code=draw(st.none() | small_cells),
    )


@given(params())
def test_parameters_are_read_back(value: Params) -> None:
    assert Params.from_cell(value.to_cell()) == value
    assert Params.from_cell(value.for_peer().to_cell()) == value.for_peer()
    with pytest.raises(LayoutError):
        Params.from_cell(Writer("long").inline(value.to_cell()).uint(0, 1).end())


SAMPLE = Params(7, 42, False, 20, 17, 86_400, 43_200)


def test_unknown_and_unwritable_versions() -> None:
    with pytest.raises(LayoutError, match="struct_version 4"):
        dataclasses.replace(SAMPLE, struct_version=4).to_cell()
    reader = Reader(SAMPLE.to_cell(), "params")
    reader.uint(8)
    with pytest.raises(LayoutError, match="struct_version 4") as caught:
        Params.from_cell(Writer("params").uint(4, 8).inline(reader.rest()).end())
    assert "update" in caught.value.hint
    with pytest.raises(LayoutError, match="version 1 has no cached_tokens_price_multiplier"):
        dataclasses.replace(SAMPLE, struct_version=1, cached_tokens_price_multiplier=1).to_cell()
    with pytest.raises(LayoutError, match="version 0 has no min_client_stake"):
        dataclasses.replace(SAMPLE, struct_version=0, min_client_stake=1).to_cell()
    assert dataclasses.replace(SAMPLE, struct_version=0).to_cell()


texts = st.sampled_from(["203.0.113.7:11001", "203.0.113.7:11001 203.0.113.8:11002", "[::1]:5", "h:65535"])


@settings(max_examples=50)
@given(
    st.frozensets(hashes, max_size=5),
    st.frozensets(hashes, max_size=5),
    st.frozensets(hashes, max_size=5),
    st.dictionaries(st.integers(0, (1 << 32) - 1), texts, max_size=4),
)
def test_root_states_are_read_back(
    proxies: frozenset[bytes], workers: frozenset[bytes], models: frozenset[bytes], registered: dict[int, str]
) -> None:
    state = RootState(
        owner=HERE,
        version=9,
        proxy_hashes=proxies,
        registered_proxies=tuple(RegisteredProxy.of(seqno, text) for seqno, text in sorted(registered.items())),
        last_proxy_seqno=3,
        worker_hashes=workers,
        model_hashes=models,
        params=SAMPLE,
    )
    assert parse_root(build_root(state)) == state


def root_with(entry: Writer) -> Any:
    data = Writer("data").uint(0, 1).dictionary({5: entry.end()}, 32).uint(5, 32).uint(0, 1).uint(0, 1).end()
    return Writer("root").address(HERE).uint(1, 32).ref(data).ref(SAMPLE.to_cell()).end()


@pytest.mark.parametrize(
    "entry",
    [
        Writer("another type").uint(1, 1).uint(3, 7).raw(b"abcd", 4),
        Writer("another type with references").uint(1, 1).ref(empty_cell()),
        Writer("no address").uint(0, 1).uint(3, 7).raw(b"abc", 3),
        Writer("no port").uint(0, 1).uint(4, 7).raw(b"a:0b", 4),
        Writer("three").uint(0, 1).uint(11, 7).raw(b"a:1 b:2 c:3", 11),
        Writer("not ASCII").uint(0, 1).uint(4, 7).raw("é:1".encode(), 4),
        Writer("port").uint(0, 1).uint(7, 7).raw(b"a:65536", 7),
    ],
)
def test_odd_proxies_are_skipped_as_the_runners_do(entry: Writer) -> None:
    assert parse_root(root_with(entry)).registered_proxies == ()
    good = parse_root(root_with(Writer("good").uint(0, 1).uint(5, 7).raw(b"a:123", 5)))
    assert good.registered_proxies == (RegisteredProxy(5, "a:123", "a:123", "a:123"),)


@pytest.mark.parametrize(
    "entry",
    [Writer("long").uint(0, 1).uint(3, 7).raw(b"a:1x", 4), Writer("short").uint(0, 1).uint(9, 7).raw(b"a:1", 3)],
)
def test_proxies_of_the_wrong_length_are_an_error(entry: Writer) -> None:
    with pytest.raises(LayoutError):
        parse_root(root_with(entry))


def test_rests_in_the_root_are_errors() -> None:
    good = root_with(Writer("good").uint(0, 1).uint(5, 7).raw(b"a:123", 5))
    assert parse_root(good).version == 1
    with pytest.raises(LayoutError):
        parse_root(Writer("root").inline(good).uint(0, 1).end())
    data, parameters = good.refs
    head = Writer("root").address(HERE).uint(1, 32)
    with pytest.raises(LayoutError):
        parse_root(head.ref(Writer("data").inline(data).uint(0, 1).end()).ref(parameters).end())


# --- addresses


def test_addresses_depend_on_everything() -> None:
    codes = load()
    base = dataclasses.replace(SAMPLE, proxy_code=codes.proxy, worker_code=codes.worker, client_code=codes.client)
    other = dataclasses.replace(base, price_per_token=21)
    proxies = {
        proxy_address(root, each, owner, key)
        for root, each, owner, key in (
            (HERE, base, THERE, PUBLIC),
            (THERE, base, THERE, PUBLIC),
            (HERE, other, THERE, PUBLIC),
            (HERE, base, HERE, PUBLIC),
            (HERE, base, THERE, OTHER_PUBLIC),
        )
    }
    peers = {
        derive(each, owner, proxy, key)
        for derive in (worker_address, client_address)
        for each, owner, proxy, key in (
            (base, HERE, THERE, PUBLIC),
            (other, HERE, THERE, PUBLIC),
            (base, THERE, THERE, PUBLIC),
            (base, HERE, HERE, PUBLIC),
            (base, HERE, THERE, OTHER_PUBLIC),
        )
    }
    wallets = {
        wallet_address(codes.wallet, owner, key, subwallet=number)
        for owner, key, number in ((HERE, PUBLIC, 0), (THERE, PUBLIC, 0), (HERE, OTHER_PUBLIC, 0), (HERE, PUBLIC, 1))
    }
    assert (len(proxies), len(peers), len(wallets)) == (5, 10, 4)


@pytest.mark.parametrize(("derive", "kind"), [(worker_address, "worker"), (client_address, "client")])
def test_addresses_need_the_code(derive: Any, kind: str) -> None:
    with pytest.raises(LayoutError, match=f"no {kind} code"):
        derive(SAMPLE, HERE, THERE, PUBLIC)
    with pytest.raises(LayoutError, match="no proxy code"):
        proxy_address(HERE, SAMPLE, THERE, PUBLIC)
    coded = dataclasses.replace(SAMPLE, **{f"{kind}_code": empty_cell()})
    assert derive(coded, HERE, THERE, PUBLIC)


def test_state_init_is_strict() -> None:
    state = StateInit(empty_cell(), empty_cell())
    assert StateInit.from_cell(state.to_cell()) == state
    with pytest.raises(LayoutError):
        StateInit.from_cell(Writer("s").inline(state.to_cell()).uint(0, 1).end())


# --- signed messages


@given(st.sampled_from(sorted(PAYMENT_OPS)), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), addresses)
def test_payments_verify(op: Op, query_id: int, tokens: int, excesses: Address) -> None:
    payment = sign_payment(KEY, op, query_id, tokens, HERE, excesses)
    read = parse_payment(payment.to_boc(), op=op)
    assert read == payment
    read.verify(PUBLIC, HERE)
    moved = read.with_excesses(THERE)
    assert moved.send_excesses_to == THERE
    moved.verify(PUBLIC, HERE)
    for key, contract in ((OTHER_PUBLIC, HERE), (PUBLIC, THERE), (b"short", HERE)):
        with pytest.raises(SignatureError):
            read.verify(key, contract)
    for changed in (
        dataclasses.replace(read, tokens=tokens ^ 1),
        dataclasses.replace(read, query_id=query_id ^ 1),
        dataclasses.replace(read, signature=bytes(64)),
        dataclasses.replace(read, op=next(other for other in PAYMENT_OPS if other != op)),
    ):
        with pytest.raises(SignatureError):
            changed.verify(PUBLIC, HERE)
    for other in PAYMENT_OPS - {op}:
        with pytest.raises(LayoutError, match="operation"):
            parse_payment(payment.to_boc(), op=other)


@pytest.mark.parametrize("op", sorted(CLOSE_OPS))
def test_orders_to_close(op: Op) -> None:
    order = sign_close(KEY, op, 5, HERE, THERE)
    read = close_from_cell(order.to_cell(), op=op)
    assert read == order
    read.verify(PUBLIC, HERE)
    with pytest.raises(SignatureError):
        read.verify(PUBLIC, THERE)
    with pytest.raises(LayoutError):
        payment_from_cell(order.to_cell(), op=Op.WORKER_PAYOUT)


@pytest.mark.parametrize("op", [0, Op.PROXY_CLOSE, Op.WORKER_REGISTER])
def test_only_payments_are_signed_as_payments(op: int) -> None:
    with pytest.raises(LayoutError, match="expected one of"):
        sign_payment(KEY, op, 1, 2, HERE, THERE)
    with pytest.raises(LayoutError, match="expected one of"):
        parse_payment(sign_payment(KEY, Op.WORKER_PAYOUT, 1, 2, HERE, THERE).to_boc(), op=op)


def test_inner_and_outer_part_must_agree() -> None:
    payment = sign_payment(KEY, Op.WORKER_PAYOUT, 7, 2, HERE, THERE)
    cell = payment.to_cell()
    assert payment_from_cell(cell, op=Op.WORKER_PAYOUT) == payment
    reader = Reader(cell, "outer")
    reader.uint(96)
    rest = reader.bits(reader.bits_left)
    for op, query_id in ((Op.WORKER_PAYOUT, 8), (Op.WORKER_LAST_PAYOUT, 7)):
        body = Writer("o").uint(op, 32).uint(query_id, 64).bits(rest).ref(cell.refs[0]).end()
        with pytest.raises(LayoutError):
            payment_from_cell(body, op=op)


def test_payments_are_bounded() -> None:
    payment = sign_payment(KEY, Op.WORKER_PAYOUT, 7, 2, HERE, THERE)
    assert len(payment.to_boc()) < 200
    with pytest.raises(LayoutError, match="at most"):
        parse_payment(bytes(MAX_PAYMENT_BYTES + 1), op=Op.WORKER_PAYOUT)
    big = Writer("o").inline(payment.to_cell()).ref(empty_cell()).end()
    with pytest.raises(LayoutError):
        parse_payment(encode_boc(big), op=Op.WORKER_PAYOUT)


@settings(max_examples=200)
@given(st.data())
def test_damaged_payments_are_errors_of_ours(data: st.DataObject) -> None:
    raw = bytearray(sign_payment(KEY, Op.WORKER_PAYOUT, 7, 2, HERE, THERE).to_boc())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LayoutError):
        payment = parse_payment(bytes(raw), op=Op.WORKER_PAYOUT)
        payment.verify(PUBLIC, HERE)
        assert (payment.tokens, payment.query_id) == (2, 7)


def test_no_secret_in_texts() -> None:
    payment = sign_payment(KEY, Op.WORKER_PAYOUT, 7, 2, HERE, THERE)
    assert payment.signature.hex() not in repr(payment)
    assert repr(payment.signature) not in repr(payment)


# --- envelopes


@given(addresses, coins, st.none() | small_cells, st.booleans(), st.sampled_from([None, True, False]))
def test_outgoing_messages_are_read_back(
    destination: Address, value: int, body: Any, deploys: bool, bounce: bool | None
) -> None:
    init = StateInit(empty_cell(), Writer("d").uint(1, 8).end()) if deploys else None
    message = OutgoingMessage(destination, value, body, init, bounce)
    read = OutgoingMessage.from_cell(message.to_cell())
    expected = (not deploys) if bounce is None else bounce
    assert read == dataclasses.replace(message, bounce=expected)
    with pytest.raises(LayoutError):
        OutgoingMessage.from_cell(Writer("long").inline(message.to_cell()).uint(0, 1).end())


def test_wallet_requests() -> None:
    message = OutgoingMessage(HERE, 5)
    request = WalletRequest.of(3, 100, (message, OutgoingMessage(THERE, 1))).sign(KEY)
    assert [mode for mode, _ in request.messages] == [0, 1]
    assert WalletRequest.from_cell(request.to_cell()) == request
    KEY.public_key().verify(request.signature, request.unsigned().hash)
    for count in (0, 5):
        with pytest.raises(LayoutError, match="1 to 4"):
            WalletRequest.of(3, 100, (message,) * count)
    with pytest.raises(LayoutError, match="0 bytes"):
        dataclasses.replace(request, signature=b"").to_cell()
    with pytest.raises(LayoutError):
        WalletRequest.from_cell(Writer("long").inline(request.to_cell()).uint(0, 1).end())
    assert external_message(HERE, request.to_cell()).refs == [request.to_cell()]
