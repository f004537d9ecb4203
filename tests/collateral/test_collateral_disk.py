"""The cache on disk: whole or absent, whatever happens to writer, disk and bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from collateral_support import DAY, HOUR, NOW, certificate
from hypothesis import given
from hypothesis import strategies as st

from attestation import cbor
from attestation.collateral.dates import KINDS
from attestation.collateral.disk import ABANDONED_S, DiskCache
from attestation.collateral.entry import MAX_CONTENT, Entry
from attestation.collateral.offline import MAX_ENTRIES, OfflineBundle, OfflineCollateral
from attestation.errors import CollateralError, EvidenceError

TIMES = st.integers(0, (1 << 40) - 1).map(float)
ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(sorted(KINDS)),
    identity=st.text(max_size=100),
    source=st.text(max_size=100),
    fetched=TIMES,
    issued=TIMES,
    expires=TIMES,
    content=st.binary(max_size=300),
)


def entry(identity: str = "a", content: bytes = b"content", *, expires: float = NOW + DAY) -> Entry:
    return Entry(
        kind="rim",
        identity=identity,
        source="rim.example",
        fetched=NOW,
        issued=NOW - DAY,
        expires=expires,
        content=content,
    )


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(value: Entry) -> None:
    assert Entry.parse(value.encode()) == value


@given(ENTRIES, st.data())
def test_no_altered_byte_is_taken(value: Entry, data: st.DataObject) -> None:
    """Each byte counts: another one is refused, or is another entry of the same content."""
    encoded = bytearray(value.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        found = Entry.parse(bytes(encoded))
    except EvidenceError:
        return
    assert found != value
    assert found.content == value.content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": 2}, "version 1"),
        ({"more": 1}, "not a map of exactly"),
        ({"kind": "else"}, "expected one of"),
        ({"kind": 5}, "kind that is not text"),
        ({"identity": "x" * 600}, "identity that is not text"),
        ({"expires": -1}, "expires is no time"),
        ({"fetched": True}, "fetched is no time"),
        ({"content": "text"}, "content is not"),
        ({"content": b"else"}, "not what was written"),
    ],
)
def test_entries_that_are_none(change: dict[str, object], message: str) -> None:
    value = entry().to_value()
    Entry.from_value(value)
    with pytest.raises(EvidenceError, match=message):
        Entry.parse(cbor.encode(value | change))


def test_what_is_written_is_read_and_a_new_one_replaces_it(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "deep" / "cache", clock=lambda: NOW)
    assert cache.read("rim", "a") is None
    assert list(cache.entries()) == []
    cache.write(entry())
    cache.write(entry("b", b"other"))
    cache.write(entry(content=b"newer"))
    assert cache.read("rim", "a") == entry(content=b"newer")
    assert cache.read("ocsp", "a") is None
    assert {found.identity for found in cache.entries()} == {"a", "b"}
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o777 == 0o700
    assert not [path for path in (tmp_path / "deep" / "cache").iterdir() if path.name.startswith(".")]
    cache.remove(entry())
    assert cache.read("rim", "a") is None


@pytest.mark.parametrize("damage", [b"", b"\xa1", b"garbage" * 100, bytes(MAX_CONTENT + 5000)])
def test_a_damaged_piece_is_thrown_away_and_not_raised(tmp_path: Path, damage: bytes) -> None:
    cache = DiskCache(tmp_path)
    cache.write(entry())
    path = next(tmp_path.iterdir())
    path.write_bytes(damage)
    assert cache.read("rim", "a") is None
    assert not path.exists()
    cache.write(entry())
    assert cache.read("rim", "a") == entry()


def test_a_piece_under_anothers_name_is_not_taken(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.write(entry("a"))
    first = next(tmp_path.iterdir())
    cache.write(entry("b"))
    second = next(path for path in tmp_path.iterdir() if path != first)
    first.replace(second)
    assert cache.read("rim", "b") is None


def test_a_disk_that_takes_nothing_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    cache = DiskCache(blocked / "cache")
    cache.write(entry())
    assert cache.read("rim", "a") is None
    assert list(cache.entries()) == []


def test_the_least_recently_used_goes_first_and_the_bounds_hold(tmp_path: Path) -> None:
    clock = [NOW]
    size = len(entry("0", bytes(10_000)).encode())
    cache = DiskCache(tmp_path, max_bytes=size * 3 + 100, max_files=100, clock=lambda: clock[0])
    for number in range(3):
        cache.write(entry(str(number), bytes(10_000)))
        clock[0] += 10
        cache.read("rim", str(number))
    clock[0] += 10
    assert cache.read("rim", "0") is not None  # used again: now "1" is the oldest
    cache.write(entry("3", bytes(10_000)))
    assert {found.identity for found in cache.entries()} == {"0", "2", "3"}
    few = DiskCache(tmp_path, max_files=2, clock=lambda: clock[0])
    few.write(entry("4"))
    assert len(list(few.entries())) == 2


def test_what_a_killed_writer_left_is_removed_in_time(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, clock=lambda: NOW)
    cache.write(entry())
    name = next(tmp_path.iterdir()).name
    old, young, foreign = tmp_path / f".{name}.77.0", tmp_path / f".{name}.78.0", tmp_path / "notes.txt"
    for path, age in ((old, ABANDONED_S + 1), (young, 1), (foreign, 10 * DAY)):
        path.write_bytes(b"half")
        os.utime(path, (NOW - age, NOW - age))
    cache.write(entry("b"))
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()
    assert len(list(cache.entries())) == 2


WRITER = """
import sys, itertools
sys.path.insert(0, {root!r})
from pathlib import Path
from attestation.collateral.disk import DiskCache
from attestation.collateral.entry import Entry
cache = DiskCache(Path({directory!r}))
for number in itertools.count():
    content = bytes([number % 256]) * 200_000
    cache.write(Entry(kind="rim", identity=str(number % 4), source="s", fetched=1.0, issued=float(number),
                      expires=2.0, content=content))
    if number == 3:
        print("begun", flush=True)
"""


def test_kill_minus_nine_while_writing_leaves_a_readable_cache(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    script = WRITER.format(root=root, directory=str(tmp_path))
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        cache = DiskCache(tmp_path)
        found = [cache.read("rim", str(number)) for number in range(4)]
        for piece in found:
            assert piece is not None
            assert piece.content == bytes([int(piece.issued) % 256]) * 200_000
        names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
        assert len(names) == 4


def test_a_bundle_holds_each_piece_once_in_order_and_the_longer_lived_one() -> None:
    later = entry(expires=NOW + 2 * DAY, content=b"later")
    chain = replace(entry("Genoa vcek"), kind="snp-chain")
    bundle = OfflineBundle.of([later, chain, entry(), entry("b", expires=NOW + HOUR)], NOW)
    assert [found.identity for found in bundle.entries] == ["a", "b", "Genoa vcek"]
    assert bundle.entries[0] == later
    assert bundle.expires == NOW + HOUR
    assert OfflineBundle.parse(bundle.encode()) == bundle
    assert OfflineBundle.of([], NOW).expires == NOW
    with pytest.raises(CollateralError, match="at most"):
        OfflineBundle.of([entry(str(number)) for number in range(MAX_ENTRIES + 1)])
    full = OfflineBundle.of([entry(str(number)) for number in range(MAX_ENTRIES)], NOW)
    assert OfflineBundle.parse(full.encode()) == full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "of format"),
        ({"made": "now"}, "its time is no number"),
        ({"entries": {}}, "no list"),
        ({"entries": [entry("b").to_value(), entry("a").to_value()]}, "out of order"),
        ({"entries": [entry("a").to_value(), entry("a").to_value()]}, "twice"),
        ({"entries": [entry("a").to_value() | {"content": b"x"}]}, "not what was written"),
        ({"entries": [1]}, "not a map"),
    ],
)
def test_bundles_that_are_none(change: dict[str, object], message: str, tmp_path: Path) -> None:
    value = {"entries": [entry().to_value()], "format": "chrysalis collateral 1", "made": int(NOW)}
    assert OfflineBundle.parse(cbor.encode(value)).entries == (entry(),)
    path = tmp_path / "bundle"
    path.write_bytes(cbor.encode(value | change))
    with pytest.raises(CollateralError, match=message):
        OfflineCollateral(path)


def test_a_bundle_is_a_store_that_nobody_writes_to(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(OfflineBundle.of([entry()], NOW).encode())
    store = OfflineCollateral(path)
    store.write(entry("b"))
    assert store.read("rim", "a") == entry()
    assert store.read("rim", "b") is None
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(CollateralError, match="directory"):
            OfflineCollateral(absent)
    path.write_bytes(certificate())
    with pytest.raises(CollateralError, match="cannot be read"):
        OfflineCollateral(path)
