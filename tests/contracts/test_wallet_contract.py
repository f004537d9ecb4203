"""The node wallet in the real TVM: external messages, their refusals, and what only the owner can do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from contract_world import TON, World, accepted, key, party, public, refusal

from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.envelopes import OutgoingMessage, WalletRequest, external_message
from appliance.chain.layouts import WalletData, WalletStatus
from appliance.chain.messages import ContractError, Op, WalletOwnerSend, WalletReplaceKey
from appliance.chain.stateinit import StateInit, wallet_state
from appliance.lab.tvm import TvmRefusedError

if TYPE_CHECKING:
    from contract_world import Executed
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.contracts import ContractCodes
    from appliance.lab.tvm import Tvm

NODE, OWNER, SHOP = key("node"), party("wallet owner"), party("shop")


class Purse(World):
    """One wallet with 10 TON, not deployed yet: its first external message brings the code."""

    def __init__(self, tvm: Tvm, codes: ContractCodes) -> None:
        super().__init__(tvm)
        self.state = wallet_state(codes.wallet, OWNER, public(NODE))
        self.address = self.state.address()
        self.send(self.address, 10 * TON, bounce=False)

    def stored(self) -> WalletData:
        return WalletData.from_cell(self.data(self.address))

    def request(self, seqno: int, *messages: OutgoingMessage, **changes: int) -> WalletRequest:
        request = WalletRequest.of(seqno, self.now + 3600, messages or (OutgoingMessage(SHOP, TON, bounce=False),))
        return replace(request, **changes)

    def ask(self, request: WalletRequest | Cell, *, signer=NODE) -> list[Executed]:
        body = request.sign(signer).to_cell() if isinstance(request, WalletRequest) else request
        deployed = self._account(self.address).storage.state.type_ == "account_active"
        return self.external(self.address, external_message(self.address, body, None if deployed else self.state))

    def refused(self, request: WalletRequest | Cell, *, signer=NODE) -> int | None:
        with pytest.raises(TvmRefusedError) as caught:
            self.ask(request, signer=signer)
        return caught.value.exit_code


@pytest.fixture
def purse(tvm: Tvm, codes: ContractCodes) -> Purse:
    return Purse(tvm, codes)


def test_first_message_deploys(purse: Purse) -> None:
    executed = accepted(purse.ask(purse.request(0)))
    assert [each.account for each in executed] == [purse.address, SHOP]
    assert purse.balance(SHOP) > TON - TON // 100
    assert purse.stored() == WalletData(1, 0, public(NODE), WalletStatus.OPEN, OWNER)
    assert purse.get(purse.address, "seqno") == (1,)
    assert purse.get(purse.address, "get_public_key") == (int.from_bytes(public(NODE), "big"),)
    (owner,) = purse.get(purse.address, "get_owner_address")
    assert Reader(owner.to_cell(), "a").address() == OWNER


def test_four_messages_and_a_deployment(purse: Purse) -> None:
    child = StateInit(purse.state.code, replace(WalletData.from_cell(purse.state.data), subwallet=5).to_cell())
    messages = [OutgoingMessage(party(f"shop {number}"), TON, bounce=False) for number in range(3)]
    messages.append(OutgoingMessage(child.address(), TON, init=child))
    accepted(purse.ask(purse.request(0, *messages)))
    assert all(purse.balance(message.destination) > TON - TON // 100 for message in messages)
    assert WalletData.from_cell(purse.data(child.address())).subwallet == 5


def test_replay_is_refused(purse: Purse) -> None:
    request = purse.request(0)
    accepted(purse.ask(request))
    assert purse.refused(request) == ContractError.WALLET_SEQNO
    assert purse.refused(purse.request(2)) == ContractError.WALLET_SEQNO
    accepted(purse.ask(purse.request(1)))


def test_expired(purse: Purse) -> None:
    assert purse.refused(purse.request(0, valid_until=purse.now)) == ContractError.WALLET_EXPIRED
    accepted(purse.ask(purse.request(0, valid_until=purse.now + 1)))


def test_other_subwallet(purse: Purse) -> None:
    assert purse.refused(purse.request(0, subwallet=1)) == ContractError.WALLET_SUBWALLET
    accepted(purse.ask(purse.request(0)))


def test_other_key(purse: Purse) -> None:
    assert purse.refused(purse.request(0), signer=key("thief")) == ContractError.WALLET_SIGNATURE
    accepted(purse.ask(purse.request(0)))


def test_changed_after_signing(purse: Purse) -> None:
    signed = purse.request(0).sign(NODE)
    stolen = replace(signed, messages=((0, OutgoingMessage(party("thief"), TON).to_cell()),))
    assert purse.refused(stolen.to_cell()) == ContractError.WALLET_SIGNATURE
    accepted(purse.ask(signed.to_cell()))


def test_low_balance(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0, OutgoingMessage(SHOP, 10 * TON - TON // 20, bounce=False))))
    assert purse.refused(purse.request(1)) == ContractError.WALLET_LOW_BALANCE
    purse.send(purse.address, TON // 10, bounce=False)
    accepted(purse.ask(purse.request(1, OutgoingMessage(SHOP, TON // 100, bounce=False))))


@pytest.mark.parametrize("mode", [16, 32, 64, 160, 255])
def test_dangerous_modes_are_refused(purse: Purse, mode: int) -> None:
    """32 above all: it would delete the account, and with it the sequence number."""
    message = OutgoingMessage(SHOP, TON, bounce=False).to_cell()
    bad = replace(purse.request(0), messages=((mode, message),))
    assert purse.refused(bad) == ContractError.MESSAGE_FORMAT
    accepted(purse.ask(replace(purse.request(0), messages=((128, message),))))
    assert purse.balance(purse.address) == 0
    assert purse.stored().seqno == 1


def test_rest_after_the_messages_is_refused(purse: Purse) -> None:
    unsigned = Writer("u").inline(purse.request(0).unsigned()).uint(0, 8).end()
    body = Writer("b").raw(NODE.sign(unsigned.hash), 64).inline(unsigned).end()
    assert purse.refused(body) == ContractError.MESSAGE_FORMAT
    accepted(purse.ask(purse.request(0)))


def test_message_that_cannot_be_sent_uses_up_its_number(purse: Purse) -> None:
    """Else anybody could repeat the request until the gas is gone."""
    too_much = OutgoingMessage(SHOP, 100 * TON, bounce=False)
    small = OutgoingMessage(SHOP, TON, bounce=False)
    executed = purse.ask(purse.request(0, too_much, small))
    assert executed[0].exit_code == 0
    assert purse.stored().seqno == 1
    assert purse.balance(SHOP) > TON - TON // 100
    assert purse.refused(purse.request(0, too_much, small)) == ContractError.WALLET_SEQNO
    malformed = replace(purse.request(1), messages=((0, empty_cell()),))
    purse.ask(malformed)
    assert purse.stored().seqno == 2


def owner_says(purse: Purse, text: bytes, source=OWNER) -> list[Executed]:
    body = Writer("m").uint(0, 32).raw(text, len(text)).end()
    return purse.send(purse.address, TON // 10, body, source=source)


def test_owner_takes_everything(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0)))
    held = purse.balance(purse.address)
    accepted(owner_says(purse, b"w"))
    assert purse.balance(purse.address) == 0
    assert purse.balance(OWNER) > held
    stranger = owner_says(purse, b"w", source=party("stranger"))
    assert [each.account for each in accepted(stranger)] == [purse.address]  # a transfer with a comment
    assert purse.balance(purse.address) > 0


def test_owner_blocks_and_unblocks(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0)))
    accepted(owner_says(purse, b"b", source=party("stranger")))
    assert purse.stored().status == WalletStatus.OPEN
    accepted(owner_says(purse, b"b"))
    assert purse.stored().status == WalletStatus.BLOCKED
    assert purse.refused(purse.request(1)) == ContractError.WALLET_BLOCKED
    accepted(owner_says(purse, b"u"))
    accepted(purse.ask(purse.request(1)))


@pytest.mark.parametrize("text", [b"x", b"", b"ww", b"W"])
def test_unknown_text(purse: Purse, text: bytes) -> None:
    accepted(purse.ask(purse.request(0)))
    assert refusal(owner_says(purse, text)) == ContractError.UNKNOWN_TEXT_OPERATION
    accepted(owner_says(purse, b"w"))


def test_owner_replaces_the_key(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0)))
    fresh = key("fresh node")
    message = WalletReplaceKey(1, public(fresh)).to_cell()
    refused = purse.send(purse.address, TON, message, source=party("stranger"))
    assert refusal(refused) == ContractError.EXPECTED_MESSAGE_FROM_OWNER
    accepted(purse.send(purse.address, TON, message, source=OWNER))
    assert purse.refused(purse.request(1)) == ContractError.WALLET_SIGNATURE
    accepted(purse.ask(purse.request(1), signer=fresh))
    assert purse.stored().public_key == public(fresh)


def test_owner_sends(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0)))
    message = WalletOwnerSend(1, 1, OutgoingMessage(SHOP, 2 * TON, bounce=False).to_cell()).to_cell()
    refused = purse.send(purse.address, TON, message, source=party("stranger"))
    assert refusal(refused) == ContractError.EXPECTED_MESSAGE_FROM_OWNER
    before = purse.balance(SHOP)
    accepted(purse.send(purse.address, TON, message, source=OWNER))
    assert purse.balance(SHOP) == before + 2 * TON


def test_other_internal_messages(purse: Purse) -> None:
    accepted(purse.ask(purse.request(0)))
    data = purse.data(purse.address)
    for op in (Op.EXCESSES, Op.PAYOUT, Op.DO_NOT_PROCESS):
        accepted(purse.send(purse.address, TON, Writer("m").uint(op, 32).uint(1, 64).end()))
    accepted(purse.bounce_from(party("shop"), purse.address))
    accepted(purse.send(purse.address, TON))
    assert purse.data(purse.address) == data
    unknown = Writer("m").uint(0x12345678, 32).uint(1, 64).end()
    assert refusal(purse.send(purse.address, TON, unknown)) == ContractError.UNKNOWN_OPERATION
    long_body = Writer("m").inline(WalletReplaceKey(1, public(NODE)).to_cell()).uint(1, 1).end()
    refused = purse.send(purse.address, TON, long_body, source=OWNER)
    assert refusal(refused) == ContractError.MESSAGE_FORMAT
