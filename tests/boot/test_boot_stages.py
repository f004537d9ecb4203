"""The stage table: states, files, console lines."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boot.stages import (
    BOOT_STAGES,
    MAX_CONSOLE_TEXT,
    STAGES,
    StageRecord,
    StageState,
    StageTable,
    failed,
    read_stages,
    write_atomically,
)
from appliance.errors import ConfigError, StageError

if TYPE_CHECKING:
    from pathlib import Path

STATES: tuple[StageState, ...] = ("pending", "running", "done", "failed", "skipped")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_runs_ends_and_says_so(tmp_path: Path) -> None:
    told: list[StageRecord] = []
    clock = Clock()
    table = StageTable(tmp_path, STAGES, announce=told.append, clock=clock)
    assert [record.name for record in read_stages(tmp_path)] == list(STAGES)
    assert all(record.state == "pending" for record in read_stages(tmp_path))
    with table.stage("configuration"):
        table.begin("configuration", "waits for the disk")
        clock.now += 2.5
    assert table["configuration"] == StageRecord("configuration", "done", 102.5, 2.5)
    assert [record.console_line() for record in told] == [
        "chrysalis: stage configuration running",
        "chrysalis: stage configuration running waits for the disk",
        "chrysalis: stage configuration done 2.5 s",
    ]
    assert read_stages(tmp_path)[0] == table["configuration"]


def test_errors_are_told_with_their_hint_and_others_by_their_kind(tmp_path: Path) -> None:
    table = StageTable(tmp_path, BOOT_STAGES)
    with pytest.raises(ConfigError), table.stage("clock"):
        raise ConfigError("seen 1, expected 2", hint="do this")
    with pytest.raises(ValueError, match="secret"), table.stage("keys"):
        raise ValueError("a secret")
    clock, keys = table["clock"], table["keys"]
    assert (clock.state, clock.reason, clock.hint) == ("failed", "seen 1, expected 2", "do this")
    assert clock.console_line() == "chrysalis: stage clock failed seen 1, expected 2 (do this)"
    assert (keys.state, keys.reason) == ("failed", "ValueError")
    assert failed(read_stages(tmp_path)) == clock


@given(st.lists(st.sampled_from(STATES), max_size=8))
def test_only_known_ways_between_states(wanted: list[StageState]) -> None:
    record = StageRecord("links")
    for state in wanted:
        try:
            record = record.to(state, 1.0, reason="r")
        except StageError:
            continue
        assert record.state == state
    assert StageRecord.from_json(record.to_json()) == record


def test_a_stage_that_did_not_begin_cannot_end() -> None:
    with pytest.raises(StageError, match="cannot become done after pending"):
        StageRecord("model").to("done", 1.0)
    assert StageRecord("model").to("running", 1.0).to("done", 3.0).seconds == 2.0


@given(st.text())
def test_the_console_gets_one_printable_line(reason: str) -> None:
    line = StageRecord("chain", "failed", 1.0, 0.0, reason, "hint").console_line()
    assert len(line) <= MAX_CONSOLE_TEXT
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.startswith("chrysalis: stage chain failed")


@given(st.binary(max_size=200) | st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_other_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(StageError):
        StageRecord.from_json(data)


def test_unreadable_records_are_pending(tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_bytes(b"{")
    (tmp_path / "model.json").write_bytes(StageRecord("links", "done").to_json())
    assert all(record.state == "pending" for record in read_stages(tmp_path))


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"1", 0o400)
    write_atomically(path, b"2", 0o440)
    assert path.read_bytes() == b"2"
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert list(tmp_path.iterdir()) == [path]


def test_what_waits_to_be_written_is_never_followed(tmp_path: Path) -> None:
    """Whoever may make files beside a record cannot make the boot write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    (tmp_path / ".a.new").symlink_to(victim)
    write_atomically(tmp_path / "a", b"1", 0o444)
    assert victim.read_bytes() == b"kept"
