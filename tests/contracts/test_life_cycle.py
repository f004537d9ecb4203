"""A network from its first contract to the last payout, in the real TVM, with every nanoton accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_world import TON, Network, accepted, party, public, refusal

from appliance.chain import signed
from appliance.chain.envelopes import OutgoingMessage, WalletRequest, external_message
from appliance.chain.layouts import ContractStatus
from appliance.chain.messages import (
    ClientChangeSecret,
    ClientRegister,
    ClientTopUp,
    ClientWithdraw,
    ContractError,
    Op,
    ProxyIncreaseStake,
    ProxyPayout,
    RootAddModelHash,
    RootAddWorkerHash,
    RootRegisterProxy,
    WorkerRegister,
)
from appliance.chain.stateinit import worker_state

if TYPE_CHECKING:
    from appliance.chain.contracts import ContractCodes
    from appliance.lab.tvm import Tvm

PRICE, FEE = 1_000_000, 100_000


def test_from_deployment_to_retirement(network: Network) -> None:
    for message in (RootAddWorkerHash(1, b"\x01" * 32), RootAddModelHash(2, b"\x02" * 32), RootRegisterProxy(3, "h:1")):
        accepted(network.send(network.root, TON, message.to_cell(), source=network.root_owner))
    accepted(network.send(network.proxy, 6 * TON, ProxyIncreaseStake(4, 5 * TON, network.excesses).to_cell()))
    own = network.balance(network.proxy)
    register = WorkerRegister(5, network.excesses).to_cell()
    accepted(network.send(network.worker, TON, register, source=network.worker_owner))
    # The client deposits, proves itself, and uses 20000 tokens in two steps.
    accepted(network.top_up(30 * TON))
    for message in (ClientRegister(6, 99, network.excesses), ClientChangeSecret(7, b"s" * 32, network.excesses)):
        accepted(network.send(network.client, TON, message.to_cell(), source=network.client_owner))
    for total in (12_000, 20_000):
        charge = network.payment(Op.CLIENT_CHARGE, total, network.client)
        accepted(network.send(network.client, TON, charge))
    assert network.client_data().balance == 30 * TON - 20_000 * PRICE
    # The worker is paid twice; the proxy takes its share in between.
    accepted(network.pay_worker(12_000))
    accepted(network.send(network.proxy, TON, ProxyPayout(8, network.excesses).to_cell()))
    assert network.balance(network.proxy_owner) == 12_000 * (PRICE - FEE)
    accepted(network.pay_worker(18_000))
    withdraw = ClientWithdraw(9, network.excesses).to_cell()
    accepted(network.send(network.client, TON, withdraw, source=network.client_owner))
    assert network.balance(network.client_owner) == 30 * TON - 20_000 * PRICE - 2 * TON
    # Retirement (6.8): close, grant the refund, last payout, complete close.
    accepted(network.send(network.proxy, TON, network.order(Op.PROXY_CLOSE)))
    grant = network.payment(Op.CLIENT_GRANT_REFUND, 20_500, network.client)
    accepted(network.send(network.client, TON, grant))
    accepted(network.pay_worker(20_500, op=Op.WORKER_LAST_PAYOUT))
    network.now += 3601
    held = network.balance(network.proxy)
    accepted(network.send(network.proxy, TON, network.order(Op.PROXY_COMPLETE_CLOSE)))
    # Who has what. Storage for an hour costs a few thousand nanotons; gas was paid by whoever sent messages.
    slack = TON // 100
    worker_earned = 20_500 * FEE
    assert 0 <= network.balance(network.worker_owner) - worker_earned < TON // 10
    client_left = 30 * TON - 20_500 * PRICE
    assert 0 <= network.balance(network.client_owner) - client_left < TON // 10
    earned = network.balance(network.proxy_owner)
    assert abs(earned - (12_000 * (PRICE - FEE) + held - TON // 100)) < slack
    # The books close: own money, the share of 20500 tokens, and what is left of six reports of 0.01 TON.
    assert 0 <= earned - (own + 20_500 * (PRICE - FEE) - TON // 100) < 6 * TON // 100
    for data in (network.proxy_data(), network.worker_data(), network.client_data()):
        assert data.state == ContractStatus.CLOSED


def test_node_wallet_deploys_the_worker_and_takes_its_pay(tvm: Tvm, codes: ContractCodes) -> None:
    """The worker's own way: its wallet deploys the worker contract and forwards what the proxy signed."""
    from contract_world import key

    from appliance.chain.stateinit import wallet_state

    network = Network(tvm, codes)
    node, owner = key("node"), party("second owner")
    wallet = wallet_state(codes.wallet, owner, public(node))
    worker = worker_state(network.params, owner, network.proxy, public(network.key))
    network.send(wallet.address(), 10 * TON, bounce=False)
    deploy = OutgoingMessage(worker.address(), TON // 10, init=worker)
    first = WalletRequest.of(0, network.now + 60, (deploy,)).sign(node).to_cell()
    accepted(network.external(wallet.address(), external_message(wallet.address(), first, wallet)))
    payment = signed.sign_payment(network.key, Op.WORKER_PAYOUT, 1, 5000, worker.address(), network.excesses)
    payment = signed.parse_payment(payment.to_boc(), op=Op.WORKER_PAYOUT)
    payment.verify(public(network.key), worker.address())
    forward = OutgoingMessage(worker.address(), TON // 2, payment.with_excesses(wallet.address()).to_cell())
    second = WalletRequest.of(1, network.now + 60, (forward,)).sign(node).to_cell()
    before = network.balance(wallet.address())
    executed = accepted(network.external(wallet.address(), external_message(wallet.address(), second)))
    assert [each.account for each in executed] == [
        wallet.address(),
        worker.address(),
        network.proxy,
        owner,
        wallet.address(),
    ]
    assert network.balance(owner) == 5000 * FEE
    assert before - network.balance(wallet.address()) < TON // 50  # what a payout costs


def test_money_of_other_clients_is_left_alone(tvm: Tvm, codes: ContractCodes) -> None:
    """A refund takes a client's own balance, however often it is asked for."""
    network = Network(tvm, codes)
    accepted(network.top_up(10 * TON))
    held = network.balance(network.proxy)
    withdraw = ClientWithdraw(9, network.excesses).to_cell()
    for _ in range(3):
        network.send(network.client, TON, withdraw, source=network.client_owner)
    assert held - network.balance(network.proxy) == 8 * TON
    top_up = ClientTopUp(1, TON, network.excesses).to_cell()
    accepted(network.send(network.client, 2 * TON, top_up))
    assert network.client_data().balance == 3 * TON


def test_closed_contract_stays_closed_for_years(network: Network) -> None:
    """The storage reserve: a contract that forgot that it is closed would pay again."""
    accepted(network.pay_worker(5000))
    accepted(network.pay_worker(6000, op=Op.WORKER_LAST_PAYOUT))
    network.now += 5 * 365 * 86_400
    assert refusal(network.pay_worker(7000)) == ContractError.CLOSED
    again = network.send(network.worker, TON, network.payment(Op.WORKER_PAYOUT, 7000, network.worker))
    assert refusal(again) == ContractError.CLOSED
    redeployed = network.send(network.worker, TON, init=network.states["worker"], bounce=False)
    assert accepted(redeployed)
    assert network.worker_data().state == ContractStatus.CLOSED
    assert network.worker_data().tokens == 6000


def test_storage_is_paid_out_of_the_contract_and_payouts_go_on(network: Network) -> None:
    accepted(network.pay_worker(5000))
    held = network.balance(network.worker)
    network.now += 365 * 86_400
    accepted(network.pay_worker(6000))
    # An account without code pays for storage too, a little.
    assert network.balance(network.worker_owner) == pytest.approx(6000 * FEE, abs=TON // 1000)
    assert TON // 100 <= network.balance(network.worker) < held


@pytest.mark.parametrize("contract", ["root", "proxy", "worker", "client"])
def test_bounced_messages_of_strangers_do_nothing(network: Network, contract: str) -> None:
    address = getattr(network, contract)
    data = network.data(address)
    for body in (None, network.payment(Op.WORKER_PAYOUT, 10, network.worker)):
        executed = network.bounce_from(party("stranger"), address, body=body)
        assert [each.exit_code for each in executed] == [0]
    assert network.data(address) == data
