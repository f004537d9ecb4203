"""The worker's account book on disk."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from appliance.accounting.errors import StoreCorruptError
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.worker_ledger import APPLICATION_ID, MIGRATIONS, WorkerLedger
from appliance.chain.addresses import Address

if TYPE_CHECKING:
    from pathlib import Path

A = ProxyRecord(Address(0, b"\1" * 32), b"\2" * 32, Address(0, b"\3" * 32), params_version=4)
B = replace(
    A,
    contract=Address(-1, b"\4" * 32),
    counters=Counters(1, 2, 2**61),
    payment=b"boc",
    requested=1,
    requested_query_id=2**64 - 1,
    requested_at=1_700_000_000,
    lost=5,
)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    ledger = WorkerLedger(tmp_path / "w.db")
    ledger.save([A, B])
    changed = replace(A, counters=Counters(7, 8, 9), payment=b"newer")
    ledger.save([changed])
    ledger.close()
    again = WorkerLedger(tmp_path / "w.db")
    assert again.records() == {A.contract: changed, B.contract: B}
    again.forget(B.contract)
    assert set(again.records()) == {A.contract}
    again.backup(tmp_path / "copy.db")
    again.close()
    copy = WorkerLedger(tmp_path / "copy.db")
    assert set(copy.records()) == {A.contract}
    copy.close()


def test_a_ledger_of_the_first_schema_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    db = sqlite3.connect(path)
    db.executescript(MIGRATIONS[0])
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.execute(
        "INSERT INTO proxy VALUES (?,?,?,?,?,?,?,?)",
        (A.contract.raw(), A.public_key, A.worker_contract.raw(), 4, 5, 6, 7, b"boc"),
    )
    db.commit()
    db.close()
    ledger = WorkerLedger(path)
    assert ledger.records() == {A.contract: replace(A, counters=Counters(5, 6, 7), payment=b"boc")}
    ledger.close()


def test_a_row_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    ledger = WorkerLedger(path)
    ledger.save([A])
    ledger.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE proxy SET contract = 'nonsense'")
    db.commit()
    db.close()
    ledger = WorkerLedger(path)
    with pytest.raises(StoreCorruptError, match="nonsense"):
        ledger.records()
    ledger.close()


def test_the_file_holds_totals_and_nothing_about_requests(tmp_path: Path) -> None:
    ledger = WorkerLedger(tmp_path / "w.db")
    ledger.close()
    db = sqlite3.connect(tmp_path / "w.db")
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    columns = {row[1] for row in db.execute("PRAGMA table_info(proxy)")}
    db.close()
    assert tables == {"proxy", "store_opens"}
    assert not any(word in column for column in columns for word in ("client", "body", "prompt", "content", "model"))
