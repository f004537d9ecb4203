"""The ledger file: durability, migrations, and errors that say what to do."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from appliance.accounting.errors import (
    LedgerError,
    SchemaError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
)
from appliance.accounting.store import Store

if TYPE_CHECKING:
    from pathlib import Path

APP = 0x54455354
V1 = "CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER NOT NULL) STRICT;"
V2 = "ALTER TABLE t ADD COLUMN w INTEGER NOT NULL DEFAULT 7;\nCREATE INDEX i ON t (v);"


def opened(path: Path, *migrations: str) -> Store:
    return Store(path, application_id=APP, migrations=migrations or (V1,))


def test_a_transaction_is_there_after_reopening(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    with store.transaction("put") as db:
        db.execute("INSERT INTO t VALUES ('a', 1)")
    store.close()
    store.close()
    again = opened(tmp_path / "s.db")
    assert again.query("SELECT k, v FROM t") == [("a", 1)]
    assert again.query("PRAGMA journal_mode") == [("wal",)]
    assert again.query("PRAGMA synchronous") == [(2,)], "FULL"
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600
    again.close()


def test_an_exception_rolls_back_and_names_no_boundary_after(tmp_path: Path) -> None:
    seen: list[str] = []
    store = Store(tmp_path / "s.db", application_id=APP, migrations=(V1,), on_boundary=seen.append)
    seen.clear()
    with pytest.raises(ZeroDivisionError), store.transaction("put") as db:  # noqa: PT012 - both lines are the case
        db.execute("INSERT INTO t VALUES ('a', 1)")
        raise ZeroDivisionError
    assert store.query("SELECT * FROM t") == []
    assert seen == []
    with store.transaction("put") as db:
        db.execute("INSERT INTO t VALUES ('a', 1)")
    assert seen == ["put:before-commit", "put:after-commit"]
    store.close()


def test_an_old_file_is_brought_up_to_date_with_its_data(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = opened(path, V1)
    with store.transaction("put") as db:
        db.execute("INSERT INTO t VALUES ('a', 1)")
    store.close()
    store = opened(path, V1, V2)
    assert store.version == 2
    assert store.query("SELECT k, v, w FROM t") == [("a", 1, 7)]
    store.close()


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    opened(path, V1).close()
    with pytest.raises(LedgerError, match="migration-2"):
        opened(path, V1, "ALTER TABLE t ADD COLUMN x INTEGER; SELECT * FROM nowhere;")
    store = opened(path, V1)
    assert store.version == 1
    assert [row[1] for row in store.query("PRAGMA table_info(t)")] == ["k", "v"]
    store.close()


def test_a_file_of_a_newer_release_or_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    opened(path, V1, V2).close()
    with pytest.raises(SchemaError, match=r"schema version 2.*knows 1"):
        opened(path, V1)
    with pytest.raises(SchemaError, match="application id"):
        Store(path, application_id=APP + 1, migrations=(V1, V2))
    foreign = tmp_path / "f.db"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(SchemaError, match="another program"):
        opened(foreign)


def test_one_writer(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    code = (
        "import sys; from pathlib import Path; from appliance.accounting.store import Store\n"
        "from appliance.accounting.errors import StoreBusyError\n"
        f"try: Store(Path(sys.argv[1]), application_id={APP}, migrations=({V1!r},))\n"
        "except StoreBusyError: sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.db")], check=False, timeout=60)
    assert done.returncode == 7
    with pytest.raises(StoreBusyError, match="another process"):
        opened(tmp_path / "s.db")
    store.close()
    opened(tmp_path / "s.db").close()


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db")
    with store.transaction("put") as db:
        db.execute("INSERT INTO t VALUES ('kept', 1)")
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    store.query(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError, match="free space"), store.transaction("put") as db:
        db.executemany("INSERT INTO t VALUES (?, 2)", [(f"{i:0>600}",) for i in range(200)])
    assert store.query("SELECT k FROM t") == [("kept",)]
    store.query("PRAGMA max_page_count = 100000")
    with store.transaction("put") as db:
        db.execute("INSERT INTO t VALUES ('after', 3)")
    store.close()


@pytest.mark.parametrize("damage", ["head", "page"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.db"
    store = opened(path)
    with store.transaction("put") as db:
        db.executemany("INSERT INTO t VALUES (?, 2)", [(f"{i:0>600}",) for i in range(50)])
    store.close()
    opened(path).close()
    raw = bytearray(path.read_bytes())
    if damage == "head":
        raw[:100] = b"\xa5" * 100
    else:
        raw[4096 : 4096 * 3] = b"\xa5" * (4096 * 2)
    path.write_bytes(raw)
    with pytest.raises(StoreCorruptError, match="restore a backup"):
        opened(path)


def test_a_backup_put_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = opened(path)
    assert not store.restored
    store.backup(tmp_path / "old.db")
    store.close()
    again = opened(path)
    assert not again.restored
    again.close()
    shutil.copy(tmp_path / "old.db", path)
    third = opened(path)
    assert third.restored
    third.close()
    fourth = opened(path)
    assert not fourth.restored, "said once, when it happens"
    fourth.close()


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(LedgerError, match="state_dir"):
        opened(blocker / "s.db")
