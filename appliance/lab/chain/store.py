"""The chain on disk: blocks, versions of accounts, transactions, the queue and the validators, in one SQLite file.

In: what one block changed. Out: the same, and the state of the dictionaries at any height. One transaction a block:
after a kill the chain ends with a whole block. ``synchronous`` is NORMAL, so a loss of power can take the newest blocks
(a lab's chain may lose them) but cannot damage the file. The file holds validator keys and has mode 0600.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.chain.types import BlockId
from appliance.lab.chain.errors import DevNetError
from appliance.lab.chain.layout import SHARD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_APPLICATION_ID = 0x4C414243  # LABC
_LOCK_WAIT_S = 2.0  # a killed predecessor's lock falls at once
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE block (
    workchain INTEGER NOT NULL, seqno INTEGER NOT NULL, root_hash BLOB NOT NULL, file_hash BLOB NOT NULL,
    utime INTEGER NOT NULL, start_lt INTEGER NOT NULL, end_lt INTEGER NOT NULL, is_key INTEGER NOT NULL,
    fees INTEGER NOT NULL, state_hash BLOB NOT NULL, signature BLOB NOT NULL, boc BLOB NOT NULL,
    PRIMARY KEY (workchain, seqno)) STRICT;
CREATE INDEX block_key ON block (seqno) WHERE is_key = 1;
CREATE INDEX block_lt ON block (workchain, end_lt);
CREATE INDEX block_utime ON block (workchain, utime);
CREATE TABLE account (
    address BLOB NOT NULL, seqno INTEGER NOT NULL, boc BLOB, PRIMARY KEY (address, seqno)) STRICT, WITHOUT ROWID;
CREATE TABLE queue (
    key BLOB NOT NULL, added INTEGER NOT NULL, removed INTEGER, boc BLOB NOT NULL, PRIMARY KEY (key, added)) STRICT;
CREATE TABLE tx (
    address BLOB NOT NULL, lt INTEGER NOT NULL, hash BLOB NOT NULL, seqno INTEGER NOT NULL, boc BLOB NOT NULL,
    PRIMARY KEY (address, lt)) STRICT;
CREATE INDEX tx_block ON tx (seqno, address, lt);
CREATE TABLE validator (since INTEGER PRIMARY KEY, catchain_seqno INTEGER NOT NULL, seed BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One stored block; ``fees`` in nanotons, ``state_hash`` the root hash of the state after it."""

    id: BlockId
    utime: int
    start_lt: int
    end_lt: int
    is_key: bool
    fees: int
    state_hash: bytes
    signature: bytes
    boc: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """One stored transaction and the basechain block it is in."""

    address: bytes
    lt: int
    hash: bytes
    seqno: int
    boc: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Change:
    """What one height adds: its blocks, changed accounts (None: gone), transactions, queue entries in and out."""

    blocks: tuple[BlockRow, ...]
    accounts: dict[bytes, bytes | None] = field(default_factory=dict)
    transactions: tuple[TransactionRow, ...] = ()
    enqueued: dict[bytes, bytes] = field(default_factory=dict)
    dequeued: tuple[bytes, ...] = ()
    validator: tuple[int, int, bytes] | None = None
    meta: dict[str, bytes] = field(default_factory=dict)


_BLOCK = "workchain, seqno, root_hash, file_hash, utime, start_lt, end_lt, is_key, fees, state_hash, signature"


class ChainStore:
    """The file. Every method may be called from any thread.

    Raises:
        DevNetError: The file cannot be opened, is something else, or another program has it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_LOCK_WAIT_S)
        except (OSError, sqlite3.Error) as error:
            raise DevNetError(f"the chain's file {path} cannot be opened: {error}") from error
        try:
            self._prepare(path)
        except sqlite3.Error as error:
            self.close()
            hint = "another program has this chain" if "locked" in str(error) else "it is no lab chain, or damaged"
            raise DevNetError(f"the chain's file {path} cannot be opened: {error}", hint=hint) from error
        except DevNetError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def commit(self, change: Change) -> None:
        """Add one height, wholly or not at all; raises :class:`DevNetError` when the disk does not take it."""
        try:
            with self._lock, self._transaction():
                self._write(change)
        except sqlite3.Error as error:
            raise DevNetError(f"a block cannot be stored: {error}", hint="is the disk full?") from error

    def set_meta(self, key: str, value: bytes) -> None:
        """Keep one value beside the chain."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def meta(self, key: str) -> bytes | None:
        """One value beside the chain."""
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else bytes(row[0])

    def height(self) -> int | None:
        """The newest seqno; None for an empty file."""
        row = self._one("SELECT max(seqno) FROM block WHERE workchain = -1")
        return None if row is None or row[0] is None else int(row[0])

    def block(self, workchain: int, seqno: int) -> BlockRow | None:
        """One block, the file included."""
        query = f"SELECT {_BLOCK}, boc FROM block WHERE workchain = ? AND seqno = ?"  # noqa: S608 - fixed columns
        row = self._one(query, workchain, seqno)
        return None if row is None else _block_row(row)

    def first_block_from(self, workchain: int, column: str, value: int) -> int | None:
        """Seqno of the first block whose ``end_lt`` or ``utime`` is at least ``value``; zerostates do not count."""
        if column not in {"end_lt", "utime"}:
            msg = f"no search by {column}"
            raise ValueError(msg)
        query = f"SELECT min(seqno) FROM block WHERE workchain = ? AND seqno > 0 AND {column} >= ?"  # noqa: S608 - names of columns, from this file
        row = self._one(query, workchain, value)
        return None if row is None or row[0] is None else int(row[0])

    def master_headers(self, below: int) -> Iterator[BlockRow]:
        """Masterchain blocks with a smaller seqno, oldest first, without their files."""
        query = f"SELECT {_BLOCK} FROM block WHERE workchain = -1 AND seqno < ? ORDER BY seqno"  # noqa: S608 - as above
        return (_block_row((*row, b"")) for row in self._all(query, below))

    def key_blocks(self, after: int, up_to: int, limit: int) -> list[int]:
        """Seqnos of key blocks in ``(after, up_to]``, oldest first."""
        query = "SELECT seqno FROM block WHERE is_key = 1 AND seqno > ? AND seqno <= ? ORDER BY seqno LIMIT ?"
        return [int(row[0]) for row in self._all(query, after, up_to, limit)]

    def last_key_block(self, up_to: int) -> int | None:
        """Seqno of the newest key block that is not above ``up_to``."""
        row = self._one("SELECT max(seqno) FROM block WHERE is_key = 1 AND seqno <= ?", up_to)
        return None if row is None or row[0] is None else int(row[0])

    def fees(self, up_to: int) -> int:
        """Nanotons that shard blocks up to a height collected."""
        row = self._one("SELECT coalesce(sum(fees), 0) FROM block WHERE workchain = 0 AND seqno <= ?", up_to)
        return 0 if row is None else int(row[0])

    def accounts(self, seqno: int) -> Iterator[tuple[bytes, bytes]]:
        """Addresses and ``ShardAccount`` bags of all accounts that exist at a height."""
        query = (
            "SELECT address, boc FROM account a WHERE boc IS NOT NULL AND seqno = "
            "(SELECT max(seqno) FROM account WHERE address = a.address AND seqno <= ?)"
        )
        return ((bytes(row[0]), bytes(row[1])) for row in self._all(query, seqno))

    def queue(self, seqno: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and ``EnqueuedMsg`` bags of the messages that wait after a height."""
        query = "SELECT key, boc FROM queue WHERE added <= ?1 AND (removed IS NULL OR removed > ?1)"
        return ((bytes(row[0]), bytes(row[1])) for row in self._all(query, seqno))

    def transaction(self, address: bytes, lt: int) -> TransactionRow | None:
        """One transaction of an account."""
        row = self._one("SELECT address, lt, hash, seqno, boc FROM tx WHERE address = ? AND lt = ?", address, lt)
        return None if row is None else _transaction_row(row)

    def block_transactions(self, seqno: int) -> list[TransactionRow]:
        """The transactions of one basechain block, by account and logical time."""
        query = "SELECT address, lt, hash, seqno, boc FROM tx WHERE seqno = ? ORDER BY address, lt"
        return [_transaction_row(row) for row in self._all(query, seqno)]

    def counts(self) -> tuple[int, int]:
        """Numbers of transactions and of accounts that ever existed."""
        row = self._one("SELECT (SELECT count(*) FROM tx), (SELECT count(DISTINCT address) FROM account)")
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def validator(self, seqno: int) -> tuple[int, int, bytes] | None:
        """First block, catchain seqno and key seed of the validator that signs the masterchain block ``seqno``."""
        query = "SELECT since, catchain_seqno, seed FROM validator WHERE since <= ? ORDER BY since DESC LIMIT 1"
        row = self._one(query, seqno)
        return None if row is None else (int(row[0]), int(row[1]), bytes(row[2]))

    def _prepare(self, path: Path) -> None:
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")  # two programs on one chain would fork it
        kind = int(self._db.execute("PRAGMA application_id").fetchone()[0])
        is_empty = not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_empty and kind != _APPLICATION_ID:
            raise DevNetError(f"{path} has application id 0x{kind:x}, expected 0x{_APPLICATION_ID:x}: not a lab chain")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if is_empty:
            self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA application_id={_APPLICATION_ID};COMMIT;")
        self._db.execute("BEGIN EXCLUSIVE")  # takes the lock now, which then stays
        self._db.execute("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _write(self, change: Change) -> None:
        seqno = change.blocks[0].id.seqno
        self._db.executemany(
            f"INSERT INTO block ({_BLOCK}, boc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - as above
            [_values(row) for row in change.blocks],
        )
        self._db.executemany(
            "INSERT INTO account VALUES (?, ?, ?)", [(a, seqno, boc) for a, boc in change.accounts.items()]
        )
        self._db.executemany(
            "INSERT INTO tx VALUES (?, ?, ?, ?, ?)",
            [(row.address, row.lt, row.hash, row.seqno, row.boc) for row in change.transactions],
        )
        self._db.executemany(
            "INSERT INTO queue VALUES (?, ?, NULL, ?)", [(key, seqno, boc) for key, boc in change.enqueued.items()]
        )
        self._db.executemany(
            "UPDATE queue SET removed = ? WHERE key = ? AND removed IS NULL", [(seqno, key) for key in change.dequeued]
        )
        if change.validator is not None:
            self._db.execute("INSERT INTO validator VALUES (?, ?, ?)", change.validator)
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(change.meta.items()))

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return row

    def _all(self, query: str, *values: object) -> Iterable[tuple[Any, ...]]:
        with self._lock:
            rows: list[tuple[Any, ...]] = self._db.execute(query, values).fetchall()
        return rows


def _values(row: BlockRow) -> tuple[object, ...]:
    head = (row.id.workchain, row.id.seqno, row.id.root_hash, row.id.file_hash, row.utime, row.start_lt, row.end_lt)
    return (*head, int(row.is_key), row.fees, row.state_hash, row.signature, row.boc)


def _block_row(row: tuple[Any, ...]) -> BlockRow:
    workchain, seqno, root_hash, file_hash, utime, start_lt, end_lt, is_key, fees, state_hash, signature, boc = row
    identity = BlockId(workchain, SHARD, seqno, root_hash, file_hash)
    return BlockRow(identity, utime, start_lt, end_lt, bool(is_key), fees, state_hash, signature, boc)


def _transaction_row(row: tuple[Any, ...]) -> TransactionRow:
    address, lt, digest, seqno, boc = row
    return TransactionRow(address, lt, digest, seqno, boc)
