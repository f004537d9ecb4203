"""The golden vectors of the protocol specification, byte for byte."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pytoniq_core.boc.address import Address as CellAddress
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.tvm_bitarray import TvmBitarray

from appliance.chain.addresses import Address, parse_friendly
from appliance.chain.boc import decode_boc, encode_boc
from appliance.chain.envelopes import OutgoingMessage, WalletRequest, external_message
from appliance.chain.errors import LayoutError, SignatureError
from appliance.chain.layouts import (
    ClientData,
    Params,
    ProxyData,
    RegisteredProxy,
    RootState,
    WalletData,
    WorkerData,
    build_root,
    parse_root,
)
from appliance.chain.messages import Op, WalletOwnerSend, WorkerRegister
from appliance.chain.signed import parse_payment, payment_from_cell, sign_payment
from appliance.chain.stateinit import StateInit, client_state, proxy_state, wallet_state, worker_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def cocoon(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "vectors" / "cocoon.json").read_text())["ton"]


@pytest.fixture(scope="session")
def ton(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "vectors" / "ton.json").read_text())


def key_of(cocoon: dict[str, Any], name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(cocoon["private_keys_base64"][name]))


@pytest.mark.parametrize("name", ["owner", "root", "proxy_contract", "worker_contract", "client_contract"])
def test_address_forms(cocoon: dict[str, Any], name: str) -> None:
    forms = cocoon[name]
    address = Address.parse(forms["raw"])
    assert address.raw() == forms["raw"]
    for bounceable, testnet, form in (
        (False, False, "non_bounceable"),
        (True, False, "bounceable"),
        (False, True, "testnet_non_bounceable"),
    ):
        assert address.friendly(bounceable=bounceable, testnet=testnet) == forms[form]
        parsed = parse_friendly(forms[form])
        assert (parsed.address, parsed.bounceable, parsed.testnet) == (address, bounceable, testnet)
    assert Address.of(CellAddress(forms["raw"])) == address
    assert address.to_cell_address() == CellAddress(forms["bounceable"])


def test_struct_version_1_data(cocoon: dict[str, Any]) -> None:
    worker = WorkerData.from_cell(decode_boc(bytes.fromhex(cocoon["worker_contract"]["data_boc_hex"])))
    client = ClientData.from_cell(decode_boc(bytes.fromhex(cocoon["client_contract"]["data_boc_hex"])))
    assert worker.to_cell().hash.hex() == cocoon["worker_contract"]["data_hash"]
    assert client.to_cell().hash.hex() == cocoon["client_contract"]["data_hash"]
    assert encode_boc(worker.to_cell()).hex() == cocoon["worker_contract"]["data_boc_hex"]
    assert encode_boc(client.to_cell()).hex() == cocoon["client_contract"]["data_boc_hex"]
    assert worker.params.hash.hex() == cocoon["fake_params_cell_no_code_hash"]
    fake = cocoon["fake_params"]
    params = Params.from_cell(worker.params)
    assert params == Params(
        params_version=fake["params_version"],
        unique_id=fake["unique_id"],
        is_test=True,
        price_per_token=fake["price_per_token"],
        worker_fee_per_token=fake["worker_fee_per_token"],
        proxy_delay_before_close=fake["proxy_delay"],
        client_delay_before_close=fake["client_delay"],
        struct_version=1,
    )
    assert params.to_cell() == worker.params
    # The initial data that we would build ourselves is the same.
    owner, proxy = Address.parse(cocoon["owner"]["raw"]), Address.parse(cocoon["proxy_contract"]["raw"])
    public = bytes.fromhex(cocoon["public_keys_hex"]["proxy"])
    code = worker.params  # any cell stands for the codes, which the vectors leave out
    coded = with_codes(params, dict.fromkeys(("proxy", "worker", "client"), code))
    assert worker_state(coded, owner, proxy, public).data == worker.to_cell()
    client_owner = Address.parse(cocoon["wallets"]["client"]["raw"])
    assert client_state(coded, client_owner, proxy, public).data == client.to_cell()


def test_struct_version_3_params(cocoon: dict[str, Any]) -> None:
    params = version_3(cocoon["struct3_params"])
    assert params.to_cell().hash.hex() == cocoon["struct3_params_cell_hash"]
    assert params.to_cell().bits.to01() == cocoon["struct3_params_bits"]
    assert Params.from_cell(params.to_cell()) == params


def version_3(values: dict[str, Any]) -> Params:
    return Params(
        params_version=values["params_version"],
        unique_id=values["unique_id"],
        is_test=bool(values["is_test"]),
        price_per_token=values["price_per_token"],
        worker_fee_per_token=values["worker_fee_per_token"],
        prompt_tokens_price_multiplier=values["prompt_mult"],
        cached_tokens_price_multiplier=values["cached_mult"],
        completion_tokens_price_multiplier=values["completion_mult"],
        reasoning_tokens_price_multiplier=values["reasoning_mult"],
        proxy_delay_before_close=values["proxy_delay"],
        client_delay_before_close=values["client_delay"],
        min_proxy_stake=values["min_proxy_stake"],
        min_client_stake=values["min_client_stake"],
    )


@pytest.mark.parametrize(
    ("vector", "op"),
    [
        ("worker_signed_payment", Op.WORKER_PAYOUT),
        ("worker_signed_payment_zero", Op.WORKER_PAYOUT),
        ("client_signed_payment", Op.CLIENT_CHARGE),
    ],
)
def test_signed_payment(cocoon: dict[str, Any], vector: str, op: Op) -> None:
    expected = cocoon[vector]
    contract = Address.parse(cocoon["client_contract" if op is Op.CLIENT_CHARGE else "worker_contract"]["raw"])
    excesses = Address.parse(cocoon["worker_signed_payment"]["send_excesses_to"])
    made = sign_payment(key_of(cocoon, "proxy"), op, 0x0102030405060708, expected["tokens"], contract, excesses)
    assert made.to_boc().hex() == expected["outer_boc_hex"]
    for part, seen in (("signature_hex", made.signature.hex()), ("inner_hash", made.inner().hash.hex())):
        if part in expected:
            assert seen == expected[part]
    read = parse_payment(bytes.fromhex(expected["outer_boc_hex"]), op=op)
    assert read == made
    public = bytes.fromhex(cocoon["public_keys_hex"]["proxy"])
    read.verify(public, contract)
    with pytest.raises(SignatureError):
        read.verify(public, excesses)
    with pytest.raises(SignatureError):
        read.verify(bytes.fromhex(cocoon["public_keys_hex"]["worker"]), contract)
    with pytest.raises(LayoutError):
        parse_payment(bytes.fromhex(expected["outer_boc_hex"]), op=Op.WORKER_LAST_PAYOUT)


def test_wallet_external_message(cocoon: dict[str, Any]) -> None:
    expected = cocoon["wallet_external_message"]
    wallet = Address.parse(cocoon["wallets"]["worker"]["raw"])
    payment = decode_boc(bytes.fromhex(cocoon["worker_signed_payment"]["outer_boc_hex"]))
    inner = OutgoingMessage(Address.parse(cocoon["worker_contract"]["raw"]), 500_000_000, payment)
    request = WalletRequest.of(5, 1_800_000_000, (inner,))
    assert request.unsigned().hash.hex() == expected["unsigned_hash"]
    body = request.sign(key_of(cocoon, "worker")).to_cell()
    assert WalletRequest.from_cell(body).signature.hex() == expected["signature_hex"]
    assert body.hash.hex() == expected["body_hash"]
    assert encode_boc(external_message(wallet, body)).hex() == expected["ext_boc_hex"]
    assert OutgoingMessage.from_cell(WalletRequest.from_cell(body).messages[0][1]).body == payment


def test_wallet_data(cocoon: dict[str, Any]) -> None:
    data = WalletData(
        0, 0, bytes.fromhex(cocoon["public_keys_hex"]["worker"]), 0, Address.parse(cocoon["owner"]["raw"])
    )
    assert data.to_cell().hash.hex() == cocoon["wallet_data_hash_worker"]


def known_by_hash(code_hash: bytes, depth: int) -> Cell:
    """A cell of which only hash and depth are known, as a proof would have it: a pruned branch."""
    bits = TvmBitarray(1023)
    bits.frombytes(b"\x01\x01" + code_hash + depth.to_bytes(2, "big"))
    return Cell(bits, [], 1)


@pytest.fixture(scope="session")
def codes(cocoon: dict[str, Any]) -> dict[str, Cell]:
    """Stand-ins for the reference contracts' codes: the vectors give their hashes, and the depths follow.

    A depth is what makes one address (struct version 1) come out; every other vector then has to fit too.
    """
    owner, proxy = Address.parse(cocoon["owner"]["raw"]), Address.parse(cocoon["proxy_contract"]["raw"])
    root, client = Address.parse(cocoon["root"]["raw"]), Address.parse(cocoon["wallets"]["client"]["raw"])
    public = bytes.fromhex(cocoon["public_keys_hex"]["proxy"])
    node = bytes.fromhex(cocoon["public_keys_hex"]["worker"])
    params = version_1()
    found: dict[str, Cell] = {}

    def find(name: str, address: str, state: Callable[[Cell], StateInit]) -> None:
        for depth in range(64):
            code = known_by_hash(bytes.fromhex(cocoon["code_hashes"][name]), depth)
            if f"0:{level_0(state(code).to_cell()).hex()}" == address:
                found[name] = code
                return
        pytest.fail(f"no depth of the {name} code gives {address}")

    find("wallet", cocoon["wallets"]["worker"]["raw"], lambda code: wallet_state(code, owner, node))
    find(
        "worker",
        cocoon["worker_contract"]["raw"],
        lambda code: worker_state(replace(params, worker_code=code), owner, proxy, public),
    )
    find(
        "client",
        cocoon["client_contract"]["raw"],
        lambda code: client_state(replace(params, client_code=code), client, proxy, public),
    )
    params = replace(params, worker_code=found["worker"], client_code=found["client"])
    find(
        "proxy",
        cocoon["proxy_contract"]["raw"],
        lambda code: proxy_state(root, replace(params, proxy_code=code), owner, public),
    )
    return found


def level_0(cell: Cell) -> bytes:
    """The hash that the cell has when the pruned parts are there."""
    return bytes(cell.get_hash(0))


def version_1() -> Params:
    return Params(1, 13, True, 2, 1, 600, 300, struct_version=1)


def with_codes(params: Params, codes: dict[str, Cell]) -> Params:
    return replace(params, proxy_code=codes["proxy"], worker_code=codes["worker"], client_code=codes["client"])


def test_wallet_addresses(cocoon: dict[str, Any], codes: dict[str, Cell]) -> None:
    owner = Address.parse(cocoon["owner"]["raw"])
    for name, forms in cocoon["wallets"].items():
        state = wallet_state(codes["wallet"], owner, bytes.fromhex(cocoon["public_keys_hex"][name]))
        assert f"0:{level_0(state.to_cell()).hex()}" == forms["raw"]


@pytest.mark.parametrize(("version", "prefix"), [(1, ""), (3, "struct3_")])
def test_contract_addresses(cocoon: dict[str, Any], codes: dict[str, Cell], version: int, prefix: str) -> None:
    params = with_codes(version_1() if version == 1 else version_3(cocoon["struct3_params"]), codes)
    owner, root = Address.parse(cocoon["owner"]["raw"]), Address.parse(cocoon["root"]["raw"])
    client = Address.parse(cocoon["wallets"]["client"]["raw"])
    public = bytes.fromhex(cocoon["public_keys_hex"]["proxy"])
    proxy = Address.parse(cocoon[f"{prefix}proxy_contract"]["raw"])
    for name, state in (
        ("proxy", proxy_state(root, params, owner, public)),
        ("worker", worker_state(params, owner, proxy, public)),
        ("client", client_state(params, client, proxy, public)),
    ):
        assert f"0:{level_0(state.to_cell()).hex()}" == cocoon[f"{prefix}{name}_contract"]["raw"], name
        if "data_hash" in cocoon[f"{prefix}{name}_contract"]:
            assert level_0(state.data).hex() == cocoon[f"{prefix}{name}_contract"]["data_hash"]


def test_proxy_params_carry_two_codes(cocoon: dict[str, Any], codes: dict[str, Cell]) -> None:
    cell = with_codes(version_1(), codes).for_proxy().to_cell()
    assert level_0(cell).hex() == cocoon["fake_params_cell_proxy_hash"]
    assert version_1().to_cell().bits.to01() == cocoon["fake_params_cell_no_code_bits"]


def test_root_state(cocoon: dict[str, Any], codes: dict[str, Cell]) -> None:
    sample = cocoon["root_state_sample"]["expect"]
    state = RootState(
        owner=Address.parse(sample["owner"]),
        version=sample["version"],
        proxy_hashes=frozenset(bytes.fromhex(value) for value in sample["proxy_hashes"]),
        registered_proxies=tuple(
            RegisteredProxy.of(proxy["seqno"], f"{proxy['workers']} {proxy['clients']}") for proxy in sample["proxies"]
        ),
        last_proxy_seqno=sample["last_proxy_seqno"],
        worker_hashes=frozenset(bytes.fromhex(value) for value in sample["worker_hashes"]),
        model_hashes=frozenset(bytes.fromhex(value) for value in sample["model_hashes"]),
        params=with_codes(version_3(sample["params"]), codes),
    )
    cell = build_root(state)
    assert level_0(cell).hex() == cocoon["root_state_sample"]["hash"]
    assert parse_root(cell) == state


@pytest.mark.parametrize("build", ["func", "tolk-1.2.0"])
def test_second_source(ton: dict[str, Any], build: str) -> None:
    """Params, register, owner's send and payouts as another independent program wrote them."""
    vectors = ton["cocoon"][build]
    params = Params(struct_version=3, **ton["params"])
    assert encode_boc(params.to_cell()).hex() == vectors["params_cell_worker_boc"]
    assert params.to_cell().hash.hex() == vectors["params_cell_worker_hash"]
    worker = Address.parse(vectors["worker"]["address"])
    register = decode_boc(bytes.fromhex(vectors["messages"]["owner_register_body_boc"]))
    assert WorkerRegister.from_cell(register) == WorkerRegister(7, Address.parse(ton["addresses_in"]["excesses"]))
    sent = WalletOwnerSend.from_cell(decode_boc(bytes.fromhex(vectors["messages"]["owner_wallet_send_body_boc"])))
    assert sent.mode == 1
    outgoing = OutgoingMessage.from_cell(sent.message)
    assert (outgoing.destination, outgoing.body) == (worker, register)
    assert outgoing.to_cell() == sent.message
    public = bytes.fromhex(ton["pubkeys"]["proxy"])
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ton["seeds"]["proxy_key"]))
    assert key.public_key() == Ed25519PublicKey.from_public_bytes(public)
    for name, op in (
        ("proxy_signed_payout_body_boc", Op.WORKER_PAYOUT),
        ("last_payout_body_boc", Op.WORKER_LAST_PAYOUT),
    ):
        cell = decode_boc(bytes.fromhex(vectors["messages"][name]))
        payment = payment_from_cell(cell, op=op)
        payment.verify(public, worker)
        again = sign_payment(key, op, payment.query_id, payment.tokens, worker, payment.send_excesses_to)
        assert encode_boc(again.to_cell()).hex() == vectors["messages"][name]


def test_initial_states_differ_by_owner_only_in_data(cocoon: dict[str, Any]) -> None:
    code = decode_boc(bytes.fromhex(cocoon["worker_contract"]["data_boc_hex"]))
    params = Params(1, 2, False, 3, 4, 5, 6, proxy_code=code, worker_code=code, client_code=code)
    root, owner = Address.parse(cocoon["root"]["raw"]), Address.parse(cocoon["owner"]["raw"])
    state = proxy_state(root, params, owner, bytes(32))
    assert StateInit.from_cell(state.to_cell()) == state
    data = ProxyData.from_cell(state.data)
    inside = Params.from_cell(data.params)
    assert (inside.proxy_code, inside.worker_code, inside.client_code) == (None, code, code)
