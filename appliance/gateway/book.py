"""The gateway's accounts in memory: counters, reservations, what is to be written and what may be signed. Pure.

In: ends of requests, events of the gateway's own contract, confirmations that a batch is on disk. Out: batches for
``gateway_ledger``, reservations, the counts that payments may be signed for.

Three counters an account (protocol specification, section 2.6), and when each moves:

``tokens``     at once, when a request ends; this is ``max`` of the protocol;
``db``         when the batch that carries it is on disk (:meth:`Book.written`), never before;
``committed``  when the chain shows the marker of a batch *and* that fact is on disk. Only this one is signed.

What the chain has paid or charged is proven, so it lifts all of them: that is how a ledger restored from an old backup
catches up (see :meth:`Book.observe_marker` for the sequence numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import structlog

from appliance.accounting.gateway_ledger import NO_MARKER, Batch, ClientRow, InstanceRow, WorkerRow
from appliance.chain.addresses import Address
from appliance.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Literal

log = structlog.get_logger(__name__)

FREE_TOKENS = 10**12
"""What any amount buys while the price is 0 (section 4.4)."""
TOKENS_LIMIT = 2**62
"""More than any account can hold; wire numbers are signed 64-bit."""
NO_SECRET = bytes(32)


@dataclass(slots=True, eq=False)
class Account:
    """Totals of one peer, in adjusted tokens. Identity is the object: there is one for each owner."""

    owner: Address
    contract: Address
    tokens: int = 0
    db: int = 0
    marked: int = 0
    confirmed: int = 0
    committed: int = 0
    on_chain: int = 0
    requested: int = 0
    settled: bool = False

    def lift(self, proven: int) -> bool:
        """Take over a total that the chain proves; True when it was news to the memory."""
        self.on_chain = max(self.on_chain, proven)
        news = proven > self.tokens
        self.tokens = max(self.tokens, proven)
        self.marked = max(self.marked, proven)
        self.confirmed = max(self.confirmed, proven)
        return news


@dataclass(slots=True, eq=False)
class WorkerAccount(Account):
    """What a worker's owner earned here."""

    def row(self) -> WorkerRow:
        """The account as it is to be on disk."""
        return WorkerRow(*_common(self))


@dataclass(slots=True, eq=False)
class ClientAccount(Account):
    """What a client used here, and its contract as the gateway's own contract last heard of it. Amounts in nanotons."""

    status: int = 0
    balance: int = 0
    stake: int = 0
    secret_hash: bytes = NO_SECRET
    reserved: int = 0

    def row(self) -> ClientRow:
        """The account as it is to be on disk; reservations are not."""
        return ClientRow(*_common(self), self.status, self.balance, self.stake, self.secret_hash)

    def available(self, price: int, stake_cap: int) -> int:
        """Tokens that may still be reserved (section 4.4); negative when more was used than is covered.

        Args:
            price: Nanotons a token.
            stake_cap: Nanotons of stake that count at most.
        """
        covered = FREE_TOKENS if price == 0 else min(self.balance, self.stake, stake_cap) // price
        return covered + self.on_chain - self.reserved - self.tokens


def _common(account: Account) -> tuple[str, str, int, int, int, int, int, int]:
    return (
        account.owner.raw(),
        account.contract.raw(),
        account.tokens,
        account.marked,
        account.confirmed,
        account.on_chain,
        account.requested,
        int(account.settled),
    )


class Reservation:
    """Tokens set aside for one request; given back exactly once, however the request ends.

    A context manager: leaving the block gives back what is still held.
    """

    __slots__ = ("_account", "tokens")

    def __init__(self, account: ClientAccount, tokens: int) -> None:
        self._account = account
        self.tokens = tokens
        account.reserved += tokens

    def release(self) -> None:
        """Give the tokens back; a second call does nothing."""
        self._account.reserved -= self.tokens
        self.tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(slots=True)
class Sequence:
    """The ledger's newest sequence number. All books of one ledger share it: none is ever used twice."""

    value: int


class Book:
    """All accounts under one gateway contract.

    Args:
        instance: The contract's row.
        sequence: The newest sequence number on disk; shared by all books of the ledger.
        session: This process's session hash (32 random bytes, already on disk).
        sessions: All session hashes that ever wrote this ledger, this one included.
        workers: Rows from disk.
        clients: Rows from disk.

    Attributes:
        foreign_markers: Markers on chain that this ledger cannot have sent: it was restored from an old backup, or
            somebody else uses the gateway's wallet.
    """

    def __init__(
        self,
        instance: InstanceRow,
        *,
        sequence: Sequence,
        session: bytes,
        sessions: frozenset[bytes],
        workers: Iterable[WorkerRow] = (),
        clients: Iterable[ClientRow] = (),
    ) -> None:
        self.instance = instance
        self._sequence = sequence
        self.session = session
        self.foreign_markers = 0
        self._sessions = sessions
        self._workers = {account.owner: account for account in map(_worker, workers)}
        self._clients = {account.owner: account for account in map(_client, clients)}
        self._dirty_workers: set[WorkerAccount] = set()
        self._dirty_clients: set[ClientAccount] = set()
        self._moved = False

    @property
    def seqno(self) -> int:
        """The newest sequence number that was given out."""
        return self._sequence.value

    @property
    def workers(self) -> Iterable[WorkerAccount]:
        """All worker accounts."""
        return self._workers.values()

    @property
    def clients(self) -> Iterable[ClientAccount]:
        """All client accounts."""
        return self._clients.values()

    def worker(self, owner: Address, contract: Address) -> WorkerAccount:
        """The account of a worker's owner, made when it is new; it goes to disk when there is something in it."""
        account = self._workers.get(owner)
        if account is None:
            account = self._workers[owner] = WorkerAccount(owner, contract)
        return account

    def client(self, owner: Address) -> ClientAccount | None:
        """The account of a client whose contract was heard of."""
        return self._clients.get(owner)

    def reserve(self, account: ClientAccount, tokens: int, *, price: int, stake_cap: int) -> Reservation:
        """Set tokens aside; raises ``RequestError`` (602) when the client's stake or balance does not cover them."""
        available = account.available(price, stake_cap)
        if tokens > available:
            raise RequestError(
                f"the request needs {tokens} adjusted tokens, {max(0, available)} are available",
                code=ErrorCode.ERROR,
                hint="ask for fewer tokens, lower max_coefficient, charge what was used, or raise stake and balance",
            )
        return Reservation(account, tokens)

    def charge(self, client: ClientAccount, worker: WorkerAccount, tokens: int) -> None:
        """A request ended well: the client used and the worker earned ``tokens``."""
        if tokens == 0:
            return
        client.tokens = min(client.tokens + tokens, TOKENS_LIMIT)
        worker.tokens = min(worker.tokens + tokens, TOKENS_LIMIT)
        self._dirty_clients.add(client)
        self._dirty_workers.add(worker)

    def prove_worker(self, account: WorkerAccount, signed: int) -> bool:
        """A worker showed a payment that this gateway itself signed for ``signed`` tokens; True when that was news.

        Only a ledger restored from an old backup can be behind its own signature.
        """
        if signed <= account.committed:
            return False
        on_chain = account.on_chain
        account.lift(min(signed, TOKENS_LIMIT))
        account.on_chain = on_chain
        log.warning("ledger behind its own signature", tokens=signed)
        self._dirty_workers.add(account)
        return True

    def request_payout(self, account: Account, tokens: int) -> None:
        """Note that a payout or charge for ``tokens`` is about to be sent."""
        account.requested = max(account.requested, tokens)
        self._touch(account)

    def settle(self, account: Account) -> None:
        """Note that the account of a retired contract has had its last message."""
        account.settled = True
        self._touch(account)

    # What the chain shows

    def observe_client(
        self, owner: Address, contract: Address, *, status: int, balance: int, stake: int, used: int, secret_hash: bytes
    ) -> ClientAccount:
        """The client contract told the gateway's contract its state."""
        account = self._clients.get(owner)
        if account is None:
            account = self._clients[owner] = ClientAccount(owner, contract)
        account.status, account.balance, account.stake = status, balance, stake
        account.secret_hash = secret_hash
        if account.lift(min(used, TOKENS_LIMIT)):
            log.warning("chain ahead of ledger", kind="client", tokens=used)
        self._dirty_clients.add(account)
        return account

    def observe_worker(self, owner: Address, contract: Address, paid: int) -> WorkerAccount:
        """A worker contract was paid for ``paid`` tokens in all."""
        account = self.worker(owner, contract)
        if account.lift(min(paid, TOKENS_LIMIT)):
            log.warning("chain ahead of ledger", kind="worker", tokens=paid)
        self._dirty_workers.add(account)
        return account

    def observe_marker(self, seqno: int, session: bytes) -> Literal["confirmed", "known", "foreign"]:
        """A marker from the gateway's own wallet was seen.

        ``confirmed``: it is the one on its way; what it covers is committed. ``known``: an older one of this ledger.
        ``foreign``: this ledger has no memory of it, so it is older than the chain; sequence numbers go on above it.
        """
        pending = (self.instance.marker_seqno, self.instance.marker_session)
        if (seqno, session) == pending:
            for account in (*self._workers.values(), *self._clients.values()):
                if account.marked > account.confirmed:
                    account.confirmed = account.marked
                    self._touch(account)
            self.instance = replace(self.instance, marker_seqno=NO_MARKER, marker_session=b"")
            self._moved = True
            return "confirmed"
        if session in self._sessions and seqno <= self.seqno:
            return "known"
        self.foreign_markers += 1
        self._sequence.value = max(self.seqno, seqno)
        self._moved = True
        log.error("ledger behind its own markers", seqno=seqno, hint="restored from a backup, or the key is used twice")
        return "foreign"

    def advance(self, lt: int) -> None:
        """All transactions up to logical time ``lt`` were taken into account."""
        if lt > self.instance.last_lt:
            self.instance = replace(self.instance, last_lt=lt)
            self._moved = True

    def move(self, instance: InstanceRow) -> None:
        """Change the contract's own row (a step of its retirement)."""
        self.instance = instance
        self._moved = True

    # What goes to disk

    def batch(self, name: str) -> Batch | None:
        """All that changed since the last batch, under the next sequence number; None when nothing did."""
        if not (self._dirty_workers or self._dirty_clients or self._moved):
            return None
        workers, clients = self._dirty_workers, self._dirty_clients
        self._dirty_workers, self._dirty_clients, self._moved = set(), set(), False
        rows = bool(workers or clients)
        self._sequence.value += rows
        return Batch(
            name,
            self.seqno,
            self.instance,
            tuple(account.row() for account in workers),
            tuple(account.row() for account in clients),
        )

    def marker_batch(self) -> Batch | None:
        """A batch that also starts a marker; None when one is on its way or nothing changed since the last."""
        if self.instance.marker_seqno != NO_MARKER:
            return None
        moved = False
        for account in (*self._workers.values(), *self._clients.values()):
            if account.tokens > account.marked:
                account.marked = account.tokens
                self._touch(account)
                moved = True
        if not moved:
            return None
        self.instance = replace(self.instance, marker_seqno=self.seqno + 1, marker_session=self.session)
        return self.batch("marker")

    def written(self, batch: Batch) -> None:
        """The batch is on disk: its totals are now committed to db, its confirmed ones may be signed."""
        for worker in batch.workers:
            self._durable(self._workers[Address.parse(worker.owner)], worker)
        for client in batch.clients:
            self._durable(self._clients[Address.parse(client.owner)], client)

    def failed(self, batch: Batch) -> None:
        """The batch could not be written: what it carried goes into the next one."""
        self._moved = True
        self._dirty_workers |= {self._workers[Address.parse(row.owner)] for row in batch.workers}
        self._dirty_clients |= {self._clients[Address.parse(row.owner)] for row in batch.clients}

    @staticmethod
    def _durable(account: Account, row: WorkerRow | ClientRow) -> None:
        account.db = max(account.db, row.tokens)
        account.committed = max(account.committed, row.committed)

    def _touch(self, account: Account) -> None:
        if isinstance(account, ClientAccount):
            self._dirty_clients.add(account)
        elif isinstance(account, WorkerAccount):
            self._dirty_workers.add(account)


def _worker(row: WorkerRow) -> WorkerAccount:
    return WorkerAccount(
        owner=Address.parse(row.owner),
        contract=Address.parse(row.contract),
        tokens=row.tokens,
        db=row.tokens,
        marked=row.marked,
        confirmed=row.committed,
        committed=row.committed,
        on_chain=row.on_chain,
        requested=row.requested,
        settled=bool(row.settled),
    )


def _client(row: ClientRow) -> ClientAccount:
    return ClientAccount(
        owner=Address.parse(row.owner),
        contract=Address.parse(row.contract),
        tokens=row.tokens,
        db=row.tokens,
        marked=row.marked,
        confirmed=row.committed,
        committed=row.committed,
        on_chain=row.on_chain,
        requested=row.requested,
        settled=bool(row.settled),
        status=row.status,
        balance=row.balance,
        stake=row.stake,
        secret_hash=row.secret_hash,
    )
