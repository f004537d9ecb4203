"""Collecting what was earned (protocol specification, section 2.6): one look at every account, payouts asked for.

In: records on disk, the contracts on chain, the owner's terms. Out: payouts through a :class:`Payer`, each noted on
disk before it is sent; contracts that are done with are forgotten. When a payout is worth its fee is decided by
:mod:`appliance.chain.payouts`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.errors import LedgerError
from appliance.chain.deploy import WorkerContract
from appliance.chain.errors import ChainError, FundsError
from appliance.chain.layouts import ContractStatus, WorkerData
from appliance.chain.messages import Op
from appliance.chain.payouts import PayoutDecision, PayoutTerms, PayoutView, Verdict, decide
from appliance.chain.signed import parse_payment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from appliance.accounting.records import ProxyRecord
    from appliance.chain.addresses import Address
    from appliance.chain.layouts import Params
    from appliance.chain.signed import SignedPayment
    from appliance.chain.types import ChainReader
    from appliance.worker.book import Book

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 600
"""A payout that has not shown up on chain after so long is asked for again."""


class Payer(Protocol):
    """Whoever pays the gas: the node's wallet, or the owner's own behind a relay."""

    async def deploy(self, contract: WorkerContract) -> None:
        """Put a worker contract on chain unless it is there; raises ``ChainError``."""

    async def payout(self, payment: SignedPayment) -> None:
        """Have a payment executed by its contract; raises ``ChainError``."""


@dataclass(frozen=True, slots=True)
class ContractView:
    """A worker contract as proven: ``tokens`` paid for; ``status`` None where it is not deployed."""

    status: ContractStatus | None
    tokens: int


async def contract_view(chain: ChainReader, address: Address) -> ContractView:
    """Read a worker contract; raises ``ChainError``."""
    account = await chain.account(address)
    if account.status != "active" or account.data is None:
        return ContractView(None, 0)
    data = WorkerData.from_cell(account.data)
    return ContractView(ContractStatus(data.state), data.tokens)


def payout_view(
    record: ProxyRecord, contract: ContractView, *, fee_per_token: int, retiring: bool, now: int
) -> PayoutView:
    """A record and its contract as the decision needs them; a payout counts as under way for ten minutes."""
    under_way = record.requested > contract.tokens and now - record.requested_at < RETRY_AFTER_S
    return PayoutView(
        signed=record.counters.committed if record.payment is not None else 0,
        paid=contract.tokens,
        requested=record.requested if under_way else 0,
        worker_fee_per_token=fee_per_token,
        status=contract.status,
        retiring=retiring,
    )


class Collector:
    """Looks after the payouts of one worker.

    Args:
        book: The accounts.
        chain: Proven reads.
        payer: Pays the gas; None only watches.
        terms: The owner's.
        owner: Who is paid: part of every worker contract.
        clock: Unix seconds.
    """

    def __init__(
        self,
        book: Book,
        chain: ChainReader,
        payer: Payer | None,
        terms: PayoutTerms,
        owner: Address,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._chain = chain
        self._payer = payer
        self._terms = terms
        self._owner = owner
        self._clock = clock
        self._outdated_since: dict[Address, float] = {}
        self.decisions: dict[Address, PayoutDecision] = {}

    async def round(self, params: Params, linked: Callable[[], Collection[Address]]) -> None:
        """Look at every account once. One that fails is logged and tried again at the next round.

        Args:
            params: The root contract's current parameters.
            linked: Gateway contracts with a link at the moment, which are not forgotten.
        """
        for record in list(self._book.durable.values()):
            try:
                await self._look(record, params, linked)
            except (ChainError, LedgerError) as error:
                self._explain(record, str(error))
                log.warning("payout postponed", contract=record.worker_contract.raw(), error=type(error).__name__,
                            reason=error.message, hint=error.hint)  # fmt: skip
            except Exception as error:  # noqa: BLE001 - one gateway's account must not keep the others' from their pay
                log.error("payout failed in an unforeseen way", contract=record.worker_contract.raw(),
                          error=type(error).__name__)  # fmt: skip

    async def _look(self, record: ProxyRecord, params: Params, linked: Callable[[], Collection[Address]]) -> None:
        contract = await contract_view(self._chain, record.worker_contract)
        findings = await self._book.level(record.contract, contract.tokens)
        for finding in findings:
            log.warning("accounts differ", contract=record.worker_contract.raw(), kind=finding.kind,
                        seen=finding.seen, expected=finding.expected, hint=finding.hint)  # fmt: skip
        record = self._book.durable[record.contract]
        view = payout_view(
            record,
            contract,
            fee_per_token=params.worker_fee_per_token,
            retiring=self._retiring(record, params),
            now=int(self._clock()),
        )
        decision = decide(view, self._terms)
        self.decisions[record.contract] = decision
        if decision.verdict is Verdict.SEND:
            await self._send(record, decision)
        elif decision.verdict is Verdict.DEPLOY:
            await self._deploy(record, params)
        elif decision.verdict is Verdict.DROP or (view.retiring and decision.due_tokens == 0 and not view.requested):
            await self._forget(record, decision, linked)

    def _explain(self, record: ProxyRecord, why: str) -> None:
        """Let whoever looks see why the decision was not carried out."""
        decision = self.decisions.get(record.contract)
        if decision is not None:
            self.decisions[record.contract] = replace(decision, reason=f"{decision.reason}; {why}")

    def _retiring(self, record: ProxyRecord, params: Params) -> bool:
        """The contract's parameters are outdated, and for half the closing delay already (section 2.6)."""
        if record.params_version >= params.params_version:
            self._outdated_since.pop(record.contract, None)
            return False
        now = self._clock()
        since = self._outdated_since.setdefault(record.contract, now)
        return now - since >= params.client_delay_before_close / 2

    async def _send(self, record: ProxyRecord, decision: PayoutDecision) -> None:
        if self._payer is None or record.payment is None:
            return
        payment = parse_payment(record.payment, op=Op.WORKER_PAYOUT)
        noted = self._book.requested(record.contract, payment.tokens, payment.query_id, int(self._clock()))
        await self._book.keep(noted)
        log.info("payout sent", contract=record.worker_contract.raw(), tokens=decision.due_tokens, amount=decision.due)
        try:
            await self._payer.payout(payment)
        except FundsError:
            # Nothing left the wallet: it is asked for again as soon as there is gas money, not in ten minutes.
            await self._book.keep(self._book.requested(record.contract, 0, 0, 0))
            raise

    async def _deploy(self, record: ProxyRecord, params: Params) -> None:
        """The contract that owes is not on chain; of outdated parameters nothing can be deployed any more."""
        if self._payer is not None and record.params_version == params.params_version:
            await self._payer.deploy(WorkerContract(params, self._owner, record.contract, record.public_key))

    async def _forget(
        self, record: ProxyRecord, decision: PayoutDecision, linked: Callable[[], Collection[Address]]
    ) -> None:
        # The look took a while: who is linked counts now.
        if record.contract in linked() or not await self._book.forget(record):
            return
        log.info("contract done with", contract=record.worker_contract.raw(), reason=decision.reason)
        self.decisions.pop(record.contract, None)
        self._outdated_since.pop(record.contract, None)
