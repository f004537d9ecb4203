"""Who pays the gas of a worker's contracts: its node wallet, or the owner's own wallet behind a relay.

In: contracts to deploy and payments to execute (:class:`~appliance.worker.payouts.Payer`). Out: messages of the chain
room's wallet, or orders that the relay's side sends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from appliance.chain.deploy import deploy_worker
from appliance.chain.payouts import payout_message
from appliance.chain.relay import PayoutOrder

if TYPE_CHECKING:
    from appliance.chain.addresses import Address
    from appliance.chain.deploy import WorkerContract
    from appliance.chain.relay import PayoutRelay
    from appliance.chain.signed import SignedPayment
    from appliance.chain.types import ChainReader
    from appliance.chain.wallet import Wallet

log = structlog.get_logger(__name__)


class WalletPayer:
    """Pays from the node wallet. What payouts leave over comes back to it; what they earn goes to the owner.

    Args:
        chain: Proven reads.
        wallet: The node wallet.
    """

    def __init__(self, chain: ChainReader, wallet: Wallet) -> None:
        self._chain = chain
        self._wallet = wallet
        self._deploying = asyncio.Lock()

    async def deploy(self, contract: WorkerContract) -> None:
        """Deploy a worker contract unless it is there; raises ``ChainError``."""
        # One after another: whoever comes second finds it there and pays nothing.
        async with self._deploying:
            await deploy_worker(self._chain, self._wallet, contract)

    async def payout(self, payment: SignedPayment) -> None:
        """Execute a payment; raises ``ChainError``."""
        await self._wallet.transfer([payout_message(payment, self._wallet.address)])


class RelayPayer:
    """Leaves payouts to the owner's wallet, outside this machine: no gas money lies here.

    Args:
        relay: Where orders are left.
    """

    def __init__(self, relay: PayoutRelay) -> None:
        self._relay = relay
        self._told: set[Address] = set()

    async def deploy(self, contract: WorkerContract) -> None:
        """Say once that the owner has to deploy it: a relay takes payouts only."""
        if contract.address in self._told:
            return
        self._told.add(contract.address)
        log.warning(
            "worker contract is not on chain",
            contract=contract.address.friendly(),
            hint="a relay takes payouts only: start once with owner.gas_key_file; what is earned meanwhile is not lost",
        )

    async def payout(self, payment: SignedPayment) -> None:
        """Leave an order; raises ``ChainError``."""
        await self._relay.hand_over(PayoutOrder(payment))
