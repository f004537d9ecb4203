"""The ledger file: SQLite with a write-ahead log, one writer, every commit on disk before it returns.

In: a path, the application's number, its migrations. Out: transactions that survive a kill at any instant.
What the tables mean is the business of ``worker_ledger`` and ``gateway_ledger``.

``on_boundary`` is called before and after each commit with the boundary's name; tests kill the process there.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from appliance.accounting.errors import (
    LedgerError,
    SchemaError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DENIED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})
_PRIMARY = 0xFF
"""An extended result code's low byte is its primary code (SQLite, "Result and Error Codes")."""


def no_boundary(_boundary: str) -> None:
    """The boundary hook of a program that is not under test."""


def _statements(script: str) -> Iterator[str]:
    """Split a script at its statements' ends (a trigger's inner semicolons are not ends)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise SchemaError(f"a migration ends inside a statement: {pending.strip()[:80]!r}")


class Store:
    """One ledger file. Its methods may be called from any thread; transactions run one after another.

    Args:
        path: The database; ``path.lock`` and ``path.opens`` lie beside it.
        application_id: SQLite's ``application_id``: which program's data this is.
        migrations: SQL scripts; entry ``i`` brings schema version ``i`` to ``i + 1``. Entries are never edited.
        on_boundary: Called with ``"<name>:before-commit"`` and ``"<name>:after-commit"``.

    Attributes:
        restored: The file is older than the one last opened here: somebody put back a backup. Its counters are
            then too low; what peers and the chain say is newer (see ``reconcile``).

    Raises:
        StoreBusyError: Another process has it open.
        SchemaError: Another application's file, or one of a newer release.
        StoreCorruptError: The file is damaged.
        StoreFullError: No space for the first write.
        LedgerError: Anything else the file system refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        application_id: int,
        migrations: Sequence[str],
        on_boundary: Callable[[str], None] = no_boundary,
    ) -> None:
        self.path = path
        self._on_boundary = on_boundary
        self._mutex = threading.RLock()
        self._lock_fd = self._hold_lock()
        try:
            with self._named("open"):
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            try:
                self._prepare(application_id, migrations)
                self.restored = self._count_open()
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            raise
        if self.restored:
            log.warning("ledger older than its last use", path=path.name)

    def _hold_lock(self) -> int:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"cannot create {lock}: {error.strerror}", hint="state_dir must be a directory this user can write"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise StoreBusyError(
                f"{self.path} is in use by another process",
                hint="one process writes a ledger: stop the other one, or give this one its own state_dir",
            ) from error
        return fd

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
            text = f"ledger {self.path.name}, {what}: {error}"
            if primary in _FULL:
                raise StoreFullError(
                    text, hint=f"nothing was committed; free space on the disk of {self.path.parent}"
                ) from error
            if primary in _CORRUPT:
                raise StoreCorruptError(
                    text,
                    hint="restore a backup; counters it lacks come back from the peers and the chain",
                ) from error
            if primary in _BUSY:
                raise StoreBusyError(text, hint="another program has this database open: close it") from error
            if primary in _DENIED:
                raise LedgerError(
                    text, hint=f"the file and its directory {self.path.parent} must be writable by this user"
                ) from error
            raise LedgerError(text) from error

    def _prepare(self, application_id: int, migrations: Sequence[str]) -> None:
        with self._named("open"):
            db = self._db
            # A damaged file is found here, before anything is written into it.
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise StoreCorruptError(
                    f"ledger {self.path.name} is damaged: {verdict}",
                    hint="restore a backup; counters it lacks come back from the peers and the chain",
                )
            found = int(db.execute("PRAGMA application_id").fetchone()[0])
            version = self.version
            empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
            if found != application_id and not (empty and found == 0):
                raise SchemaError(
                    f"{self.path} has application id {found:#x}, expected {application_id:#x}",
                    hint="it belongs to another program: give this one its own state_dir",
                )
            if version > len(migrations):
                raise SchemaError(
                    f"{self.path} has schema version {version}, this release knows {len(migrations)}",
                    hint="it was written by a newer release: run that one, or restore the backup made before it",
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA trusted_schema = OFF")
            if found != application_id:
                db.execute(f"PRAGMA application_id = {application_id:d}")
        for number, script in enumerate(migrations[version:], start=version + 1):
            with self.transaction(f"migration-{number}") as connection:
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number:d}")
        os.chmod(self.path, 0o600)  # noqa: PTH101 - a Path of a plain file either way

    @property
    def version(self) -> int:
        """The schema version of the file."""
        with self._named("version"):
            return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _count_open(self) -> bool:
        """Count this opening in the file and beside it; the two differ when the file alone was put back."""
        beside = self.path.with_name(self.path.name + ".opens")
        try:
            seen = int(beside.read_text("ascii"))
        except (OSError, ValueError):
            seen = 0
        with self.transaction("count-open") as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS store_opens (n INTEGER NOT NULL) STRICT")
            row = connection.execute("SELECT n FROM store_opens").fetchone()
            mine = row[0] if row else 0
            connection.execute("DELETE FROM store_opens")
            connection.execute("INSERT INTO store_opens VALUES (?)", (max(mine, seen) + 1,))
        fresh = beside.with_suffix(".new")
        try:
            fresh.write_text(f"{max(mine, seen) + 1}\n", "ascii")
            fresh.replace(beside)
        except OSError as error:
            raise StoreFullError(
                f"cannot write {beside}: {error.strerror}", hint=f"free space on the disk of {self.path.parent}"
            ) from error
        return seen > mine

    @contextmanager
    def transaction(self, name: str) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction; when it returns, its changes are on disk.

        An exception in the block rolls everything back and goes on to the caller.

        Raises:
            LedgerError: The changes could not be made durable (see the class); nothing was committed.
        """
        with self._mutex, self._named(name):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._on_boundary(f"{name}:before-commit")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._on_boundary(f"{name}:after-commit")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one read, as last committed (or as of the transaction this thread is in)."""
        with self._mutex, self._named("query"):
            return self._db.execute(sql, parameters).fetchall()

    def backup(self, target: Path) -> None:
        """Write a consistent copy of the ledger to ``target`` while it is in use."""
        with self._mutex, self._named("backup"):
            copy = sqlite3.connect(target)
            try:
                self._db.backup(copy)
            finally:
                copy.close()

    def close(self) -> None:
        """Fold the log into the file and let go of it. May be called twice."""
        with self._mutex:
            if self._lock_fd < 0:
                return
            try:
                with self._named("close"):
                    self._db.close()
            finally:
                os.close(self._lock_fd)
                self._lock_fd = -1
