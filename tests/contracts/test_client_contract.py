"""The client contract in the real TVM: deposits, charges, refunds, closing, refusals, bounces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_world import TON, Network, accepted, key, party, refusal

from appliance.chain.cells import Reader, Writer
from appliance.chain.layouts import ContractStatus
from appliance.chain.messages import (
    ClientChangeSecret,
    ClientChangeSecretAndTopUp,
    ClientIncreaseStake,
    ClientRefundForcedPart,
    ClientRefundGrantedPart,
    ClientRegister,
    ClientRegisterPart,
    ClientRequest,
    ClientRequestRefund,
    ClientStateReport,
    ClientTopUp,
    ClientTopUpPart,
    ClientWithdraw,
    ContractError,
    Op,
    ProxyIncreaseStake,
)
from appliance.chain.stateinit import client_state

if TYPE_CHECKING:
    from contract_world import Executed

    from appliance.chain.structs import Struct

SECRET = bytes(range(32))
PRICE = 1_000_000


def by_owner(network: Network, message: Struct, value: int = TON) -> list[Executed]:
    return network.send(network.client, value, message.to_cell(), source=network.client_owner)


def charge(network: Network, tokens: int, op: Op = Op.CLIENT_CHARGE, value: int = TON) -> list[Executed]:
    return network.send(network.client, value, network.payment(op, tokens, network.client))


def refund(network: Network) -> ClientRequestRefund:
    return ClientRequestRefund(3, network.excesses)


def test_top_up_moves_the_money_to_the_proxy_contract(network: Network) -> None:
    proxy, client = network.balance(network.proxy), network.balance(network.client)
    executed = accepted(network.top_up(10 * TON))
    assert [each.account for each in executed] == [network.client, network.proxy, network.excesses]
    assert network.client_data().balance == 10 * TON
    assert network.balance(network.proxy) == proxy + 10 * TON
    assert network.balance(network.client) == client
    assert network.balance(network.excesses) > TON - TON // 20
    request = ClientRequest.from_cell(executed[1].body)
    assert request.state == ClientStateReport(0, 10 * TON, 2 * TON, 0, bytes(32))
    assert request.payload is not None
    assert ClientTopUpPart.from_cell(request.payload) == ClientTopUpPart(10 * TON, network.excesses)


@pytest.mark.parametrize(("short", "amount"), [(1, 5 * TON), (0, 0)])
def test_top_up_needs_its_value(network: Network, short: int, amount: int) -> None:
    message = ClientTopUp(1, amount, network.excesses).to_cell()
    refused = network.send(network.client, amount + TON // 10 - short, message)
    assert refusal(refused) == ContractError.LOW_MESSAGE_VALUE
    good = ClientTopUp(1, 5 * TON, network.excesses).to_cell()
    accepted(network.send(network.client, 5 * TON + TON // 10, good))
    assert network.client_data().balance == 5 * TON


def test_low_contract_balance(network: Network) -> None:
    owner = party("poor client")
    state = client_state(network.params, owner, network.proxy, network.client_data_constants().proxy_public_key)
    message = ClientTopUp(1, TON, network.excesses).to_cell()
    value = TON + TON // 10
    assert refusal(network.send(state.address(), value, message, init=state)) == ContractError.LOW_CONTRACT_BALANCE
    accepted(network.send(state.address(), value + TON // 100, message, init=state))
    report = ClientChangeSecret(1, SECRET, network.excesses).to_cell()
    assert network.balance(state.address()) == TON // 100
    accepted(network.send(state.address(), TON // 10, report, source=owner))


def test_change_secret_and_top_up(network: Network) -> None:
    message = ClientChangeSecretAndTopUp(1, 4 * TON, SECRET, network.excesses)
    executed = accepted(by_owner(network, message, 5 * TON))
    assert (network.client_data().secret_hash, network.client_data().balance) == (SECRET, 4 * TON)
    assert ClientRequest.from_cell(executed[1].body).state.secret_hash == SECRET


def test_change_secret(network: Network) -> None:
    executed = accepted(by_owner(network, ClientChangeSecret(1, SECRET, network.excesses)))
    assert network.client_data().secret_hash == SECRET
    assert ClientRequest.from_cell(executed[1].body).state.secret_hash == SECRET
    assert executed[2].account == network.excesses


def test_register_carries_the_nonce(network: Network) -> None:
    executed = accepted(by_owner(network, ClientRegister(9, 0x1122334455667788, network.excesses)))
    request = ClientRequest.from_cell(executed[1].body)
    assert (request.query_id, request.owner) == (9, network.client_owner)
    assert request.payload is not None
    assert ClientRegisterPart.from_cell(request.payload) == ClientRegisterPart(0x1122334455667788)
    assert executed[1].exit_code == 0


def test_increase_stake(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    executed = accepted(by_owner(network, ClientIncreaseStake(1, 6 * TON, network.excesses)))
    assert network.client_data().stake == 6 * TON
    assert ClientRequest.from_cell(executed[1].body).state.stake == 6 * TON
    lower = by_owner(network, ClientIncreaseStake(1, 6 * TON, network.excesses))
    assert refusal(lower) == ContractError.OLD_MESSAGE
    above = by_owner(network, ClientIncreaseStake(1, 10 * TON + 1, network.excesses))
    assert refusal(above) == ContractError.LOW_BALANCE
    accepted(by_owner(network, ClientIncreaseStake(1, 10 * TON, network.excesses)))


def test_withdraw_pays_what_is_above_the_stake(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    executed = accepted(by_owner(network, ClientWithdraw(2, network.excesses)))
    assert network.balance(network.client_owner) == 8 * TON
    assert network.client_data().balance == 2 * TON
    request = ClientRequest.from_cell(executed[1].body)
    assert request.payload is not None
    assert ClientRefundGrantedPart.from_cell(request.payload).coins == 8 * TON
    again = by_owner(network, ClientWithdraw(2, network.excesses))
    assert refusal(again) == ContractError.LOW_BALANCE


def test_charge(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    executed = accepted(charge(network, 1000))
    assert (network.client_data().tokens_used, network.client_data().balance) == (1000, 10 * TON - 1000 * PRICE)
    assert ClientRequest.from_cell(executed[1].body).state.tokens_used == 1000
    assert refusal(charge(network, 1000)) == ContractError.OLD_MESSAGE
    accepted(charge(network, 1001))
    accepted(charge(network, 50_000))  # more than there is
    assert network.client_data().balance == 0


def test_charge_refusals(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    thief = network.payment(Op.CLIENT_CHARGE, 5, network.client, signer=key("thief"))
    assert refusal(network.send(network.client, TON, thief)) == ContractError.BAD_SIGNATURE
    other = network.payment(Op.CLIENT_CHARGE, 5, network.worker)
    assert refusal(network.send(network.client, TON, other)) == ContractError.EXPECTED_MY_ADDRESS
    assert refusal(charge(network, 5, value=TON // 10 - 1)) == ContractError.LOW_MESSAGE_VALUE
    accepted(charge(network, 5, value=TON // 10))
    grant = network.payment(Op.CLIENT_GRANT_REFUND, 9, network.client)
    inner = grant.refs[0]
    body = Writer("o").uint(Op.CLIENT_CHARGE, 32).uint(7, 64).address(network.excesses)
    body = body.raw(network.key.sign(inner.hash), 64).ref(inner).end()
    assert refusal(network.send(network.client, TON, body)) == ContractError.SIGNED_MESSAGE_FORMAT
    long = Writer("o").inline(grant).uint(0, 1).end()
    assert refusal(network.send(network.client, TON, long)) == ContractError.MESSAGE_FORMAT


def test_granted_refund_pays_everything_and_closes(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    accepted(charge(network, 1000))
    accepted(charge(network, 3000, Op.CLIENT_GRANT_REFUND))
    assert network.balance(network.client_owner) == pytest.approx(10 * TON - 3000 * PRICE + TON // 10, abs=TON // 50)
    data = network.client_data()
    assert (data.state, data.balance, data.tokens_used) == (ContractStatus.CLOSED, 0, 3000)
    assert network.balance(network.client) == TON // 100
    for attempt in (charge(network, 9000), network.top_up(TON), charge(network, 9000, Op.CLIENT_GRANT_REFUND)):
        assert refusal(attempt) == ContractError.CLOSED
    for message in messages_of_the_owner(network):
        assert refusal(by_owner(network, message, 5 * TON)) == ContractError.CLOSED


def messages_of_the_owner(network: Network) -> list[Struct]:
    return [
        ClientChangeSecretAndTopUp(1, TON, SECRET, network.excesses),
        ClientRegister(1, 2, network.excesses),
        ClientChangeSecret(1, SECRET, network.excesses),
        ClientIncreaseStake(1, 3 * TON, network.excesses),
        ClientWithdraw(1, network.excesses),
        refund(network),
    ]


def test_only_the_owner(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    data = network.data(network.client)
    for message in messages_of_the_owner(network):
        refused = network.send(network.client, 5 * TON, message.to_cell(), source=party("stranger"))
        assert refusal(refused) == ContractError.EXPECTED_MESSAGE_FROM_OWNER
    assert network.data(network.client) == data
    for message in messages_of_the_owner(network):
        accepted(by_owner(network, message, 5 * TON))


def test_low_value_of_owner_messages(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    for message in messages_of_the_owner(network)[1:]:
        assert refusal(by_owner(network, message, TON // 10 - 1)) == ContractError.LOW_MESSAGE_VALUE
        accepted(by_owner(network, message, TON // 10 + TON // 20))


def test_refund_that_nobody_grants(network: Network) -> None:
    """First request pays the excess and starts the delay; the second takes the rest out of the proxy's stake."""
    accepted(network.send(network.proxy, 6 * TON, ProxyIncreaseStake(1, 5 * TON, network.excesses).to_cell()))
    accepted(network.top_up(10 * TON))
    accepted(by_owner(network, refund(network)))
    data = network.client_data()
    assert (data.state, data.balance, data.unlock_ts) == (ContractStatus.CLOSING, 2 * TON, network.now + 1800)
    assert network.balance(network.client_owner) == 8 * TON
    network.now += 1799
    assert refusal(by_owner(network, refund(network))) == ContractError.NOT_UNLOCKED
    assert refusal(network.top_up(TON)) == ContractError.CLOSED
    accepted(charge(network, 500))  # the proxy may still charge what was used
    network.now += 1
    executed = accepted(by_owner(network, refund(network)))
    request = ClientRequest.from_cell(next(each.body for each in executed if each.account == network.proxy))
    assert request.payload is not None
    assert ClientRefundForcedPart.from_cell(request.payload).coins == 2 * TON - 500 * PRICE
    assert network.client_data().state == ContractStatus.CLOSED
    assert network.proxy_data().stake == 3 * TON + 500 * PRICE
    assert network.balance(network.client_owner) >= 8 * TON + 2 * TON - 500 * PRICE


def test_forced_refund_takes_at_most_the_stake(network: Network) -> None:
    accepted(network.send(network.proxy, 2 * TON, ProxyIncreaseStake(1, TON, network.excesses).to_cell()))
    accepted(network.top_up(2 * TON))
    accepted(by_owner(network, refund(network)))
    network.now += 1800
    before = network.balance(network.client_owner)
    held = network.balance(network.client)
    accepted(by_owner(network, refund(network)))
    assert network.proxy_data().stake == 0
    paid = network.balance(network.client_owner) - before
    assert paid == pytest.approx(TON + held - TON // 100, abs=10_000)  # a little storage fee for the wait


def test_request_that_the_proxy_refuses_is_undone(network: Network) -> None:
    """The proxy contract is closed: top-ups come back, refunds leave the balance where it was."""
    accepted(network.top_up(10 * TON))
    close_proxy(network)
    received = network.balance(network.excesses)
    executed = network.top_up(3 * TON)
    assert executed[1].exit_code == ContractError.CLOSED
    assert network.client_data().balance == 10 * TON
    assert network.balance(network.excesses) > received + 4 * TON - TON // 10
    for message in (ClientWithdraw(1, network.excesses), refund(network)):
        executed = by_owner(network, message)
        assert executed[1].exit_code == ContractError.CLOSED
        assert network.client_data().balance == 10 * TON
    assert network.client_data().state == ContractStatus.CLOSING
    network.now += 1800
    by_owner(network, refund(network))
    assert (network.client_data().state, network.client_data().balance) == (ContractStatus.CLOSING, 10 * TON)
    charge(network, 10, Op.CLIENT_GRANT_REFUND)
    assert (network.client_data().state, network.client_data().balance) == (
        ContractStatus.CLOSING,
        10 * TON - 10 * PRICE,
    )


def test_granted_refund_that_bounces_reopens(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    close_proxy(network)
    charge(network, 10, Op.CLIENT_GRANT_REFUND)
    data = network.client_data()
    assert (data.state, data.balance) == (ContractStatus.OPEN, 10 * TON - 10 * PRICE)


def close_proxy(network: Network) -> None:
    accepted(network.send(network.proxy, TON, network.order(Op.PROXY_CLOSE)))
    network.now += 3600
    accepted(network.send(network.proxy, TON, network.order(Op.PROXY_COMPLETE_CLOSE)))


def test_bounces_of_reports_and_strangers_change_nothing(network: Network) -> None:
    accepted(network.top_up(10 * TON))
    close_proxy(network)
    by_owner(network, ClientChangeSecret(1, SECRET, network.excesses))
    by_owner(network, ClientRegister(1, 2, network.excesses))
    data = network.client_data()
    assert (data.secret_hash, data.balance, data.state) == (SECRET, 10 * TON, ContractStatus.OPEN)
    before = network.data(network.client)
    assert network.bounce_from(party("stranger"), network.client)[0].exit_code == 0
    assert network.data(network.client) == before


def test_unknown_operations(network: Network) -> None:
    unknown = Writer("m").uint(0x12345678, 32).uint(1, 64).end()
    assert refusal(network.send(network.client, TON, unknown)) == ContractError.UNKNOWN_OPERATION
    comment = Writer("m").uint(0, 32).raw(b"hello", 5).end()
    assert refusal(network.send(network.client, TON, comment)) == ContractError.UNKNOWN_TEXT_OPERATION


def test_get_method(network: Network) -> None:
    accepted(network.top_up(3 * TON))
    owner, proxy, public_key, *numbers = network.get(network.client, "get_cocoon_client_data")
    assert Reader(owner.to_cell(), "a").address() == network.client_owner
    assert Reader(proxy.to_cell(), "a").address() == network.proxy
    assert public_key.to_bytes(32, "big") == network.client_data_constants().proxy_public_key
    assert numbers == [0, 3 * TON, 2 * TON, 0, 0, 0]
