"""Any order of messages, with any value: the books of the contracts and the money agree after each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contract_world import TON, Network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.chain.layouts import ContractStatus
from appliance.chain.messages import (
    ClientIncreaseStake,
    ClientRequestRefund,
    ClientTopUp,
    ClientWithdraw,
    Op,
    Payout,
    ProxyIncreaseStake,
    ProxyPayout,
    WorkerRequest,
)

if TYPE_CHECKING:
    from contract_world import Executed

    from appliance.chain.contracts import ContractCodes
    from appliance.lab.tvm import Tvm

PRICE, FEE = 1_000_000, 100_000
STORAGE = TON // 1000  # more than what hours of storage cost

values = st.sampled_from([TON // 20, TON // 10, TON // 10 + 1, TON // 8, TON // 2, 3 * TON])
totals = st.sampled_from([0, 1, 1000, 5000, 40_000, 100_000, 2_000_000])
amounts = st.sampled_from([0, 1, TON, 5 * TON, 60 * TON])
steps = st.one_of(
    st.tuples(st.sampled_from(["payout", "last payout", "charge", "grant"]), totals, values),
    st.tuples(st.sampled_from(["top up", "raise client stake", "raise proxy stake"]), amounts, values),
    st.tuples(st.sampled_from(["withdraw", "refund", "proxy payout", "close", "complete"]), st.just(0), values),
    st.tuples(st.just("wait"), st.sampled_from([60, 1800, 3600]), values),
)


def perform(network: Network, action: str, number: int, value: int) -> list[Executed]:
    client, proxy, back = network.client, network.proxy, network.excesses
    if action == "wait":
        network.now += number
        return []
    signed = {
        "payout": (network.worker, Op.WORKER_PAYOUT),
        "last payout": (network.worker, Op.WORKER_LAST_PAYOUT),
        "charge": (client, Op.CLIENT_CHARGE),
        "grant": (client, Op.CLIENT_GRANT_REFUND),
    }
    if action in signed:
        contract, op = signed[action]
        return network.send(contract, value, network.payment(op, number, contract))
    orders = {"close": Op.PROXY_CLOSE, "complete": Op.PROXY_COMPLETE_CLOSE}
    if action in orders:
        return network.send(proxy, value, network.order(orders[action]))
    to, extra, message = {
        "top up": (client, number, ClientTopUp(1, number, back)),
        "raise client stake": (client, 0, ClientIncreaseStake(1, number, back)),
        "raise proxy stake": (proxy, number, ProxyIncreaseStake(1, number, back)),
        "withdraw": (client, 0, ClientWithdraw(1, back)),
        "refund": (client, 0, ClientRequestRefund(1, back)),
        "proxy payout": (proxy, 0, ProxyPayout(1, back)),
    }[action]
    return network.send(to, value + extra, message.to_cell(), source=network.client_owner)


def check(network: Network, paid: int) -> None:
    proxy, worker, client = network.proxy_data(), network.worker_data(), network.client_data()
    # The worker's owner has got exactly what `tokens` says, after every success, refusal and bounce.
    assert paid == worker.tokens * FEE
    # What the proxy contract has promised lies there.
    reserve = TON // 100 - STORAGE
    assert network.balance(network.proxy) >= proxy.balance + proxy.stake + reserve
    # Closed contracts keep nothing but the reserve, and owe nothing.
    if client.state == ContractStatus.CLOSED:
        assert client.balance == 0
    for address in (network.worker, network.client, network.proxy):
        assert network.balance(address) >= reserve


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(steps, min_size=6, max_size=14))
def test_books_and_money_agree(tvm: Tvm, codes: ContractCodes, walk: list[tuple[str, int, int]]) -> None:
    network = Network(tvm, codes)
    paid = 0
    for action, number, value in walk:
        executed = perform(network, action, number, value)
        for each in executed:
            # A payout to the worker's owner by the proxy contract; the worker contract's own surplus is another thing.
            if each.account == network.worker_owner and each.source == network.proxy:
                assert Payout.from_cell(each.body)
                paid += each.value
        check(network, paid)
    assert all(
        WorkerRequest.from_cell(each.body).owner == network.worker_owner
        for each in executed
        if each.account == network.proxy and each.source == network.worker
    )
