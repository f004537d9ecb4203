"""The client's money: budget, reservations, what answers cost, signed charges. On disk before it is acted on.

:class:`Purse` is what sessions report to. A request holds the most it can cost (:func:`ceiling`) from before it leaves
until its cost is known. Usually the end of its answer says so; a request that was cancelled, ran out of time or lost
its link is *left*: the gateway may still charge it, so it goes on holding until the gateway reports it, or until its
time is over and the gateway's total shows that it was not counted. So at every moment what the gateway can have counted
lies between ``spent_tokens`` and ``spent_tokens`` plus everything held, and a charge outside of that is refused.

Writing what answers cost may lag by a second, which is safe: ``authorized_tokens`` on disk already covers them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from appliance.accounting.client_ledger import (
    ClientAccount,
    covering,
    deposited,
    depositing,
    with_charge,
    with_usage,
)
from appliance.accounting.errors import PaymentRefusedError
from appliance.accounting.tokens import adjust
from appliance.client.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.accounting.client_ledger import ClientLedger, Deposit
    from appliance.chain.addresses import Address
    from appliance.chain.layouts import Params
    from appliance.chain.signed import SignedPayment
    from appliance.client.handshake import Terms
    from appliance.client.request import Prepared
    from appliance.wire.messages import TokensUsed

log = structlog.get_logger(__name__)

PROMPT_SLACK = 2048
"""Tokens that a chat template may add to a prompt; all others are at least one byte of the request each."""
ANSWER_SLACK = 16
"""Tokens beyond ``max_tokens`` that an engine may report, such as the one that ends an answer."""
SETTLE_S = 60.0
"""How long after a request's time is over a gateway may still report it."""


def ceiling(prepared: Prepared, params: Params) -> int:
    """The most adjusted tokens that a request can honestly cost.

    The protocol's own reservation (section 3.6) is lower where a multiplier is above 1: it is what the gateway sets
    aside, not a bound of what it deducts.
    """
    dearest_in = max(params.prompt_tokens_price_multiplier, params.cached_tokens_price_multiplier)
    dearest_out = max(params.completion_tokens_price_multiplier, params.reasoning_tokens_price_multiplier)
    return (
        adjust(len(prepared.http) + PROMPT_SLACK, prepared.max_coefficient, dearest_in)
        + adjust(prepared.max_tokens + ANSWER_SLACK, prepared.max_coefficient, dearest_out)
        + 4  # each kind of token is rounded on its own
    )


@dataclass(frozen=True, slots=True)
class Funds:
    """What the purse holds, in nanotons. ``budget_left`` is None without a budget."""

    spent: int
    reserved: int
    topped_up: int
    budget_left: int | None


@dataclass(frozen=True, slots=True)
class Hold:
    """What one request may cost. ``until`` is None while it runs; else the time after which it cannot be charged."""

    contract: Address
    tokens: int
    price: int
    until: float | None = None


class Purse:
    """All accounts of one client.

    Args:
        ledger: Where they are kept.
        budget: Most that may ever be spent or stand at gateways, in nanotons; None for no bound.
        longest_s: Longest time of one request in seconds.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        ledger: ClientLedger,
        *,
        budget: int | None,
        longest_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._budget = budget
        self._longest = longest_s + SETTLE_S
        self._clock = clock
        self._accounts = ledger.accounts()
        self._dirty: set[Address] = set()
        self._holds: dict[bytes, Hold] = {}
        self._held: dict[Address, int] = {}
        self._held_nanotons = 0
        self._barred: dict[bytes, str] = {}
        self._adopted: set[Address] = set()
        for account in self._accounts.values():
            unknown = account.authorized_tokens - account.spent_tokens
            if unknown:
                # The process was killed: what ran then may have been charged.
                key = b"before the start " + account.contract.hash
                self._hold(key, Hold(account.contract, unknown, account.price, clock() + self._longest))

    # What is known ----------------------------------------------------------------------------------------------

    def account(self, contract: Address) -> ClientAccount | None:
        """The account with one gateway contract."""
        return self._accounts.get(contract)

    def accounts(self) -> tuple[ClientAccount, ...]:
        """All accounts."""
        return tuple(self._accounts.values())

    def at_risk(self, contract: Address) -> int:
        """Tokens of requests whose cost is not known."""
        return self._held.get(contract, 0)

    def funds(self) -> Funds:
        """Totals over all gateways."""
        spent = sum(account.spent_nanotons for account in self._accounts.values())
        topped_up = sum(account.topped_up_nanotons for account in self._accounts.values() if not account.closed)
        left = None if self._budget is None else max(0, self._budget - spent - self._held_nanotons)
        return Funds(spent, self._held_nanotons, topped_up, left)

    def deposit_room(self) -> int | None:
        """How much more may be deposited, in nanotons; None without a budget.

        A gateway that turns out dishonest can keep what is deposited, so the budget bounds that too.
        """
        if self._budget is None:
            return None
        return max(0, self._budget - sum(account.exposed_nanotons for account in self._accounts.values()))

    def require_trusted(self, terms: Terms) -> None:
        """Raise :class:`PaymentRefusedError` for a gateway that charged too much since this program started."""
        reason = self._barred.get(terms.public_key)
        if reason is not None:
            raise PaymentRefusedError(
                f"this gateway is not used any more: {reason}",
                hint="take back the stake with 'chrysalis client refund', or restart the client to use it again",
            )

    def bar(self, terms: Terms, reason: str) -> None:
        """Use a gateway no more until the program is restarted, under whatever address or contract it appears."""
        self._barred.setdefault(terms.public_key, reason)

    # Requests ---------------------------------------------------------------------------------------------------

    def reserve(self, terms: Terms, request_id: bytes, prepared: Prepared) -> None:
        """Set aside the most that a request can cost; on disk when this returns.

        Raises:
            BudgetError: More than the budget leaves; the message has the numbers.
            PaymentRefusedError: The gateway is barred.
            LedgerError: The disk did not take it, so nothing may be sent.
        """
        self.require_trusted(terms)
        account, tokens = self._accounts[terms.contract], ceiling(prepared, terms.params)
        cost, left = tokens * account.price, self.funds().budget_left
        if left is not None and cost > left:
            raise BudgetError(
                f"the request may cost {cost} nanotons, {left} of the budget are left",
                hint="lower max_tokens or max_coefficient, or raise host.budget_nanotons",
            )
        raised = covering(account, self.at_risk(terms.contract), tokens)
        if raised is not account:
            self._write(raised)
        self._hold(request_id, Hold(terms.contract, tokens, account.price))

    def settle(self, request_id: bytes, used: TokensUsed) -> int:
        """The answer is complete: release what was held and count what was used; :meth:`flush` writes it.

        Returns:
            The cost in nanotons.

        Raises:
            PaymentRefusedError: The report is no sum, negative, or more than the request can cost. It is held on.
        """
        hold = self._holds[request_id]
        parts = (
            used.prompt_tokens_used,
            used.cached_tokens_used,
            used.completion_tokens_used,
            used.reasoning_tokens_used,
        )
        total = used.total_tokens_used
        if min(parts) < 0 or total != sum(parts):
            self.leave(request_id)
            raise PaymentRefusedError(f"the gateway's report is no sum: total {total}, parts {parts}")
        return self._spend(request_id, hold, total)

    def release(self, request_id: bytes) -> None:
        """The request did not leave, or was refused: it costs nothing."""
        self._drop(request_id)

    def leave(self, request_id: bytes) -> None:
        """The request ended here, but its cost is not known yet."""
        hold = self._drop(request_id)
        if hold is not None:
            self._hold(request_id, replace(hold, until=self._clock() + self._longest))

    def reported(self, request_id: bytes, tokens: int) -> None:
        """The gateway says what a request cost; news only for one that was left.

        Raises:
            PaymentRefusedError: More than it can cost, or negative.
        """
        hold = self._holds.get(request_id)
        if hold is not None and hold.until is not None:
            self._spend(request_id, hold, tokens)

    def _spend(self, request_id: bytes, hold: Hold, tokens: int) -> int:
        if not 0 <= tokens <= hold.tokens:
            self.leave(request_id)
            raise PaymentRefusedError(f"the gateway reports {tokens} tokens for a request that can cost {hold.tokens}")
        self._drop(request_id)
        if tokens:
            self._accounts[hold.contract] = with_usage(self._accounts[hold.contract], tokens)
            self._dirty.add(hold.contract)
        return tokens * hold.price

    # What the gateway says --------------------------------------------------------------------------------------

    def opened(self, terms: Terms, charge: SignedPayment | None, gateway_total: int) -> None:
        """A link is authorised: bring our account and the gateway's word together.

        Raises:
            PaymentRefusedError: Its signed charge is for more than can have been used.
            LedgerError: The disk did not take it.
        """
        known = self._accounts.get(terms.contract)
        account = replace(known or _fresh(terms), price=terms.params.price_per_token)
        if known is None or (self._ledger.restored and terms.contract not in self._adopted):
            account = _adopted(account, charge.tokens if charge else 0, gateway_total, terms.params)
        self._adopted.add(terms.contract)
        self._write(account)
        self.counted(terms, gateway_total)
        if charge is not None:
            self.charged(terms, charge)
        self.flush()

    def counted(self, terms: Terms, gateway_total: int) -> None:
        """The gateway's own total. Nobody signed it, so it is believed only inside what was left.

        Usage that this client never saw the end of is taken over; what was left long enough ago and is not in the total
        is released. While requests run the total may be ahead of their answers, so nothing is taken over then.
        """
        contract, now = terms.contract, self._clock()
        left = {key: hold for key, hold in self._holds.items() if hold.contract == contract and hold.until is not None}
        running = self._held.get(contract, 0) > sum(hold.tokens for hold in left.values())
        account = self._accounts[contract]
        unseen = gateway_total - account.spent_tokens
        if unseen > 0 and running:
            return
        for key, hold in left.items():
            part = min(max(0, unseen), hold.tokens)
            unseen -= part
            over = hold.until is not None and hold.until <= now
            if part or over:
                self._drop(key)
                account = with_usage(account, part)
            if part and not over and part < hold.tokens:
                self._hold(key, replace(hold, tokens=hold.tokens - part))
        if account is not self._accounts[contract]:
            self._accounts[contract] = account
            self._dirty.add(contract)

    def charged(self, terms: Terms, charge: SignedPayment) -> None:
        """A verified signed charge.

        Raises:
            PaymentRefusedError: It charges for more than can have been used.
        """
        known = self._accounts[terms.contract]
        account = with_charge(known, charge, at_risk=self.at_risk(terms.contract))
        if account is not known:
            self._accounts[terms.contract] = account
            self._dirty.add(terms.contract)

    # Deposits ---------------------------------------------------------------------------------------------------

    def depositing(self, terms: Terms, deposit: Deposit) -> None:
        """Write down a deposit before it is sent."""
        self._write(depositing(self._accounts.get(terms.contract) or _fresh(terms), deposit))

    def deposited(self, contract: Address, *, arrived: bool) -> None:
        """Write down what became of it."""
        self._write(deposited(self._accounts[contract], arrived=arrived))

    def closed(self, contract: Address) -> None:
        """The chain shows that the client contract is closed: what it held came back."""
        account = self._accounts[contract]
        if not account.closed:
            self._write(replace(account, closed=True, deposit=None))

    # The disk ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what changed; raises ``LedgerError``, and then it is still to be written."""
        if self._dirty:
            self._ledger.save([self._accounts[contract] for contract in self._dirty])
            self._dirty.clear()

    def close(self) -> None:
        """Write everything: what is authorised shrinks to what can still be charged."""
        for contract, account in self._accounts.items():
            exact = account.spent_tokens + self.at_risk(contract)
            if account.authorized_tokens != exact:
                self._accounts[contract] = replace(account, authorized_tokens=exact)
                self._dirty.add(contract)
        try:
            self.flush()
        finally:
            self._ledger.close()

    def _write(self, account: ClientAccount) -> None:
        self._ledger.save([account])
        self._accounts[account.contract] = account
        self._dirty.discard(account.contract)

    def _hold(self, key: bytes, hold: Hold) -> None:
        self._holds[key] = hold
        self._held[hold.contract] = self._held.get(hold.contract, 0) + hold.tokens
        self._held_nanotons += hold.tokens * hold.price

    def _drop(self, key: bytes) -> Hold | None:
        hold = self._holds.pop(key, None)
        if hold is not None:
            self._held[hold.contract] -= hold.tokens
            self._held_nanotons -= hold.tokens * hold.price
        return hold


def _fresh(terms: Terms) -> ClientAccount:
    params = terms.params
    return ClientAccount(
        terms.contract, terms.public_key, terms.client_contract, params.params_version, params.price_per_token
    )


def _adopted(account: ClientAccount, signed: int, total: int, params: Params) -> ClientAccount:
    """The account of a lost or restored ledger: what the gateway has counted is the past, and cannot be contested.

    What it signed is taken over; what it merely says, up to the stake's worth, because no gateway lets a client use
    more than its stake before it signs.
    """
    worth = params.min_client_stake // max(1, params.price_per_token)
    past = max(signed, min(total, max(signed, account.spent_tokens) + worth))
    missing = past - account.spent_tokens
    if missing <= 0:
        return account
    log.warning("usage taken over from the gateway", contract=str(account.contract), tokens=missing)
    return with_usage(account, missing)
