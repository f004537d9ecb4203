"""Wallets that send external messages: the shared engine, and the node's own wallet (6.3).

In: a chain, a key, messages to send. Out: the proven transaction that sent them, or an error that says why not. One
external message is outstanding at a time (calls queue), it is handed over again every half minute, and it counts as
done only when a proven transaction carries its body's hash. Nothing is kept on disk: after a restart the sequence
number on chain says what is left to do, and every message this project sends may be repeated without harm.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from appliance.chain.boc import encode_boc
from appliance.chain.cells import Writer
from appliance.chain.envelopes import MAX_WALLET_MESSAGES, OutgoingMessage, WalletRequest, external_message
from appliance.chain.errors import (
    ChainTimeoutError,
    ChainUnavailableError,
    FundsError,
    NotConfirmedError,
    SendRefusedError,
    WalletError,
)
from appliance.chain.layouts import WalletData, WalletStatus
from appliance.chain.messages import ContractError, Op
from appliance.chain.stateinit import StateInit, wallet_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address
    from appliance.chain.types import AccountState, ChainReader, Transaction

NANOTONS = 1_000_000_000
NODE_WALLET_MINIMUM = 200_000_000
"""Balance below which our node wallet does not send: its contract refuses below 0.1 TON and fees come on top."""
REFERENCE_WALLET_MINIMUM = 2_100_000_000
"""The same for the reference wallet's code, which refuses below 2 TON (6.3)."""
_RESERVE = 100_000_000
_LARGEST_AMOUNT = 1000 * NANOTONS
_RESEND_S = 30.0
_VALID_S = 600
_OUTAGE_GRACE_S = 60.0
_OUTAGE_PAUSE_S = 1.0

_log = structlog.get_logger(__name__)


def tons(nanotons: int) -> str:
    """An amount for people: ``2.1 TON``."""
    whole, rest = divmod(abs(nanotons), NANOTONS)
    sign = "-" if nanotons < 0 else ""
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".") + " TON"


@dataclass(frozen=True, slots=True)
class WalletReport:
    """A wallet as of a proven block. ``balance`` in nanotons; ``seqno`` 0 until it is deployed."""

    address: Address
    deployed: bool
    balance: int
    seqno: int
    minimum: int

    @property
    def funded(self) -> bool:
        """Whether it may send."""
        return self.balance >= self.minimum


@dataclass(slots=True)
class _Pending:
    """The one external message under way, and how far the chain was read for it."""

    boc: bytes
    body_hash: bytes
    seqno: int
    valid_until: int
    head_seqno: int
    last_lt: int
    sent_at: float = float("-inf")


class Wallet(ABC):
    """Sends messages from one account whose contract takes signed external messages with a sequence number.

    Args:
        chain: Where to read and send.
        state: The wallet's initial state, which is also its address.
        minimum: Nanotons below which it does not send.
        clock: Wall clock in Unix seconds; validity counts from it, or from the chain's time if that is later.
        resend: Seconds after which an unconfirmed message is handed over again.
        valid: Seconds a message stays valid.
    """

    def __init__(
        self,
        chain: ChainReader,
        state: StateInit,
        *,
        minimum: int,
        clock: Callable[[], float] = time.time,
        resend: float = _RESEND_S,
        valid: int = _VALID_S,
    ) -> None:
        self._chain = chain
        self._state = state
        self._minimum = minimum
        self._clock = clock
        self._resend = resend
        self._valid = valid
        self._turn = asyncio.Lock()
        self.address = state.address()

    @abstractmethod
    def _seqno(self, data: Cell) -> int:
        """The next sequence number from the account's data; raises :class:`WalletError` when it cannot be used."""

    @abstractmethod
    def _body(self, seqno: int, valid_until: int, messages: tuple[OutgoingMessage, ...]) -> Cell:
        """A signed body."""

    async def report(self) -> WalletReport:
        """The wallet as it stands; raises ``ChainError``."""
        account = await self._chain.account(self.address)
        return self._report(account)

    async def require_funds(self, amount: int = 0) -> None:
        """Raise :class:`FundsError` unless the wallet may send and holds ``amount`` nanotons besides its reserve."""
        self._check_funds(await self._chain.account(self.address), (amount,))

    async def deploy(self) -> Transaction | None:
        """Put the wallet's contract on chain if it is not there: it sends itself one nanoton that it ignores (6.5)."""
        if (await self.report()).deployed:
            return None
        return await self.transfer([OutgoingMessage(self.address, 1, _do_not_process(), bounce=False)])

    async def transfer(self, messages: Sequence[OutgoingMessage]) -> Transaction:
        """Send one to four messages and wait until a proven transaction has sent them.

        Raises:
            FundsError: The wallet holds too little; the hint says what to send to whom.
            SendRefusedError: The network does not accept the message.
            NotConfirmedError: It expired, or another message took its sequence number.
            WalletError: The wallet is blocked, has another key, or its contract could not send the messages.
        """
        batch = tuple(messages)
        if not 1 <= len(batch) <= MAX_WALLET_MESSAGES:
            raise WalletError(f"{len(batch)} messages at once, expected 1 to {MAX_WALLET_MESSAGES}")
        async with self._turn:
            account = await self._chain.account(self.address)
            report = self._report(account)
            self._check_funds(account, [message.value for message in batch])
            valid_until = int(max(self._clock(), account.head.utime)) + self._valid
            body = self._body(report.seqno, valid_until, batch)
            init = None if report.deployed else self._state
            boc = encode_boc(external_message(self.address, body, init))
            pending = _Pending(boc, body.hash, report.seqno, valid_until, account.head.block.seqno, account.last_lt)
            transaction = await self._confirm(pending)
        if transaction.action_code or transaction.exit_code or transaction.aborted:
            raise WalletError(
                f"wallet {self.address.friendly()} took the message but sent nothing: exit code "
                f"{transaction.exit_code}, action result {transaction.action_code}",
                hint="action result 37 means that it holds too little for amounts and fees",
            )
        if len(transaction.outbound) < len(batch):
            raise WalletError(
                f"wallet {self.address.friendly()} sent {len(transaction.outbound)} of {len(batch)} messages",
                hint="it holds too little for the others, or one of them cannot be sent",
            )
        return transaction

    async def _confirm(self, pending: _Pending) -> Transaction:
        """Hand the message over until a transaction with its body's hash is proven or it has expired.

        An unreachable chain does not end this: the message may be on its way, and giving up would invite a second one.
        """
        while True:
            try:
                found = await self._look_once(pending)
            except ChainUnavailableError as error:
                if self._clock() > pending.valid_until + _OUTAGE_GRACE_S:
                    raise NotConfirmedError(
                        f"wallet {self.address.friendly()}: whether the message with sequence number {pending.seqno} "
                        "was executed is not known",
                        hint="the chain cannot be read; look at the wallet's transactions before sending again",
                    ) from error
                await asyncio.sleep(_OUTAGE_PAUSE_S)
                continue
            if found is not None:
                _log.info("wallet message confirmed", seqno=pending.seqno, lt=found.lt)
                return found

    async def _look_once(self, pending: _Pending) -> Transaction | None:
        refusal: SendRefusedError | None = None
        if time.monotonic() - pending.sent_at >= self._resend:
            pending.sent_at = time.monotonic()
            try:
                await self._chain.send(pending.boc)
            except SendRefusedError as error:
                refusal = error
        try:
            await self._chain.wait_head(pending.head_seqno, timeout=self._resend)
        except ChainTimeoutError:
            if refusal is None:
                return None  # no block in that time: hand it over again
        account = await self._chain.account(self.address)
        pending.head_seqno = account.head.block.seqno
        if account.last_lt != pending.last_lt:
            for transaction in await self._chain.transactions(self.address, after_lt=pending.last_lt):
                inbound = transaction.inbound
                if inbound is not None and inbound.source is None and inbound.body.hash == pending.body_hash:
                    return transaction
            pending.last_lt = account.last_lt
        if self._report(account).seqno > pending.seqno:
            raise NotConfirmedError(
                f"wallet {self.address.friendly()}: another message used sequence number {pending.seqno}",
                hint="the same key is in use elsewhere: run one program with it, or give each its own key",
            )
        if refusal is not None:
            raise self._explain(refusal, account)
        if account.head.utime > pending.valid_until:
            raise NotConfirmedError(
                f"wallet {self.address.friendly()}: the message with sequence number {pending.seqno} expired unseen",
                hint="the network did not take it; it is safe to send it again",
            )
        return None

    def _report(self, account: AccountState) -> WalletReport:
        deployed = account.status == "active" and account.data is not None
        seqno = self._seqno(account.data) if account.data is not None and deployed else 0
        if account.status == "frozen":
            raise WalletError(
                f"wallet {self.address.friendly()} is frozen",
                hint="its storage fees were not paid for very long; use a new key",
            )
        return WalletReport(self.address, deployed, account.balance, seqno, self._minimum)

    def _check_funds(self, account: AccountState, amounts: Sequence[int]) -> None:
        total = sum(amounts)
        needed = max(self._minimum, total + _RESERVE)
        if account.balance < needed:
            missing = needed - account.balance
            raise FundsError(
                f"wallet {self.address.friendly()} holds {tons(account.balance)}, needs {tons(needed)}",
                balance=account.balance,
                needed=needed,
                hint=f"send at least {tons(missing)} to {self.address.friendly()}",
            )
        if any(amount > _LARGEST_AMOUNT - _RESERVE for amount in amounts):
            raise WalletError(f"one message would carry {tons(max(amounts))}, expected at most {tons(_LARGEST_AMOUNT)}")

    def _explain(self, refusal: SendRefusedError, account: AccountState) -> WalletError | SendRefusedError:
        if refusal.exit_code == ContractError.WALLET_LOW_BALANCE:
            return FundsError(
                f"wallet {self.address.friendly()} refuses to send with {tons(account.balance)}",
                balance=account.balance,
                needed=self._minimum,
                hint=f"send it at least {tons(max(self._minimum - account.balance, _RESERVE))}",
            )
        return refusal


class NodeWallet(Wallet):
    """The wallet of a worker, gateway or client: it pays for gas; its owner can take back everything (6.3).

    Args:
        chain: Where to read and send.
        key: The node's Ed25519 key.
        owner: The operator's own wallet.
        code: The wallet contract's code.
        minimum: Nanotons below which it does not send.
        clock: As :class:`Wallet`.
        resend: As :class:`Wallet`.
        valid: As :class:`Wallet`.
    """

    def __init__(
        self,
        chain: ChainReader,
        key: Ed25519PrivateKey,
        owner: Address,
        code: Cell,
        *,
        minimum: int = NODE_WALLET_MINIMUM,
        clock: Callable[[], float] = time.time,
        resend: float = _RESEND_S,
        valid: int = _VALID_S,
    ) -> None:
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()
        state = wallet_state(code, owner, self._public_key)
        super().__init__(chain, state, minimum=minimum, clock=clock, resend=resend, valid=valid)
        self.owner = owner

    def _seqno(self, data: Cell) -> int:
        wallet = WalletData.from_cell(data)
        if wallet.public_key != self._public_key:
            raise WalletError(
                f"wallet {self.address.friendly()} has key {wallet.public_key.hex()}, "
                f"this node's is {self._public_key.hex()}",
                hint="its owner replaced the key: give this node the new one",
            )
        if wallet.status != WalletStatus.OPEN:
            raise WalletError(
                f"wallet {self.address.friendly()} is blocked by its owner",
                hint=f"the owner {self.owner.friendly()} has to send it the text message 'u' to unblock it",
            )
        return wallet.seqno

    def _body(self, seqno: int, valid_until: int, messages: tuple[OutgoingMessage, ...]) -> Cell:
        return WalletRequest.of(seqno, valid_until, messages).sign(self._key).to_cell()


def _do_not_process() -> Cell:
    return Writer("do not process").uint(Op.DO_NOT_PROCESS, 32).end()
