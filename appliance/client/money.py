"""The client's money: budget, reservations, what answers cost, signed charges. On disk before it is acted on.

:class:`Purse` is what sessions report to. Its decisions are arithmetic over :class:`ClientAccount`; the only I/O is the
ledger. Flushing what answers cost may lag by a second, which is safe: ``authorized_tokens`` already covers them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.accounting.client_ledger import ClientAccount, covering, reconciled, with_charge, with_usage
from appliance.chain.layouts import ContractStatus
from appliance.client.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.accounting.client_ledger import ClientLedger
    from appliance.chain.addresses import Address
    from appliance.chain.layouts import ClientData, Params
    from appliance.chain.signed import SignedPayment
    from appliance.client.handshake import Terms
    from appliance.client.request import Prepared
    from appliance.wire.messages import TokensUsed


@dataclass(frozen=True, slots=True)
class Funds:
    """What the purse holds, in nanotons. ``budget_left`` is None without a budget."""

    spent: int
    reserved: int
    topped_up: int
    budget_left: int | None


class Purse:
    """All accounts of one client.

    Args:
        ledger: Where they are kept.
        price: The current price of one adjusted token in nanotons (root contract).
        budget: Most that may ever be spent, in nanotons; None for no bound but the stakes.
    """

    def __init__(self, ledger: ClientLedger, *, price: Callable[[], int], budget: int | None) -> None:
        self._ledger = ledger
        self._price = price
        self._budget = budget
        self._accounts = ledger.accounts()
        self._reserved: dict[Address, int] = {}
        self._dirty: set[Address] = set()

    def account(self, contract: Address) -> ClientAccount | None:
        """The account with one gateway contract."""
        return self._accounts.get(contract)

    def funds(self) -> Funds:
        """Totals over all gateways."""
        spent = sum(account.spent_nanotons for account in self._accounts.values())
        reserved = sum(self._reserved.values()) * self._price()
        topped_up = sum(account.topped_up_nanotons for account in self._accounts.values())
        left = None if self._budget is None else max(0, self._budget - spent - reserved)
        return Funds(spent, reserved, topped_up, left)

    def opened(self, terms: Terms, charge: SignedPayment | None, gateway_total: int) -> None:
        """A link is authorised: bring our account and the gateway's word together."""
        account = self._accounts.get(terms.contract) or _fresh(terms)
        account = reconciled(account, gateway_total, self._price())
        if charge is not None:
            account = with_charge(account, charge.tokens, charge.to_boc())
        self._write(account)

    def reserve(self, terms: Terms, prepared: Prepared) -> None:
        """Set aside what the request may cost.

        Raises:
            BudgetError: More than the budget leaves; the message has the numbers.
        """
        account = self._accounts[terms.contract]
        cost = prepared.reserved * self._price()
        left = self.funds().budget_left
        if left is not None and cost > left:
            raise BudgetError(
                f"the request may cost {cost} nanotons, {left} of the budget are left",
                hint="lower max_tokens or max_coefficient, or raise host.budget_nanotons",
            )
        reserved = self._reserved.get(terms.contract, 0)
        raised = covering(account, reserved, prepared.reserved)
        if raised is not account:
            self._write(raised)
        self._reserved[terms.contract] = reserved + prepared.reserved

    def settle(self, terms: Terms, prepared: Prepared, used: TokensUsed) -> None:
        """Release the reservation and count what was used; :meth:`flush` writes it."""
        self._reserved[terms.contract] = max(0, self._reserved.get(terms.contract, 0) - prepared.reserved)
        if used.total_tokens_used:
            account = self._accounts[terms.contract]
            self._accounts[terms.contract] = with_usage(account, used.total_tokens_used, self._price())
            self._dirty.add(terms.contract)

    def charged(self, terms: Terms, charge: SignedPayment) -> None:
        """A verified signed charge.

        Raises:
            PaymentRefusedError: It charges for more than can have been used.
        """
        account = with_charge(self._accounts[terms.contract], charge.tokens, charge.to_boc())
        if account is not self._accounts[terms.contract]:
            self._accounts[terms.contract] = account
            self._dirty.add(terms.contract)

    def topping_up(self, terms: Terms, amount: int) -> None:
        """Write down a top-up before it is sent."""
        account = self._accounts.get(terms.contract) or _fresh(terms)
        self._write(replace(account, topped_up_nanotons=account.topped_up_nanotons + amount))

    def flush(self) -> None:
        """Write what changed."""
        if self._dirty:
            self._ledger.save(self._accounts[contract] for contract in self._dirty)
            self._dirty.clear()

    def close(self) -> None:
        """Write everything; what is authorised shrinks to what was spent, because nothing is in flight any more."""
        for contract, account in self._accounts.items():
            self._accounts[contract] = replace(account, authorized_tokens=account.spent_tokens)
            self._dirty.add(contract)
        self.flush()
        self._ledger.close()

    def _write(self, account: ClientAccount) -> None:
        self._accounts[account.contract] = account
        self._ledger.save([account])
        self._dirty.discard(account.contract)


def charge_needed(data: ClientData, account: ClientAccount, params: Params) -> bool:
    """Whether to put the newest signed charge on chain: what is used and not charged there eats up the stake (4.5).

    Args:
        data: The client contract's state on chain.
        account: Our account with that gateway.
        params: The root contract's parameters.
    """
    if account.payment is None or account.signed_tokens <= data.tokens_used:
        return False
    return (account.spent_tokens - data.tokens_used) * params.price_per_token > data.stake // 2


def _fresh(terms: Terms) -> ClientAccount:
    return ClientAccount(terms.contract, terms.public_key, terms.client_contract, terms.params_version)


def top_up_needed(
    data: ClientData, account: ClientAccount, params: Params, *, top_up: int, budget_left: int | None
) -> int:
    """How much to send to the client contract now, in nanotons; 0 for nothing (protocol specification, section 4.5).

    The contract is topped up when what is paid in and not used yet falls below half of the stake.

    Args:
        data: The client contract's state on chain.
        account: Our account with that gateway.
        params: The root contract's parameters.
        top_up: The configured amount a time.
        budget_left: What the budget leaves; None for no budget.
    """
    if data.state != ContractStatus.OPEN:
        return 0
    unpaid = max(0, account.spent_tokens - data.tokens_used) * params.price_per_token
    if data.balance - unpaid >= data.stake // 2:
        return 0
    amount = max(top_up, data.stake)
    if budget_left is not None and amount > budget_left + data.stake:
        return 0
    return amount
