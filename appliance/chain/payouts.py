"""When a signed payout is worth sending, and the message that sends it.

In: the newest signed total, what the contract has paid, prices and the owner's terms; all plain values. Out: a
decision with its reason, and an order that a node wallet, a relay or the owner's own wallet can execute. Rules:
protocol specification, 2.6 and section 8, item 10 (thresholds are money, and a payout costs a stated share of what it
brings in at most).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.layouts import ContractStatus
from appliance.chain.wallet import tons

if TYPE_CHECKING:
    from appliance.chain.addresses import Address
    from appliance.chain.signed import SignedPayment

PAYOUT_VALUE = 500_000_000
"""Nanotons attached to a worker's payout; what is not used comes back as excesses (6.7)."""
CLIENT_MESSAGE_VALUE = 700_000_000
"""Nanotons attached to a client contract's messages, besides the amount they carry (4.5)."""
TYPICAL_FEE = 30_000_000
"""Nanotons that a payout costs in gas and forwarding, all contracts of the chain together, with a margin."""


@dataclass(frozen=True, slots=True)
class PayoutTerms:
    """What the owner wants. Amounts in nanotons; ``max_fee_share`` between 0 and 1."""

    minimum: int = 1_000_000_000
    max_fee_share: float = 0.05
    fee: int = TYPICAL_FEE


@dataclass(frozen=True, slots=True)
class PayoutView:
    """What is known about one worker contract. Token numbers are totals, as the protocol counts them.

    ``requested`` is the total of a payout that is under way (0 when there is none); ``retiring`` is set when the
    network's parameters have moved on, so that the contract will be closed soon; ``status`` is the contract's, or None
    when it is not deployed.
    """

    signed: int
    paid: int
    requested: int
    worker_fee_per_token: int
    status: ContractStatus | None
    retiring: bool = False


class Verdict(Enum):
    """What to do with a payout."""

    SEND = "send"
    WAIT = "wait"
    DEPLOY = "deploy the contract first"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class PayoutDecision:
    """The verdict, its reason for people, the tokens due and their worth in nanotons."""

    verdict: Verdict
    reason: str
    due_tokens: int
    due: int


def decide(view: PayoutView, terms: PayoutTerms) -> PayoutDecision:
    """Decide about one contract."""
    tokens = max(0, view.signed - max(view.paid, view.requested))
    due = tokens * view.worker_fee_per_token
    verdict, reason = _judge(view, terms, tokens, due)
    return PayoutDecision(verdict, reason, tokens, due)


def _judge(view: PayoutView, terms: PayoutTerms, tokens: int, due: int) -> tuple[Verdict, str]:
    if view.status is ContractStatus.CLOSED:
        return Verdict.DROP, "the contract is closed and pays nothing any more"
    if not tokens:
        return Verdict.WAIT, "nothing is due"
    refusal = _not_worth_it(view, terms, due)
    if refusal is not None:
        return refusal
    if view.status is None:
        return Verdict.DEPLOY, f"{tons(due)} is due and the contract is not deployed"
    return Verdict.SEND, f"{tons(due)} is due"


def _not_worth_it(view: PayoutView, terms: PayoutTerms, due: int) -> tuple[Verdict, str] | None:
    """Why the sum does not justify its fee; a contract that is about to be closed pays the last time or never."""
    if view.retiring:
        return (Verdict.DROP, f"{tons(due)} is due, a payout costs {tons(terms.fee)}") if due <= terms.fee else None
    if due < terms.minimum:
        return Verdict.WAIT, f"{tons(due)} is due, the owner's minimum is {tons(terms.minimum)}"
    if terms.fee > due * terms.max_fee_share:
        share = f"{terms.fee / due:.1%} of {tons(due)}" if due else "all of it"
        return Verdict.WAIT, f"fees would be {share}, allowed is {terms.max_fee_share:.1%}"
    return None


def payout_message(payment: SignedPayment, excesses: Address, *, value: int = PAYOUT_VALUE) -> OutgoingMessage:
    """The message that executes a signed payment on its contract; what is left of ``value`` goes to ``excesses``."""
    return OutgoingMessage(payment.my_address, value, payment.with_excesses(excesses).to_cell())
