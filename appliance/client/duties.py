"""The client's work on chain: its contract at each gateway, the stake, the secret, top-ups (protocol, section 4.5).

In: terms of a gateway. Out: messages through the client's wallet, each written down before it is sent.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.chain import messages as msg
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.layouts import ClientData, ContractStatus
from appliance.chain.signed import parse_payment
from appliance.chain.stateinit import client_state
from appliance.client.errors import BudgetError, GatewayRefusedError
from appliance.client.money import charge_needed, top_up_needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.chain.addresses import Address
    from appliance.chain.layouts import RootState
    from appliance.chain.structs import Struct
    from appliance.chain.types import ChainReader
    from appliance.client.handshake import Terms
    from appliance.client.money import Purse

log = structlog.get_logger(__name__)

DEPLOY_NANOTONS = 800_000_000
"""Attached to a new client contract for its life on chain (protocol specification, section 4.3)."""
ATTACHED_NANOTONS = 700_000_000
"""Attached to a top-up besides the amount; the rest comes back (section 4.5)."""
REGISTER_NANOTONS = 1_000_000_000
SHOW_UP_S = 120.0


class Wallet(Protocol):
    """The client's wallet."""

    @property
    def address(self) -> Address:
        """Its address."""
        ...

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> object:
        """Send messages and wait until the chain has them."""
        ...


class Duties:
    """Looks after one client's contracts.

    Args:
        chain: Proven state.
        wallet: Pays.
        purse: The accounts; top-ups are written there first.
        root: The newest proven root state.
        secret: The client's secret string; its hash is kept on chain.
        top_up: Nanotons a time.
    """

    def __init__(
        self,
        chain: ChainReader,
        wallet: Wallet,
        purse: Purse,
        root: Callable[[], RootState],
        *,
        secret: bytes,
        top_up: int,
    ) -> None:
        self._chain = chain
        self._wallet = wallet
        self._purse = purse
        self._root = root
        self._secret_hash = hashlib.sha256(secret).digest()
        self._top_up = top_up
        self._settled_at: dict[Address, tuple[int, int]] = {}

    async def prepare(self, terms: Terms) -> bool:
        """Make sure that the contract exists, holds a stake and knows the secret.

        Returns:
            Whether it had to be deployed.

        Raises:
            GatewayRefusedError: The contract is closing or closed.
            BudgetError: The stake is more than the budget leaves.
            ChainError: The wallet has too little, or the chain does not answer.
        """
        data = await self.contract(terms)
        if data is not None:
            if data.state != ContractStatus.OPEN:
                raise GatewayRefusedError(
                    f"the client contract {terms.client_contract} is {ContractStatus(data.state).name.lower()}",
                    hint="the stake comes back to the wallet; this gateway can be used with a new wallet key",
                )
            await self.maintain(terms)
            return False
        await self._deploy(terms)
        return True

    async def contract(self, terms: Terms) -> ClientData | None:
        """The client contract's proven data; None when it does not exist."""
        state = await self._chain.account(terms.client_contract)
        return None if state.data is None else ClientData.from_cell(state.data)

    async def register(self, terms: Terms) -> None:
        """Long authorisation: tell the gateway on chain that this link's nonce is ours (section 4.3)."""
        body = msg.ClientRegister(secrets.randbits(64), terms.nonce, self._wallet.address)
        await self._send(terms.client_contract, REGISTER_NANOTONS, body)

    def due(self, terms: Terms) -> bool:
        """Whether enough was used since the last look at the chain that another look is worth it. No I/O."""
        seen, account = self._settled_at.get(terms.contract), self._purse.account(terms.contract)
        if seen is None or account is None:
            return True
        tokens_used, stake = seen
        return (account.spent_tokens - tokens_used) * self._root().params.price_per_token > stake // 4

    async def maintain(self, terms: Terms) -> None:
        """Fix the secret hash, top up the stake when it runs low, and write down what answers cost."""
        self._purse.flush()
        data, account = await self.contract(terms), self._purse.account(terms.contract)
        if data is None or data.state != ContractStatus.OPEN:
            return
        if data.secret_hash != self._secret_hash:
            body = msg.ClientChangeSecret(secrets.randbits(64), self._secret_hash, self._wallet.address)
            await self._send(terms.client_contract, ATTACHED_NANOTONS, body)
        if account is None:
            return
        params = self._root().params
        self._settled_at[terms.contract] = (data.tokens_used, data.stake)
        if account.payment is not None and charge_needed(data, account, params):
            signed = parse_payment(account.payment, op=msg.Op.CLIENT_CHARGE).with_excesses(self._wallet.address)
            log.info("charging the client contract", contract=str(terms.client_contract), tokens=signed.tokens)
            message = OutgoingMessage(terms.client_contract, ATTACHED_NANOTONS, signed.to_cell())
            await self._wallet.transfer([message])
        left = self._purse.funds().budget_left
        amount = top_up_needed(data, account, params, top_up=self._top_up, budget_left=left)
        if amount:
            self._purse.topping_up(terms, amount)
            log.info("topping up", contract=str(terms.client_contract), amount=amount)
            top_up = msg.ClientTopUp(secrets.randbits(64), amount, self._wallet.address)
            await self._send(terms.client_contract, amount + ATTACHED_NANOTONS, top_up)

    async def _deploy(self, terms: Terms) -> None:
        params = self._root().params
        stake = max(self._top_up, params.min_client_stake)
        left = self._purse.funds().budget_left
        if left is not None and stake > left:
            raise BudgetError(
                f"the stake is {stake} nanotons, {left} of the budget are left", hint="raise host.budget_nanotons"
            )
        init = client_state(params, self._wallet.address, terms.contract, terms.public_key)
        body = msg.ClientChangeSecretAndTopUp(secrets.randbits(64), stake, self._secret_hash, self._wallet.address)
        log.info("deploying the client contract", contract=str(terms.client_contract), amount=stake)
        message = OutgoingMessage(
            terms.client_contract, stake + DEPLOY_NANOTONS + ATTACHED_NANOTONS, body.to_cell(), init=init
        )
        self._purse.topping_up(terms, stake)
        await self._wallet.transfer([message])
        head = await self._chain.head()
        while await self.contract(terms) is None:
            head = await self._chain.wait_head(head.block.seqno, timeout=SHOW_UP_S)

    async def _send(self, destination: Address, amount: int, body: Struct) -> None:
        await self._wallet.transfer([OutgoingMessage(destination, amount, body.to_cell())])
