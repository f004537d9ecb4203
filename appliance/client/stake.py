"""When the client charges, tops up and closes its contracts (protocol specification, sections 4.5 and 6.7). Pure.

In: a client contract's proven data and our account with that gateway. Out: what to do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from appliance.chain.layouts import ContractStatus

if TYPE_CHECKING:
    from appliance.accounting.client_ledger import ClientAccount
    from appliance.chain.layouts import ClientData, Params


def charge_due(data: ClientData, account: ClientAccount) -> bool:
    """Whether to put the newest signed charge on chain: what is used and not charged there eats up the stake.

    Only where it moves the chain's count by an eighth of the stake, so that each one is worth its gas.
    """
    if account.payment is None:
        return False
    unpaid = (account.spent_tokens - data.tokens_used) * account.price
    moved = (account.signed_tokens - data.tokens_used) * account.price
    return unpaid > data.stake // 2 and moved > data.stake // 8


def top_up_amount(data: ClientData, account: ClientAccount, *, top_up: int, room: int | None) -> int:
    """How much to deposit now, in nanotons; 0 for nothing.

    The contract is topped up when what is paid in and not used yet falls below half of the stake.

    Args:
        data: The client contract's state on chain.
        account: Our account with that gateway, without a deposit on its way.
        top_up: The configured amount a time.
        room: What the budget leaves for deposits; None for no budget. Less than a quarter of the stake is not worth
            the gas.
    """
    if data.state != ContractStatus.OPEN:
        return 0
    unpaid = max(0, account.spent_tokens - data.tokens_used) * account.price
    if data.balance - unpaid >= data.stake // 2:
        return 0
    amount = max(top_up, data.stake)
    if room is None or amount <= room:
        return amount
    return room if room >= max(1, data.stake // 4) else 0


class RefundStage(StrEnum):
    """Where a client contract stands on its way back to its owner's wallet."""

    REQUEST = "request"
    """It is open: ask for the refund. What is above the stake comes at once, the rest after a delay."""
    WAIT = "wait"
    """The delay runs. A gateway that answers pays out in this time."""
    FINISH = "finish"
    """The delay is over: ask again, and the rest comes out of the gateway's stake."""
    DONE = "done"
    """There is nothing there any more."""


def refund_stage(data: ClientData | None, now: float) -> RefundStage:
    """What a refund needs next.

    Args:
        data: The client contract's data; None when it does not exist.
        now: Unix time of the chain.
    """
    if data is None or data.state == ContractStatus.CLOSED:
        return RefundStage.DONE
    if data.state == ContractStatus.OPEN:
        return RefundStage.REQUEST
    return RefundStage.WAIT if now < data.unlock_ts else RefundStage.FINISH


def grace_s(params: Params) -> float:
    """How long a gateway that has moved to newer parameters gets to pay out by itself (section 4.5)."""
    return max(0.0, (params.proxy_delay_before_close - params.client_delay_before_close) / 2)
