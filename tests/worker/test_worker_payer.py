"""Who pays: the node wallet once, or an order that is left for the owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog
from worker_world import OWNER, Accounts, Chain, make_params

from appliance.chain.addresses import Address
from appliance.chain.deploy import WorkerContract
from appliance.chain.messages import Op
from appliance.chain.relay import FileRelay
from appliance.chain.signed import parse_payment
from appliance.worker.payer import RelayPayer, WalletPayer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ACCOUNTS = Accounts(make_params())
CONTRACT = WorkerContract(ACCOUNTS.params, OWNER, ACCOUNTS.contract, ACCOUNTS.public_key)


class Wallet:
    """Sends slowly; what it deploys is then on chain."""

    address = Address(0, b"\x0d" * 32)

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.sent: list[Any] = []

    async def require_funds(self, amount: int) -> None:
        """There is always enough."""

    async def transfer(self, messages: Sequence[Any]) -> Any:
        await asyncio.sleep(0)
        self.sent.extend(messages)
        self._chain.put(ACCOUNTS, 0)

        class Sent:
            lt = 1

        return Sent()


class WalletChain(Chain):
    """A chain that a wallet's sender asks for its head."""

    async def head(self) -> Any:
        return (await self.account(OWNER)).head

    async def wait_head(self, after_seqno: int, *, timeout: float) -> Any:  # noqa: ASYNC109 - ChainReader
        await asyncio.sleep(0)
        return await self.head()


async def test_a_contract_is_deployed_once_however_many_ask() -> None:
    chain = WalletChain()
    wallet = Wallet(chain)
    payer = WalletPayer(chain, wallet)  # type: ignore[arg-type]  # stand-ins
    await asyncio.gather(*(payer.deploy(CONTRACT) for _ in range(3)))
    (message,) = wallet.sent
    assert message.destination == ACCOUNTS.worker_contract


async def test_excesses_come_back_to_the_wallet() -> None:
    chain = WalletChain()
    wallet = Wallet(chain)
    payment = parse_payment(ACCOUNTS.payment(7).data, op=Op.WORKER_PAYOUT)
    await WalletPayer(chain, wallet).payout(payment)  # type: ignore[arg-type]  # stand-ins
    (message,) = wallet.sent
    sent = parse_payment(payment.with_excesses(wallet.address).to_boc(), op=Op.WORKER_PAYOUT)
    assert message.body.hash == sent.to_cell().hash


async def test_a_relay_gets_orders_and_the_owner_is_told_once(tmp_path: Path) -> None:
    relay = FileRelay(tmp_path)
    payer = RelayPayer(relay)
    await payer.payout(parse_payment(ACCOUNTS.payment(7).data, op=Op.WORKER_PAYOUT))
    ((_, order),) = relay.orders()
    assert order.payment.tokens == 7
    with structlog.testing.capture_logs() as logs:
        await payer.deploy(CONTRACT)
        await payer.deploy(CONTRACT)
    assert len(logs) == 1
    assert logs[0]["contract"] == ACCOUNTS.worker_contract.friendly()
