"""Taking stakes back: from gateways that are not wanted any more, and from contracts of older parameters.

In: accounts of the ledger. Out: refund requests through the client's wallet, and what stands where. A refund takes two
requests with a delay between them (protocol specification, section 6.7); both may be repeated without harm.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.chain import messages as msg
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.layouts import ClientData
from appliance.client.duties import ATTACHED_NANOTONS, RESEND_S
from appliance.client.stake import RefundStage, grace_s, refund_stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.accounting.client_ledger import ClientAccount
    from appliance.chain.addresses import Address
    from appliance.chain.layouts import Params
    from appliance.chain.types import ChainReader
    from appliance.client.duties import Wallet
    from appliance.client.money import Purse

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RefundReport:
    """One client contract on its way back.

    Attributes:
        gateway: The gateway's contract.
        contract: The client contract.
        stage: What was found.
        balance: Nanotons that it still holds.
        unlock_at: Unix time from which the second request works; 0 before the first.
        sent: A request was sent now.
    """

    gateway: Address
    contract: Address
    stage: RefundStage
    balance: int
    unlock_at: int
    sent: bool

    def to_dict(self) -> dict[str, str | int | bool]:
        """Plain values for JSON."""
        return {
            "gateway": self.gateway.raw(),
            "contract": self.contract.raw(),
            "stage": str(self.stage),
            "balance_nanotons": self.balance,
            "unlock_at": self.unlock_at,
            "sent": self.sent,
        }


class Refunds:
    """Asks for stakes.

    Args:
        chain: Proven state.
        wallet: The client's wallet, owner of its contracts: the money comes there.
        purse: The accounts; a closed contract is written down there.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self, chain: ChainReader, wallet: Wallet, purse: Purse, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._chain = chain
        self._wallet = wallet
        self._purse = purse
        self._monotonic = monotonic
        self._asked: dict[Address, float] = {}
        self._noticed: dict[Address, float] = {}

    async def step(self, account: ClientAccount) -> RefundReport:
        """Look at a contract and send what it needs next, if anything.

        Raises:
            ChainError: The wallet has too little, or the chain does not answer.
        """
        state = await self._chain.account(account.client_contract)
        data = None if state.data is None else ClientData.from_cell(state.data)
        stage = refund_stage(data, state.head.utime)
        sent = False
        if stage is RefundStage.DONE and account.deposit is None:
            self._purse.closed(account.contract)
        elif stage in {RefundStage.REQUEST, RefundStage.FINISH} and self._may_ask(account.contract):
            log.info("refund requested", contract=str(account.client_contract), stage=str(stage))
            body = msg.ClientRequestRefund(secrets.randbits(64), self._wallet.address).to_cell()
            await self._wallet.transfer([OutgoingMessage(account.client_contract, ATTACHED_NANOTONS, body)])
            sent = True
        balance, unlock_at = (data.balance, data.unlock_ts) if data is not None else (0, 0)
        return RefundReport(account.contract, account.client_contract, stage, balance, unlock_at, sent)

    async def wind_up(self, params: Params) -> None:
        """Close what belongs to older parameters, after its gateway had time to pay out by itself (section 4.5)."""
        for account in self._purse.accounts():
            if account.closed or account.params_version >= params.params_version:
                continue
            since = self._noticed.setdefault(account.contract, self._monotonic())
            if self._monotonic() - since >= grace_s(params):
                await self.step(account)

    def _may_ask(self, contract: Address) -> bool:
        now = self._monotonic()
        if now - self._asked.get(contract, float("-inf")) < RESEND_S:
            return False
        self._asked[contract] = now
        return True
