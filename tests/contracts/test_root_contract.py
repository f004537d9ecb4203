"""The root contract in the real TVM: every order of the owner, versions, refusals, and the readers' layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from contract_world import TON, Network, accepted, party, refusal

from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.layouts import RegisteredProxy, build_root, parse_root
from appliance.chain.messages import (
    ContractError,
    Op,
    RootAddModelHash,
    RootAddProxyHash,
    RootAddWorkerHash,
    RootChangeOwner,
    RootChangeParams,
    RootChangePrices,
    RootDeleteModelHash,
    RootDeleteProxyHash,
    RootDeleteWorkerHash,
    RootRegisterProxy,
    RootReset,
    RootUnregisterProxy,
    RootUpdateProxy,
    RootUpgradeCode,
    RootUpgradeContracts,
    RootUpgradeFull,
)

if TYPE_CHECKING:
    from contract_world import Executed

    from appliance.chain.structs import Struct

HASHES = tuple(bytes([number]) * 32 for number in (0x00, 0x01, 0x80, 0xFF, 0x7F))
ONE, TWO = "203.0.113.7:11001", "203.0.113.7:11001 203.0.113.8:11002"


def order(network: Network, message: Struct, value: int = TON) -> list[Executed]:
    return network.send(network.root, value, message.to_cell(), source=network.root_owner)


@pytest.mark.parametrize(
    ("add", "delete", "field", "method"),
    [
        (RootAddWorkerHash, RootDeleteWorkerHash, "worker_hashes", "worker_hash_is_valid"),
        (RootAddModelHash, RootDeleteModelHash, "model_hashes", "model_hash_is_valid"),
        (RootAddProxyHash, RootDeleteProxyHash, "proxy_hashes", "proxy_hash_is_valid"),
    ],
)
def test_hash_lists(network: Network, add: type, delete: type, field: str, method: str) -> None:
    for count, value in enumerate(HASHES, 1):
        accepted(order(network, add(1, value)))
        assert getattr(network.root_state(), field) == set(HASHES[:count])
        assert network.get(network.root, method, int.from_bytes(value, "big")) == (-1,)
    accepted(order(network, add(1, HASHES[0])))  # again: still one
    accepted(order(network, delete(1, HASHES[3])))
    expected = replace(network.fresh_root(), version=1 + 7, **{field: frozenset(HASHES) - {HASHES[3]}})
    assert network.root_state() == expected
    assert network.data(network.root) == build_root(expected)  # the same cells that we would build
    assert network.get(network.root, method, int.from_bytes(HASHES[3], "big")) == (0,)
    assert network.root_state().params.params_version == 1


def test_registered_proxies(network: Network) -> None:
    accepted(order(network, RootRegisterProxy(1, ONE)))
    accepted(order(network, RootRegisterProxy(1, TWO)))
    assert network.root_state().registered_proxies == (RegisteredProxy.of(1, ONE), RegisteredProxy.of(2, TWO))
    assert network.root_state().registered_proxies[1].client_address == "203.0.113.8:11002"
    accepted(order(network, RootUpdateProxy(1, 1, TWO)))
    accepted(order(network, RootUnregisterProxy(1, 2)))
    for message in (RootUnregisterProxy(1, 2), RootUpdateProxy(1, 2, ONE)):
        assert refusal(order(network, message)) == ContractError.UNKNOWN_PROXY
    accepted(order(network, RootRegisterProxy(1, ONE)))
    state = network.root_state()
    assert [proxy.seqno for proxy in state.registered_proxies] == [1, 3]
    assert (state.last_proxy_seqno, state.version) == (3, 6)
    assert network.get(network.root, "last_proxy_seqno") == (3,)
    assert network.data(network.root) == build_root(state)


def test_proxy_entries_are_checked(network: Network) -> None:
    head = Writer("m").uint(Op.ROOT_REGISTER_PROXY, 32).uint(1, 64)
    for entry, expected in (
        (Writer("p").uint(1, 1).uint(1, 7).raw(b"a", 1), ContractError.UNKNOWN_PROXY),
        (Writer("p").uint(0, 1).uint(2, 7).raw(b"a", 1), ContractError.MESSAGE_FORMAT),
        (Writer("p").uint(0, 1).uint(1, 7).raw(b"ab", 2), ContractError.MESSAGE_FORMAT),
        (Writer("p").uint(0, 1).uint(1, 7).raw(b"a", 1).ref(empty_cell()), ContractError.MESSAGE_FORMAT),
    ):
        body = Writer("m").inline(head.end()).inline(entry.end()).end()
        refused = network.send(network.root, TON, body, source=network.root_owner)
        assert refusal(refused) == expected
    accepted(order(network, RootRegisterProxy(1, "a")))
    assert network.root_state().last_proxy_seqno == 1
    assert network.root_state().registered_proxies == ()  # a text without an address is skipped by readers
    accepted(order(network, RootRegisterProxy(1, "1.2.3.4:5 " + "1" * 98 + ":65535")))  # all that fits into a message


def test_prices_and_parameters(network: Network) -> None:
    accepted(order(network, RootChangePrices(1, 20, 17)))
    changed = replace(network.params, params_version=2, price_per_token=20, worker_fee_per_token=17)
    assert network.root_state().params == changed
    assert network.root_state().version == 2
    accepted(order(network, RootChangeParams(1, 30, 30, 86_400, 43_200, 5 * TON, 15 * TON)))
    state = network.root_state()
    assert state.params == replace(
        changed,
        params_version=3,
        price_per_token=30,
        worker_fee_per_token=30,
        proxy_delay_before_close=86_400,
        client_delay_before_close=43_200,
        min_proxy_stake=5 * TON,
        min_client_stake=15 * TON,
    )
    assert network.data(network.root) == build_root(state)


@pytest.mark.parametrize(
    "message",
    [
        RootChangePrices(1, 10, 11),
        RootChangeParams(1, 10, 11, 1, 1, 1, 1),
    ],
)
def test_the_fee_is_at_most_the_price(network: Network, message: Struct) -> None:
    assert refusal(order(network, message)) == ContractError.MESSAGE_FORMAT
    accepted(order(network, RootChangePrices(1, 11, 11)))


@pytest.mark.parametrize("field", range(4))
def test_amounts_that_runners_cannot_read_are_refused(network: Network, field: int) -> None:
    """More than 8 bytes: the runners would refuse the whole root state."""

    def body(amount: int) -> Writer:
        values = [amount if number == field else (amount if field == 1 and number == 0 else 1) for number in range(4)]
        writer = Writer("m").uint(Op.ROOT_CHANGE_PARAMS, 32).uint(1, 64)
        for number, value in enumerate(values):
            if number == 2:
                writer.uint(1, 32).uint(1, 32)
            length = (value.bit_length() + 7) // 8
            writer.uint(length, 4).uint(value, length * 8)
        return writer

    refused = network.send(network.root, TON, body(1 << 64).end(), source=network.root_owner)
    assert refusal(refused) == ContractError.MESSAGE_FORMAT
    accepted(network.send(network.root, TON, body((1 << 64) - 1).end(), source=network.root_owner))
    assert parse_root(network.data(network.root)).version == 2


def test_older_parameters_stay_in_their_version(network: Network) -> None:
    for version in (0, 1, 2):
        params = replace(
            network.params,
            struct_version=version,
            prompt_tokens_price_multiplier=10_000,
            cached_tokens_price_multiplier=10_000 if version < 2 else 12_000,
            completion_tokens_price_multiplier=10_000,
            reasoning_tokens_price_multiplier=10_000 if version < 2 else 14_000,
            min_proxy_stake=TON,
            min_client_stake=TON,
        )
        other = Network(network.tvm, network.codes, params)
        accepted(order(other, RootChangePrices(1, 20, 17)))
        expected = replace(other.params, params_version=2, price_per_token=20, worker_fee_per_token=17)
        assert other.root_state().params == expected
        changed = order(other, RootChangeParams(1, 30, 30, 5, 6, 7, 8))
        if version == 0:
            assert refusal(changed) == ContractError.DAMAGED_DATA
        else:
            assert accepted(changed)
            assert other.root_state().params.min_client_stake == 8


def test_upgrades(network: Network) -> None:
    codes = network.codes
    accepted(order(network, RootUpgradeContracts(1, codes.worker, codes.client, codes.proxy)))
    state = network.root_state()
    assert (state.params.proxy_code, state.params.worker_code, state.params.client_code) == (
        codes.worker,
        codes.client,
        codes.proxy,
    )
    assert (state.params.params_version, state.version) == (2, 2)
    accepted(order(network, RootUpgradeCode(1, codes.wallet)))
    assert network.code(network.root) == codes.wallet
    assert network.root_state() == state  # a code upgrade is no new version


def test_full_upgrade(network: Network) -> None:
    state = replace(network.fresh_root(), version=77, params=replace(network.params, struct_version=3, unique_id=9))
    accepted(order(network, RootUpgradeFull(1, build_root(state), network.codes.root)))
    assert network.root_state() == state
    accepted(order(network, RootAddModelHash(1, HASHES[0])))
    assert network.root_state().version == 78


def test_reset_and_owner(network: Network) -> None:
    accepted(order(network, RootAddModelHash(1, HASHES[0])))
    accepted(order(network, RootRegisterProxy(1, ONE)))
    accepted(order(network, RootReset(1)))
    assert network.root_state() == replace(network.fresh_root(), version=4, last_proxy_seqno=1)
    accepted(order(network, RootChangeOwner(1, party("heir"))))
    assert refusal(order(network, RootReset(1))) == ContractError.EXPECTED_OWNER
    accepted(network.send(network.root, TON, RootReset(1).to_cell(), source=party("heir")))
    assert network.root_state().owner == party("heir")


def test_only_the_owner(network: Network) -> None:
    data = network.data(network.root)
    cell = empty_cell()
    messages: list[Struct] = [
        *(kind(1, HASHES[0]) for kind in (RootAddWorkerHash, RootDeleteWorkerHash, RootAddModelHash)),
        *(kind(1, HASHES[0]) for kind in (RootDeleteModelHash, RootAddProxyHash, RootDeleteProxyHash)),
        RootRegisterProxy(1, ONE),
        RootUnregisterProxy(1, 1),
        RootUpdateProxy(1, 1, ONE),
        RootChangePrices(1, 2, 1),
        RootChangeParams(1, 2, 1, 1, 1, 1, 1),
        RootUpgradeContracts(1, cell, cell, cell),
        RootUpgradeCode(1, cell),
        RootReset(1),
        RootUpgradeFull(1, cell, cell),
        RootChangeOwner(1, party("stranger")),
    ]
    for message in messages:
        refused = network.send(network.root, TON, message.to_cell(), source=party("stranger"))
        assert refusal(refused) == ContractError.EXPECTED_OWNER
    assert network.data(network.root) == data
    accepted(order(network, RootRegisterProxy(1, ONE)))
    for message in messages[:8]:
        accepted(order(network, message))


def test_the_rest_of_the_value_comes_back(network: Network) -> None:
    held = network.balance(network.root)
    executed = accepted(order(network, RootAddModelHash(6, HASHES[0])))
    assert executed[1].account == network.root_owner
    assert network.balance(network.root) == held
    assert network.balance(network.root_owner) > TON - TON // 20


def test_malformed_messages(network: Network) -> None:
    good = RootAddModelHash(1, HASHES[0]).to_cell()
    for body in (Writer("m").inline(good).uint(0, 1).end(), Writer("m").inline(good).ref(good).end()):
        refused = network.send(network.root, TON, body, source=network.root_owner)
        assert refusal(refused) == ContractError.MESSAGE_FORMAT
    unknown = Writer("m").uint(0x12345678, 32).uint(1, 64).end()
    refused = network.send(network.root, TON, unknown, source=network.root_owner)
    assert refusal(refused) == ContractError.UNKNOWN_OPERATION
    comment = Writer("m").uint(0, 32).raw(b"hello", 5).end()
    refused = network.send(network.root, TON, comment, source=network.root_owner)
    assert refusal(refused) == ContractError.UNKNOWN_TEXT_OPERATION


def test_get_methods(network: Network) -> None:
    *numbers, owner = network.get(network.root, "get_cocoon_data")
    assert numbers == [1, 0, 1, 12345, -1, 1_000_000, 100_000, TON, 2 * TON]
    assert Reader(owner.to_cell(), "a").address() == network.root_owner
    codes = (network.codes.proxy, network.codes.worker, network.codes.client)
    assert network.get(network.root, "get_cur_params") == (
        *(1, 12345, -1, 1_000_000, 100_000, 12_000, 14_000, 3600, 1800, TON, 2 * TON),
        *(int.from_bytes(code.hash, "big") for code in codes),
    )
