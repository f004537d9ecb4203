"""The gateway's account book on disk: what each client owes and each worker earned, as last written down.

In: :class:`Batch` values, each written whole or not at all, with a sequence number that is never used twice.
Out: the rows as of the last batch. Nothing here decides anything: that is ``appliance.gateway.book``.
It holds totals and the newest state of contracts only; nothing about who asked what (design, section 4, "Money").
Counters and their meaning: protocol specification, section 2.6; the sequence and its marker on chain: section 6.9.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from appliance.accounting.errors import LedgerError, StoreCorruptError
from appliance.accounting.store import Store
from appliance.chain.addresses import Address
from appliance.chain.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

APPLICATION_ID = 0x43484757
"""``CHGW``."""

MIGRATIONS = (
    """
    CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), seqno INTEGER NOT NULL) STRICT;
    INSERT INTO head VALUES (1, 0);
    CREATE TABLE session (hash BLOB PRIMARY KEY, opened_at INTEGER NOT NULL) STRICT;
    CREATE TABLE instance (
        contract TEXT PRIMARY KEY,
        params_version INTEGER NOT NULL,
        stage TEXT NOT NULL,
        unlock_at INTEGER NOT NULL,
        last_lt INTEGER NOT NULL,
        marker_seqno INTEGER NOT NULL,
        marker_session BLOB NOT NULL
    ) STRICT;
    CREATE TABLE worker (
        instance TEXT NOT NULL REFERENCES instance (contract),
        owner TEXT NOT NULL,
        contract TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        marked INTEGER NOT NULL,
        committed INTEGER NOT NULL,
        on_chain INTEGER NOT NULL,
        requested INTEGER NOT NULL,
        settled INTEGER NOT NULL,
        PRIMARY KEY (instance, owner)
    ) STRICT;
    CREATE TABLE client (
        instance TEXT NOT NULL REFERENCES instance (contract),
        owner TEXT NOT NULL,
        contract TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        marked INTEGER NOT NULL,
        committed INTEGER NOT NULL,
        on_chain INTEGER NOT NULL,
        requested INTEGER NOT NULL,
        settled INTEGER NOT NULL,
        status INTEGER NOT NULL,
        balance INTEGER NOT NULL,
        stake INTEGER NOT NULL,
        secret_hash BLOB NOT NULL,
        PRIMARY KEY (instance, owner)
    ) STRICT;
    """,
)

Stage = Literal["active", "closing", "refunding", "paying", "waiting", "completing", "closed"]
"""Life of one gateway contract; after ``active`` come the steps of its retirement (section 6.8)."""
NO_MARKER = 0

_HEAD = "UPDATE head SET seqno = ? WHERE id = 1"
_INSTANCE = (
    "INSERT INTO instance VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (contract) DO UPDATE SET "
    "params_version = excluded.params_version, stage = excluded.stage, unlock_at = excluded.unlock_at, "
    "last_lt = excluded.last_lt, marker_seqno = excluded.marker_seqno, marker_session = excluded.marker_session"
)
_WORKER = "INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CLIENT = "INSERT OR REPLACE INTO client VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker owner's totals in adjusted tokens.

    Attributes:
        owner: The owner's address, raw form.
        contract: The worker contract's address, raw form.
        tokens: Earned; what the protocol calls committed to db once this row is on disk.
        marked: ``tokens`` as of the newest marker sent to the chain.
        committed: ``tokens`` as of the newest marker seen on chain: what payments are signed for.
        on_chain: What the worker contract has been paid for.
        requested: Tokens of the newest payout this gateway sent.
        settled: 1 when the last payout of a retired contract went out.
    """

    owner: str
    contract: str
    tokens: int
    marked: int
    committed: int
    on_chain: int
    requested: int
    settled: int


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client's totals (as in :class:`WorkerRow`; ``on_chain``: charged) and its contract's newest proven state.

    ``status`` is 0 open, 1 closing, 2 closed; amounts are nanotons; ``secret_hash`` 32 bytes.
    """

    owner: str
    contract: str
    tokens: int
    marked: int
    committed: int
    on_chain: int
    requested: int
    settled: int
    status: int
    balance: int
    stake: int
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One gateway contract and how far it was read.

    Attributes:
        contract: Address, raw form.
        params_version: Of the root parameters it was made from.
        stage: Its life.
        unlock_at: Unix seconds after which a closing contract may be completed; 0 before.
        last_lt: Logical time of the newest transaction that was taken into account.
        marker_seqno: Sequence of the marker that is on its way to the chain; 0 when none is.
        marker_session: That marker's session hash, 32 bytes; empty when none is.
    """

    contract: str
    params_version: int
    stage: Stage = "active"
    unlock_at: int = 0
    last_lt: int = 0
    marker_seqno: int = NO_MARKER
    marker_session: bytes = b""


@dataclass(frozen=True, slots=True)
class Batch:
    """One write: everything in it becomes durable at once. ``name`` names its boundaries for fault injection."""

    name: str
    seqno: int
    instance: InstanceRow
    workers: tuple[WorkerRow, ...] = ()
    clients: tuple[ClientRow, ...] = ()


RowT = TypeVar("RowT", WorkerRow, ClientRow)


def _ignore(_boundary: str) -> None:
    """The boundary hook of a program that is not under test."""


class GatewayLedger:
    """The file. One process holds it at a time; methods block for a disk write and may run in any thread.

    Args:
        path: The ledger file.
        on_boundary: Called before and after each commit (tests kill the process there).

    Raises:
        LedgerError: See :class:`~appliance.accounting.store.Store`.
    """

    def __init__(self, path: Path, *, on_boundary: Callable[[str], None] = _ignore) -> None:
        self._store = Store(path, application_id=APPLICATION_ID, migrations=MIGRATIONS, on_boundary=on_boundary)

    @property
    def restored(self) -> bool:
        """The file is older than at its last use: a backup was put back."""
        return self._store.restored

    @property
    def seqno(self) -> int:
        """Sequence number of the newest batch; 0 in a new ledger."""
        return int(self._store.query("SELECT seqno FROM head")[0][0])

    def open_session(self, session: bytes, opened_at: int) -> frozenset[bytes]:
        """Write down a new session's hash (32 random bytes) and return all sessions that ever wrote this ledger."""
        with self._store.transaction("session") as connection:
            connection.execute("INSERT INTO session VALUES (?, ?)", (session, opened_at))
        return frozenset(row[0] for row in self._store.query("SELECT hash FROM session"))

    def instances(self) -> tuple[InstanceRow, ...]:
        """All gateway contracts, the newest parameters last.

        Raises:
            StoreCorruptError: A row's values cannot have been written by this program.
        """
        rows = tuple(InstanceRow(*row) for row in self._store.query("SELECT * FROM instance ORDER BY params_version"))
        for row in rows:
            _address(row.contract)
        return rows

    def workers(self, instance: str) -> tuple[WorkerRow, ...]:
        """The workers of one contract."""
        sql = (
            "SELECT owner, contract, tokens, marked, committed, on_chain, requested, settled "
            "FROM worker WHERE instance = ?"
        )
        return tuple(_checked(WorkerRow(*row)) for row in self._store.query(sql, (instance,)))

    def clients(self, instance: str) -> tuple[ClientRow, ...]:
        """The clients of one contract."""
        sql = (
            "SELECT owner, contract, tokens, marked, committed, on_chain, requested, settled, status, balance, stake, "
            "secret_hash FROM client WHERE instance = ?"
        )
        return tuple(_checked(ClientRow(*row)) for row in self._store.query(sql, (instance,)))

    def write(self, batch: Batch) -> None:
        """Make a batch durable.

        Raises:
            LedgerError: Nothing of it was written; among others when its sequence number is not above the last.
        """
        instance = batch.instance.contract
        with self._store.transaction(batch.name) as connection:
            last = int(connection.execute("SELECT seqno FROM head").fetchone()[0])
            if batch.seqno < last or (batch.seqno == last and (batch.workers or batch.clients)):
                raise LedgerError(
                    f"batch {batch.name} has sequence {batch.seqno}, expected more than {last}",
                    hint="two writers share this ledger, or the program is at fault: nothing was written",
                )
            connection.execute(_HEAD, (batch.seqno,))
            connection.execute(_INSTANCE, astuple(batch.instance))
            connection.executemany(_WORKER, [(instance, *astuple(row)) for row in batch.workers])
            connection.executemany(_CLIENT, [(instance, *astuple(row)) for row in batch.clients])

    def backup(self, target: Path) -> None:
        """Write a consistent copy to ``target`` while the ledger is in use."""
        self._store.backup(target)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()


def _checked(row: RowT) -> RowT:
    """The row, when this program can have written it."""
    _address(row.owner)
    _address(row.contract)
    if not 0 <= row.committed <= row.marked <= row.tokens or min(row.on_chain, row.requested) < 0:
        raise StoreCorruptError(
            f"the account of {row.owner} has committed={row.committed}, marked={row.marked}, tokens={row.tokens}",
            hint="restore a backup; the chain's newer totals are taken over at start",
        )
    return row


def _address(text: str) -> None:
    try:
        Address.parse(text)
    except AddressError as error:
        raise StoreCorruptError(f"the ledger holds an unreadable address: {text!r}", hint="restore a backup") from error
