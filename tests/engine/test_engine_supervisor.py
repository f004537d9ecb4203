"""Starting what cannot start, back-off, what is kept of an engine's output, and the lifeline - all without SGLang."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_waiting import ended, until

from appliance.engine import launcher
from appliance.engine.errors import EngineStartError, EngineUnavailableError
from appliance.engine.process import EngineProcess, Output, free_port
from appliance.engine.settings import EngineSettings
from appliance.engine.state import EngineState, EngineStatus, StatusBoard
from appliance.engine.supervisor import EngineSupervisor, Timing, back_off

SETTINGS = EngineSettings(model_dir=Path("/nonexistent"), model_name="m")
QUICK = Timing(restarts=2, back_off=0.01, back_off_cap=0.02, poll=0.03, start=30.0, grace=0.1)


def interpreter(tmp_path: Path, script: str) -> Path:
    """Something that is run in place of the engine environment's Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return path


async def test_an_engine_that_cannot_start_is_tried_again_and_then_failed(tmp_path: Path) -> None:
    seen: list[EngineStatus] = []
    python = interpreter(tmp_path, "echo 'RuntimeError: no weights' >&2; exit 3")
    supervisor = EngineSupervisor(SETTINGS, python, timing=QUICK)
    supervisor.subscribe(seen.append)
    with pytest.raises(EngineStartError, match=r"status 3: RuntimeError: no weights \(after 2 restarts\)"):
        await supervisor.start()
    assert [status.state for status in seen] == [
        EngineState.STARTING, EngineState.UNHEALTHY,
        EngineState.STARTING, EngineState.UNHEALTHY,
        EngineState.STARTING, EngineState.FAILED,
    ]  # fmt: skip
    with pytest.raises(EngineUnavailableError, match="failed"):
        await supervisor.client.open("/v1/models", timeout=1, method="GET")
    await supervisor.stop()
    assert supervisor.status.state is EngineState.STOPPED


async def test_the_line_that_explains_a_failed_start_is_found(tmp_path: Path) -> None:
    python = interpreter(tmp_path, "echo 'torch.cuda.OutOfMemoryError: no room'; echo 'warnings.warn('; exit 1")
    supervisor = EngineSupervisor(SETTINGS, python, timing=Timing(restarts=0))
    with pytest.raises(EngineStartError, match=r"OutOfMemoryError: no room"):
        await supervisor.start()
    await supervisor.stop()


async def test_a_subscriber_that_fails_leaves_nobody_waiting(tmp_path: Path) -> None:
    def fail(_: EngineStatus) -> None:
        supervisor.subscribe(lambda _: None)
        end()
        raise ZeroDivisionError

    supervisor = EngineSupervisor(SETTINGS, interpreter(tmp_path, "exit 1"), timing=QUICK)
    end = supervisor.subscribe(fail)
    with pytest.raises(EngineStartError, match="ZeroDivisionError"):
        await supervisor.start()
    await supervisor.stop()


async def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    supervisor = EngineSupervisor(SETTINGS, tmp_path / "python", timing=Timing(restarts=0))
    with pytest.raises(EngineStartError, match=r"python cannot be run"):
        await supervisor.start()
    await supervisor.stop()


async def test_stopping_in_the_middle_of_a_start_leaves_nothing(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    supervisor = EngineSupervisor(SETTINGS, interpreter(tmp_path, f"sleep 60 & echo $! > {note}; wait"), timing=QUICK)
    start = asyncio.create_task(supervisor.start())
    await until(lambda: note.exists() and bool(note.read_text()))
    await supervisor.stop()
    await start
    child = int(note.read_text())
    await until(lambda: ended(child))


async def test_a_start_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    timing = Timing(restarts=0, start=0.2, poll=0.03)
    supervisor = EngineSupervisor(SETTINGS, interpreter(tmp_path, "sleep 60"), timing=timing)
    with pytest.raises(EngineStartError, match=r"not ready within 0\.2 s"):
        await supervisor.start()
    await supervisor.stop()


async def test_keys_are_on_the_lifeline_only(tmp_path: Path) -> None:
    script = 'read keys; echo "$keys" > "$(dirname "$0")/keys"; echo "key is $keys" ; sleep 60'
    process = await EngineProcess.start(SETTINGS, interpreter(tmp_path, script))
    try:
        await until(lambda: (tmp_path / "keys").exists() and bool(process.output.tail()))
        key = process.endpoint.api_key
        assert key is not None
        assert len(key) >= 43
        assert key in (tmp_path / "keys").read_text()
        assert key not in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert key not in Path(f"/proc/{process.pid}/environ").read_text()
        assert all(key not in line for line in process.output.tail())
        assert "***" in process.output.tail()[0]
    finally:
        await process.end(0.0)
    assert process.status == -signal.SIGKILL


def test_lines_are_kept_only_until_the_engine_serves() -> None:
    output = Output(("secret",))
    output.line(b"loading secret things")
    output.line(b"\xff\xfe broken")
    assert output.tail() == ("loading *** things", "\ufffd\ufffd broken")
    for number in range(100):
        output.line(b"x" * 10_000 + str(number).encode())
    assert len(output.tail()) == 40
    assert max(map(len, output.tail())) == 400
    output.serving()
    assert output.tail() == ()
    output.line(b"a user's words")
    output.line(b"ValueError: a user's words")
    output.line(b"torch.cuda.OutOfMemoryError: a user's words")
    output.line(b"KeyError")
    output.line(b"a user says ValueError: words")
    assert output.tail() == ()
    assert output.exceptions == {"ValueError": 1, "OutOfMemoryError": 1, "KeyError": 1}


def test_names_of_exceptions_are_bounded() -> None:
    output = Output(())
    for number in range(1000):
        output.line(f"Made{number}Error: x".encode())
    assert len(output.exceptions) == 32


def test_back_off_doubles_up_to_its_cap() -> None:
    timing = Timing(back_off=1.0, back_off_cap=60.0)
    for attempt, most in ((1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (5000, 60.0)):
        assert 0.75 * most <= back_off(attempt, timing) <= most


def test_subscribers_hear_each_change_once() -> None:
    board = StatusBoard()
    seen: list[EngineState] = []
    end = board.subscribe(lambda status: seen.append(status.state))
    board.change(EngineState.STARTING)
    board.change(EngineState.STARTING)
    board.change(EngineState.HEALTHY)
    assert board.healthy.is_set()
    board.change(EngineState.UNHEALTHY, "x")
    assert not board.healthy.is_set()
    end()
    board.change(EngineState.STOPPED)
    assert seen == [EngineState.STARTING, EngineState.HEALTHY, EngineState.UNHEALTHY]


def test_a_free_port_is_free() -> None:
    assert 1024 <= free_port() < 65536


# The launcher's guard, in a process that stands for SGLang: it starts a child of its own and waits.
_GUARDED = """
import runpy, subprocess, sys, time
launcher = runpy.run_path(sys.argv[1])
keys = launcher["read_keys"](0)
launcher["fork_guard"](0)
child = subprocess.Popen(["sleep", "60"])
print(keys["api_key"], child.pid, flush=True)
time.sleep(60)
"""


def exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def guarded(script: str = _GUARDED) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", script, launcher.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"api_key": "one", "admin_api_key": "two"}\n')
    process.stdin.flush()
    key, child = process.stdout.readline().split()
    assert key == b"one"
    return process, int(child)


@pytest.mark.parametrize("how", ["lifeline closed", "launcher killed", "launcher terminated"])
async def test_the_guard_leaves_no_process_behind(how: str) -> None:
    process, child = guarded()
    assert process.stdin is not None
    group = os.getpgid(process.pid)
    if how == "lifeline closed":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGKILL if how == "launcher killed" else signal.SIGTERM)
    process.wait(10)
    await until(lambda: ended(child) and not exists(group))
    close(process)


async def test_without_the_guard_the_child_would_live_on() -> None:
    """The control of the test above: the same processes, the guard left out."""
    process, child = guarded(_GUARDED.replace('launcher["fork_guard"](0)', ""))
    process.kill()
    process.wait(10)
    await asyncio.sleep(0.6)
    os.kill(child, signal.SIGKILL)  # still there
    close(process)


@pytest.mark.parametrize("line", [b"", b"x" * 5000 + b"\n"])
def test_a_launcher_without_keys_ends(line: bytes) -> None:
    ran = subprocess.run([sys.executable, "-I", launcher.__file__], input=line, capture_output=True, check=False)
    assert ran.returncode == 1
    assert b"no keys" in ran.stderr


def test_the_stand_in_for_kernels_binds_and_raises() -> None:
    kernels = launcher._MissingKernels("sgl_kernel")
    with pytest.raises(NotImplementedError, match="verify_tree_greedy_cpu"):
        kernels.verify_tree_greedy_cpu(1, 2)
    with pytest.raises(AttributeError):
        _ = kernels.anything_else
