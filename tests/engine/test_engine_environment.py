"""Building the environment: with real venv and pip over wheels of our own, so nothing leaves the machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import pytest
from engine_waiting import ended, until

from appliance.engine import environment as module
from appliance.engine.building import exclusive, staged
from appliance.engine.environment import ensure_environment, find_environment
from appliance.engine.errors import DiskFullError, EnvironmentBuildError, HashMismatchError, NetworkError
from appliance.engine.pip import explain
from appliance.engine.tool import ToolResult, run_tool

if TYPE_CHECKING:
    from pathlib import Path

    from engine_index import Index

    from appliance.engine.progress import Progress


class Usage(NamedTuple):
    """What shutil.disk_usage gives."""

    total: int
    used: int
    free: int


async def test_takes_the_cpu_build_where_pip_offers_one(index: Index, tmp_path: Path) -> None:
    seen: list[Progress] = []
    built = await ensure_environment(seen.append, root=tmp_path, locks=index.locks())
    assert (built.torch, built.sglang) == ("1.0+cpu", "0.1")
    assert (await run_tool([built.python, "-I", "-c", "import sglang, torch"])).status == 0
    assert any(report.detail == "CPU build" and report.total == 2000 for report in seen)
    assert seen[-1].step == "check"
    assert all(report.done <= report.total for report in seen)


async def test_takes_the_full_build_and_says_so_where_there_is_no_cpu_build(index: Index, tmp_path: Path) -> None:
    locks = index.locks()
    (index.folder / "torch-1.0+cpu-py3-none-any.whl").unlink()
    seen: list[Progress] = []
    built = await ensure_environment(seen.append, root=tmp_path, locks=locks)
    assert built.torch == "1.0"
    assert any(report.detail == "full build with CUDA" and report.total == 3000 for report in seen)


async def test_the_second_time_needs_neither_network_nor_pip(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = index.locks()
    first = await ensure_environment(root=tmp_path, locks=locks)
    monkeypatch.setattr(module, "Pip", None)
    seen: list[Progress] = []
    assert await ensure_environment(seen.append, root=tmp_path, locks=locks) == first
    assert seen == []
    assert find_environment(tmp_path, locks) == first


async def test_a_wrong_hash_installs_nothing(index: Index, tmp_path: Path) -> None:
    locks = index.locks(wrong="sglang==0.1")
    with pytest.raises(HashMismatchError, match="not the locked one"):
        await ensure_environment(root=tmp_path, locks=locks)
    assert find_environment(tmp_path, locks) is None
    assert not list(tmp_path.glob("engine-*"))


async def test_an_absent_package_is_named(index: Index, tmp_path: Path) -> None:
    locks = index.locks()
    (index.folder / "sglang-0.1-py3-none-any.whl").unlink()
    with pytest.raises(EnvironmentBuildError, match=r"sglang==0\.1") as caught:
        await ensure_environment(root=tmp_path, locks=locks)
    assert caught.value.hint


async def test_no_network_is_told_from_an_absent_package(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody answers
    monkeypatch.setenv("PIP_RETRIES", "1")  # with none pip does not say what failed
    locks = index.locks()
    for wheel in index.folder.glob("torch*"):
        wheel.unlink()
    with pytest.raises(NetworkError, match=r"fetching torch\.txt"):
        await ensure_environment(root=tmp_path, locks=locks)
    assert not list(tmp_path.glob("engine-*"))


async def test_too_little_room_is_told_before_anything_is_fetched(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    with pytest.raises(DiskFullError, match="GB free"):
        await ensure_environment(root=tmp_path, locks=index.locks())


def test_a_disk_that_fills_up_is_told() -> None:
    said = ToolResult(
        1,
        ("Collecting torch", "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"),
    )
    error = explain("installing engine.txt", said)
    assert isinstance(error, DiskFullError)
    assert "CHRYSALIS_HOME" in error.hint


async def test_two_builders_build_once(index: Index, tmp_path: Path) -> None:
    locks = index.locks()
    seen: list[Progress] = []
    one, two = await asyncio.gather(
        ensure_environment(seen.append, root=tmp_path, locks=locks),
        ensure_environment(seen.append, root=tmp_path, locks=locks),
    )
    assert one == two
    assert [report.step for report in seen].count("make the environment") == 1
    assert any(report.step.startswith("wait for another process") for report in seen)


async def test_a_builder_that_died_leaves_nothing_in_the_way(index: Index, tmp_path: Path) -> None:
    locks = index.locks()
    left = tmp_path / f"engine-{locks.digest}.building"
    left.mkdir()
    (left / "half").write_text("a builder died here")
    half = tmp_path / f"engine-{locks.digest}"
    half.mkdir()
    (half / "no-marker").write_text("")
    built = await ensure_environment(root=tmp_path, locks=locks)
    assert not left.exists()
    assert not (built.directory / "no-marker").exists()


async def test_a_failed_body_leaves_the_old_directory(tmp_path: Path) -> None:
    final = tmp_path / "thing"
    async with exclusive(final), staged(final, lambda _: {"version": 1}) as staging:
        (staging / "file").write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"):
        async with exclusive(final), staged(final, lambda _: {"version": 2}):
            raise RuntimeError("in the middle")
    assert (final / "file").read_text() == "old"
    assert not final.with_name("thing.building").exists()


async def test_a_cancelled_tool_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {note}; wait"
    task = asyncio.create_task(run_tool(["/bin/sh", "-c", script]))
    await until(lambda: note.exists() and bool(note.read_text()))
    pid = int(note.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ended(pid))
