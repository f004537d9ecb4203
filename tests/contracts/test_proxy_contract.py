"""The proxy contract in the real TVM: who may ask, what is promised, closing, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contract_world import TON, Network, accepted, key, party, refusal

from appliance.chain.addresses import Address
from appliance.chain.cells import Reader, Writer
from appliance.chain.layouts import ContractStatus
from appliance.chain.messages import (
    ClientRegisterPart,
    ClientRequest,
    ClientStateReport,
    ClientTopUpPart,
    ContractError,
    Op,
    Payout,
    ProxyIncreaseStake,
    ProxyOwnerClose,
    ProxyPayout,
    WorkerPayoutPart,
    WorkerRequest,
)

CLOSE, COMPLETE = Op.PROXY_CLOSE, Op.PROXY_COMPLETE_CLOSE
REPORT = ClientStateReport(0, 0, 0, 0, bytes(32))


def payout(network: Network, value: int = TON) -> list:
    return network.send(network.proxy, value, ProxyPayout(4, network.excesses).to_cell())


def test_payout_pays_the_share_to_the_owner(network: Network) -> None:
    accepted(network.pay_worker(5000))
    before = network.balance(network.proxy)
    executed = accepted(payout(network))
    assert network.balance(network.proxy_owner) == 5000 * 900_000
    assert network.proxy_data().balance == 0
    assert network.balance(network.proxy) == before - 5000 * 900_000
    assert Payout.from_cell(executed[1].body) == Payout(4)
    assert refusal(payout(network)) == ContractError.LOW_BALANCE
    accepted(network.pay_worker(5001))
    assert refusal(payout(network, TON // 10 - 1)) == ContractError.LOW_MESSAGE_VALUE
    accepted(payout(network, TON // 10))


def test_increase_stake(network: Network) -> None:
    before = network.balance(network.proxy)
    message = ProxyIncreaseStake(1, 5 * TON, network.excesses).to_cell()
    short = network.send(network.proxy, 5 * TON + TON // 10 - 1, message)
    assert refusal(short) == ContractError.LOW_MESSAGE_VALUE
    accepted(network.send(network.proxy, 5 * TON + TON // 10, message))
    assert network.proxy_data().stake == 5 * TON
    assert network.balance(network.proxy) == before + 5 * TON


def test_stake_and_share_are_not_paid_out_to_workers(network: Network) -> None:
    """100 TON lie there; with 95 of them staked a worker cannot have 10."""
    message = ProxyIncreaseStake(1, 95 * TON, network.excesses).to_cell()
    accepted(network.send(network.proxy, 96 * TON, message))
    held = network.balance(network.proxy)
    executed = network.pay_worker(100_000)  # 10 TON and 90 TON of share
    assert executed[1].exit_code == ContractError.LOW_CONTRACT_BALANCE
    assert network.balance(network.proxy) == held
    network.send(network.proxy, 3 * TON, bounce=False)
    accepted(network.pay_worker(100_000))


@pytest.mark.parametrize("what", ["sender", "owner"])
def test_requests_of_strangers_are_refused(network: Network, what: str) -> None:
    """Neither a wrong sender nor a right one with somebody else's owner is believed."""
    part = WorkerPayoutPart(TON, TON, network.excesses).to_cell()
    top_up = ClientTopUpPart(TON, network.excesses).to_cell()
    stranger = party("stranger")
    for sender, request in (
        (network.worker, WorkerRequest(1, network.worker_owner, 0, 10, part)),
        (network.client, ClientRequest(1, network.client_owner, REPORT, top_up)),
    ):
        source = stranger if what == "sender" else sender
        wrong = request if what == "sender" else type(request)(**{**fields_of(request), "owner": stranger})
        refused = network.send(network.proxy, 5 * TON, wrong.to_cell(), source=source)
        assert refusal(refused) == ContractError.ADDRESS_MISMATCH
        accepted(network.send(network.proxy, 5 * TON, request.to_cell(), source=sender))


def fields_of(struct: object) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__slots__}  # type: ignore[attr-defined]


def test_same_hash_in_another_workchain_is_a_stranger(network: Network) -> None:
    request = WorkerRequest(1, network.worker_owner, 0, 10, None).to_cell()
    elsewhere = Address(-1, network.worker.hash)
    assert refusal(network.send(network.proxy, TON, request, source=elsewhere)) == ContractError.ADDRESS_MISMATCH
    accepted(network.send(network.proxy, TON, request, source=network.worker))


def test_unknown_payload(network: Network) -> None:
    unknown = Writer("payload").uint(0x11111111, 32).coins(1).address(network.excesses).end()
    request = ClientRequest(1, network.client_owner, REPORT, unknown).to_cell()
    refused = network.send(network.proxy, TON, request, source=network.client)
    assert refusal(refused) == ContractError.UNKNOWN_OPERATION
    register = ClientRegisterPart(5).to_cell()
    good = ClientRequest(1, network.client_owner, REPORT, register).to_cell()
    accepted(network.send(network.proxy, TON, good, source=network.client))


def test_top_up_must_bring_its_money(network: Network) -> None:
    part = ClientTopUpPart(2 * TON, network.excesses).to_cell()
    request = ClientRequest(1, network.client_owner, REPORT, part).to_cell()
    refused = network.send(network.proxy, 2 * TON, request, source=network.client)
    assert refusal(refused) == ContractError.LOW_MESSAGE_VALUE
    accepted(network.send(network.proxy, 2 * TON + TON // 10, request, source=network.client))


def test_top_up_that_cannot_keep_its_money_bounces(network: Network) -> None:
    """Fees eat the margin: the action phase fails and sends the value back."""
    part = ClientTopUpPart(2 * TON, network.excesses).to_cell()
    request = ClientRequest(1, network.client_owner, REPORT, part).to_cell()
    executed = network.send(network.proxy, 2 * TON + 1, request, source=network.client)
    assert executed[0].aborted
    assert executed[1].bounced


def test_close_and_complete(network: Network) -> None:
    accepted(network.pay_worker(5000))
    accepted(network.send(network.proxy, 6 * TON, ProxyIncreaseStake(1, 5 * TON, network.excesses).to_cell()))
    early = network.send(network.proxy, TON, network.order(COMPLETE))
    assert refusal(early) == ContractError.NOT_UNLOCKED
    accepted(network.send(network.proxy, TON, network.order(CLOSE)))
    data = network.proxy_data()
    assert (data.state, data.unlock_ts) == (ContractStatus.CLOSING, network.now + 3600)
    assert refusal(network.send(network.proxy, TON, network.order(CLOSE))) == ContractError.CLOSED
    stake = ProxyIncreaseStake(1, TON, network.excesses).to_cell()
    assert refusal(network.send(network.proxy, 2 * TON, stake)) == ContractError.CLOSED
    assert network.top_up(TON)[1].exit_code == ContractError.CLOSED
    accepted(network.pay_worker(6000))  # workers are still paid
    network.now += 3599
    assert refusal(network.send(network.proxy, TON, network.order(COMPLETE))) == ContractError.NOT_UNLOCKED
    network.now += 1
    held = network.balance(network.proxy)
    accepted(network.send(network.proxy, TON, network.order(COMPLETE)))
    data = network.proxy_data()
    assert (data.state, data.balance, data.stake) == (ContractStatus.CLOSED, 0, 0)
    assert network.balance(network.proxy) == TON // 100
    assert network.balance(network.proxy_owner) == pytest.approx(held - TON // 100, abs=TON // 1000)
    for body in (network.order(COMPLETE), network.order(CLOSE), ProxyPayout(1, network.excesses).to_cell()):
        assert refusal(network.send(network.proxy, TON, body)) == ContractError.CLOSED
    assert network.pay_worker(7000)[1].exit_code == ContractError.CLOSED
    assert network.worker_data().tokens == 6000


def test_signed_order_refusals(network: Network) -> None:
    thief = network.order(CLOSE, signer=key("thief"))
    assert refusal(network.send(network.proxy, TON, thief)) == ContractError.BAD_SIGNATURE
    other = network.order(CLOSE, network.worker)
    assert refusal(network.send(network.proxy, TON, other)) == ContractError.EXPECTED_MY_ADDRESS
    good = network.order(CLOSE)
    assert refusal(network.send(network.proxy, TON // 10 - 1, good)) == ContractError.LOW_MESSAGE_VALUE
    inner = network.order(COMPLETE).refs[0]
    swapped = Writer("o").uint(CLOSE, 32).uint(8, 64).address(network.excesses)
    swapped_body = swapped.raw(network.key.sign(inner.hash), 64).ref(inner).end()
    assert refusal(network.send(network.proxy, TON, swapped_body)) == ContractError.SIGNED_MESSAGE_FORMAT
    long_body = Writer("o").inline(good).uint(1, 1).end()
    assert refusal(network.send(network.proxy, TON, long_body)) == ContractError.MESSAGE_FORMAT
    accepted(network.send(network.proxy, TON // 10, good))


def test_owner_closes_without_the_key(network: Network) -> None:
    body = ProxyOwnerClose(1, network.excesses).to_cell()
    refused = network.send(network.proxy, TON, body, source=party("stranger"))
    assert refusal(refused) == ContractError.EXPECTED_MESSAGE_FROM_OWNER
    accepted(network.send(network.proxy, TON, body, source=network.proxy_owner))
    again = network.send(network.proxy, TON, body, source=network.proxy_owner)
    assert refusal(again) == ContractError.NOT_UNLOCKED
    network.now += 3600
    accepted(network.send(network.proxy, TON, body, source=network.proxy_owner))
    assert network.proxy_data().state == ContractStatus.CLOSED
    assert network.balance(network.proxy_owner) > 99 * TON


def test_unknown_operations(network: Network) -> None:
    unknown = Writer("m").uint(0x12345678, 32).uint(1, 64).end()
    assert refusal(network.send(network.proxy, TON, unknown)) == ContractError.UNKNOWN_OPERATION
    comment = Writer("m").uint(0, 32).raw(b"hello", 5).end()
    assert refusal(network.send(network.proxy, TON, comment)) == ContractError.UNKNOWN_TEXT_OPERATION


def test_get_method(network: Network) -> None:
    accepted(network.pay_worker(10))
    owner, public_key, root, *numbers = network.get(network.proxy, "get_cocoon_proxy_data")
    assert Reader(owner.to_cell(), "a").address() == network.proxy_owner
    assert Reader(root.to_cell(), "a").address() == network.root
    assert public_key.to_bytes(32, "big") == network.proxy_data().public_key
    assert numbers == [0, 10 * 900_000, 0, 0]


def test_storage_is_paid_out_of_the_owners_share(network: Network) -> None:
    """Nothing lies there but what is promised, and years of storage: owner, workers and clients can still finish."""
    accepted(network.pay_worker(99_980))  # nearly all of the 100 TON is worker's pay and share now
    assert network.balance(network.proxy) < network.proxy_data().balance + TON // 50
    network.now += 5 * 365 * 86_400
    promised = network.proxy_data().balance + TON // 100
    refused = network.pay_worker(99_981)
    assert refused[1].exit_code == ContractError.LOW_CONTRACT_BALANCE
    assert network.balance(network.proxy) < promised
    accepted(network.pay_worker(99_980, op=Op.WORKER_LAST_PAYOUT))
    accepted(network.send(network.client, TON, network.payment(Op.CLIENT_GRANT_REFUND, 0, network.client)))
    held = network.balance(network.proxy)
    accepted(payout(network))
    assert network.proxy_data().balance == 0
    assert network.balance(network.proxy) == TON // 100
    assert network.balance(network.proxy_owner) == held - TON // 100
    accepted(network.send(network.proxy, TON, network.order(CLOSE)))


def test_share_that_is_not_there_is_not_paid(network: Network) -> None:
    """Less lies on the contract than stake and reserve: only data that never was true can say so."""
    state = network.states["proxy"]
    fields = {**fields_of(network.proxy_data()), "balance": TON, "stake": 5 * TON}
    lying = replace(state, data=type(network.proxy_data())(**fields).to_cell())
    network.send(lying.address(), TON, init=lying, bounce=False)
    body = ProxyPayout(1, network.excesses).to_cell()
    assert refusal(network.send(lying.address(), TON, body)) == ContractError.LOW_CONTRACT_BALANCE
    network.send(lying.address(), 6 * TON, bounce=False)
    accepted(network.send(lying.address(), TON, body))
