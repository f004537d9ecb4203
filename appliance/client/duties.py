"""The client's work on chain: its contract at each gateway, the stake, the secret, top-ups (protocol, section 4.5).

In: terms of a gateway. Out: messages through the client's wallet. One piece of work runs at a time. A deposit is
written down before it is sent, and no other one is made until the chain has shown that it arrived or never will.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Protocol

import structlog

from appliance.accounting.client_ledger import Deposit
from appliance.chain import messages as msg
from appliance.chain.cells import Reader
from appliance.chain.envelopes import OutgoingMessage
from appliance.chain.errors import ChainTimeoutError, LayoutError
from appliance.chain.layouts import ClientData, ContractStatus
from appliance.chain.signed import parse_payment
from appliance.chain.stateinit import client_state
from appliance.client.errors import BudgetError, GatewayRefusedError
from appliance.client.stake import charge_due, top_up_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountState, ChainReader
    from appliance.client.handshake import Terms
    from appliance.client.money import Purse

log = structlog.get_logger(__name__)

DEPLOY_NANOTONS = 800_000_000
"""Attached to a new client contract for its life on chain (protocol specification, section 4.3)."""
ATTACHED_NANOTONS = 700_000_000
"""Attached to a top-up besides the amount; the rest comes back (section 4.5)."""
REGISTER_NANOTONS = 1_000_000_000
SHOW_UP_S = 120.0
RESEND_S = 60.0
"""How long a message that may be repeated without harm gets to show its effect on chain before it is sent again."""
MESSAGE_VALID_S = 600
"""How long the wallet's messages stay valid."""
EXPIRY_MARGIN_S = 60
_DEPOSITS = frozenset({int(msg.Op.CLIENT_TOP_UP), int(msg.Op.CLIENT_CHANGE_SECRET_AND_TOP_UP)})


class Wallet(Protocol):
    """The client's wallet; its messages are valid for :data:`MESSAGE_VALID_S`."""

    @property
    def address(self) -> Address:
        """Its address."""
        ...

    async def require_funds(self, amount: int = 0) -> None:
        """Raise ``FundsError`` unless it holds that much."""
        ...

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> object:
        """Send messages and wait until the chain has them."""
        ...


class Duties:
    """Looks after one client's contracts.

    Args:
        chain: Proven state.
        wallet: Pays.
        purse: The accounts; deposits are written there first.
        secret: The client's secret string; its hash is kept on chain.
        top_up: Nanotons a time.
        clock: Unix time.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        chain: ChainReader,
        wallet: Wallet,
        purse: Purse,
        *,
        secret: bytes,
        top_up: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._wallet = wallet
        self._purse = purse
        self._secret_hash = hashlib.sha256(secret).digest()
        self._top_up = top_up
        self._clock = clock
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._sent: dict[tuple[Address, int], float] = {}
        self._seen: dict[Address, tuple[int, int]] = {}

    async def prepare(self, terms: Terms) -> bool:
        """Make sure that the contract exists, holds a stake and knows the secret.

        Returns:
            Whether it had to be deployed.

        Raises:
            GatewayRefusedError: The contract is closing or closed.
            BudgetError: The stake is more than the budget leaves.
            ChainError: The wallet has too little, or the chain does not answer.
        """
        async with self._turn:
            state = await self._chain.account(terms.client_contract)
            if state.data is None:
                await self._deploy(terms, state)
                return True
        await self.maintain(terms)
        return False

    async def register(self, terms: Terms) -> None:
        """Long authorisation: tell the gateway on chain that this link's nonce is ours (section 4.3)."""
        body = msg.ClientRegister(secrets.randbits(64), terms.nonce, self._wallet.address)
        async with self._turn:
            await self._send(terms.client_contract, REGISTER_NANOTONS, body.to_cell())

    def due(self, terms: Terms) -> bool:
        """Whether enough was used since the last look at the chain that another look is worth it. No I/O."""
        seen, account = self._seen.get(terms.contract), self._purse.account(terms.contract)
        if seen is None or account is None:
            return True
        tokens_used, stake = seen
        return (account.spent_tokens - tokens_used) * account.price > stake // 4

    async def maintain(self, terms: Terms) -> None:
        """Fix the secret hash, write down what answers cost, and top up when the deposit runs low.

        Raises:
            GatewayRefusedError: The contract is closing or closed.
            ChainError: The wallet has too little, or the chain does not answer.
            LedgerError: The disk is full; nothing was sent.
        """
        async with self._turn:
            self._purse.flush()
            state = await self._chain.account(terms.client_contract)
            if state.data is None:
                return
            data = ClientData.from_cell(state.data)
            if data.state != ContractStatus.OPEN:
                raise GatewayRefusedError(
                    f"the client contract {terms.client_contract} is {ContractStatus(data.state).name.lower()}",
                    hint="its money comes back to the wallet; this gateway can be used with a new wallet key",
                )
            self._seen[terms.contract] = (data.tokens_used, data.stake)
            await self._fix_secret(terms, data)
            await self._charge(terms, data)
            await self._keep_stake(terms, state, data)

    # Each duty ---------------------------------------------------------------------------------------------------

    async def _fix_secret(self, terms: Terms, data: ClientData) -> None:
        if data.secret_hash == self._secret_hash or not self._once(terms, msg.Op.CLIENT_CHANGE_SECRET):
            return
        body = msg.ClientChangeSecret(secrets.randbits(64), self._secret_hash, self._wallet.address)
        await self._send(terms.client_contract, ATTACHED_NANOTONS, body.to_cell())

    async def _charge(self, terms: Terms, data: ClientData) -> None:
        account = self._purse.account(terms.contract)
        if account is None or account.payment is None or not charge_due(data, account):
            return
        if not self._once(terms, msg.Op.CLIENT_CHARGE):
            return
        signed = parse_payment(account.payment, op=msg.Op.CLIENT_CHARGE).with_excesses(self._wallet.address)
        log.info("charging the client contract", contract=str(terms.client_contract), tokens=signed.tokens)
        await self._send(terms.client_contract, ATTACHED_NANOTONS, signed.to_cell())

    async def _keep_stake(self, terms: Terms, state: AccountState, data: ClientData) -> None:
        if not await self._settled(terms):
            return
        account = self._purse.account(terms.contract)
        if account is None:
            return
        # A deposit that the chain has just shown may be newer than the state that was read before it.
        if account.deposit is None and (fresh := await self._chain.account(terms.client_contract)).data is not None:
            state, data = fresh, ClientData.from_cell(fresh.data)
        amount = top_up_amount(data, account, top_up=self._top_up, room=self._purse.deposit_room())
        if amount:
            log.info("topping up", contract=str(terms.client_contract), amount=amount)
            query_id = secrets.randbits(63)
            body = msg.ClientTopUp(query_id, amount, self._wallet.address).to_cell()
            message = OutgoingMessage(terms.client_contract, amount + ATTACHED_NANOTONS, body)
            await self._deposit(terms, message, query_id=query_id, amount=amount, client_lt=state.last_lt)

    async def _deploy(self, terms: Terms, state: AccountState) -> None:
        if await self._settled(terms):
            params = terms.params
            stake = max(self._top_up, params.min_client_stake)
            room = self._purse.deposit_room()
            if room is not None and stake > room:
                raise BudgetError(
                    f"the stake is {stake} nanotons, {room} of the budget are left", hint="raise host.budget_nanotons"
                )
            log.info("deploying the client contract", contract=str(terms.client_contract), amount=stake)
            init = client_state(params, self._wallet.address, terms.contract, terms.public_key)
            query_id = secrets.randbits(63)
            body = msg.ClientChangeSecretAndTopUp(query_id, stake, self._secret_hash, self._wallet.address).to_cell()
            value = stake + DEPLOY_NANOTONS + ATTACHED_NANOTONS
            message = OutgoingMessage(terms.client_contract, value, body, init=init)
            await self._deposit(terms, message, query_id=query_id, amount=stake, client_lt=state.last_lt)
        await self._shown(terms)

    async def _shown(self, terms: Terms) -> None:
        """Wait until the contract is on chain."""
        try:
            async with asyncio.timeout(SHOW_UP_S):
                state = await self._chain.account(terms.client_contract)
                while state.data is None:
                    await self._chain.wait_head(state.head.block.seqno, timeout=SHOW_UP_S)
                    state = await self._chain.account(terms.client_contract)
        except TimeoutError:
            raise ChainTimeoutError(
                f"the client contract {terms.client_contract} is not on chain after {SHOW_UP_S:g} s",
                hint="it is waited for again; nothing is sent twice",
            ) from None

    # Deposits ----------------------------------------------------------------------------------------------------

    async def _deposit(
        self, terms: Terms, message: OutgoingMessage, *, query_id: int, amount: int, client_lt: int
    ) -> None:
        """Write it down, then send it."""
        await self._wallet.require_funds(message.value)
        wallet = await self._chain.account(self._wallet.address)
        expires_at = int(max(self._clock(), wallet.head.utime)) + MESSAGE_VALID_S + EXPIRY_MARGIN_S
        self._purse.depositing(terms, Deposit(query_id, amount, client_lt, wallet.last_lt, expires_at))
        await self._wallet.transfer([message])

    async def _settled(self, terms: Terms) -> bool:
        """Whether no deposit is on its way; looks for it on chain."""
        account = self._purse.account(terms.contract)
        deposit = account.deposit if account is not None else None
        if deposit is None:
            return True
        for transaction in await self._chain.transactions(terms.client_contract, after_lt=deposit.client_lt):
            inbound = transaction.inbound
            if inbound is not None and _is_deposit(inbound.body, deposit):
                self._purse.deposited(terms.contract, arrived=not transaction.aborted)
                return True
        if (await self._chain.head()).utime <= deposit.expires_at:
            return False
        # Too late for the wallet to take it: if it has not sent it by now, it never will.
        for transaction in await self._chain.transactions(self._wallet.address, after_lt=deposit.wallet_lt):
            if any(_is_deposit(sent.body, deposit) for sent in transaction.outbound):
                return False
        log.warning("a deposit was never sent", contract=str(terms.client_contract), amount=deposit.nanotons)
        self._purse.deposited(terms.contract, arrived=False)
        return True

    # Sending -----------------------------------------------------------------------------------------------------

    def _once(self, terms: Terms, op: msg.Op) -> bool:
        """Whether this kind of message was not sent to the contract in the last minute; it is then."""
        key, now = (terms.client_contract, int(op)), self._monotonic()
        if now - self._sent.get(key, float("-inf")) < RESEND_S:
            return False
        self._sent[key] = now
        return True

    async def _send(self, destination: Address, amount: int, body: Cell) -> None:
        await self._wallet.transfer([OutgoingMessage(destination, amount, body)])


def _is_deposit(body: Cell, deposit: Deposit) -> bool:
    try:
        reader = Reader(body, "a message")
        return reader.uint(32) in _DEPOSITS and reader.uint(64) == deposit.query_id
    except LayoutError:
        return False
