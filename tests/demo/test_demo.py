"""The demonstration as its user runs it, with the model that takes seconds: what it prints and leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.demo, pytest.mark.engine]

RUN_S = 900.0
"""The whole run on a busy machine, with the engine's environment made before."""
GONE_S = 60.0
FIELDS = frozenset({
    "ok", "engine", "prompts", "verdicts", "tokens", "signed_tokens", "owner_before", "owner_after", "expected_delta",
    "stages", "chain",
})  # fmt: skip


class Run:
    """One run in a directory of its own. Its processes are counted from outside, not as it counts them itself."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.err = home / "stderr"
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance.cli", "demo", "--model", "tiny", "--json", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                env={**os.environ, "TMPDIR": str(home)},
                start_new_session=True,
            )
        self._seen: dict[int, psutil.Process] = {self.process.pid: psutil.Process(self.process.pid)}
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end: exit status and the last line's object. No traceback may have been written."""
        out, _ = self.process.communicate(timeout=RUN_S)
        told = self.told()
        assert "Traceback" not in told
        lines = out.decode().splitlines()
        assert lines, told
        found: dict[str, Any] = json.loads(lines[-1])
        return self.process.returncode, found

    def told(self) -> str:
        """What it told people."""
        return self.err.read_text(errors="replace")

    def stage(self, name: str) -> None:
        """Wait until a stage has begun."""
        deadline = time.monotonic() + RUN_S
        while f"== {name}" not in self.told():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, f"stage {name} did not come:\n{self.told()}"
            time.sleep(0.1)

    def mine(self) -> list[psutil.Process]:
        """Processes of this run, whoever their parent is now: by descent as seen over time, and by environment."""
        return [process for process in tuple(self._seen.values()) if _lives(process)]  # the watcher adds to them

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.process_iter():
                try:
                    parent_is_mine = process.ppid() in {known.pid for known in self._seen.values()}
                    if parent_is_mine or process.environ().get("TMPDIR") == str(self.home):
                        self._seen[process.pid] = process
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue

    def close(self) -> None:
        """Whatever happened in the test, nothing of the run stays."""
        for process in self.mine():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._over.set()
        self._watcher.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def left(self) -> list[list[str]]:
        """Commands of what is still there after a while."""
        deadline = time.monotonic() + GONE_S
        while (found := self.mine()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [_command(process) for process in found]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return [f"process {process.pid}, ended after the last moment"]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_engine(process: psutil.Process) -> bool:
    try:
        return any("sglang" in word or "launcher" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def demo(home: Path, *options: str) -> Iterator[Run]:
    """A run."""
    run = Run(home, *options)
    try:
        yield run
    finally:
        run.close()


@pytest.mark.slow
def test_the_whole_network_works_and_leaves_nothing(tmp_path: Path) -> None:
    with demo(tmp_path, "--prompt", "first prompt", "--prompt", "the second one", "--prompt", "and a third") as run:
        run.stage("worker")
        # The control of `left`: while it runs, its processes are found.
        assert len(run.mine()) > 3
        status, found = run.finish()
        assert (status, found["ok"], found["error"]) == (0, True, ""), run.told()
        assert run.left() == []
    assert found.keys() >= FIELDS
    assert found["engine"]["name"] == "sglang"
    assert found["engine"]["version"]
    assert found["engine"]["model"].startswith("tiny@")
    assert [prompt["text"] for prompt in found["prompts"]] == ["first prompt", "the second one", "and a third"]
    assert all(prompt["answer"] and prompt["seconds"] > 0 for prompt in found["prompts"])
    assert "openai" in found["prompts"][-1]["via"]
    for name in ("gateway", "worker"):
        verdict = found["verdicts"][name]
        assert verdict["accepted"]
        assert verdict["explained"][0].startswith("no assurance")
        assert all(check["passed"] for check in verdict["checks"])
    tokens = found["tokens"]
    used = {kind: sum(p["tokens"][kind] for p in found["prompts"]) for kind in ("prompt", "completion")}
    assert tokens["engine"] == tokens["usage"] == used
    # Random weights do not write what their tokenizer would: the answer's text need not retokenise, the prompt must.
    assert tokens["retokenised"]["prompt"] == used["prompt"]
    assert tokens["ledger"]["total"] == found["signed_tokens"] > 0
    assert found["owner_after"] - found["owner_before"] == found["expected_delta"] > 0
    assert found["chain"]["height"] > 0
    assert found["chain"]["transactions"] > 0
    assert {stage["name"] for stage in found["stages"]} >= {"chain", "worker", "prompts", "payment", "stop"}
    assert all(found["checks"].values())
    assert found["processes_left"] == []
    assert not any(tmp_path.glob("chrysalis-demo-*"))


@pytest.mark.parametrize(("what", "order"), [("image", "add worker image"), ("model", "add model tiny@")])
def test_what_is_not_listed_is_refused_with_what_to_send(tmp_path: Path, what: str, order: str) -> None:
    with demo(tmp_path, "--delist", what) as run:
        status, found = run.finish()
        assert run.left() == []
    assert status == 1
    assert found["ok"] is False
    assert "the worker is refused" in found["error"]
    assert "has to send 0.1 TON to" in found["error"]
    assert order in found["error"]
    assert found["prompts"] == []
    assert found["processes_left"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_an_end_in_the_middle_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as run:
        run.stage("worker")
        deadline = time.monotonic() + RUN_S
        while not any(_is_engine(process) for process in run.mine()):
            assert run.process.poll() is None, run.told()
            assert time.monotonic() < deadline, "the engine was not started"
            time.sleep(0.2)
        run.process.send_signal(number)
        if number is signal.SIGKILL:
            run.process.wait(GONE_S)
        else:
            status, found = run.finish()
            assert status != 0
            assert found["ok"] is False
        assert run.left() == []


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "demo", "--model", "nonesuch", "--json"],
        capture_output=True, text=True, timeout=RUN_S, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    found = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == 1
    assert found["ok"] is False
    assert "nonesuch" in found["error"]
    assert "smollm2" in found["error"] + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
