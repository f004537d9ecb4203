"""A worker's ledger: one row a gateway contract, on disk before it is acted on.

In: :class:`~appliance.accounting.records.ProxyRecord`. Out: the same after any restart. Boundaries of ``on_boundary``:
``record``, ``forget`` and the migrations, each ``:before-commit`` and ``:after-commit``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.accounting.errors import StoreCorruptError
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.store import Store, no_boundary
from appliance.chain.addresses import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

APPLICATION_ID = 0x43485257
"""``CHRW``: Chrysalis, worker."""

MIGRATIONS = (
    """
    CREATE TABLE proxy (
        contract TEXT PRIMARY KEY,
        public_key BLOB NOT NULL CHECK (length(public_key) = 32),
        worker_contract TEXT NOT NULL,
        params_version INTEGER NOT NULL,
        committed_tokens INTEGER NOT NULL CHECK (committed_tokens >= 0),
        db_tokens INTEGER NOT NULL CHECK (db_tokens >= committed_tokens),
        max_tokens INTEGER NOT NULL CHECK (max_tokens >= db_tokens),
        payment BLOB
    ) STRICT;
    """,
    # Payouts asked for outlive a restart, so that one is not sent twice; losses are shown to the owner.
    """
    ALTER TABLE proxy ADD COLUMN requested_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE proxy ADD COLUMN requested_query_id BLOB NOT NULL DEFAULT x'0000000000000000';
    ALTER TABLE proxy ADD COLUMN requested_at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE proxy ADD COLUMN lost_tokens INTEGER NOT NULL DEFAULT 0;
    """,
)

_COLUMNS = (
    "contract, public_key, worker_contract, params_version, committed_tokens, db_tokens, max_tokens, payment, "
    "requested_tokens, requested_query_id, requested_at, lost_tokens"
)
_UPSERT = f"INSERT OR REPLACE INTO proxy ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS} FROM proxy"  # noqa: S608 - constants
_QUERY_ID_BYTES = 8
"""A query id is unsigned 64-bit; SQLite's integers are signed."""


class WorkerLedger:
    """The worker's account book. One process holds it at a time; methods may be called from any thread.

    Args:
        path: The ledger file.
        on_boundary: Called before and after each commit.

    Raises:
        LedgerError: See :class:`~appliance.accounting.store.Store`.
    """

    def __init__(self, path: Path, *, on_boundary: Callable[[str], None] = no_boundary) -> None:
        self._store = Store(path, application_id=APPLICATION_ID, migrations=MIGRATIONS, on_boundary=on_boundary)

    @property
    def restored(self) -> bool:
        """The file is older than at its last use (a backup was put back)."""
        return self._store.restored

    def records(self) -> dict[Address, ProxyRecord]:
        """Every record on disk.

        Raises:
            StoreCorruptError: A row's values cannot have been written by this program.
        """
        found: dict[Address, ProxyRecord] = {}
        for row in self._store.query(_SELECT):
            try:
                record = ProxyRecord(
                    contract=Address.parse(row[0]),
                    public_key=row[1],
                    worker_contract=Address.parse(row[2]),
                    params_version=row[3],
                    counters=Counters(row[4], row[5], row[6]),
                    payment=row[7],
                    requested=row[8],
                    requested_query_id=int.from_bytes(row[9], "big"),
                    requested_at=row[10],
                    lost=row[11],
                )
            except Exception as error:
                raise StoreCorruptError(
                    f"the record of gateway {row[0]!r} cannot be read: {error}", hint="restore a backup"
                ) from error
            found[record.contract] = record
        return found

    def save(self, records: Iterable[ProxyRecord]) -> None:
        """Write records in one transaction; they are on disk when this returns.

        Raises:
            LedgerError: Nothing was written.
        """
        with self._store.transaction("record") as connection:
            connection.executemany(
                _UPSERT,
                [
                    (
                        record.contract.raw(),
                        record.public_key,
                        record.worker_contract.raw(),
                        record.params_version,
                        record.counters.committed,
                        record.counters.db,
                        record.counters.max,
                        record.payment,
                        record.requested,
                        record.requested_query_id.to_bytes(_QUERY_ID_BYTES, "big"),
                        record.requested_at,
                        record.lost,
                    )
                    for record in records
                ],
            )

    def forget(self, contract: Address) -> None:
        """Drop a gateway that was paid out and closed."""
        with self._store.transaction("forget") as connection:
            connection.execute("DELETE FROM proxy WHERE contract = ?", (contract.raw(),))

    def backup(self, target: Path) -> None:
        """Write a consistent copy to ``target``."""
        self._store.backup(target)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()
