"""The worker contract in the real TVM: every message, every refusal, bounces and replays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contract_world import TON, Network, accepted, key, party, refusal

from appliance.chain.cells import Reader, Writer
from appliance.chain.layouts import ContractStatus
from appliance.chain.messages import (
    ContractError,
    Excesses,
    Op,
    Payout,
    ProxyPayout,
    WorkerPayoutPart,
    WorkerRegister,
    WorkerRequest,
)
from appliance.chain.stateinit import worker_state

PAYOUT, LAST = Op.WORKER_PAYOUT, Op.WORKER_LAST_PAYOUT


def test_payout_pays_the_owner_exactly(network: Network) -> None:
    worker_before, proxy_before = network.balance(network.worker), network.balance(network.proxy)
    executed = accepted(network.pay_worker(5000))
    assert [each.account for each in executed] == [
        network.worker,
        network.proxy,
        network.worker_owner,
        network.excesses,
    ]
    assert network.balance(network.worker_owner) == 5000 * 100_000
    assert network.proxy_data().balance == 5000 * 900_000
    assert (network.worker_data().tokens, network.worker_data().state) == (5000, ContractStatus.OPEN)
    assert network.balance(network.worker) == worker_before
    assert network.balance(network.proxy) == proxy_before - 5000 * 100_000
    request = WorkerRequest.from_cell(executed[1].body)
    assert (request.owner, request.state, request.tokens, request.query_id) == (network.worker_owner, 0, 5000, 7)
    assert request.payload is not None
    assert WorkerPayoutPart.from_cell(request.payload) == WorkerPayoutPart(
        5000 * 100_000, 5000 * 900_000, network.excesses
    )
    assert Payout.from_cell(executed[2].body) == Payout(7)
    assert Excesses.from_cell(executed[3].body) == Excesses(7)
    assert network.balance(network.excesses) > TON // 2 - TON // 20  # all but fees came back


def test_totals_add_up(network: Network) -> None:
    for total in (1, 2, 1000, 70_000):
        accepted(network.pay_worker(total))
        assert network.balance(network.worker_owner) == total * 100_000


@pytest.mark.parametrize("tokens", [5000, 4999, 0])
def test_replay_and_lower_totals_are_refused(network: Network, tokens: int) -> None:
    accepted(network.pay_worker(5000))
    assert refusal(network.pay_worker(tokens)) == ContractError.OLD_MESSAGE
    accepted(network.pay_worker(5001))


def test_signature_of_another_key_is_refused(network: Network) -> None:
    body = network.payment(PAYOUT, 5000, network.worker, signer=key("thief"))
    assert refusal(network.send(network.worker, TON, body)) == ContractError.BAD_SIGNATURE
    accepted(network.send(network.worker, TON, network.payment(PAYOUT, 5000, network.worker)))


def test_payment_for_another_contract_is_refused(network: Network) -> None:
    body = network.payment(PAYOUT, 5000, party("another worker"))
    assert refusal(network.send(network.worker, TON, body)) == ContractError.EXPECTED_MY_ADDRESS
    accepted(network.send(network.worker, TON, network.payment(PAYOUT, 5000, network.worker)))


def test_operation_of_the_signature_counts(network: Network) -> None:
    """A payout cannot be passed off as a last payout, nor a charge as a payout, nor a query id changed."""
    payout = network.payment(PAYOUT, 5000, network.worker)
    for head, inner in (
        (Writer("o").uint(LAST, 32).uint(7, 64), payout.refs[0]),
        (Writer("o").uint(PAYOUT, 32).uint(9, 64), payout.refs[0]),
        (
            Writer("o").uint(PAYOUT, 32).uint(7, 64),
            network.payment(Op.CLIENT_CHARGE, 5000, network.worker).refs[0],
        ),
    ):
        signature = network.key.sign(inner.hash)
        body = head.address(network.excesses).raw(signature, 64).ref(inner).end()
        assert refusal(network.send(network.worker, TON, body)) == ContractError.SIGNED_MESSAGE_FORMAT
    accepted(network.send(network.worker, TON, payout))


@pytest.mark.parametrize("rest", ["bit", "reference"])
def test_signed_cell_with_a_rest_is_refused(network: Network, rest: str) -> None:
    good = network.payment(PAYOUT, 5000, network.worker).refs[0]
    inner = Writer("inner").inline(good)
    inner = (inner.uint(0, 1) if rest == "bit" else inner.ref(good)).end()
    body = Writer("o").uint(PAYOUT, 32).uint(7, 64).address(network.excesses)
    body = body.raw(network.key.sign(inner.hash), 64).ref(inner).end()
    assert refusal(network.send(network.worker, TON, body)) == ContractError.SIGNED_MESSAGE_FORMAT
    accepted(network.send(network.worker, TON, network.payment(PAYOUT, 5000, network.worker)))


@pytest.mark.parametrize("rest", ["bit", "reference"])
def test_message_with_a_rest_is_refused(network: Network, rest: str) -> None:
    good = network.payment(PAYOUT, 5000, network.worker)
    body = Writer("outer").inline(good)
    body = (body.uint(0, 1) if rest == "bit" else body.ref(good)).end()
    assert refusal(network.send(network.worker, TON, body)) == ContractError.MESSAGE_FORMAT
    accepted(network.send(network.worker, TON, good))


def test_truncated_message_is_refused(network: Network) -> None:
    reader = Reader(network.payment(PAYOUT, 5000, network.worker), "payment")
    body = Writer("short").bits(reader.bits(500)).ref(reader.ref()).end()
    assert refusal(network.send(network.worker, TON, body)) == 9  # cell underflow, by the TVM itself


def test_low_value_is_refused(network: Network) -> None:
    body = network.payment(PAYOUT, 5000, network.worker)
    assert refusal(network.send(network.worker, TON // 10, body)) == ContractError.LOW_MESSAGE_VALUE
    assert network.send(network.worker, TON // 10 + 1, body)[0].exit_code == 0


def test_low_contract_balance_is_refused(network: Network) -> None:
    """A contract that has nothing for storage takes it out of the value, which then must be higher."""
    owner = party("poor owner")
    state = worker_state(network.params, owner, network.proxy, network.worker_data().proxy_public_key)
    body = network.payment(PAYOUT, 5000, state.address())
    little = TON // 10 + TON // 1000
    assert refusal(network.send(state.address(), little, body, init=state)) == ContractError.LOW_CONTRACT_BALANCE
    accepted(network.send(state.address(), little + TON // 100, body, init=state))
    assert network.balance(owner) == 5000 * 100_000


def test_last_payout_closes(network: Network) -> None:
    accepted(network.pay_worker(5000))
    network.send(network.worker, TON, bounce=False)  # somebody's mistake: it is the owner's
    owner_before = network.balance(network.worker_owner)
    held = network.balance(network.worker)
    accepted(network.pay_worker(6000, op=LAST))
    assert network.worker_data().state == ContractStatus.CLOSED
    assert network.balance(network.worker) == TON // 100
    earned = network.balance(network.worker_owner) - owner_before
    assert earned == 1000 * 100_000 + held - TON // 100
    for op, tokens in ((PAYOUT, 9000), (LAST, 9000)):
        assert refusal(network.pay_worker(tokens, op=op)) == ContractError.CLOSED


def test_last_payout_may_bring_nothing_new(network: Network) -> None:
    accepted(network.pay_worker(5000))
    assert refusal(network.pay_worker(4999, op=LAST)) == ContractError.OLD_MESSAGE
    before = network.balance(network.worker_owner)
    accepted(network.pay_worker(5000, op=LAST))
    assert network.worker_data().state == ContractStatus.CLOSED
    assert network.balance(network.worker_owner) - before < TON // 10  # no payout, only what the contract held


def test_register_reports_to_the_proxy(network: Network) -> None:
    body = WorkerRegister(7, network.excesses).to_cell()
    executed = accepted(network.send(network.worker, TON, body, source=network.worker_owner))
    assert [each.account for each in executed] == [network.worker, network.proxy, network.excesses]
    assert WorkerRequest.from_cell(executed[1].body) == WorkerRequest(7, network.worker_owner, 0, 0, None)
    assert executed[1].exit_code == 0
    refused = network.send(network.worker, TON, body)
    assert refusal(refused) == ContractError.EXPECTED_MESSAGE_FROM_OWNER
    low = network.send(network.worker, TON // 10, body, source=network.worker_owner)
    assert refusal(low) == ContractError.LOW_MESSAGE_VALUE
    accepted(network.pay_worker(1, op=LAST))
    closed = network.send(network.worker, TON, body, source=network.worker_owner)
    assert refusal(closed) == ContractError.CLOSED


def test_unknown_operations_are_refused(network: Network) -> None:
    unknown = Writer("m").uint(0x12345678, 32).uint(1, 64).end()
    assert refusal(network.send(network.worker, TON, unknown)) == ContractError.UNKNOWN_OPERATION
    comment = Writer("m").uint(0, 32).raw(b"hello", 5).end()
    assert refusal(network.send(network.worker, TON, comment)) == ContractError.UNKNOWN_TEXT_OPERATION
    payout = ProxyPayout(1, network.excesses).to_cell()
    assert refusal(network.send(network.worker, TON, payout)) == ContractError.UNKNOWN_OPERATION


@pytest.mark.parametrize("contract", ["root", "proxy", "worker", "client"])
def test_ignored_operations(network: Network, contract: str) -> None:
    address = getattr(network, contract)
    data, before = network.data(address), network.balance(address)
    for body in (
        Excesses(1).to_cell(),
        Payout(1).to_cell(),
        Writer("m").uint(Op.DO_NOT_PROCESS, 32).uint(0x53109C0F, 32).raw(bytes(36), 36).end(),
        None,
    ):
        executed = accepted(network.send(address, TON, body))
        assert len(executed) == 1
    assert network.data(address) == data
    assert network.balance(address) > before + 4 * TON - TON // 10


def test_payout_that_the_proxy_cannot_pay_can_be_sent_again(network: Network) -> None:
    """1001 at the proxy contract: nothing is lost, neither the tokens nor the sender's money."""
    accepted(network.pay_worker(1000))
    too_many = 2_000_000  # 200 TON, more than the proxy contract holds
    executed = network.pay_worker(too_many)
    assert [each.exit_code for each in executed[:3]] == [0, ContractError.LOW_CONTRACT_BALANCE, 0]
    assert executed[2].bounced
    assert executed[2].account == network.worker
    assert executed[3].account == network.excesses
    assert network.worker_data().tokens == 1000
    assert network.balance(network.worker_owner) == 1000 * 100_000
    network.send(network.proxy, 2100 * TON, bounce=False)
    accepted(network.pay_worker(too_many))
    assert network.balance(network.worker_owner) == too_many * 100_000


def test_last_payout_that_bounces_reopens(network: Network) -> None:
    accepted(network.pay_worker(1000))
    executed = network.pay_worker(2_000_000, op=LAST)
    assert executed[1].exit_code is None or executed[1].exit_code in {0, ContractError.LOW_CONTRACT_BALANCE}
    assert (network.worker_data().tokens, network.worker_data().state) == (1000, ContractStatus.OPEN)
    accepted(network.pay_worker(2000, op=LAST))
    assert network.worker_data().state == ContractStatus.CLOSED


def test_bounce_from_a_stranger_changes_nothing(network: Network) -> None:
    accepted(network.pay_worker(1000))
    data = network.data(network.worker)
    (executed, *_) = network.bounce_from(party("stranger"), network.worker)
    assert executed.exit_code == 0
    assert network.data(network.worker) == data


def test_free_workers_get_nothing_and_cost_nothing(network: Network) -> None:
    params = replace(network.params, worker_fee_per_token=0)
    other = Network(network.tvm, network.codes, params)
    accepted(other.pay_worker(5000))
    assert other.balance(other.worker_owner) == 0
    assert other.proxy_data().balance == 5000 * 1_000_000
    assert other.pay_worker(2_000_000)[1].exit_code == ContractError.LOW_CONTRACT_BALANCE
    assert other.worker_data().tokens == 5000


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_every_struct_version_of_the_parameters(network: Network, version: int) -> None:
    params = replace(
        network.params,
        struct_version=version,
        prompt_tokens_price_multiplier=10_000,
        cached_tokens_price_multiplier=10_000,
        completion_tokens_price_multiplier=10_000,
        reasoning_tokens_price_multiplier=10_000,
        min_proxy_stake=TON,
        min_client_stake=TON,
    )
    other = Network(network.tvm, network.codes, params)
    accepted(other.pay_worker(5000))
    assert other.balance(other.worker_owner) == 5000 * 100_000
    accepted(other.top_up(3 * TON))
    assert other.client_data().balance == 3 * TON


def test_unknown_struct_version_is_damaged_data(network: Network) -> None:
    good = network.worker_data()
    params = Reader(good.params, "params")
    params.uint(8)
    newer = Writer("params").uint(4, 8).inline(params.rest()).end()
    state = replace(network.states["worker"], data=replace(good, params=newer).to_cell())
    network.send(state.address(), TON, init=state, bounce=False)
    body = network.payment(PAYOUT, 5000, state.address())
    assert refusal(network.send(state.address(), TON, body)) == ContractError.DAMAGED_DATA


def test_get_method(network: Network) -> None:
    accepted(network.pay_worker(42))
    owner, proxy, public_key, state, tokens = network.get(network.worker, "get_cocoon_worker_data")
    assert (Reader(owner.to_cell(), "a").address(), Reader(proxy.to_cell(), "a").address()) == (
        network.worker_owner,
        network.proxy,
    )
    assert public_key.to_bytes(32, "big") == network.worker_data().proxy_public_key
    assert (state, tokens) == (0, 42)
